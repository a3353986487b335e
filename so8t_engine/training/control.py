"""The trainer's side of the controls: the state, the command inbox, and what was asked for.

A thread reads commands every 20 ms and acknowledges them with a state event at once; the trainer acts on
them at its next boundary, within one optimizer step.
"""

from __future__ import annotations

import faulthandler
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Literal, NoReturn

from so8t_engine.errors import RunError
from so8t_engine.files import write_bytes_atomically
from so8t_engine.i18n import _
from so8t_engine.training.events import EndEvent, Event, StateEvent, WarningEvent
from so8t_engine.training.heartbeat import Pulse, Stall
from so8t_engine.training.lock import HEARTBEAT_S, RunLock
from so8t_engine.training.process import ProcessMark
from so8t_engine.training.run_directory import CommandReader, EventWriter, RunDirectory
from so8t_engine.training.states import ACCEPTS, ENDED, Command, State, check_command, check_transition

log = logging.getLogger(__name__)

POLL_S = 0.02
OWNER_CHECK_S = 1.0
#: Why a run was stopped when no person did it (`StateEvent.cause`).
OWNER_GONE, SIGNAL = "owner_gone", "signal"


EndStatus = Literal["finished", "stopped", "aborted", "failed"]
_LAST: dict[EndStatus, State] = {
    "finished": State.FINISHED,
    "stopped": State.STOPPED,
    "aborted": State.ABORTED,
    "failed": State.FAILED,
}


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
        leave: ends this process with a status and does not return. Where it is given, a stop or an abort
            before the first step ends the run at once, in the middle of whatever is being loaded: there
            is nothing to be saved yet. Without it such a stop takes effect at the next `check_loading`.
        hang_s: seconds without progress that are told as a hang; None never.
    """

    def __init__(
        self,
        run: RunDirectory,
        on_event: Callable[[Event], None] | None = None,
        owner: ProcessMark | None = None,
        leave: Callable[[int], NoReturn] | None = None,
        hang_s: float | None = None,
    ) -> None:
        self._run = run
        self._run_lock = RunLock(run.lock)
        self._writer = EventWriter(run)
        self._on_event = on_event
        self._owner = owner
        self._leave = leave
        self._began = time.monotonic()
        #: Done before `leave` ends the process: temporary files go.
        self.before_leaving: Callable[[], object] = lambda: None
        self.pulse = Pulse(run.heartbeat, hang_s)
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self.state = State.IDLE
        self._checkpoint_asked = False
        self._commands = CommandReader(run.commands)
        #: For the case that the folder vanishes; a damaged file is damaged again then.
        self._config_text = run.config_file.read_bytes() if run.config_file.exists() else b""
        self._told_unreachable = False
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

    def move(self, to: State, reason: str = "", cause: str = "") -> None:
        """Change the state. Raises `RunError` for a transition that the table does not have."""
        with self._changed:
            check_transition(self.state, to)
            event = StateEvent(from_=self.state, to=to, reason=reason, cause=cause)
            self.state = to
            self.emit(event)
            self._changed.notify_all()

    def move_if(self, from_: frozenset[State] | set[State], to: State, reason: str = "") -> bool:
        """Move unless the state is another than one of ``from_``, as after a stop that has just come in.

        Returns:
            Whether the state changed.
        """
        with self._lock:
            if self.state not in from_:
                return False
            self.move(to, reason)
            return True

    def finish(self, end: EndEvent, reason: str = "") -> EndStatus:
        """Enter the last state and write the end; nothing comes in between, and nothing follows.

        A stop or an abort that came in at the last moment decides how a run that did not fail has ended.

        Returns:
            How it ended.
        """
        with self._lock:
            status = end.status
            if status != "failed" and self.is_(State.ABORTING):
                status = "aborted"
            elif status == "finished" and self.is_(State.STOPPING):
                status = "stopped"
            self._leave = None
            self.move(_LAST[status], reason if status == "failed" else "")
            self.emit(end.model_copy(update={"status": status}))
            return status

    def request(self, command: Command, reason: str = "", cause: str = "") -> None:
        """Take a command now; the trainer acts at its next boundary.

        Args:
            command: what is asked for.
            reason: in words. cause: where no person asked, what did.

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
                self.move(State.STOPPING, reason, cause)
            elif command is Command.ABORT:
                self.move(State.ABORTING, reason, cause)
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
        """Raise `AbortRequested` after an abort. Cheap: call it between forward passes.

        Each call is a sign of progress for the heartbeat.
        """
        self.pulse.beat()
        if self.is_(State.ABORTING):
            raise AbortRequested

    def check_loading(self) -> None:
        """As `check`, and raise `StopRequested` after a stop: nothing is there to be saved yet."""
        self.check()
        if self.is_(State.STOPPING):
            raise StopRequested

    def begin_training(self) -> None:
        """From here on a stop saves. Raises as `check_loading` does."""
        with self._lock:
            self._leave = None
        self.pulse.forget_intervals()
        self.check_loading()

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
                self.pulse.beat(counted=False)
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
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=2.0)
        self._writer.close()
        self._run_lock.release()

    def _watch(self) -> None:
        next_owner_check = next_beat = 0.0
        while not self._closing.wait(POLL_S):
            try:
                next_owner_check, next_beat = self._look(next_owner_check, next_beat)
            except Exception:  # (a thread's outermost frame: without it the run would be deaf and seem dead)
                log.exception("commands and heartbeat")
                self._closing.wait(1.0)

    def _look(self, next_owner_check: float, next_beat: float) -> tuple[float, float]:
        """Take commands, beat and look after the owner, each when it is due."""
        try:
            commands = list(self._commands.read())
        except OSError as error:
            log.warning("commands cannot be read: %s", error)
            commands = []
        for command in commands:
            self.try_request(command)
        now = time.monotonic()
        if now >= next_beat:
            next_beat = now + HEARTBEAT_S
            self._run_lock.beat()
        if now >= next_owner_check:
            next_owner_check = now + OWNER_CHECK_S
            if not self._run.events.exists():
                self._put_folder_back()
            if self._owner is not None and not self._owner.alive():
                self._owner = None
                reason = _("the program that started the run is gone")
                self.try_request(Command.STOP, reason, OWNER_GONE)
        if self.ending and self._leave is not None:
            self._leave_now()
        self.pulse.write(str(self.state))
        if self.pulse.hangs(self.is_(State.LOADING)) and not self.is_(State.PAUSED):
            self._tell_hang()
        return next_owner_check, next_beat

    def _put_folder_back(self) -> None:
        """The run's folder was deleted or moved away, or its disk is gone: what can be done, and say it."""
        path = {"path": str(self._run.path)}
        if not self._run.path.parent.is_dir():  # nothing is made where a disk was
            if not self._told_unreachable:
                self._told_unreachable = True
                sentence = _("The run folder %(path)s cannot be reached any more; the run goes on.") % path
                mend = _("Connect its disk again; until then nothing can be saved.")
                self.emit(WarningEvent(kind="folder", sentence=sentence, mend=mend))
            return
        try:
            self._writer.put_back()
            write_bytes_atomically(self._run.config_file, self._config_text)
            self._run.commands.touch()
            ProcessMark.current(self._run.id).write(self._run.process)
            self._run_lock.release()
            self._run_lock = RunLock(self._run.lock)
        except (OSError, RunError) as error:
            log.warning("the run folder cannot be put back: %s", error)
            return
        self.emit(
            WarningEvent(
                kind="folder",
                sentence=_(
                    "The run folder %(path)s was deleted or moved away while the run was going on; it has "
                    "been made again, with all events."
                )
                % path,
                mend=_("Its checkpoints went with it: the run is saved anew at once."),
            )
        )
        with self._lock:
            self._checkpoint_asked |= Command.CHECKPOINT in ACCEPTS[self.state]

    def _leave_now(self) -> None:
        with self._lock:
            leave = self._leave
            if leave is None or not self.ending:
                return  # the training thread came first
            self._leave = None
            aborted = self.is_(State.ABORTING)
            self.move(State.ABORTED if aborted else State.STOPPED)
            seconds = time.monotonic() - self._began
            self.emit(EndEvent(status="aborted" if aborted else "stopped", step=0, seconds=seconds))
            self.close()
            self.before_leaving()
            leave(0)

    def _tell_hang(self) -> None:
        """Say it, and where every thread stands, in the log."""
        stall = Stall(False, self.pulse.idle_s)
        if sys.stderr is not None and hasattr(sys.stderr, "fileno"):
            faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        self.emit(WarningEvent(kind="stall", sentence=stall.sentence, mend=stall.mend))

    def try_request(self, command: Command, reason: str = "", cause: str = "") -> None:
        """As `request`; a command that makes no sense now becomes a warning event.

        One that comes after the run's end is only logged: nothing follows the end.
        """
        with self._lock:  # the run must not end between the refusal and its event
            try:
                self.request(command, reason, cause)
            except RunError as error:
                log.warning("%s", error)
                if self.state not in ENDED:
                    self.emit(WarningEvent(kind="command", sentence=error.sentence, mend=error.mend))


def begin(control: RunControl, resume: bool) -> None:
    """Enter ``loading``, from which on commands are taken; does nothing where the run is there already."""
    if control.is_(State.IDLE):
        control.move(State.LOADING, _("resuming") if resume else "")


def install_signals(control: RunControl) -> Callable[[], None]:
    """Stop and save on Ctrl+C, SIGTERM and a closing session; abort on the second one.

    Returns:
        Puts the former handlers back. Outside the main thread nothing is installed.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None

    def ask(number: int, _frame: object) -> None:
        # In a thread: the handler may interrupt the holder of the lock.
        command = Command.ABORT if control.is_(State.STOPPING) else Command.STOP
        cause = "" if number == signal.SIGINT else SIGNAL
        threading.Thread(target=control.try_request, args=(command, "", cause), daemon=True).start()

    # A closing session is SIGHUP, on Windows SIGBREAK; each exists on its own system only.
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    former = {int(number): signal.signal(number, ask) for number in numbers}

    def restore() -> None:
        for number, handler in former.items():
            signal.signal(number, handler)

    return restore
