"""A finished run of the tiny model, whose gate acts in a layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from so8t_engine.config import Config
from so8t_engine.training.run import run_training
from so8t_engine.training.run_directory import RunDirectory


@pytest.fixture
def run(tiny_config: Callable[..., Config], tmp_path: Path) -> RunDirectory:
    so8t = {"alpha_start": 0.5, "init_std": 0.3, "gate_layers": [0]}
    made = RunDirectory.create(tiny_config(so8t=so8t, training={"learning_rate": 0.02}), tmp_path / "run")
    assert run_training(made, handle_signals=False) == 0
    return made
