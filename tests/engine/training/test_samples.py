"""Samples during training: they come at their steps with probabilities, and change nothing about the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from so8t_engine.config import Config
from so8t_engine.training.events import SampleEvent, StepEvent
from so8t_engine.training.run import run_training
from so8t_engine.training.run_directory import RunDirectory


@pytest.mark.slow
def test_samples_come_and_the_losses_are_those_without_them(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    losses: list[list[float]] = []
    for every in (None, 2):
        config = tiny_config(samples={"every": every, "prompts": ["May I come in?"], "tokens": 6})
        run = RunDirectory.create(config, tmp_path / f"run-{every}")
        assert run_training(run, handle_signals=False) == 0
        events = run.read_events()
        losses.append([event.loss for event in events if isinstance(event, StepEvent)])
    assert losses[0] == losses[1]
    samples = [event for event in events if isinstance(event, SampleEvent)]
    assert [event.step for event in samples] == [2, 3]
    for event in samples:
        assert event.prompt == "May I come in?"
        assert event.task is not None
        assert abs(sum(event.task) - 1) < 1e-9
        assert event.safety is not None
