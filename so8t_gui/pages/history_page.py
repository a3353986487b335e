"""Past and present runs below the runs folder; opening one shows its charts, several are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from PySide6.QtCore import Qt, QThread, QTimer, Signal
from PySide6.QtGui import QKeySequence, QShortcut, QShowEvent
from PySide6.QtWidgets import QHBoxLayout, QLabel, QPushButton, QStackedWidget, QVBoxLayout, QWidget

from so8t_engine.history.index import IndexedRun
from so8t_engine.history.summary import RunSummary
from so8t_engine.i18n import _
from so8t_engine.training.states import STATE_NAMES
from so8t_gui.history_loader import FolderScan, RunLoader, RunsLoader
from so8t_gui.models.run_model import RunModel
from so8t_gui.pages.compare_view import CompareView
from so8t_gui.pages.run_list import RunList
from so8t_gui.preferences import Preferences
from so8t_gui.queue_controller import QueueController
from so8t_gui.run_controller import RunController
from so8t_gui.widgets.loading_bar import LoadingBar
from so8t_gui.widgets.message_bar import MessageBar
from so8t_gui.widgets.run_view import RunView


class HistoryPage(QWidget):
    """The list, and behind it the view of the run that was opened.

    Signals:
        attach_asked, resume_asked, duplicate_asked: a run's folder.
        shown: what was read is about to be drawn.
    """

    shown = Signal()

    duplicate_asked = Signal(object)
    attach_asked = Signal(object)
    resume_asked = Signal(object)

    def __init__(
        self,
        folder: Path,
        preferences: Preferences | None = None,
        queue: QueueController | None = None,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._preferences = preferences
        self._folder = folder
        self._threads: set[QThread] = set()
        self._opened: Path | None = None
        self._view: RunView | None = None
        self._scanning = self._scan_again = False
        self._preparing: Iterator[Callable[[], object]] = iter(())
        self._prepare = QTimer(self, interval=0)
        self._prepare.timeout.connect(self._prepare_next)
        self._comparison: CompareView | None = None
        self.message = MessageBar()
        self.list = RunList(folder, self.message, queue or QueueController(RunController(self), folder, self))
        self.table, self.table_model = self.list.table, self.list.model
        self.open_button, self.resume_button = self.list.open_button, self.list.resume_button
        self.list.folder_chosen.connect(self.set_folder)
        self.list.refresh_asked.connect(self.refresh)
        self.list.open_asked.connect(self._open_summary)
        self.list.resume_asked.connect(self.resume_asked)
        self.list.duplicate_asked.connect(self.duplicate_asked)
        self.list.compare_asked.connect(self.compare_runs)
        self.stack = QStackedWidget()
        self.stack.addWidget(self.list)
        self.stack.addWidget(self._make_detail())
        self.stack.addWidget(self._make_comparison())
        layout = QVBoxLayout(self)
        layout.setContentsMargins(12, 10, 12, 8)
        layout.addWidget(self.message)
        self.loading = LoadingBar()
        layout.addWidget(self.loading)
        layout.addWidget(self.stack, 1)
        QShortcut(QKeySequence("F5"), self, self.refresh)

    def _make_detail(self) -> QWidget:
        back = QPushButton(_("← &All runs"))
        back.setShortcut(QKeySequence("Alt+Left"))
        back.clicked.connect(lambda: self.stack.setCurrentIndex(0))
        self.detail_title = QLabel()
        self.detail_title.setTextFormat(Qt.TextFormat.PlainText)
        self.detail_title.setObjectName("title")
        head = QHBoxLayout()
        head.addWidget(back)
        head.addWidget(self.detail_title, 1)
        page = QWidget()
        layout = QVBoxLayout(page)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(head)
        self._detail_layout = layout
        return page

    def _make_comparison(self) -> QWidget:
        back = QPushButton(_("← &All runs"))
        back.clicked.connect(lambda: self.stack.setCurrentIndex(0))
        self.comparison_title = QLabel()
        self.comparison_title.setTextFormat(Qt.TextFormat.PlainText)
        self.comparison_title.setObjectName("title")
        head = QHBoxLayout()
        head.addWidget(back)
        head.addWidget(self.comparison_title, 1)
        page = QWidget()
        layout = QVBoxLayout(page)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(head)
        self._comparison_layout = layout
        return page

    @property
    def comparison(self) -> CompareView:
        """The comparison; made when it is first wanted."""
        if self._comparison is None:
            self._comparison = CompareView(self._preferences)
            self._comparison_layout.addWidget(self._comparison, 1)
        return self._comparison

    @property
    def view(self) -> RunView:
        """The view of the opened run; made when it is first wanted, for the window to open quickly."""
        if self._view is None:
            self._view = RunView(self._preferences)
            self._detail_layout.addWidget(self._view, 1)
        return self._view

    @property
    def folder(self) -> Path:
        return self._folder

    @property
    def opened(self) -> Path | None:
        """The run that is shown, if one is."""
        return self._opened if self.stack.currentIndex() == 1 else None

    @property
    def reading(self) -> bool:
        """Whether a run that somebody waits for is being read."""
        return any(isinstance(thread, RunLoader | RunsLoader) for thread in self._threads)

    def set_folder(self, folder: Path) -> None:
        """List another folder."""
        if folder != self._folder:
            self._folder = folder
            self.list.set_folder(folder)
            if self.isVisible():
                self.refresh()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self.refresh()

    def refresh(self) -> None:
        """Read the folder again, in the background; what a scan on its way may have missed, after it."""
        if self._scanning:
            self._scan_again = True
            return
        self._scanning, self._scan_again = True, False
        thread = FolderScan(self._folder, self)
        thread.found.connect(self._show_runs)
        thread.failed.connect(self._fail)
        self._run_thread(thread)

    def _run_thread(self, thread: QThread) -> None:
        self._threads.add(thread)
        thread.finished.connect(self._thread_done)
        thread.start()

    def _thread_done(self) -> None:
        thread = self.sender()
        if isinstance(thread, QThread):
            thread.wait()
            self._threads.discard(thread)
            thread.deleteLater()
            if isinstance(thread, FolderScan):
                self._scanning = False
                if self._scan_again:
                    self.refresh()

    def shut_down(self) -> None:
        """Wait for background reading; call before the page is dropped."""
        if self._view is not None:
            self._view.shut_down()
        self._prepare.stop()
        self._scan_again = False
        for thread in list(self._threads):
            thread.requestInterruption()
            thread.wait()
        self._threads.clear()
        self.list.queue.disconnect_controller()

    def _show_runs(self, runs: list[IndexedRun]) -> None:
        self.list.show_runs(runs)

    def open_selected(self) -> None:
        """Show the selected run; attach where its trainer lives."""
        self.list.open_selected()

    def _open_summary(self, run: RunSummary) -> None:
        if run.live:
            self.attach_asked.emit(run.path)
        else:
            self.open_run(run.path)

    def compare_runs(self, paths: list[Path]) -> None:
        """Read several runs in the background and overlay them."""
        self.message.hide()
        loader = RunsLoader(paths, self)
        loader.loaded.connect(self.show_comparison)
        loader.failed.connect(self._fail)
        self._run_thread(loader)

    def show_comparison(self, runs: list[tuple[Path, RunModel]]) -> None:
        """Show runs that have been read beside each other."""
        self.shown.emit()
        self.comparison_title.setText(_("%(count)d runs") % {"count": len(runs)})
        self.stack.setCurrentIndex(2)
        self.comparison.show_runs(runs)

    def open_run(self, path: Path) -> None:
        """Read a past run in the background and show it."""
        self.message.hide()
        loader = RunLoader(path, self)
        loader.loaded.connect(self.show_run)
        self.loading.watch(loader, path.name)
        # While it reads: the view that will show the run, and what its charts draw in.
        self._preparing = iter(self._preparations())
        self._prepare.start()
        loader.failed.connect(self._fail)
        self._run_thread(loader)

    def _preparations(self) -> Iterator[Callable[[], object]]:
        yield lambda: self.view
        yield from self.view.overview.preparations()

    def _prepare_next(self) -> None:
        piece = next(self._preparing, None)
        if piece is None:
            self._prepare.stop()
        else:
            piece()

    def show_run(self, path: Path, model: RunModel) -> None:
        """Show a run that has been read."""
        self._prepare.stop()
        self.shown.emit()
        self._opened = path
        state = _(STATE_NAMES[model.state])
        self.detail_title.setText(f"{path.name}  ·  {state}")
        self.view.bind(model, path)
        self.stack.setCurrentIndex(1)

    def _fail(self, path: Path, reason: str) -> None:
        self.message.show_message(
            "error",
            _("%(path)s cannot be read: %(reason)s.") % {"path": str(path), "reason": reason},
            _("Check the folder and its permissions."),
        )
