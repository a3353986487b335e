"""Writing the soul dataset: shards, index, statistics, pictures; the same bytes for the same settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from so8t_engine.config import Config
from so8t_engine.errors import DataError
from so8t_engine.i18n import _
from so8t_engine.soul_dataset.checkpointed import checkpoint_records
from so8t_engine.soul_dataset.plots import draw
from so8t_engine.soul_dataset.records import SoulRecords
from so8t_engine.soul_dataset.rotations import orthogonality_error
from so8t_engine.soul_dataset.scheduled import scheduled_records
from so8t_engine.soul_dataset.settings import SoulDatasetSettings
from so8t_engine.soul_dataset.splitting import Indices, stratified_split
from so8t_engine.soul_dataset.statistics import SPLITS, statistics
from so8t_engine.soul_dataset.text import render

INDEX = "index.jsonl"
STATS = "dataset_stats.json"
#: The largest max|RᵀR − I| that a stored rotation of a schedule may have.
ORTHOGONALITY_LIMIT = 2e-6


def make_records(config: Config, settings: SoulDatasetSettings) -> SoulRecords:
    """The records of the chosen source. Raises `SO8TError`."""
    if settings.source == "checkpoint":
        return checkpoint_records(settings)
    records = scheduled_records(config, settings)
    for matrix in (records.safe_N88, records.cmd_N88, records.total_N88):
        worst = float(orthogonality_error(matrix).max())
        if not worst <= ORTHOGONALITY_LIMIT:
            raise DataError(
                _("A rotation of the soul dataset is orthogonal to %(error).3g only.") % {"error": worst}
            )
    return records


def write_dataset(folder: Path, config: Config, settings: SoulDatasetSettings) -> dict[str, Any]:
    """Fill ``folder`` with the dataset and return what dataset_stats.json says.

    Layout: ``SPLIT-00000.safetensors`` (r_safe, r_cmd, r_total (n, 8, 8) float32 and the scalars),
    ``index.jsonl`` and ``index.parquet`` (one row a record: what `SoulRecords.scalars` gives, its split,
    shard and row there), ``dataset_stats.json``, SVG pictures, and with ``settings.text`` ``text.jsonl``.

    Raises:
        SO8TError: the source cannot be read.
        OSError: the folder cannot be written.
    """
    records = make_records(config, settings)
    generator = np.random.Generator(np.random.PCG64([settings.seed, 1]))
    splits = stratified_split(records.phase_N, settings.fractions, generator)
    told = settings.model_dump(mode="json", exclude={"run"})  # a folder's name is this computer's affair
    stats = statistics(records, splits, told, settings.records)
    index: list[dict[str, Any]] = []
    for split, rows in zip(SPLITS, splits, strict=True):
        index += _write_split(folder, split, rows, records, settings.shard_records)
    with (folder / INDEX).open("w", encoding="utf-8", newline="\n") as file:
        for entry in index:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
    _write_parquet(folder / "index.parquet", index)
    if settings.text:
        _write_text(folder / "text.jsonl", index)
    stats["plots"] = draw(folder, records, stats)
    (folder / STATS).write_text(json.dumps(stats, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return stats


def _write_split(
    folder: Path, split: str, rows: Indices, records: SoulRecords, size: int
) -> list[dict[str, Any]]:
    entries = []
    for number, start in enumerate(range(0, len(rows), size)):
        part = rows[start : start + size]
        shard = f"{split}-{number:05d}.safetensors"
        arrays = {name: np.ascontiguousarray(array) for name, array in records.tensors(part).items()}
        # One key: safetensors writes several in an order that changes from process to process.
        told = json.dumps({"source": records.source, "split": split})
        save_file(arrays, folder / shard, metadata={"so8t": told})
        (folder / shard).chmod(0o644)  # safetensors makes its files private
        entries += [
            records.scalars(int(row)) | {"split": split, "shard": shard, "row": place}
            for place, row in enumerate(part)
        ]
    return entries


def _write_parquet(file: Path, index: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    flat = [
        entry | {"lora": None if entry["lora"] is None else json.dumps(entry["lora"], sort_keys=True)}
        for entry in index
    ]
    text, number, real = pa.string(), pa.int64(), pa.float64()
    kinds = {"step": number, "of": number, "block": number, "row": number}
    kinds |= dict.fromkeys(("alpha_gate", "g", "commutator", "pet"), real)
    names = list(flat[0])
    schema = pa.schema([(name, kinds.get(name, text)) for name in names])
    pq.write_table(pa.Table.from_pylist(flat, schema=schema), file)


def _write_text(file: Path, index: list[dict[str, Any]]) -> None:
    with file.open("w", encoding="utf-8", newline="\n") as opened:
        for entry in index:
            line = {"sample_id": entry["sample_id"], "split": entry["split"], "text": render(entry)}
            opened.write(json.dumps(line, ensure_ascii=False) + "\n")
