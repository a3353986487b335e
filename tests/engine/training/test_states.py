"""The transition table: every pair of states, every state with every command."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from so8t_engine.config import Config
from so8t_engine.errors import RunError
from so8t_engine.training.control import AbortRequested, RunControl, StopRequested
from so8t_engine.training.events import Event, StateEvent, WarningEvent
from so8t_engine.training.run_directory import RunDirectory
from so8t_engine.training.states import (
    ACCEPTS,
    ENDED,
    LIVE,
    TRANSITIONS,
    Command,
    State,
    check_command,
    check_transition,
)

#: The shortest way from idle into each state.
WAYS: dict[State, list[State]] = {
    State.IDLE: [],
    State.LOADING: [State.LOADING],
    State.RUNNING: [State.LOADING, State.RUNNING],
    State.PAUSING: [State.LOADING, State.RUNNING, State.PAUSING],
    State.PAUSED: [State.LOADING, State.RUNNING, State.PAUSING, State.PAUSED],
    State.SAVING: [State.LOADING, State.RUNNING, State.SAVING],
    State.STOPPING: [State.LOADING, State.STOPPING],
    State.STOPPED: [State.LOADING, State.STOPPING, State.STOPPED],
    State.ABORTING: [State.LOADING, State.ABORTING],
    State.ABORTED: [State.LOADING, State.ABORTING, State.ABORTED],
    State.FINISHED: [State.LOADING, State.RUNNING, State.FINISHED],
    State.FAILED: [State.LOADING, State.FAILED],
}
#: What each command leads to when it is taken.
LEADS_TO = {
    Command.PAUSE: State.PAUSING,
    Command.RESUME: State.RUNNING,
    Command.STOP: State.STOPPING,
    Command.ABORT: State.ABORTING,
}


def test_every_state_is_reachable_and_an_ended_one_leads_nowhere() -> None:
    assert set(WAYS) == set(State) == set(TRANSITIONS) == set(ACCEPTS)
    assert {State.STOPPED, State.ABORTED, State.FINISHED, State.FAILED} == ENDED
    assert LIVE | ENDED | {State.IDLE} == set(State)


@pytest.mark.parametrize(("current", "following"), list(itertools.product(State, State)))
def test_a_transition_outside_the_table_is_refused(current: State, following: State) -> None:
    if following in TRANSITIONS[current]:
        check_transition(current, following)
    else:
        with pytest.raises(RunError, match="cannot become"):
            check_transition(current, following)


@pytest.mark.parametrize(("state", "command"), list(itertools.product(State, Command)))
def test_each_command_in_each_state_acts_or_is_refused_with_a_sentence(
    state: State, command: Command, tmp_path: Path
) -> None:
    seen: list[Event] = []
    control = RunControl(RunDirectory.create(Config(), tmp_path / "run"), seen.append)
    try:
        for step in WAYS[state]:
            control.move(step)
        seen.clear()
        if command in ACCEPTS[state]:
            control.request(command)
            if command in LEADS_TO:
                assert control.state is LEADS_TO[command]
                event = seen[-1]
                assert isinstance(event, StateEvent)
                assert (event.from_, event.to) == (state, LEADS_TO[command])
            else:
                assert control.take_checkpoint_request()
                assert not control.take_checkpoint_request()
        else:
            with pytest.raises(RunError):
                control.request(command)
            with pytest.raises(RunError):
                check_command(state, command)
            assert control.state is state
            assert seen == []
    finally:
        control.close()


@pytest.fixture
def control_of(tmp_path: Path) -> Callable[[], tuple[RunControl, RunDirectory, queue.Queue[Event]]]:
    def make() -> tuple[RunControl, RunDirectory, queue.Queue[Event]]:
        run = RunDirectory.create(Config(), tmp_path / "run")
        seen: queue.Queue[Event] = queue.Queue()
        control = RunControl(run, seen.put)
        control.move(State.LOADING)
        control.move(State.RUNNING)
        while not seen.empty():
            seen.get_nowait()
        return control, run, seen

    return make


def test_a_command_from_the_file_is_acknowledged_at_once(
    control_of: Callable[[], tuple[RunControl, RunDirectory, queue.Queue[Event]]],
) -> None:
    control, run, seen = control_of()
    try:
        run.send(Command.STOP)
        event = seen.get(timeout=5.0)
        assert isinstance(event, StateEvent)
        assert event.to is State.STOPPING
        assert control.ending
        with pytest.raises(StopRequested):
            control.check_loading()
        control.check()
        run.send(Command.ABORT)
        assert isinstance(seen.get(timeout=5.0), StateEvent)
        with pytest.raises(AbortRequested):
            control.check()
    finally:
        control.close()


def test_a_senseless_or_malformed_command_changes_nothing(
    control_of: Callable[[], tuple[RunControl, RunDirectory, queue.Queue[Event]]],
) -> None:
    control, run, seen = control_of()
    try:
        with run.commands.open("a", encoding="utf-8") as file:
            file.write('{"command": "explode"}\nnot json\n[1]\n')
        run.send(Command.RESUME)
        event = seen.get(timeout=5.0)
        assert isinstance(event, WarningEvent)
        assert "Pause" in event.mend
        assert control.is_(State.RUNNING)
    finally:
        control.close()


def test_a_pause_lasts_until_resume_and_checkpoints_are_made_in_it(
    control_of: Callable[[], tuple[RunControl, RunDirectory, queue.Queue[Event]]],
) -> None:
    control, run, seen = control_of()
    made: list[State] = []

    def on_checkpoint() -> None:
        made.append(control.state)
        run.send(Command.RESUME)

    try:
        control.request(Command.PAUSE)
        trainer = threading.Thread(target=control.wait_while_paused, args=(on_checkpoint,))
        trainer.start()
        event = seen.get(timeout=5.0)
        while not (isinstance(event, StateEvent) and event.to is State.PAUSED):
            event = seen.get(timeout=5.0)
        run.send(Command.CHECKPOINT)
        trainer.join(timeout=10.0)
        assert not trainer.is_alive()
        assert made == [State.PAUSED]
        assert control.is_(State.RUNNING)
    finally:
        control.close()


def test_nothing_in_the_file_makes_a_run_deaf(
    control_of: Callable[[], tuple[RunControl, RunDirectory, queue.Queue[Event]]],
) -> None:
    """Brackets without end, a command in two writes, a file that begins anew, an error of any kind."""
    control, run, _seen = control_of()
    try:
        with run.commands.open("ab", buffering=0) as file:
            file.write(
                b"[" * 100_000 + b'\n{"command": "' + b"9" * 5_000 + b'"}\n\xff\n{"command": ["stop"]}\n'
            )
            file.write(b'{"comm')
            _until(lambda: control._commands.offset == run.commands.stat().st_size)
            file.write(b'and": "pause"}\n')
        _until(lambda: control.is_(State.PAUSING))
        run.commands.write_text("")
        _until(lambda: control._commands.offset == 0)
        run.send(Command.RESUME)
        _until(lambda: control.is_(State.RUNNING))
        real, failed = control._commands, threading.Event()

        class Failing:
            def read(self) -> list[Command]:
                control._commands = real
                failed.set()
                raise RuntimeError("of any kind")

        control._commands = Failing()  # type: ignore[assignment]
        _until(failed.is_set)
        run.send(Command.STOP)
        _until(lambda: control.is_(State.STOPPING))
    finally:
        control.close()


def _until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)
