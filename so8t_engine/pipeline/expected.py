"""What a model's work may take before it was done here once: from parameters, tokens and operations.

A guess within a factor of two or three, called an estimate wherever it is shown; after the first call the
measured figures take its place.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from so8t_engine.config import Config, load_config
from so8t_engine.errors import SO8TError
from so8t_engine.memory.geometry import ModelGeometry, model_geometry
from so8t_engine.memory.nvml import card_total

if TYPE_CHECKING:
    from so8t_engine.pipeline.steps.train import TrainSettings

#: Operations a second that training small matrices reaches: on a core (measured with the demonstration, see
#: tests/benchmarks/RESULTS.md), and on a card of the RTX 3060's class.
CORE_FLOPS = 3.0e10
CARD_FLOPS = 1.0e13
#: Loading libraries and model.
START_S = 10.0
_BYTES_A_TOKEN = 3.0


def configured(settings: TrainSettings) -> tuple[Config, ModelGeometry] | None:
    """The run's configuration and its model's shapes; None where they are not known here."""
    try:
        config = load_config(settings.config, settings.changes)
        return config, model_geometry(config.model.path, config.model.revision)
    except SO8TError:
        return None


def seconds(operations: float) -> float:
    """For so many floating-point operations on this machine's card, or on its cores."""
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return START_S + operations / (CARD_FLOPS if card_total() else CORE_FLOPS * cores)


def tokens_of(file: Path) -> tuple[int, int] | None:
    """Rows and about how many tokens a Parquet file of rows holds; None where there is none."""
    import pyarrow.parquet as pq

    if not file.is_file():
        return None
    meta = pq.ParquetFile(file).metadata
    size = 0
    for group in range(meta.num_row_groups):
        for column in range(meta.num_columns):
            part = meta.row_group(group).column(column)
            if part.path_in_schema in {"prompt", "response", "system"}:
                size += part.total_uncompressed_size
    return meta.num_rows, int(size / _BYTES_A_TOKEN)
