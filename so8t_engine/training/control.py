"""The trainer's side of the controls: the state, the command inbox, and what was asked for.

A thread reads commands every 20 ms and acknowledges them with a state event at once; the trainer acts on
them at its next boundary, within one optimizer step.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from so8t_engine.errors import RunError
from so8t_engine.i18n import _
from so8t_engine.training.events import Event, StateEvent, WarningEvent
from so8t_engine.training.lock import HEARTBEAT_S
from so8t_engine.training.process import ProcessMark
from so8t_engine.training.run_directory import CommandReader, EventWriter, RunDirectory
from so8t_engine.training.states import Command, State, check_command, check_transition

log = logging.getLogger(__name__)

POLL_S = 0.02
OWNER_CHECK_S = 1.0


class StopRequested(Exception):  # noqa: N818  (a signal, not an error)
    """Raised at a boundary where a stop leaves nothing to save, such as while loading."""


class AbortRequested(Exception):  # noqa: N818
    """Raised at any boundary after an abort: nothing more is saved."""


class RunControl:
    """State and pending requests of one run, safe from any thread.

    Args:
        run: its directory.
        on_event: also called with each event as written.
        owner: the process on whose death the run saves and stops; None goes on without it.
        beat: called every few seconds while the run lives.
    """

    def __init__(
        self,
        run: RunDirectory,
        on_event: Callable[[Event], None] | None = None,
        owner: ProcessMark | None = None,
        beat: Callable[[], None] | None = None,
    ) -> None:
        self._beat = beat
        self._writer = EventWriter(run)
        self._on_event = on_event
        self._owner = owner
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self.state = State.IDLE
        self._checkpoint_asked = False
        self._commands = CommandReader(run.commands)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="so8t-commands", daemon=True)
        self._thread.start()

    def emit(self, event: Event) -> None:
        """Write an event and hand it on."""
        with self._lock:
            written = self._writer.write(event)
            if self._on_event is not None:
                self._on_event(written)

    @property
    def last_seq(self) -> int:
        """The number of the last event."""
        return self._writer.seq

    def continue_after(self, seq: int) -> None:
        """Number further events from above ``seq``: events that were lost are not replaced by others."""
        self._writer.continue_after(seq)

    def move(self, to: State, reason: str = "") -> None:
        """Change the state. Raises `RunError` for a transition that the table does not have."""
        with self._changed:
            check_transition(self.state, to)
            event = StateEvent(from_=self.state, to=to, reason=reason)
            self.state = to
            self.emit(event)
            self._changed.notify_all()

    def request(self, command: Command, reason: str = "") -> None:
        """Take a command now; the trainer acts at its next boundary.

        Raises:
            RunError: the command makes no sense in this state.
        """
        with self._changed:
            check_command(self.state, command)
            if command is Command.PAUSE:
                self.move(State.PAUSING, reason)
            elif command is Command.RESUME:
                self.move(State.RUNNING, reason)
            elif command is Command.STOP:
                self.move(State.STOPPING, reason)
            elif command is Command.ABORT:
                self.move(State.ABORTING, reason)
            else:
                self._checkpoint_asked = True
                self._changed.notify_all()

    def is_(self, state: State) -> bool:
        """Whether the run is in ``state`` now; another thread may change it at any time."""
        return self.state is state

    @property
    def ending(self) -> bool:
        """Whether a stop or an abort is pending."""
        return self.state in {State.STOPPING, State.ABORTING}

    def check(self) -> None:
        """Raise `AbortRequested` after an abort. Cheap: call it between forward passes."""
        if self.is_(State.ABORTING):
            raise AbortRequested

    def check_loading(self) -> None:
        """As `check`, and raise `StopRequested` after a stop: nothing is there to be saved yet."""
        self.check()
        if self.is_(State.STOPPING):
            raise StopRequested

    def take_checkpoint_request(self) -> bool:
        """Whether a checkpoint was asked for since the last call."""
        with self._lock:
            asked, self._checkpoint_asked = self._checkpoint_asked, False
            return asked

    def wait_while_paused(self, on_checkpoint: Callable[[], object]) -> float:
        """Become paused if asked, and wait for the next command; checkpoints are made meanwhile.

        Returns:
            Seconds spent in the pause.
        """
        with self._lock:
            if not self.is_(State.PAUSING):
                return 0.0
            self.move(State.PAUSED)
        began = time.monotonic()
        while True:
            with self._changed:
                if not self.is_(State.PAUSED):
                    break
                if not self._checkpoint_asked:
                    self._changed.wait(0.2)
                    continue
            if self.take_checkpoint_request():
                on_checkpoint()
        return time.monotonic() - began

    def close(self) -> None:
        """Stop listening and close the event file."""
        self._closing.set()
        self._thread.join(timeout=2.0)
        self._writer.close()

    def _watch(self) -> None:
        next_owner_check = next_beat = 0.0
        while not self._closing.wait(POLL_S):
            for command in self._commands.read():
                self.try_request(command)
            now = time.monotonic()
            if self._beat is not None and now >= next_beat:
                next_beat = now + HEARTBEAT_S
                self._beat()
            if self._owner is not None and now >= next_owner_check:
                next_owner_check = now + OWNER_CHECK_S
                if not self._owner.alive():
                    self._owner = None
                    self.try_request(Command.STOP, _("the program that started the run is gone"))

    def try_request(self, command: Command, reason: str = "") -> None:
        """As `request`; a command that makes no sense now becomes a warning event."""
        try:
            self.request(command, reason)
        except RunError as error:
            log.warning("%s", error)
            self.emit(WarningEvent(kind="command", sentence=error.sentence, mend=error.mend))
