"""A run that uses spare memory: what was chosen is in its record, and it learns the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from so8t_engine.config import Config, load_config
from so8t_engine.memory import budget
from so8t_engine.model.so8t_model import SO8TModel
from so8t_engine.training import preparation
from so8t_engine.training.events import Event, InfoEvent, StepEvent
from so8t_engine.training.run import run_training
from so8t_engine.training.run_directory import RunDirectory

Make = Callable[..., Config]


def _train(config: Config, path: Path) -> tuple[RunDirectory, list[Event]]:
    run = RunDirectory.create(config, path)
    assert run_training(run, handle_signals=False) == 0
    return run, run.read_events()


def _losses(events: list[Event]) -> list[float]:
    return [event.loss for event in events if isinstance(event, StepEvent)]


def test_a_run_tells_what_it_chose_and_learns_the_same(
    tiny_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[SO8TModel] = []
    real = preparation.SO8TModel

    def build(*given: Any) -> SO8TModel:  # noqa: ANN401
        built.append(real(*given))
        return built[-1]

    monkeypatch.setattr(preparation, "SO8TModel", build)
    training = {"max_steps": 3, "gradient_checkpointing": True}
    plain = tiny_config(training=training)
    _run, without = _train(plain, tmp_path / "without")
    config = tiny_config(training=training, memory={"use_spare": True})
    run, events = _train(config, tmp_path / "with")
    facts = next(event.facts for event in events if isinstance(event, InfoEvent))
    layers = len(built[1].lean.layers)  # type: ignore[union-attr]
    assert facts["kept_layers"] == f"{layers} / {layers}"
    assert facts["kept_weights"] == f"0 / {layers}", "weights are not quantised on the CPU"
    assert built[1].lean.kept_layers == layers  # type: ignore[union-attr]
    assert built[0].lean.kept_layers == 0  # type: ignore[union-attr]
    assert _losses(events) == pytest.approx(_losses(without), rel=1e-6)
    assert "kept_layers" not in next(event.facts for event in without if isinstance(event, InfoEvent))
    # The run's file says what was asked for: a later start chooses anew.
    assert load_config(run.path / "config.yaml").memory.use_spare


def test_a_run_without_spare_memory_keeps_nothing(
    tiny_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "free_system_memory", lambda: 10_000_000)
    config = tiny_config(
        training={"max_steps": 1, "gradient_checkpointing": True}, memory={"use_spare": True}
    )
    _run, events = _train(config, tmp_path / "run")
    facts = next(event.facts for event in events if isinstance(event, InfoEvent))
    assert facts["kept_layers"].startswith("0 /")
