"""A tiny model of Phi-3's architecture and few rows, so that whole runs take seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from so8t_engine.config import Config
from so8t_engine.training.importing import import_trainer
from tests.engine.tiny import tiny_values, write_few_rows, write_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Phi-3 with fused projections, hidden 64, two layers, and the embedded tokenizer."""
    # As in a trainer's process: what is imported stays out of the full collection at the end of each run,
    # which took half of a tiny run's time.
    import_trainer()
    folder = tmp_path_factory.mktemp("tiny_model")
    write_tiny_model(folder)
    return folder


@pytest.fixture(scope="session")
def few_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training and 8 validation rows, the first of the embedded splits."""
    folder = tmp_path_factory.mktemp("few_rows")
    write_few_rows(folder)
    return folder


@pytest.fixture
def tiny_config(tiny_model: Path, few_rows: Path, tmp_path: Path) -> Callable[..., Config]:
    """A configuration on the tiny model with 24 rows; keyword arguments replace sections' values."""

    def make(**sections: dict[str, Any]) -> Config:
        return Config.model_validate(tiny_values(tiny_model, few_rows, tmp_path / "runs", **sections))

    return make
