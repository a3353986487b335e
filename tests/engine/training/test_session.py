"""Whole runs as real processes: child and thread agree, deaths are noticed, nobody is orphaned."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from so8t_engine.config import Config
from so8t_engine.training.events import EndEvent, ErrorEvent, Event, StateEvent, StepEvent
from so8t_engine.training.process import ProcessMark
from so8t_engine.training.run_directory import RunDirectory
from so8t_engine.training.session import EngineSession, open_session
from so8t_engine.training.states import Command, State
from tests.engine.command_line import so8t_forked
from tests.faults.following import Following

Make = Callable[..., Config]
pytestmark = pytest.mark.slow


def _losses(events: list[Event]) -> list[float]:
    return [event.loss for event in events if isinstance(event, StepEvent)]


def test_child_thread_and_command_line_give_identical_losses(tiny_config: Make, tmp_path: Path) -> None:
    found: dict[str, list[float]] = {}
    for placement in ("process", "thread"):
        config = tiny_config(run={"placement": placement})
        seen: list[Event] = []
        session = EngineSession.create(config, tmp_path / placement)
        assert session.follow(seen.extend) == 0
        assert session.state is State.FINISHED
        assert _losses(seen) == _losses(session.run.read_events())
        found[placement] = _losses(seen)
    file = tmp_path / "config.yaml"
    file.write_text(tiny_config().to_yaml(), encoding="utf-8")
    done = so8t_forked("train", file, "--run-dir", tmp_path / "cli", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "finished"
    found["command line"] = _losses(RunDirectory.open(tmp_path / "cli").read_events())
    assert len(found["process"]) == 3
    assert found["process"] == found["thread"] == found["command line"]


def _is_step(event: Event) -> bool:
    return isinstance(event, StepEvent)


@pytest.mark.usefixtures("warm_starts")
def test_a_killed_trainer_is_noticed_named_and_resumable(tiny_config: Make, tmp_path: Path) -> None:
    config = tiny_config(
        training={"max_steps": 60, "epochs": 50.0}, checkpoints={"every_steps": 1, "every_minutes": None}
    )
    session = EngineSession.create(config, tmp_path / "run")
    following = Following(session)
    following.wait_for(lambda event: event.type == "checkpoint")
    assert session.pid is not None
    os.kill(session.pid, signal.SIGKILL)
    assert following.end() == 1
    (error,) = [event for event in following.events if isinstance(event, ErrorEvent)]
    assert "SIGKILL" in error.sentence
    assert session.state is State.FAILED

    resumed = EngineSession(session.run, resume=True)
    again = Following(resumed)
    before = max(e.step for e in following.events if isinstance(e, StepEvent))
    again.wait_for(lambda event: isinstance(event, StepEvent) and event.step > before)
    resumed.send(Command.STOP)
    assert again.end() == 0
    assert resumed.state is State.STOPPED


@pytest.mark.usefixtures("warm_starts")
def test_attaching_sees_the_same_run_and_can_stop_it(tiny_config: Make, tmp_path: Path) -> None:
    config = tiny_config(training={"max_steps": 60, "epochs": 50.0})
    following = Following(EngineSession.create(config, tmp_path / "run"))
    following.wait_for(_is_step)
    second = Following(open_session(tmp_path / "run"))
    second.wait_for(_is_step)
    second.session.send(Command.STOP)
    assert second.end() == 0
    assert following.end() == 0
    assert [e.seq for e in second.events] == [e.seq for e in following.events]
    assert isinstance(second.events[-1], EndEvent)
    assert second.events[-1].status == "stopped"


@pytest.mark.usefixtures("warm_starts")
def test_a_trainer_whose_owner_dies_saves_and_stops(tiny_config: Make, tmp_path: Path) -> None:
    run = RunDirectory.create(tiny_config(training={"max_steps": 400, "epochs": 400.0}), tmp_path / "run")
    owner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    mark = ProcessMark.of(owner.pid)
    trainer = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "so8t_engine.training.child",
            str(run.path),
            "--owner",
            mark.to_json(),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 300
        while not _losses(run.read_events()):
            assert time.monotonic() < end
            assert trainer.poll() is None
            time.sleep(0.1)
        owner.kill()
        owner.wait()
        assert trainer.wait(timeout=200) == 0
    finally:
        for process in (owner, trainer):
            if process.poll() is None:
                process.kill()
    events = run.read_events()
    assert any(
        isinstance(e, StateEvent) and e.to is State.STOPPING and e.reason and e.cause == "owner_gone"
        for e in events
    )
    assert isinstance(events[-1], EndEvent)
    assert events[-1].status == "stopped"
    assert not psutil.pid_exists(owner.pid) or not mark.alive()
