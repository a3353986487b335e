"""The list of runs with search, notes, and everything that can be done with one or several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from PySide6.QtCore import QPoint, Qt, Signal
from PySide6.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QMenu,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.errors import RunError
from so8t_engine.history import bin as recycle_bin
from so8t_engine.history.index import IndexedRun
from so8t_engine.history.notes import RunNotes
from so8t_engine.i18n import _
from so8t_engine.training.states import State
from so8t_gui.forms.check_box import CheckBox
from so8t_gui.queue_controller import QueueController
from so8t_gui.widgets.message_bar import MessageBar
from so8t_gui.widgets.notes_card import NotesCard
from so8t_gui.widgets.queue_panel import QueuePanel
from so8t_gui.widgets.run_table import RunTable, RunTableView
from so8t_gui.widgets.upload_dialog import UploadDialog


class RunList(QWidget):
    """Signals: ``folder_chosen``, ``refresh_asked``; with a run's folder ``open_asked``, ``resume_asked``,
    ``duplicate_asked``; with a list of folders ``compare_asked``.
    """

    folder_chosen = Signal(object)
    refresh_asked = Signal()
    open_asked = Signal(object)
    resume_asked = Signal(object)
    duplicate_asked = Signal(object)
    compare_asked = Signal(object)

    def __init__(
        self, folder: Path, message: MessageBar, queue: QueueController, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._folder, self._message = folder, message
        self.model = RunTable(self)
        self.table = RunTableView(self.model)
        self.table.activated.connect(lambda _index: self.open_selected())
        self.table.selectionModel().selectionChanged.connect(lambda *_args: self._on_selected())
        self.table.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.table.customContextMenuRequested.connect(self._context_menu)
        self.notes = NotesCard()
        self.notes.written.connect(self._write)
        self.empty = QLabel()
        self.empty.setObjectName("notice")
        self.empty.setAlignment(Qt.AlignmentFlag.AlignCenter)
        title = QLabel(_("History"))
        title.setObjectName("pageTitle")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(8)
        layout.addWidget(title)
        layout.addLayout(self._make_where())
        layout.addLayout(self._make_filter())
        layout.addWidget(self.table, 1)
        layout.addWidget(self.empty, 1)
        self.queue = QueuePanel(queue)
        layout.addLayout(self._make_actions())
        below = QHBoxLayout()
        below.addWidget(self.notes, 2)
        below.addWidget(self.queue, 3)
        # What is below grows with its contents only; the list of runs takes the rest.
        self.queue.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        layout.addLayout(below)
        self._on_selected()

    def _make_where(self) -> QHBoxLayout:
        self.folder_field = QLineEdit(str(self._folder))
        self.folder_field.setAccessibleName(_("Runs folder"))
        self.folder_field.editingFinished.connect(self._take_folder)
        browse = self._button(_("&Browse…"), _("Choose the folder that holds the runs."), self._browse)
        self.refresh_button = self._button(
            _("&Refresh"), _("Reads the folder again (F5)."), self.refresh_asked.emit
        )
        label = QLabel(_("Runs &folder"))
        label.setBuddy(self.folder_field)
        row = QHBoxLayout()
        for widget in (label, self.folder_field, browse, self.refresh_button):
            row.addWidget(widget, 1 if widget is self.folder_field else 0)
        return row

    def _make_filter(self) -> QHBoxLayout:
        self.search = QLineEdit()
        self.search.setAccessibleName(_("Search runs"))
        self.search.setPlaceholderText(_("Search in names, settings, tags and notes; tag:x  state:failed"))
        self.search.setClearButtonEnabled(True)
        self.search.textChanged.connect(lambda _text: self._filter())
        self.archived = CheckBox(_("Archived too"))
        self.archived.toggled.connect(lambda _on: self._filter())
        row = QHBoxLayout()
        row.addWidget(self.search, 1)
        row.addWidget(self.archived)
        return row

    def _make_actions(self) -> QHBoxLayout:
        self.open_button = self._button(
            _("&Open"),
            _("Shows the run's charts; a run that lives can be watched and controlled."),
            self.open_selected,
        )
        self.open_button.setProperty("role", "primary")
        self.compare_button = self._button(
            _("Co&mpare"),
            _("Overlays the selected runs; hold Ctrl or Shift to select several."),
            lambda: self.compare_asked.emit([run.summary.path for run in self.table.chosen()]),
        )
        self.resume_button = self._button(
            _("&Continue training"), _("Goes on from the newest checkpoint of an ended run."), self._resume
        )
        self.duplicate_button = self._button(
            _("&Duplicate"), _("Puts the run's settings into the form, for another run."), self._duplicate
        )
        self.more = QPushButton(_("Mor&e"))
        menu = QMenu(self.more)
        menu.aboutToShow.connect(lambda: self._fill_more(menu))
        self.more.setMenu(menu)
        row = QHBoxLayout()
        for button in (
            self.open_button,
            self.compare_button,
            self.resume_button,
            self.duplicate_button,
            self.more,
        ):
            row.addWidget(button)
        row.addStretch(1)
        return row

    @staticmethod
    def _button(text: str, tip: str, slot: Callable[[], object]) -> QPushButton:
        button = QPushButton(text)
        button.setToolTip(tip)
        button.clicked.connect(lambda _on=False: slot())
        return button

    # The folder

    def set_folder(self, folder: Path) -> None:
        """Name another folder in the field."""
        self._folder = folder
        self.folder_field.setText(str(folder))

    def _take_folder(self) -> None:
        text = self.folder_field.text().strip()
        if text:
            self.folder_chosen.emit(Path(text).expanduser())

    def _browse(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, _("Runs folder"), str(self._folder))
        if chosen:
            self.folder_chosen.emit(Path(chosen))

    # The list

    def show_runs(self, runs: list[IndexedRun]) -> None:
        """List what was found; what was selected stays selected."""
        paths = {run.summary.path for run in self.table.chosen()}
        self.model.set_runs(runs)
        self._select(paths)

    def _filter(self) -> None:
        paths = {run.summary.path for run in self.table.chosen()}
        self.model.set_filter(self.search.text(), self.archived.isChecked())
        self._select(paths)

    def _select(self, paths: set[Path]) -> None:
        some = bool(self.model.runs)
        self.empty.setText(
            _("No run matches the search.")
            if self.model.all
            else _("No runs in this folder yet. Start one, or choose another folder.")
        )
        self.empty.setVisible(not some)
        self.table.setVisible(some)
        selection = self.table.selectionModel()
        for row, run in enumerate(self.model.runs):
            if run.summary.path in paths:
                selection.select(
                    self.model.index(row, 0),
                    selection.SelectionFlag.Select | selection.SelectionFlag.Rows,
                )
        if some and not selection.hasSelection():
            self.table.selectRow(0)
        self._on_selected()

    def selected(self) -> IndexedRun | None:
        """The only selected run; None where none or several are."""
        chosen = self.table.chosen()
        return chosen[0] if len(chosen) == 1 else None

    def _on_selected(self) -> None:
        run, chosen = self.selected(), self.table.chosen()
        self.open_button.setEnabled(run is not None)
        self.compare_button.setEnabled(len(chosen) >= 2)
        self.resume_button.setEnabled(run is not None and run.summary.can_resume)
        self.duplicate_button.setEnabled(run is not None)
        self.more.setEnabled(bool(chosen) or bool(recycle_bin.deleted_runs(self._folder)))
        self.notes.show_run(run)

    def open_selected(self) -> None:
        """Ask for the selected run to be shown."""
        run = self.selected()
        if run is not None:
            self.open_asked.emit(run.summary)

    def _resume(self) -> None:
        run = self.selected()
        if run is not None and run.summary.can_resume:
            self.resume_asked.emit(run.summary.path)

    def _duplicate(self) -> None:
        run = self.selected()
        if run is not None:
            self.duplicate_asked.emit(run.summary.path)

    # What is written about runs, and removing them

    def _context_menu(self, place: QPoint) -> None:
        menu = QMenu(self)
        self._fill_more(menu)
        menu.exec(self.table.viewport().mapToGlobal(place))
        menu.deleteLater()

    def _fill_more(self, menu: QMenu) -> None:
        menu.clear()
        chosen = self.table.chosen()
        pinned = bool(chosen) and all(run.notes.pinned for run in chosen)
        archived = bool(chosen) and all(run.notes.archived for run in chosen)
        for text, slot, usable in (
            (_("Un&pin") if pinned else _("&Pin to the top"), lambda: self._set_pinned(not pinned), chosen),
            (
                _("Un&archive") if archived else _("&Archive"),
                lambda: self._set_archived(not archived),
                chosen,
            ),
            (_("Up&load…"), self._upload, [run for run in chosen if _finished(run) and len(chosen) == 1]),
            (_("&Delete"), self.delete_selected, chosen),
        ):
            action = menu.addAction(text)
            action.setEnabled(bool(usable))
            action.triggered.connect(lambda _on=False, s=slot: s())
        count = len(recycle_bin.deleted_runs(self._folder))
        empty = menu.addAction(_("&Remove %(count)d deleted runs for good") % {"count": count})
        empty.setEnabled(count > 0)
        empty.triggered.connect(lambda _on=False: self._empty_bin())

    def _upload(self) -> None:
        run = self.selected()
        if run is not None:
            dialog = UploadDialog(run.summary.path, self)
            dialog.finished.connect(dialog.deleteLater)
            dialog.open()

    def _set_pinned(self, pinned: bool) -> None:
        for run in self.table.chosen():
            self._write(run, replace(run.notes, pinned=pinned))
        self.refresh_asked.emit()

    def _set_archived(self, archived: bool) -> None:
        for run in self.table.chosen():
            self._write(run, replace(run.notes, archived=archived))
        self.refresh_asked.emit()

    def _write(self, run: IndexedRun, notes: RunNotes) -> None:
        path = run.summary.path
        try:
            notes.write(path)
        except OSError as error:
            self._message.show_message(
                "error",
                _("%(path)s cannot be written: %(reason)s.")
                % {"path": str(path), "reason": error.strerror or str(error)},
            )
            return
        self.refresh_asked.emit()

    def delete_selected(self) -> None:
        """Move the selected runs aside; a button undoes it."""
        moved: list[Path] = []
        for run in self.table.chosen():
            try:
                moved.append(recycle_bin.delete(run.summary.path))
            except RunError as error:
                self._message.show_message("error", error.sentence, error.mend)
        if moved:
            self._message.show_message(
                "good",
                _("%(count)d runs were deleted.") % {"count": len(moved)},
                _("They still take their space until they are removed for good."),
                _("&Undo"),
                lambda: self._restore(moved),
            )
        self.refresh_asked.emit()

    def _restore(self, moved: list[Path]) -> None:
        for path in moved:
            try:
                recycle_bin.restore(path)
            except RunError as error:
                self._message.show_message("error", error.sentence, error.mend)
        self.refresh_asked.emit()

    def _empty_bin(self) -> None:
        try:
            freed = recycle_bin.empty(self._folder)
        except RunError as error:
            self._message.show_message("error", error.sentence, error.mend)
            return
        self._message.show_message(
            "good", _("Removed for good; %(size).1f GiB are free again.") % {"size": freed / 2**30}
        )
        self._on_selected()


def _finished(run: IndexedRun) -> bool:
    return run.summary.state is State.FINISHED
