"""Runs that no person ended are found, with what was lost; others are left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from so8t_engine.commands.runs import state_of_final
from so8t_engine.config import Config
from so8t_engine.training.control import OWNER_GONE, SIGNAL
from so8t_engine.training.events import CheckpointEvent, EndEvent, Event, StateEvent, StepEvent
from so8t_engine.training.interrupted import CHUNK_BYTES, find_interrupted, find_live, interrupted
from so8t_engine.training.process import ProcessMark
from so8t_engine.training.run_directory import EventWriter, RunDirectory
from so8t_engine.training.states import State
from tests.engine.command_line import so8t_forked

Make = Callable[..., Config]
S = State
T0 = 1_700_000_000.0
DEAD = ProcessMark(2**22 + 1, 1.0)


def _moves(*states: State, cause: str = "") -> list[Event]:
    pairs = zip([S.IDLE, *states], states, strict=False)
    return [
        StateEvent(**{"from": a, "to": b, "time": T0, "cause": cause if b is S.STOPPING else ""})
        for a, b in pairs
    ]


def _step(number: int, of: int = 400) -> StepEvent:
    return StepEvent(
        step=number, of=of, epoch=0.1, loss=1.0, terms={}, raw={}, lr=0.1, grad_norm=None, tokens=1,
        tokens_per_s=1.0, step_s=1.0, time=T0 + number,
    )  # fmt: skip


def _run(
    folder: Path, events: list[Event], saved: int | None = None, mark: ProcessMark = DEAD
) -> RunDirectory:
    run = RunDirectory.create(Config(), folder)
    writer = EventWriter(run)
    for event in events:
        writer.write(event)
    writer.close()
    mark.write(run.process)
    if saved is not None:
        (run.checkpoints / f"step-{saved:08d}").mkdir()
    return run


def _saved(number: int) -> CheckpointEvent:
    return CheckpointEvent(
        step=number, path=f"checkpoints/step-{number:08d}", bytes=1, sha256="", time=T0 + number
    )


def test_what_was_lost_is_counted_from_the_last_checkpoint(tmp_path: Path) -> None:
    steps = [_step(n) for n in range(1, 125)]
    events = [*_moves(S.LOADING, S.RUNNING), *steps[:60], _saved(60), *steps[60:]]
    found = interrupted(_run(tmp_path / "a", events, saved=60).path)
    assert found is not None
    assert found.died
    assert (found.step, found.of, found.saved_step, found.lost_steps) == (124, 400, 60, 64)
    assert found.lost_s == pytest.approx(64.0)
    assert found.continuable
    assert found.sentence() == (
        "It reached step 124 of 400. Saved is step 60; 64 steps (1:04 of work) were lost and are done again."
    )


def test_a_checkpoint_that_stepped_aside_is_one(tmp_path: Path) -> None:
    """On Windows a crash may come between the two renames that replace a checkpoint of the same step."""
    run = _run(tmp_path / "a", [*_moves(S.LOADING, S.RUNNING), _step(4), _saved(4)], saved=4)
    (run.checkpoints / "step-00000004").rename(run.checkpoints / ".step-00000004.old")
    found = interrupted(run.path)
    assert found is not None
    assert (found.saved_step, found.continuable) == (4, True)


def test_a_run_without_a_checkpoint_says_that_nothing_is_left(tmp_path: Path) -> None:
    found = interrupted(_run(tmp_path / "a", [*_moves(S.LOADING, S.RUNNING), _step(1)]).path)
    assert found is not None
    assert not found.continuable
    assert "started anew" in found.sentence()
    found = interrupted(_run(tmp_path / "b", _moves(S.LOADING)).path)
    assert found is not None
    assert "had not taken a step" in found.sentence()


@pytest.mark.parametrize(("cause", "offered"), [(OWNER_GONE, True), (SIGNAL, True), ("", False)])
def test_only_stops_that_no_person_asked_for_are_offered(tmp_path: Path, cause: str, offered: bool) -> None:
    events = [*_moves(S.LOADING, S.RUNNING), _step(5), _saved(5), *_moves(S.STOPPING, S.STOPPED, cause=cause)]
    found = interrupted(_run(tmp_path / "a", events, saved=5).path)
    assert (found is not None) is offered
    if found is not None:
        assert not found.died
        assert found.lost_steps == 0
        assert "All of it is saved." in found.sentence()


@pytest.mark.parametrize("end", [S.FINISHED, S.FAILED, S.ABORTED])
def test_ended_and_living_runs_are_left_alone(tmp_path: Path, end: State) -> None:
    _run(tmp_path / "ended", [*_moves(S.LOADING, S.RUNNING), _step(1), *_moves(end)], saved=1)
    live = _run(tmp_path / "live", _moves(S.LOADING, S.RUNNING), saved=1, mark=ProcessMark.current())
    RunDirectory.create(Config(), tmp_path / "never started")
    (tmp_path / "other").mkdir()
    assert find_interrupted(tmp_path) == []
    assert find_live(tmp_path) == [live.path]
    assert find_interrupted(tmp_path / "none") == []
    assert find_live(tmp_path / "none") == []


def test_the_last_state_is_found_in_a_long_file(tmp_path: Path) -> None:
    events: list[Event] = [*_moves(S.LOADING, S.RUNNING), _saved(1)]
    run = _run(tmp_path / "a", events, saved=1)
    line = (_step(2).model_dump_json(by_alias=True) + "\n").encode()
    with run.events.open("ab") as file:
        file.write(line * (3 * CHUNK_BYTES // len(line)))
    found = interrupted(run.path)
    assert found is not None
    assert found.saved_step == 1


@pytest.mark.usefixtures("warm_starts")
@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_run_cut_off_by_power_is_continued_by_one_command(tiny_config: Make, tmp_path: Path) -> None:
    config = tiny_config(
        training={"max_steps": 40, "epochs": 100.0}, checkpoints={"every_steps": 2, "every_minutes": None}
    )
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml(), encoding="utf-8")
    runs = tmp_path / "runs"
    command = [sys.executable, "-m", "so8t_engine.cli"]
    trainer = subprocess.Popen(
        [*command, "train", str(file), "--run-dir", str(runs / "one")], stderr=subprocess.DEVNULL
    )
    events = runs / "one" / "events.jsonl"
    end = time.monotonic() + 200
    while not (events.exists() and b'"type":"checkpoint"' in events.read_bytes()):
        assert time.monotonic() < end
        assert trainer.poll() is None
        time.sleep(0.05)
    os.kill(trainer.pid, signal.SIGKILL)
    trainer.wait()
    (found,) = find_interrupted(runs)
    assert found.continuable
    done = so8t_forked("runs", "continue", runs, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    (record,) = json.loads(done.stdout)["runs"]
    assert record["status"] == "finished"
    assert record["saved_step"] == found.saved_step
    assert find_interrupted(runs) == []
    steps = [e.step for e in RunDirectory.open(runs / "one").read_events() if isinstance(e, StepEvent)]
    assert steps[-1] == 40


def test_a_finished_run_stays_usable_after_a_resume_that_came_to_nothing(tmp_path: Path) -> None:
    """Its rows were gone, say: `bake`, `serve` and `evaluate` refused its intact final from then on."""
    life = [*_moves(S.LOADING, S.RUNNING), _step(1), *_moves(S.LOADING, S.RUNNING, S.FINISHED)[-1:]]
    end = EndEvent(status="finished", step=1, seconds=1.0)
    failed = [*_moves(S.LOADING, S.FAILED), EndEvent(status="failed", step=0, seconds=1.0)]
    assert state_of_final(_run(tmp_path / "a", [*life, end])) == "finished"
    assert state_of_final(_run(tmp_path / "b", [*life, end, *failed])) == "finished"
    assert state_of_final(_run(tmp_path / "c", [*life, *failed])) == "failed"
    # A further step belongs to another final, which was not written.
    assert state_of_final(_run(tmp_path / "d", [*life, end, _step(2), *failed])) == "failed"
