"""The list of runs: what each is, and what a person wrote about it."""

from __future__ import annotations

import time

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QPersistentModelIndex, Qt
from PySide6.QtWidgets import QAbstractItemView, QHeaderView, QTableView, QWidget

from so8t_engine.history.index import IndexedRun
from so8t_engine.history.summary import RunSummary
from so8t_engine.i18n import _
from so8t_engine.training.states import STATE_NAMES
from so8t_gui import theme
from so8t_gui.alignment import LEFT, RIGHT
from so8t_gui.plain import plain_tooltip

MISSING_TEXT = "—"
Index = QModelIndex | QPersistentModelIndex
ROOT = QModelIndex()
#: Columns of figures; they and their titles stand to the right.
FIGURES = {2, 3}


def state_text(run: RunSummary) -> str:
    """The state in words; a run whose trainer is gone is never shown as running."""
    if run.state is None:
        return _("never started")
    if run.lost:
        return _("lost (its trainer is gone)")
    return _(STATE_NAMES[run.state])


class RunTable(QAbstractTableModel):
    """Rows of `IndexedRun`, those that match a search."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.all: list[IndexedRun] = []
        self.runs: list[IndexedRun] = []
        self._search, self._archived = "", False

    def set_runs(self, runs: list[IndexedRun]) -> None:
        """Show other runs."""
        self.all = runs
        self._refresh()

    def set_filter(self, search: str, archived: bool) -> None:
        """Show only what matches; archived runs only where they are asked for."""
        self._search, self._archived = search, archived
        self._refresh()

    def _refresh(self) -> None:
        self.beginResetModel()
        shown = [run for run in self.all if self._archived or not run.notes.archived]
        self.runs = [run for run in shown if run.matches(self._search)]
        self.endResetModel()

    def rowCount(self, parent: Index = ROOT) -> int:
        return 0 if parent.isValid() else len(self.runs)

    def columnCount(self, parent: Index = ROOT) -> int:
        return 0 if parent.isValid() else 6

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> object:
        if orientation is Qt.Orientation.Horizontal and role == Qt.ItemDataRole.DisplayRole:
            return [_("Run"), _("State"), _("Steps"), _("Last loss"), _("Tags"), _("Started")][section]
        if orientation is Qt.Orientation.Horizontal and role == Qt.ItemDataRole.TextAlignmentRole:
            return int(RIGHT if section in FIGURES else LEFT)
        return None

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        run = self.runs[index.row()]
        column = index.column()
        if role == Qt.ItemDataRole.DisplayRole:
            return self._text(run, column)
        if role == Qt.ItemDataRole.ToolTipRole and column in {0, 4}:
            # A tooltip takes markup when it looks like some; what a person wrote is shown as it is.
            return plain_tooltip(f"{run.summary.path}\n{run.notes.note}".strip())
        if role == Qt.ItemDataRole.TextAlignmentRole and column in FIGURES:
            return int(RIGHT)
        if role == Qt.ItemDataRole.ForegroundRole:
            summary = run.summary
            bad = summary.lost or summary.state == "failed"
            if column == 1 and (bad or summary.live):
                return theme.current().colour("bad" if bad else "good")
            return theme.current().colour("muted" if run.notes.archived else "text")
        return None

    @staticmethod
    def _text(run: IndexedRun, column: int) -> str:
        summary = run.summary
        if column == 0:
            return ("★ " if run.notes.pinned else "") + summary.path.name
        if column == 1:
            text = state_text(summary)
            return _("%(state)s, archived") % {"state": text} if run.notes.archived else text
        if column == 2:
            return MISSING_TEXT if summary.step is None else f"{summary.step} / {summary.of}"
        if column == 3:
            return MISSING_TEXT if summary.loss is None else f"{summary.loss:.4f}"
        if column == 4:
            return ", ".join(run.notes.tags)
        if summary.started is None:
            return MISSING_TEXT
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(summary.started))


class RunTableView(QTableView):
    """The list; several runs can be chosen, to be compared."""

    def __init__(self, model: RunTable, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setModel(model)
        self.setAccessibleName(_("Runs"))
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setAlternatingRowColors(True)
        self.setShowGrid(False)
        self.setTabKeyNavigation(False)
        self.verticalHeader().hide()
        header = self.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        header.setHighlightSections(False)

    def chosen(self) -> list[IndexedRun]:
        """The selected runs, from above to below."""
        model = self.model()
        assert isinstance(model, RunTable)
        rows = sorted(index.row() for index in self.selectionModel().selectedRows())
        return [model.runs[row] for row in rows if row < len(model.runs)]
