"""Rows whose labels a person corrects: what is shown, what was decided, and taking it back."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt, Signal

from so8t_engine.data.labels import Task
from so8t_engine.i18n import N_, _, with_more
from so8t_engine.pipeline.preprocess.review import append_review
from so8t_engine.plain_text import visible
from so8t_gui import theme

Index = QModelIndex | QPersistentModelIndex
ROOT = QModelIndex()
MISSING = "—"
SOURCES = {"given": N_("given"), "weak": N_("weak"), "none": N_("none"), "reviewed": N_("reviewed")}


@dataclass(frozen=True, slots=True)
class _Step:
    """One decision: the row, and what had been decided before."""

    row: int
    before: int | None


class ReviewTable(QAbstractTableModel):
    """Doubtful rows, those whose label the rules contradict first.

    Signals: ``decided`` after each decision and each one taken back.
    """

    decided = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.rows: list[dict[str, Any]] = []
        self.decisions: dict[str, int] = {}
        self._work: Path | None = None
        self._steps: list[_Step] = []

    def load(self, work: Path, rows: list[dict[str, Any]], decisions: dict[str, int]) -> None:
        """Show ``rows`` of the pipeline in ``work`` with the decisions made so far."""
        self.beginResetModel()
        self._work, self.rows, self.decisions, self._steps = work, rows, dict(decisions), []
        self.endResetModel()
        self.decided.emit()

    @property
    def can_undo(self) -> bool:
        return bool(self._steps)

    def decide(self, row: int, task: Task) -> None:
        """Give a row a class; it is on disk when this returns.

        Raises:
            OSError: the decision could not be written; nothing is shown that was not kept.
        """
        row_id = str(self.rows[row]["id"])
        before = self.decisions.get(row_id)
        assert self._work is not None
        append_review(self._work, row_id, int(task))
        self.decisions[row_id] = int(task)
        self._steps.append(_Step(row, before))
        self._tell(row)

    def undo(self) -> int | None:
        """Take the last decision back; its row, or None where there is none."""
        if not self._steps or self._work is None:
            return None
        step = self._steps[-1]
        row_id = str(self.rows[step.row]["id"])
        append_review(self._work, row_id, step.before)
        self._steps.pop()
        if step.before is None:
            self.decisions.pop(row_id, None)
        else:
            self.decisions[row_id] = step.before
        self._tell(step.row)
        return step.row

    def _tell(self, row: int) -> None:
        self.dataChanged.emit(self.index(row, 0), self.index(row, self.columnCount() - 1))
        self.decided.emit()

    def balance(self) -> Counter[str]:
        """Rows of each class as they stand now; ``—`` for those without one."""
        counts: Counter[str] = Counter()
        for row in self.rows:
            task = self.decisions.get(str(row["id"]), row["task"])
            counts[MISSING if task is None else Task(task).name] += 1
        return counts

    def reviewed(self) -> int:
        """How many of the rows were decided."""
        return sum(str(row["id"]) in self.decisions for row in self.rows)

    def rowCount(self, parent: Index = ROOT) -> int:
        return 0 if parent.isValid() else len(self.rows)

    def columnCount(self, parent: Index = ROOT) -> int:
        return 0 if parent.isValid() else 6

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> object:
        if role != Qt.ItemDataRole.DisplayRole:
            return None
        if orientation is Qt.Orientation.Vertical:
            return str(section + 1)
        return [_("Your label"), _("Label"), _("Origin"), _("Rules say"), _("Language"), _("Text")][section]

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        row, column = self.rows[index.row()], index.column()
        if role == Qt.ItemDataRole.DisplayRole:
            return self._text(row, column)
        if role == Qt.ItemDataRole.ToolTipRole and column == 3:
            return visible(str(row["weak_votes"] or MISSING))
        if role == Qt.ItemDataRole.ForegroundRole:
            colours = theme.current()
            if column == 0:
                return colours.colour("good")
            if column == 3 and row["task"] is not None and row["weak_task"] not in (None, row["task"]):
                return colours.colour("warn")
        return None

    def _text(self, row: dict[str, Any], column: int) -> str:
        if column == 0:
            return _task(self.decisions.get(str(row["id"])))
        if column == 1:
            return _task(row["task"])
        if column == 2:
            return _(SOURCES.get(str(row["label_source"]), str(row["label_source"])))
        if column == 3:
            if row["weak_task"] is None:
                return MISSING
            return with_more(_task(row["weak_task"]), f"{row['weak_confidence']:.0%}")
        if column == 4:
            return str(row["language"])
        return visible(str(row["prompt"] or row["response"]).replace("\n", " "), 300)


def _task(value: int | None) -> str:
    return MISSING if value is None else Task(value).name
