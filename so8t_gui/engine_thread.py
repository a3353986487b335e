"""The background thread that follows a run, and the only bridge from it to the window.

The thread never touches a widget and the window never polls the engine. Events wait in a list; one
signal says that there are some, and is not sent again before the window has taken them, so that a
flood of events cannot fill the event loop.
"""

from __future__ import annotations

import threading
import traceback
from pathlib import Path

from PySide6.QtCore import QObject, QThread, Signal

from so8t_engine.config import Config
from so8t_engine.errors import RunError, SO8TError
from so8t_engine.i18n import _
from so8t_engine.training.events import Event
from so8t_engine.training.process import ProcessMark
from so8t_engine.training.run_directory import RunDirectory
from so8t_engine.training.session import EngineSession, Sink
from so8t_gui.models.event_cache import WORTHWHILE_BYTES
from so8t_gui.models.run_model import RunModel
from so8t_gui.models.run_reader import read_run


class _Detached(Exception):  # noqa: N818  (no error: the way out of a loop)
    """Following ends here; the trainer goes on."""


class WindowSession(EngineSession):
    """A session that can be left while its trainer lives on."""

    gives_way = True
    _leaving = False

    @classmethod
    def begin(cls, config: Config, path: Path | None) -> WindowSession:
        """On a new run directory. Raises `RunError` where it cannot be written."""
        return cls(RunDirectory.create(config, path), placement=config.run.placement)

    @classmethod
    def continue_run(cls, path: Path) -> WindowSession:
        """From the newest checkpoint of an existing run. Raises `RunError` or `ConfigError`."""
        run = RunDirectory.open(path)
        mark = ProcessMark.read(run.process)
        if mark is not None and mark.alive():
            raise RunError(
                _("The run in %(path)s is being trained now.") % {"path": str(path)},
                _("Open it to watch and control it."),
            )
        return cls(run, placement=run.config().run.placement, resume=True)

    @classmethod
    def join(cls, path: Path) -> WindowSession:
        """Attached to a trainer that somebody else started. Raises `RunError`."""
        return cls(RunDirectory.open(path), attach=True)

    @property
    def attached(self) -> bool:
        """Whether the trainer was started by somebody else."""
        return self._attach

    @property
    def in_process(self) -> bool:
        """Whether the trainer lives in this process, where it cannot be killed by itself."""
        return self._placement == "thread" and not self._attach

    @property
    def past(self) -> Path | None:
        """The event file of a run that began before this session and is too long to read event by event."""
        file = self.run.events
        earlier = (self._attach or self._resume) and file.exists()
        return file if earlier and file.stat().st_size >= WORTHWHILE_BYTES else None

    def go_on_from(self, offset: int, model: RunModel) -> None:
        """Hand over only what comes after ``offset``; ``model`` holds what came before."""
        self._reader.offset = offset
        self.state = model.state
        self._last_step = model.last_step.step if model.last_step is not None else 0
        if model.end is not None and model.ended:
            self._ended = not self._resume
            self.exit_status = 1 if model.end.status == "failed" else 0

    def detach(self) -> None:
        """Stop following soon; the trainer goes on."""
        self._leaving = True

    def _deliver(self, events: list[Event], on_events: Sink) -> None:
        super()._deliver(events, on_events)
        if self._leaving:
            raise _Detached


class EngineThread(QThread):
    """Runs `EngineSession.follow`.

    Signals:
        arrived: events wait to be taken with `take`.
        caught_up: the `RunModel` of what a run did before; `arrived` tells only of what comes after.
        broken: following failed; sentence and mend.
    """

    arrived = Signal()
    caught_up = Signal(object)
    broken = Signal(str, str)

    def __init__(self, session: WindowSession, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("EngineThread")
        self.session = session
        self.exit_status: int | None = None
        self._lock = threading.Lock()
        self._waiting: list[Event] = []

    def take(self) -> list[Event]:
        """The events since the last call, in order."""
        with self._lock:
            events, self._waiting = self._waiting, []
        return events

    def _put(self, events: list[Event]) -> None:
        with self._lock:
            first = not self._waiting
            self._waiting.extend(events)
        if first:
            self.arrived.emit()

    def _catch_up(self) -> None:
        """Read a long past at once instead of event by event."""
        past = self.session.past
        if past is None:
            return
        try:
            model, offset = read_run(past)
        except OSError:
            return  # the session meets the same fault and reports it
        self.session.go_on_from(offset, model)
        self.caught_up.emit(model)

    def run(self) -> None:
        """Follow until the run has ended; never raises into Qt."""
        try:
            self._catch_up()
            self.exit_status = self.session.follow(self._put)
        except _Detached:
            self.exit_status = 0
        except SO8TError as error:
            self.exit_status = 1
            self.broken.emit(error.sentence, error.mend)
        except Exception as error:  # noqa: BLE001  (the thread's outermost frame: report, don't vanish)
            traceback.print_exc()
            self.exit_status = 1
            self.broken.emit(
                _("Following the run failed: %(reason)s.") % {"reason": f"{type(error).__name__}: {error}"},
                _("The run folder holds everything recorded so far; open it from the history."),
            )
