"""The queue of runs in the window: it starts the next run when one ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from PySide6.QtCore import QFileSystemWatcher, QObject, QTimer, Signal

from so8t_engine.config import Config, load_config
from so8t_engine.errors import SO8TError
from so8t_engine.history.queue import OnFailure, QueuedRun, RunQueue, next_may_start
from so8t_engine.i18n import _
from so8t_engine.processes import apart
from so8t_engine.training.states import State
from so8t_gui.run_controller import RunController

#: A change on the disk is looked at once it is over.
SETTLE_MS = 200


class QueueController(QObject):
    """Owns the queue of one runs folder.

    Signals:
        changed: other runs wait, or another process works through the queue.
        failed: something could not be done; sentence and mend.
    """

    changed = Signal()
    failed = Signal(str, str)

    def __init__(self, controller: RunController, folder: Path, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._controller = controller
        self.queue = RunQueue(folder)
        self.entries: list[QueuedRun] = []
        self.on_failure = OnFailure.HOLD
        #: Why nothing is started although runs wait; empty where there is no particular reason.
        self.held_because = ""
        #: The configuration that was removed last and its place, for undo.
        self._removed: tuple[Config, int] | None = None
        self._settle = QTimer(self, singleShot=True, interval=SETTLE_MS)
        self._settle.timeout.connect(self.refresh)
        self._watcher = QFileSystemWatcher(self)
        self._watcher.directoryChanged.connect(lambda _path: self._settle.start())
        controller.ended.connect(lambda _status: self._on_ended())
        self.refresh()

    def set_folder(self, folder: Path) -> None:
        """Work with another runs folder."""
        if folder.expanduser().absolute() != self.queue.runs:
            self.queue.resign()
            self.queue = RunQueue(folder)
            self.refresh()

    def refresh(self) -> None:
        """Read the queue anew; it is small."""
        found, choice = self.queue.entries(), self.queue.on_failure
        if str(self.queue.folder) not in self._watcher.directories() and self.queue.folder.is_dir():
            if old := self._watcher.directories():
                self._watcher.removePaths(old)
            self._watcher.addPath(str(self.queue.folder))
        if (found, choice) != (self.entries, self.on_failure):
            self.entries, self.on_failure = found, choice
            self.changed.emit()

    @property
    def live(self) -> bool:
        """Whether a run goes on in this window."""
        return self._controller.live

    @property
    def can_start(self) -> bool:
        """Whether the next run could be started now."""
        return not self._controller.live and any(not entry.problem for entry in self.entries)

    # Changing

    def add(self, config: Config) -> bool:
        """Append a run."""
        try:
            self.queue.add(config)
        except SO8TError as error:
            self.failed.emit(error.sentence, error.mend)
            return False
        self.refresh()
        return True

    def move(self, place: int, to: int) -> None:
        """Put the run at ``place`` to another place."""
        if 0 <= place < len(self.entries) and 0 <= to < len(self.entries) and to != place:
            self._try(lambda: self.queue.move(self.entries[place].id, to))

    def remove(self, place: int) -> None:
        """Take a run out; `undo` puts it back."""
        if not 0 <= place < len(self.entries):
            return
        entry = self.entries[place]
        try:
            self._removed = (load_config(entry.file), place)
        except SO8TError:
            self._removed = None  # a file that cannot be used cannot come back
        self._try(lambda: self.queue.remove(entry.id))

    @property
    def can_undo(self) -> bool:
        """Whether the run that was removed last can come back."""
        return self._removed is not None

    def undo(self) -> None:
        """Put back what was removed last, where it was."""
        if self._removed is None:
            return
        config, place = self._removed
        self._removed = None
        if self.add(config):
            self.move(len(self.entries) - 1, place)

    def set_on_failure(self, choice: OnFailure) -> None:
        """Choose what becomes of the queue after a run has failed."""
        self._try(lambda: self.queue.set_on_failure(choice))

    def _try(self, change: object) -> None:
        try:
            change()  # type: ignore[operator]
        except SO8TError as error:
            self.failed.emit(error.sentence, error.mend)
        self.refresh()

    # Starting

    def start_next(self) -> bool:
        """Train the next run that waits; False where none can be started."""
        self.refresh()
        if not self.can_start:
            return False
        try:
            mine = self.queue.become_runner()
        except SO8TError as error:
            self.failed.emit(error.sentence, error.mend)
            return False
        if not mine:
            other = self.queue.other_runner()
            self._hold(_("Process %(pid)d works through this queue.") % {"pid": other.pid if other else 0})
            return False
        self.held_because = ""
        config = self.queue.take()
        self.refresh()
        if config is None:
            return False
        run = config.run.model_copy(update={"directory": str(self.queue.runs)})
        return self._controller.start(config.model_copy(update={"run": run}))

    def _on_ended(self) -> None:
        model = self._controller.model
        self.refresh()
        if not self.entries or not model.ended:
            return  # nothing waits, or the window only stopped watching
        if next_may_start(model.state, False, self.on_failure):
            # The run that has ended is dealt with first.
            self.held_because = ""
            QTimer.singleShot(0, self, self.start_next)
        else:
            why = {
                State.FAILED: _("The queue is held, because the run before failed."),
                State.STOPPED: _("The queue is held, because the run before was stopped."),
            }.get(model.state, _("The queue is held, because the run before was aborted."))
            self._hold(why)

    def _hold(self, why: str) -> None:
        self.held_because = why
        self.changed.emit()

    def hand_over(self, run: Path) -> bool:
        """Let a process without a window go on with the queue after ``run``; False where nothing waits."""
        self.refresh()
        if not self.entries:
            return False
        self.queue.resign()
        command = [sys.executable, "-m", "so8t_engine.cli", "queue", "run"]
        quiet = subprocess.DEVNULL
        subprocess.Popen(
            [*command, "--runs", str(self.queue.runs), "--after", str(run)],
            stdin=quiet, stdout=quiet, stderr=quiet, **apart(),
        )  # fmt: skip
        return True

    def shut_down(self) -> None:
        """The window is going; what waits, waits on the disk."""
        self._settle.stop()
        self.queue.resign()
