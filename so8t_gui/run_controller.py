"""One run in the window: the thread that follows it, the model that digests it, the commands."""

from __future__ import annotations

import time
from pathlib import Path

from PySide6.QtCore import QObject, Signal, Slot

from so8t_engine.config import Config
from so8t_engine.errors import SO8TError
from so8t_engine.training.states import ACCEPTS, ENDED, Command, State
from so8t_gui.engine_thread import EngineThread, WindowSession
from so8t_gui.models.run_model import RunModel

KILL_AFTER_S = 10.0

#: Command → states that show that it was heard.
HEARD: dict[Command, frozenset[State]] = {
    Command.PAUSE: frozenset({State.PAUSING, State.PAUSED}),
    Command.RESUME: frozenset({State.RUNNING}),
    Command.CHECKPOINT: frozenset({State.SAVING}),
    Command.STOP: frozenset({State.STOPPING}),
    Command.ABORT: frozenset({State.ABORTING}),
}


class RunController(QObject):
    """Owns the run that the window is driving or following; at most one.

    Signals:
        digested: the model took in new events.
        state_changed: the run's state, or what it was asked for, is another.
        failed: something could not be done; sentence and mend.
        ended: following is over; exit status.
    """

    digested = Signal()
    state_changed = Signal()
    replaced = Signal()
    failed = Signal(str, str)
    ended = Signal(int)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.model = RunModel()
        self.run_path: Path | None = None
        self.config: Config | None = None
        self.exit_status: int | None = None
        self._thread: EngineThread | None = None
        self._asked: Command | None = None
        self._asked_at = 0.0
        self._later: Command | None = None

    @property
    def live(self) -> bool:
        """Whether a run is being followed."""
        return self._thread is not None

    @property
    def session(self) -> WindowSession | None:
        return self._thread.session if self._thread is not None else None

    @property
    def asked(self) -> Command | None:
        """A command that was sent and has not yet shown in the state."""
        return self._asked

    def accepts(self, command: Command) -> bool:
        """Whether the run takes ``command`` now."""
        if self._thread is None:
            return False
        if self._asked is command or self._asked is Command.ABORT:
            return False
        return command in ACCEPTS[self.model.state]

    def start(self, config: Config, path: Path | None = None) -> bool:
        """Begin a new run; False after `failed` where it cannot be."""
        try:
            session = WindowSession.begin(config, path)
        except SO8TError as error:
            self.exit_status = error.exit_code
            self.failed.emit(error.sentence, error.mend)
            return False
        return self._follow(session, config)

    def resume(self, path: Path) -> bool:
        """Continue an ended run from its newest checkpoint."""
        return self._from_directory(path, attach=False)

    def attach(self, path: Path) -> bool:
        """Follow and control a run that another process trains."""
        return self._from_directory(path, attach=True)

    def _from_directory(self, path: Path, *, attach: bool) -> bool:
        try:
            session = WindowSession.join(path) if attach else WindowSession.continue_run(path)
            config = session.run.config()
        except SO8TError as error:
            self.exit_status = error.exit_code
            self.failed.emit(error.sentence, error.mend)
            return False
        return self._follow(session, config)

    def _follow(self, session: WindowSession, config: Config) -> bool:
        self.model = RunModel()
        self.run_path, self.config = session.run.path, config
        self.exit_status, self._asked, self._later = None, None, None
        self._thread = EngineThread(session, self)
        self._thread.arrived.connect(self._drain)
        self._thread.caught_up.connect(self._take_past)
        self._thread.broken.connect(self.failed)
        self._thread.finished.connect(self._finish)
        self._thread.start()
        self.replaced.emit()
        self.state_changed.emit()
        return True

    @Slot(object)
    def _take_past(self, model: RunModel) -> None:
        """A run that was joined late: what it did before is there at once."""
        self.model = model
        self.replaced.emit()
        self.state_changed.emit()

    @Slot()
    def _drain(self) -> None:
        events = self._thread.take() if self._thread is not None else []
        if not events:
            return
        before = self.model.state
        self.model.digest(events)
        if self._later is not None:
            self.send_when_possible(self._later)
        if self.model.state is not before:
            self._settle_request()
            self.state_changed.emit()
        elif self._asked is Command.CHECKPOINT and any(event.type == "checkpoint" for event in events):
            self._asked = None
            self.state_changed.emit()
        self.digested.emit()

    def _settle_request(self) -> None:
        if self._asked is not None and self.model.state in HEARD[self._asked] | ENDED:
            self._asked = None

    @Slot()
    def _finish(self) -> None:
        thread = self._thread
        if thread is None:
            return
        self._drain()
        thread.wait()
        self._thread, self._asked = None, None
        self.exit_status = thread.exit_status or 0
        thread.deleteLater()
        self.state_changed.emit()
        self.ended.emit(self.exit_status)

    def send(self, command: Command) -> None:
        """Ask something of the run. The answer is a state; until it comes, `asked` tells."""
        if self._thread is None:
            return
        try:
            self._thread.session.send(command)
        except SO8TError as error:
            self.failed.emit(error.sentence, error.mend)
            return
        except OSError as error:
            self.failed.emit(str(error), "")
            return
        self._asked, self._asked_at = command, time.monotonic()
        self.state_changed.emit()

    def send_when_possible(self, command: Command) -> None:
        """Send now, or as soon as the state takes it: a run that has not said a word takes nothing yet."""
        self._later = None
        if self.accepts(command):
            self.send(command)
        elif self.live and self.model.state is State.IDLE:
            self._later = command
            self._asked_at = self._asked_at or time.monotonic()

    def waiting_for_end(self) -> float | None:
        """Seconds since stop or abort was asked for; None where neither was."""
        ending = self.model.state in {State.STOPPING, State.ABORTING}
        asked = {self._asked, self._later} & {Command.STOP, Command.ABORT}
        if not self.live or not (ending or asked):
            return None
        return time.monotonic() - self._asked_at if self._asked_at else 0.0

    @property
    def can_kill(self) -> bool:
        """Whether the trainer is a process of its own."""
        return self._thread is not None and not self._thread.session.in_process

    def kill(self) -> None:
        """End the trainer's process at once."""
        if self._thread is not None:
            self._thread.session.kill()

    def shut_down(self) -> None:
        """Stop and save, and wait: the program ends without the window having been closed."""
        if self._thread is None:
            return
        self._thread.finished.disconnect(self._finish)
        while self._thread.isRunning():
            self._drain()
            if self._asked not in {Command.STOP, Command.ABORT}:
                self.send_when_possible(Command.STOP)
            self._thread.wait(50)
        self._finish()

    def detach(self) -> None:
        """Stop following; the trainer goes on. Returns when the thread has ended."""
        if self._thread is not None:
            self._thread.finished.disconnect(self._finish)
            self._thread.session.detach()
            self._thread.wait()
            self._finish()
