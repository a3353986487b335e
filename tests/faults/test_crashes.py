"""Trainers that die or hang as real processes: the cause is named, and the run can go on."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from so8t_engine.config import Config
from so8t_engine.model.so8t_model import SO8TModel
from so8t_engine.training import crash, heartbeat
from so8t_engine.training.crash import describe, native_frame, oom_kills
from so8t_engine.training.events import EndEvent, ErrorEvent, Event, StateEvent, StepEvent, WarningEvent
from so8t_engine.training.heartbeat import Watchdog
from so8t_engine.training.process import ProcessMark
from so8t_engine.training.run import run_training
from so8t_engine.training.run_directory import RunDirectory
from so8t_engine.training.session import EngineSession, open_session
from so8t_engine.training.states import Command, State
from tests.faults.following import Following

Make = Callable[..., Config]
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


def _long(make: Make, **sections: dict[str, Any]) -> Config:
    return make(training={"max_steps": 4000, "epochs": 1000.0}, **sections)


def _error(events: list[Event]) -> ErrorEvent:
    (error,) = [event for event in events if isinstance(event, ErrorEvent)]
    return error


@posix
@pytest.mark.slow
def test_segfault_and_silence_are_named_and_watchers_agree(tiny_config: Make, tmp_path: Path) -> None:
    session = EngineSession.create(_long(tiny_config), tmp_path / "run")
    session._watchdog = Watchdog(session.run.heartbeat, silent_s=1.5)
    following = Following(session)
    following.wait_for(lambda event: isinstance(event, StepEvent))
    watching = Following(open_session(session.run.path))
    assert session.pid is not None
    os.kill(session.pid, signal.SIGSTOP)
    end = time.monotonic() + 30
    while session.stall is None:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert session.stall.silent
    assert "no sign of life" in session.stall.sentence
    os.kill(session.pid, signal.SIGCONT)
    while session.stall is not None:
        assert time.monotonic() < end, "a trainer that goes on is not called silent"
        time.sleep(0.05)
    os.kill(session.pid, signal.SIGSEGV)
    assert following.end() == 1
    assert watching.end() == 1
    error = _error(following.events)
    assert error.kind == "segfault"
    assert "native code (SIGSEGV" in error.sentence
    assert ".py:" in error.sentence, "faulthandler's frame is named"
    steps = [event.step for event in following.events if isinstance(event, StepEvent)]
    assert isinstance(following.events[-1], EndEvent)
    assert following.events[-1].step == steps[-1]
    assert [e.seq for e in watching.events] == [e.seq for e in following.events], "one of them recorded it"


@posix
def test_a_stop_while_loading_ends_the_process_at_once(tiny_config: Make, tmp_path: Path) -> None:
    for command, status in ((Command.STOP, "stopped"), (Command.ABORT, "aborted")):
        session = EngineSession.create(tiny_config(), tmp_path / status)
        following = Following(session)
        following.wait_for(lambda event: isinstance(event, StateEvent) and event.to is State.LOADING)
        session.send(command)
        assert following.end(30) == 0
        end = following.events[-1]
        assert isinstance(end, EndEvent)
        assert end.status == status
        assert session.pid is None
        assert not any(isinstance(event, StepEvent) for event in following.events)


def test_a_broken_installation_is_named(
    tiny_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "torch.py").write_text("raise ImportError('libcudart.so.99: cannot open')", encoding="utf-8")
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(broken), str(root)]))
    session = EngineSession.create(tiny_config(), tmp_path / "run")
    following = Following(session)
    assert following.end(60) == 1
    error = _error(following.events)
    assert "ImportError: libcudart.so.99: cannot open" in error.sentence
    assert session.state is State.FAILED


def test_a_trainer_that_gets_nowhere_says_so_and_where_it_stands(
    tiny_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "LOADING_S", 60.0)
    # A slow first step must not stretch the limit beyond the pause below.
    monkeypatch.setattr(heartbeat, "PATIENCE", 2.0)
    real = SO8TModel.forward
    passes = 0

    def forward(self: SO8TModel, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401
        nonlocal passes
        passes += self.training
        if passes == 3 and self.training:
            time.sleep(4.0)
        return real(self, *arguments, **named)

    monkeypatch.setattr(SO8TModel, "forward", forward)
    run = RunDirectory.create(tiny_config(run={"stall_minutes": 0.02}), tmp_path / "run")
    assert run_training(run, handle_signals=False) == 0
    told = [e for e in run.read_events() if isinstance(e, WarningEvent) and e.kind == "stall"]
    assert 1 <= len(told) <= 3, "a hang is told once; a busy machine may add one of its own"
    assert "made no progress for" in told[0].sentence
    assert "Kill" in told[0].mend


def test_a_hang_is_told_once_until_there_is_progress(tmp_path: Path) -> None:
    pulse = heartbeat.Pulse(tmp_path / "heartbeat.json", 0.05)
    pulse.forget_intervals()
    assert not pulse.hangs(False)
    time.sleep(0.1)
    assert not pulse.hangs(True), "loading is waited for longer"
    assert pulse.hangs(False)
    assert not pulse.hangs(False)
    pulse.beat()
    assert not pulse.hangs(False)
    time.sleep(0.15)
    assert not pulse.hangs(False), "ten times the longest interval so far"
    pulse.write("running")
    dog = Watchdog(tmp_path / "heartbeat.json")
    assert dog.look() is None
    assert heartbeat.Pulse(tmp_path / "none" / "heartbeat.json", None).hangs_after_s(False) is None
    heartbeat.Pulse(tmp_path / "none" / "heartbeat.json", None).write("running")


def test_a_card_error_is_named(tiny_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(*_arguments: Any, **_named: Any) -> Any:  # noqa: ANN401
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with …")

    monkeypatch.setattr(SO8TModel, "forward", forward)
    run = RunDirectory.create(tiny_config(), tmp_path / "run")
    assert run_training(run, handle_signals=False) == 1
    error = _error(run.read_events())
    assert error.kind == "cuda"
    assert error.sentence == (
        "The graphics card reported an error: CUDA error: an illegal memory access was encountered."
    )


def test_the_out_of_memory_killer_is_told_from_a_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("nr_free_pages 12\noom_kill 3\n", encoding="ascii")
    assert oom_kills(vmstat) == 3
    assert oom_kills(tmp_path / "none") is None
    log = tmp_path / "log.txt"
    monkeypatch.setattr(crash, "oom_kills", lambda: 4)
    assert describe(-9, log, 3).kind == "oom_killer"
    assert describe(-9, log, 4).kind == "crash"
    assert describe(-9, log, None).kind == "crash"
    assert describe(-9, log, 3, killed_here=True).kind == "killed"
    assert describe(-11, log, 3).kind == "segfault", "another process was the victim"


def test_exit_codes_of_both_systems_are_sentences(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    assert "0xC0000005" in describe(0xC0000005 - 2**32, log, None).sentence
    assert "access violation" in describe(0xC0000005, log, None).sentence
    assert "SIGTERM" in describe(-15, log, None).sentence
    assert "exit code 3" in describe(3, log, None).sentence
    assert "its process is gone" in describe(None, log, None).sentence
    log.write_text(
        'Traceback (most recent call last):\n  File "x.py", line 1\nRuntimeError: hf_' + "a" * 30 + "\n",
        encoding="utf-8",
    )
    sentence = describe(1, log, None).sentence
    assert "RuntimeError: [removed]" in sentence


def test_the_frame_of_a_fatal_error_is_the_current_threads() -> None:
    tail = (
        "Fatal Python error: Segmentation fault\n\n"
        'Thread 0x01 (most recent call first):\n  File "/a/other.py", line 3 in wait\n\n'
        'Current thread 0x02 (most recent call first):\n  File "/b/torch/nn.py", line 7 in forward\n'
    )
    assert native_frame(tail) == "nn.py:7 in forward"
    assert native_frame("nothing") == ""


def test_a_process_is_known_by_more_than_its_number(tmp_path: Path) -> None:
    mark = ProcessMark.current("run")
    assert mark.alive()
    assert ProcessMark.parse(mark.to_json()) == mark
    if mark.ticks is not None:
        assert replace(mark, created=mark.created + 5000).alive(), "the clock was set"
        assert not replace(mark, ticks=mark.ticks + 1).alive(), "the number was given to another process"
        assert not replace(mark, boot="another start of the machine").alive()
    assert not replace(mark, ticks=None, boot="", created=mark.created + 5000).alive()
    for text in ("", "[]", "{}", '{"pid": 1e400, "created": 1}', '{"pid": "x", "created": 1}'):
        assert ProcessMark.parse(text) is None
    folder = tmp_path / "run"
    folder.mkdir()
    mark.write(folder / "process.json")
    assert ProcessMark.read(folder / "process.json") == mark
    copy = tmp_path / "copy"
    copy.mkdir()
    mark.write(copy / "process.json")
    assert ProcessMark.read(copy / "process.json") is None, "a copied folder is not being trained"
