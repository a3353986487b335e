"""Background threads for the history: scanning the runs folder, and reading a past run's events."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QObject, QThread, Signal

from so8t_engine.history.index import RunIndex
from so8t_engine.read_ahead import read_ahead
from so8t_engine.training.interrupted import find_interrupted, find_live
from so8t_engine.training.run_directory import RunDirectory
from so8t_gui.models.overlay import WANTED
from so8t_gui.models.run_model import RunModel
from so8t_gui.models.run_reader import ReadingStoppedError, read_run


class FolderScan(QThread):
    """Summaries of all runs below a folder.

    Signals:
        found: the list of `IndexedRun`.
        failed: the folder, and why it cannot be read.
    """

    found = Signal(object)
    failed = Signal(object, str)

    def __init__(self, folder: Path, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._folder = folder

    def run(self) -> None:
        """The thread's work."""
        try:
            self.found.emit(RunIndex().runs(self._folder))
        except OSError as error:
            self.failed.emit(self._folder, error.strerror or str(error))


class StartScan(QThread):
    """At the start: runs that live without this window, and runs that no person ended.

    Signals:
        found: a list of folders, and a list of `Interrupted`.
    """

    found = Signal(object, object)

    def __init__(self, folder: Path, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._folder = folder

    def run(self) -> None:
        """The thread's work."""
        try:
            self.found.emit(find_live(self._folder), find_interrupted(self._folder))
        except OSError:
            # The history says what is wrong with the folder when it is looked at.
            self.found.emit([], [])


class RunLoader(QThread):
    """Digests a past run's events in the background and hands over the finished model.

    Signals:
        progress: bytes read and bytes in all.
        loaded: the run's folder and its `RunModel`.
        failed: the run's folder, and why it cannot be read.
    """

    progress = Signal(object, object)
    loaded = Signal(object, object)
    failed = Signal(object, str)

    def __init__(self, folder: Path, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._folder = folder
        self._path = RunDirectory(folder).events

    def run(self) -> None:
        """The thread's work."""
        try:
            model, _offset = read_run(self._path, self.progress.emit, self.isInterruptionRequested)
        except ReadingStoppedError:
            return
        except OSError as error:
            self.failed.emit(self._folder, error.strerror or str(error))
            return
        self.loaded.emit(self._folder, model)


class RunsLoader(QThread):
    """Reads what an overlay of several runs draws.

    Signals:
        loaded: the list of pairs of folder and `RunModel`.
        failed: a run's folder, and why it cannot be read; the others are overlaid all the same.
    """

    loaded = Signal(object)
    failed = Signal(object, str)

    def __init__(self, folders: list[Path], parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._folders = folders

    def run(self) -> None:
        """The thread's work."""
        found = []
        # Most of a reading is done without the interpreter's lock.
        models = read_ahead(self._read, self._folders, ahead=len(self._folders))
        for folder, model in zip(self._folders, models, strict=True):
            if isinstance(model, OSError):
                self.failed.emit(folder, model.strerror or str(model))
            elif model is not None:
                found.append((folder, model))
        if not self.isInterruptionRequested():
            self.loaded.emit(found)

    def _read(self, folder: Path) -> RunModel | OSError | None:
        """The run, why it cannot be read, or None where nobody wants it any more."""
        stopped = self.isInterruptionRequested
        if stopped():
            return None
        try:
            return read_run(RunDirectory(folder).events, stopped=stopped, only=WANTED)[0]
        except OSError as error:
            return error
        except ReadingStoppedError:
            return None
