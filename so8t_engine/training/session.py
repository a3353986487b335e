"""Supervising one run: start or attach, follow its events, send commands, notice its death.

The session imports no torch. The trainer lives in a child process, or, with ``placement: thread``,
in the thread that calls `EngineSession.follow`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from so8t_engine.config import Config
from so8t_engine.errors import RunError
from so8t_engine.i18n import _
from so8t_engine.processes import apart
from so8t_engine.threads import wait_passively
from so8t_engine.training.crash import Crash, describe, oom_kills
from so8t_engine.training.events import EndEvent, ErrorEvent, Event, StateEvent, StepEvent
from so8t_engine.training.heartbeat import Stall, Watchdog
from so8t_engine.training.lock import RunLock, check_free
from so8t_engine.training.process import ProcessMark
from so8t_engine.training.run_directory import EventReader, EventWriter, RunDirectory
from so8t_engine.training.states import ENDED, Command, State, check_command

POLL_S = 0.03
#: How long one who only watches waits for whoever started the trainer to record its death.
OTHERS_S = 1.5
Sink = Callable[[list[Event]], None]


class EngineSession:
    """One run under supervision.

    Args:
        run: the run directory.
        placement: ``process`` or ``thread``.
        resume: continue from the newest complete checkpoint.
        attach: follow a trainer that somebody else started.
    """

    #: Whether a trainer without a card comes after the program that shows it, when processors are short.
    gives_way = False

    def __init__(
        self, run: RunDirectory, *, placement: str = "process", resume: bool = False, attach: bool = False
    ) -> None:
        self.run = run
        self.state = State.IDLE
        self._placement = placement
        self._resume = resume
        self._attach = attach
        self._child: subprocess.Popen[bytes] | None = None
        self._skip = run.events.stat().st_size if resume and run.events.exists() else 0
        self._reader = EventReader(run.events, offset=0)
        self._ended = False
        self._killed = False
        self._last_step = 0
        self._oom_before: int | None = None
        self._watchdog = Watchdog(run.heartbeat)
        self.exit_status = 0

    @classmethod
    def create(cls, config: Config, path: Path | None = None) -> EngineSession:
        """A session on a new run directory. Raises `RunError` where it cannot be written."""
        return cls(RunDirectory.create(config, path), placement=config.run.placement)

    @property
    def pid(self) -> int | None:
        """Of the trainer's child process, while there is one."""
        return self._child.pid if self._child is not None and self._child.poll() is None else None

    def send(self, command: Command) -> None:
        """Ask something of the run; the answer is an event. Raises `RunError` if it makes no sense now."""
        check_command(self.state, command)
        self.run.send(command)

    @property
    def stall(self) -> Stall | None:
        """Set while the trainer lives and gets nowhere; brought up to date by `follow`."""
        return self._watchdog.stall

    def kill(self) -> None:
        """End the trainer at once, as the last resort; nothing since the last checkpoint is kept."""
        self._killed = True
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
        elif self._attach and (mark := ProcessMark.read(self.run.process)) is not None and mark.alive():
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(mark.pid).kill()

    def follow(self, on_events: Sink) -> int:
        """Start (or attach) and hand over events until the run has ended.

        Args:
            on_events: called in this thread with each batch of new events, in order.

        Returns:
            0 when the run finished, stopped or was aborted as asked, 1 when it failed.

        Raises:
            RunError: another process is training this run.
        """
        if self._placement == "thread" and not self._attach:
            return self._run_in_this_thread(on_events)
        self._oom_before = oom_kills()
        if not self._attach:
            check_free(self.run.lock)
            self._child = self._spawn()
        while True:
            dead = self._trainer_is_dead()
            self._watchdog.look()
            self._deliver(self._reader.read(), on_events)
            if self._ended and (dead or self._attach):
                return self.exit_status
            if dead:
                if not (self._attach and self._others_record(on_events)):
                    self._record_death()
                    self._deliver(self._reader.read(), on_events)
                return self.exit_status
            time.sleep(POLL_S)

    def _deliver(self, events: list[Event], on_events: Sink) -> None:
        for event in events:
            if isinstance(event, StateEvent):
                self.state = event.to
                # A resumed run leaves its earlier end behind.
                self._ended = False if event.to not in ENDED else self._ended
            elif isinstance(event, StepEvent):
                self._last_step = event.step
            elif isinstance(event, EndEvent):
                self._ended = True
                self.exit_status = 1 if event.status == "failed" else 0
        if self._skip and self._reader.offset <= self._skip:
            self._ended = False
        if events:
            on_events(events)

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "so8t_engine.training.child", str(self.run.path)]
        command += ["--owner", ProcessMark.current().to_json()]
        self.run.heartbeat.unlink(missing_ok=True)
        if self._resume:
            command.append("--resume")
        if self.gives_way:
            command.append("--give-way")
        with self.run.log.open("ab") as log:
            # Ctrl+C in the window's terminal must not reach the trainer twice.
            return subprocess.Popen(
                command,
                env=wait_passively(dict(os.environ)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                **apart(),
            )

    def _trainer_is_dead(self) -> bool:
        if self._child is not None:
            return self._child.poll() is not None
        mark = ProcessMark.read(self.run.process)
        return mark is not None and not mark.alive()

    def _others_record(self, on_events: Sink) -> bool:
        """Whether the program that started the trainer tells of its death; one event file, one writer."""
        waited_until = time.monotonic() + OTHERS_S
        while not self._ended and time.monotonic() < waited_until:
            time.sleep(POLL_S)
            self._deliver(self._reader.read(), on_events)
        return self._ended

    def _record_death(self) -> None:
        """Write into the run what its trainer could not: that it died, and of what."""
        code = self._child.returncode if self._child is not None else None
        crash = describe(code, self.run.log, self._oom_before, killed_here=self._killed)
        state = self.state if self.state not in ENDED | {State.IDLE} else State.LOADING
        with RunLock(self.run.lock):
            self._write_death(state, crash)

    def _write_death(self, state: State, crash: Crash) -> None:
        writer = EventWriter(self.run)
        try:
            writer.write(ErrorEvent(kind=crash.kind, sentence=crash.sentence, mend=crash.mend))
            writer.write(StateEvent(from_=state, to=State.FAILED, reason=crash.sentence))
            writer.write(EndEvent(status="failed", step=self._last_step, seconds=0.0))
        finally:
            writer.close()

    def _run_in_this_thread(self, on_events: Sink) -> int:
        from so8t_engine.training.run import run_training

        def deliver(event: Event) -> None:
            self._deliver([event], on_events)

        earlier = self._reader.read()
        if earlier:
            on_events(earlier)
        return run_training(self.run, resume=self._resume, on_event=deliver, handle_signals=False)


def open_session(path: str | Path) -> EngineSession:
    """Attach to a run directory, whether its trainer lives or not. Raises `RunError`."""
    run = RunDirectory.open(path)
    mark = ProcessMark.read(run.process)
    if mark is None:
        raise RunError(_("The run in %(path)s was never started.") % {"path": str(path)})
    return EngineSession(run, attach=True)
