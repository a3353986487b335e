"""Random commands to a real engine: every answer is the table's, every run can be accounted for afterwards.

``SO8T_MACHINE_STEPS=10000 pytest -s tests/faults/test_state_machine.py`` takes that many steps, and prints
what was done.
"""

from __future__ import annotations

import itertools
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from so8t_engine.config import Config
from so8t_engine.errors import RunError
from so8t_engine.model.so8t_model import SO8TModel
from so8t_engine.training.checkpoint import checkpoints, newest_usable
from so8t_engine.training.control import RunControl
from so8t_engine.training.events import EndEvent, ErrorEvent, Event, StateEvent, StepEvent
from so8t_engine.training.run import run_training
from so8t_engine.training.run_directory import RunDirectory
from so8t_engine.training.states import ACCEPTS, ENDED, TRANSITIONS, Command, State

Make = Callable[..., Config]
STEPS = int(os.environ.get("SO8T_MACHINE_STEPS", "120"))
STEPS_AN_EXAMPLE = 400
PATIENCE_S = 240.0
#: Pausing and going on is tried more often than ending, so that runs live for a while.
COMMANDS = (
    [Command.PAUSE] * 6 + [Command.RESUME] * 7 + [Command.CHECKPOINT] * 4 + [Command.STOP, Command.ABORT]
)
LEADS_TO = {
    Command.PAUSE: State.PAUSING,
    Command.RESUME: State.RUNNING,
    Command.STOP: State.STOPPING,
    Command.ABORT: State.ABORTING,
}
done: Counter[str] = Counter()


class Engine(RuleBasedStateMachine):
    """One run directory, its trainer in a thread, and whoever gives commands.

    No rule has a precondition: they would depend on time, and Hypothesis wants to draw the same again.
    """

    make: ClassVar[Callable[[int], Config]]
    root: ClassVar[Path]
    broken: ClassVar[threading.Event]
    numbers: ClassVar[itertools.count[int]] = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []
        self.losses: dict[int, float] = {}
        self.trainer: threading.Thread | None = None
        self.status: int | None = None
        self.broken.clear()

    @initialize(steps=st.sampled_from([7, 4000, 4000]))
    def begin(self, steps: int) -> None:
        done["runs"] += 1
        self.run = RunDirectory.create(type(self).make(steps), self.root / f"run{next(self.numbers)}")
        self.start(resume=False)

    def start(self, *, resume: bool) -> None:
        done["lives"] += 1
        self.control = RunControl(self.run, self.events.append)
        self.life_began_at = len(self.events)
        self.found_step = 0
        if resume:
            found, _damaged = newest_usable(self.run.checkpoints)
            self.found_step = int(found.name.removeprefix("step-")) if found else -1

        def train() -> None:
            self.status = run_training(self.run, resume=resume, handle_signals=False, control=self.control)

        self.trainer = threading.Thread(target=train, daemon=True)
        self.trainer.start()

    @property
    def live(self) -> bool:
        return self.trainer is not None and self.trainer.is_alive()

    def wait(self, until: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not until():
            assert time.monotonic() < end, (self.control.state, self.events[-3:])
            time.sleep(0.002)

    @rule(command=st.sampled_from(COMMANDS))
    def ask(self, command: Command) -> None:
        """The answer is the table's, whatever the trainer is doing at this moment."""
        done["steps"] += 1
        done["commands"] += 1
        control = self.control
        with control._lock:  # between looking at the state and asking, the trainer must not move
            state = control.state
            done[f"{state} × {command}"] += 1
            before = len(self.events)
            if command not in ACCEPTS[state]:
                with pytest.raises(RunError) as refused:
                    control.request(command)
                assert refused.value.sentence
                assert refused.value.mend
                assert control.state is state
                assert len(self.events) == before
            else:
                control.request(command)
                if command in LEADS_TO:
                    assert control.state is LEADS_TO[command]
                    event = self.events[-1]
                    assert isinstance(event, StateEvent)
                    assert (event.from_, event.to) == (state, control.state)

    @rule(command=st.sampled_from(COMMANDS))
    def ask_by_file(self, command: Command) -> None:
        """As another process does it."""
        if not self.live:
            self.go_on()
            return
        done["steps"] += 1
        done["commands by file"] += 1
        self.run.send(command)
        size = self.run.commands.stat().st_size
        self.wait(lambda: self.control._commands.offset >= size or not self.live)

    @rule(steps=st.integers(1, 3))
    def let_it_train(self, steps: int) -> None:
        """Until it has taken some steps, or is in another state."""
        if not self.live:
            self.go_on()
            return
        wanted = self.count(StepEvent) + steps
        self.wait(
            lambda: (
                self.count(StepEvent) >= wanted or self.control.state is not State.RUNNING or not self.live
            )
        )

    @rule()
    def let_it_settle(self) -> None:
        """What was asked for becomes so."""
        if not self.live:
            self.go_on()
            return
        done["steps"] += 1
        passing = {State.PAUSING, State.SAVING, State.STOPPING, State.ABORTING, State.LOADING}
        self.wait(lambda: self.control.state not in passing or not self.live)

    @rule()
    def break_down(self) -> None:
        """The model fails in the middle of a step."""
        if self.control.state is not State.RUNNING or done["steps"] % 9:
            return  # often enough
        done["steps"] += 1
        done["failures"] += 1
        self.broken.set()
        self.wait(lambda: not self.live or self.control.state is State.PAUSED)
        self.broken.clear()

    @rule()
    def go_on(self) -> None:
        """Account for the life that ended, and continue it, or begin another run."""
        if self.live:
            return
        done["steps"] += 1
        self.account()
        if self.control.state is State.FINISHED or not checkpoints(self.run.checkpoints):
            shutil.rmtree(self.run.path)
            self.events, self.losses = [], {}
            self.begin_again()
        else:
            done["resumed"] += 1
            self.start(resume=True)

    def begin_again(self) -> None:
        done["runs"] += 1
        self.run = RunDirectory.create(type(self).make(4000), self.root / f"run{next(self.numbers)}")
        self.start(resume=False)

    def count(self, kind: type[Event]) -> int:
        return sum(isinstance(event, kind) for event in self.events)

    def account(self) -> None:
        """The record of a life that ended is whole, legal, and fits what is on disk."""
        assert self.trainer is not None
        self.trainer.join()
        written = self.run.read_events()
        assert [event.seq for event in written] == list(range(1, len(written) + 1))
        assert [e.seq for e in written] == [e.seq for e in self.events]
        life = written[self.life_began_at :]
        moves = [event for event in life if isinstance(event, StateEvent)]
        assert moves[0].from_ is State.IDLE
        for move, following in itertools.pairwise(moves):
            assert move.to is following.from_
        assert all(move.to in TRANSITIONS[move.from_] for move in moves)
        end = life[-1]
        assert isinstance(end, EndEvent)
        assert moves[-1].to in ENDED
        assert end.status == str(moves[-1].to)
        assert self.status == (1 if end.status == "failed" else 0)
        assert (end.status == "failed") == any(isinstance(event, ErrorEvent) for event in life)
        done[end.status] += 1
        steps = [event for event in life if isinstance(event, StepEvent)]
        assert [s.step for s in steps] == list(range(self.found_step + 1, self.found_step + 1 + len(steps)))
        for step in steps:
            known = self.losses.setdefault(step.step, step.loss)
            assert known == step.loss, f"step {step.step} is another one after resuming"
        newest, damaged = newest_usable(self.run.checkpoints)
        assert damaged == []
        if end.status in {"stopped", "finished"} and steps:
            assert newest is not None
            assert newest.name == f"step-{steps[-1].step:08d}", "stop and save saves the last step"
        assert not list(self.run.checkpoints.glob(".*partial*")), "nothing half-written is left"

    def teardown(self) -> None:
        self.wait(lambda: self.control.state is not State.IDLE)
        self.control.try_request(Command.ABORT)
        if self.trainer is not None:
            self.trainer.join(PATIENCE_S)
            assert not self.trainer.is_alive()
            self.account()
            shutil.rmtree(self.run.path)
        print(f" {done['steps']}", end="", flush=True)  # noqa: T201  (a long run shows that it lives)


@pytest.mark.slow
@pytest.mark.timeout(600 if STEPS <= 120 else 14_400)
def test_random_commands_to_a_real_engine(
    tiny_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(steps: int) -> Config:
        return tiny_config(
            data={"max_length": 48, "max_rows": 12},
            training={"max_steps": steps, "epochs": 1000.0, "batch_size": 1, "accumulation": 1},
            checkpoints={"every_steps": 50, "keep": 2},
        )

    broken = threading.Event()
    real = SO8TModel.forward

    def forward(self: SO8TModel, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401
        if broken.is_set() and self.training:
            raise RuntimeError("broken for the test")
        return real(self, *arguments, **named)

    monkeypatch.setattr(SO8TModel, "forward", forward)
    Engine.make, Engine.root, Engine.broken = staticmethod(make), tmp_path, broken  # type: ignore[assignment]
    done.clear()
    an_example = min(STEPS_AN_EXAMPLE, STEPS // 2)
    # Some examples end early: Hypothesis draws short ones too. Rounds go on until the steps are taken.
    for _round in range(100):
        missing = STEPS - done["steps"]
        if missing <= 0:
            break
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            Engine,
            settings=settings(
                max_examples=max(4, -(-missing // an_example)),  # the first is the shortest
                stateful_step_count=an_example,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
    pairs = [name for name in done if "×" in name]
    every = len(State) * len(Command)
    ends = ", ".join(f"{done[str(state)]} {state}" for state in sorted(ENDED))
    print(  # noqa: T201
        f"\n{done['steps']} steps: {done['commands']} commands in {len(pairs)} of {every} pairs of state and "
        f"command, {done['commands by file']} by file, {done['runs']} runs, {done['lives']} lives, "
        f"{done['resumed']} resumed, ends: {ends}"
    )
    assert done["steps"] >= STEPS
