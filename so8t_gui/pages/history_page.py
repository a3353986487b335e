"""Past and present runs below the runs folder; opening one shows its charts."""

from __future__ import annotations

import time
from pathlib import Path

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QPersistentModelIndex, Qt, QThread, Signal
from PySide6.QtGui import QKeySequence, QShortcut, QShowEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QLineEdit,
    QPushButton,
    QStackedWidget,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.i18n import _
from so8t_engine.training.states import STATE_NAMES
from so8t_gui import theme
from so8t_gui.history_loader import FolderScan, RunLoader
from so8t_gui.models.history import RunSummary
from so8t_gui.models.run_model import RunModel
from so8t_gui.plain import plain_tooltip
from so8t_gui.preferences import Preferences
from so8t_gui.widgets.message_bar import MessageBar
from so8t_gui.widgets.run_view import RunView

MISSING_TEXT = "—"
Index = QModelIndex | QPersistentModelIndex
ROOT = QModelIndex()


def state_text(run: RunSummary) -> str:
    """The state in words; a run whose trainer is gone is never shown as running."""
    if run.state is None:
        return _("never started")
    if run.lost:
        return _("lost (its trainer is gone)")
    return _(STATE_NAMES[run.state])


class RunTable(QAbstractTableModel):
    """Rows of `RunSummary`."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.runs: list[RunSummary] = []

    def set_runs(self, runs: list[RunSummary]) -> None:
        self.beginResetModel()
        self.runs = runs
        self.endResetModel()

    def rowCount(self, parent: Index = ROOT) -> int:
        return 0 if parent.isValid() else len(self.runs)

    def columnCount(self, parent: Index = ROOT) -> int:
        return 0 if parent.isValid() else 5

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> object:
        if orientation is Qt.Orientation.Horizontal and role == Qt.ItemDataRole.DisplayRole:
            return [_("Run"), _("State"), _("Steps"), _("Last loss"), _("Started")][section]
        return None

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        run = self.runs[index.row()]
        column = index.column()
        if role == Qt.ItemDataRole.DisplayRole:
            return self._text(run, column)
        if role == Qt.ItemDataRole.ToolTipRole and column == 0:
            return plain_tooltip(str(run.path))
        if role == Qt.ItemDataRole.TextAlignmentRole and column in {2, 3}:
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        if role == Qt.ItemDataRole.ForegroundRole and column == 1:
            bad = run.lost or run.state == "failed"
            return theme.current().colour("bad" if bad else "good" if run.live else "text")
        return None

    @staticmethod
    def _text(run: RunSummary, column: int) -> str:
        if column == 0:
            return run.path.name
        if column == 1:
            return state_text(run)
        if column == 2:
            return MISSING_TEXT if run.step is None else f"{run.step} / {run.of}"
        if column == 3:
            return MISSING_TEXT if run.loss is None else f"{run.loss:.4f}"
        if run.started is None:
            return MISSING_TEXT
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.started))


class HistoryPage(QWidget):
    """The list, and behind it the view of the run that was opened.

    Signals:
        attach_asked, resume_asked: a run's folder.
    """

    attach_asked = Signal(object)
    resume_asked = Signal(object)

    def __init__(
        self, folder: Path, preferences: Preferences | None = None, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._preferences = preferences
        self._folder = folder
        self._threads: set[QThread] = set()
        self._opened: Path | None = None
        self._view: RunView | None = None
        self._scanning = False
        self.table_model = RunTable(self)
        self.message = MessageBar()
        self.stack = QStackedWidget()
        self.stack.addWidget(self._make_list())
        self.stack.addWidget(self._make_detail())
        layout = QVBoxLayout(self)
        layout.setContentsMargins(12, 10, 12, 8)
        layout.addWidget(self.message)
        layout.addWidget(self.stack, 1)
        QShortcut(QKeySequence("F5"), self, self.refresh)

    def _make_list(self) -> QWidget:
        title = QLabel(_("History"))
        title.setObjectName("pageTitle")
        self.folder_field = QLineEdit(str(self._folder))
        self.folder_field.setAccessibleName(_("Runs folder"))
        self.folder_field.editingFinished.connect(self._take_folder)
        browse = QPushButton(_("&Browse…"))
        browse.clicked.connect(self._browse)
        self.refresh_button = QPushButton(_("&Refresh"))
        self.refresh_button.setToolTip(_("Reads the folder again (F5)."))
        self.refresh_button.clicked.connect(self.refresh)
        self.open_button = QPushButton(_("&Open"))
        self.open_button.setProperty("role", "primary")
        self.open_button.setToolTip(
            _("Shows the run's charts; a run that lives can be watched and controlled.")
        )
        self.open_button.clicked.connect(self.open_selected)
        self.resume_button = QPushButton(_("&Continue training"))
        self.resume_button.setToolTip(_("Goes on from the newest checkpoint of an ended run."))
        self.resume_button.clicked.connect(self._resume_selected)
        self.table = QTableView()
        self.table.setModel(self.table_model)
        self.table.setAccessibleName(_("Runs"))
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setAlternatingRowColors(True)
        self.table.setShowGrid(False)
        self.table.setTabKeyNavigation(False)
        self.table.verticalHeader().hide()
        header = self.table.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        header.setHighlightSections(False)
        self.table.activated.connect(lambda _index: self.open_selected())
        self.table.selectionModel().selectionChanged.connect(lambda *_args: self._enable())
        self.empty = QLabel(_("No runs in this folder yet. Start one, or choose another folder."))
        self.empty.setObjectName("notice")
        self.empty.setAlignment(Qt.AlignmentFlag.AlignCenter)
        where = QHBoxLayout()
        label = QLabel(_("Runs &folder"))
        label.setBuddy(self.folder_field)
        for widget in (label, self.folder_field, browse, self.refresh_button):
            where.addWidget(widget, 1 if widget is self.folder_field else 0)
        actions = QHBoxLayout()
        actions.addWidget(self.open_button)
        actions.addWidget(self.resume_button)
        actions.addStretch(1)
        page = QWidget()
        layout = QVBoxLayout(page)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(8)
        layout.addWidget(title)
        layout.addLayout(where)
        layout.addWidget(self.table, 1)
        layout.addWidget(self.empty, 1)
        layout.addLayout(actions)
        self._enable()
        return page

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

    def set_folder(self, folder: Path) -> None:
        """List another folder."""
        if folder != self._folder:
            self._folder = folder
            self.folder_field.setText(str(folder))
            if self.isVisible():
                self.refresh()

    def _take_folder(self) -> None:
        text = self.folder_field.text().strip()
        if text:
            self.set_folder(Path(text).expanduser())

    def _browse(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, _("Runs folder"), str(self._folder))
        if chosen:
            self.set_folder(Path(chosen))

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self.refresh()

    def refresh(self) -> None:
        """Read the folder again, in the background."""
        if self._scanning:
            return
        self._scanning = True
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
            self._scanning = self._scanning and not isinstance(thread, FolderScan)
            thread.wait()
            self._threads.discard(thread)
            thread.deleteLater()

    def shut_down(self) -> None:
        """Wait for background reading; call before the page is dropped."""
        for thread in list(self._threads):
            thread.requestInterruption()
            thread.wait()
        self._threads.clear()

    def _show_runs(self, runs: list[RunSummary]) -> None:
        selected = self._selected()
        self.table_model.set_runs(runs)
        self.empty.setVisible(not runs)
        self.table.setVisible(bool(runs))
        for row, run in enumerate(runs):
            if selected is not None and run.path == selected.path:
                self.table.selectRow(row)
        if runs and self._selected() is None:
            self.table.selectRow(0)
        self._enable()

    def _selected(self) -> RunSummary | None:
        rows = self.table.selectionModel().selectedRows()
        return self.table_model.runs[rows[0].row()] if rows else None

    def _enable(self) -> None:
        run = self._selected()
        self.open_button.setEnabled(run is not None)
        self.resume_button.setEnabled(run is not None and run.can_resume)

    def open_selected(self) -> None:
        """Show the selected run; attach where its trainer lives."""
        run = self._selected()
        if run is None:
            return
        if run.live:
            self.attach_asked.emit(run.path)
        else:
            self.open_run(run.path)

    def _resume_selected(self) -> None:
        run = self._selected()
        if run is not None and run.can_resume:
            self.resume_asked.emit(run.path)

    def open_run(self, path: Path) -> None:
        """Read a past run in the background and show it."""
        self.message.hide()
        loader = RunLoader(path, self)
        loader.loaded.connect(self.show_run)
        loader.failed.connect(self._fail)
        self._run_thread(loader)

    def show_run(self, path: Path, model: RunModel) -> None:
        """Show a run that has been read."""
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
