"""What finished runs teach the next estimate: enough of them, comparable ones, and only so far."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from so8t_engine.config import Config
from so8t_engine.memory import calibration
from so8t_engine.memory.budget import estimate
from so8t_engine.memory.calibration import Calibration, Finished, calibration_for, finished_runs, remember
from so8t_engine.memory.fit import with_changes
from so8t_engine.memory.machine import Machine
from so8t_engine.training.run import run_training
from so8t_engine.training.run_directory import RunDirectory

CARD = "NVIDIA GeForce RTX 3060"


def _run(measured: int, *, fills: bool = True, context: int | None = None, device: str = CARD) -> Finished:
    return Finished(device, "2026-11-24T00:00:00+00:00", "run", 3_000, 3_000, measured, fills, context)


def test_three_comparable_runs_of_the_card_correct_by_their_median() -> None:
    for measured in (3_060, 3_030, 9_000):
        assert calibration_for(CARD) == Calibration()
        remember(_run(measured))
    remember(_run(6_000, fills=False))
    remember(_run(6_000, device="another card"))
    assert calibration_for(CARD) == Calibration(runs=3, factor=1.02)
    assert calibration_for("") == Calibration()


def test_no_run_carries_the_estimate_away() -> None:
    for _run_number in range(5):
        remember(_run(30_000, context=90_000_000_000))
    found = calibration_for(CARD)
    assert found.factor == calibration.CARD_BOUNDS[1]
    assert found.context == calibration.CONTEXT_BOUNDS[1]


def test_a_damaged_file_is_passed_over_and_written_on() -> None:
    remember(_run(3_000))
    file = calibration._file()
    file.write_text(file.read_text(encoding="utf-8") + '{"device": 1}\n{torn\n[]\n', encoding="utf-8")
    assert [run.measured for run in finished_runs()] == [3_000]
    remember(_run(3_001))
    assert [run.measured for run in finished_runs()] == [3_000, 3_001]


def test_only_so_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "MOST", 4)
    for measured in range(1, 8):
        remember(_run(measured))
    assert [run.measured for run in finished_runs()] == [4, 5, 6, 7]


def test_the_estimate_is_corrected_and_says_so() -> None:
    config = with_changes(Config(), {"model.path": "microsoft/Phi-3.5-mini-instruct", "model.device": "cuda"})

    def on(taught: Calibration) -> Machine:
        return Machine(CARD, 12 * 2**30, None, (8, 6), True, taught)

    plain = estimate(config, on(Calibration()))
    found = estimate(config, on(Calibration(runs=7, factor=1.03, context=600_000_000)))
    assert found.plain_bytes == plain.peak_reserved_bytes == plain.plain_bytes
    assert found.peak_reserved_bytes == pytest.approx(1.03 * plain.peak_reserved_bytes, rel=1e-6)
    assert found.terms["context"] == 600_000_000
    assert any("7 finished runs" in note and "+3.0 %" in note for note in found.notes)


def test_a_finished_run_is_remembered(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    run = RunDirectory.create(tiny_config(), tmp_path / "run")
    assert run_training(run, handle_signals=False) == 0
    (kept,) = finished_runs()
    assert kept.device == "cpu"
    assert kept.context is None
    assert kept.measured > 100e6
    assert kept.predicted == kept.plain
