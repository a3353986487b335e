"""Readings of a run's memory, and when a person is warned about the card."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from so8t_engine.config import Config
from so8t_engine.training.events import EndEvent, InfoEvent, MemoryEvent
from so8t_engine.training.run import run_training
from so8t_engine.training.run_directory import RunDirectory
from so8t_engine.training.sampling import CardWarnings


def _kinds(warnings: CardWarnings, *readings: MemoryEvent) -> list[list[str]]:
    return [[warning.kind for warning in warnings.of(reading)] for reading in readings]


def test_heat_is_told_once_and_again_only_after_recovering() -> None:
    degrees = (60.0, 75.0, 80.0, 74.0, 76.0, 69.0, 77.0, None)
    readings = [MemoryEvent(temperature_c=value) for value in degrees]
    assert _kinds(CardWarnings(), *readings) == [[], ["heat"], [], [], [], [], ["heat"], []]


def test_a_full_card_is_told_with_the_share_in_use() -> None:
    warnings = CardWarnings()
    assert not warnings.of(MemoryEvent(device_used=94, device_total=100))
    (warning,) = warnings.of(MemoryEvent(device_used=96, device_total=100))
    assert warning.kind == "memory"
    assert "96 %" in warning.sentence
    assert warning.mend
    assert not warnings.of(MemoryEvent(device_used=None, device_total=None)), "missing is not full"


def test_a_run_keeps_what_was_predicted_and_what_it_needed(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    run = RunDirectory.create(tiny_config(), tmp_path / "run")
    assert run_training(run, handle_signals=False) == 0
    events = run.read_events()
    (facts,) = [event.facts for event in events if isinstance(event, InfoEvent)]
    assert facts["memory_predicted"] > 100e6
    assert facts["memory_predicted_by"] == "estimated"
    (end,) = [event for event in events if isinstance(event, EndEvent)]
    kept = end.summary["memory"]
    assert kept["memory_predicted"] == facts["memory_predicted"]
    sampled = max(event.process_rss or 0 for event in events if isinstance(event, MemoryEvent))
    # The final folder is written after the peak was read, and may need a little more.
    assert kept["peak_process_rss"] >= 0.98 * sampled > 0
