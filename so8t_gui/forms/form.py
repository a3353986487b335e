"""The whole configuration as a form: groups of rows, filtered by a search and by Basic or All."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QFrame, QLabel, QVBoxLayout, QWidget

from so8t_engine.config import Config, FieldProblem
from so8t_engine.i18n import _
from so8t_gui.forms import colours
from so8t_gui.forms.fields import GroupSpec, flatten, form_groups, nest
from so8t_gui.forms.row import FieldRow, plain_label

MAX_TITLE_CHARACTERS = 26


class GroupCard(QFrame):
    """One section: its title, a place for problems that belong to no single row, its rows."""

    def __init__(self, spec: GroupSpec, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.spec = spec
        self.setObjectName("card")
        self.setFrameShape(QFrame.Shape.StyledPanel)
        column = QVBoxLayout(self)
        column.setContentsMargins(12, 10, 12, 10)
        column.setSpacing(2)
        title = plain_label(_(spec.title))
        title.setObjectName("title")
        font = title.font()
        font.setBold(True)
        title.setFont(font)
        column.addWidget(title)
        self.error: QLabel = plain_label(wrap=True)
        self.error.hide()
        column.addWidget(self.error)
        self.rows = [FieldRow(field) for field in spec.fields]
        for row in self.rows:
            column.addWidget(row)

    def show_problem(self, problem: FieldProblem | None) -> None:
        """A problem of the section as a whole."""
        text = f"{problem.sentence} {problem.mend}".strip() if problem else ""
        if text == self.error.text():
            return
        self.error.setText(text)
        self.error.setVisible(problem is not None)
        colours.tint(self.error, colours.bad(self.palette()))


class ConfigForm(QWidget):
    """Editors for every setting.

    Signals: ``edited`` after each change by a person; ``focused`` with a field's spec.
    """

    edited = Signal()
    focused = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._words: list[str] = []
        self._all = False
        self._changed_only = False
        self.rows: dict[str, FieldRow] = {}
        self._held: dict[str, Any] = {"schema_version": Config().schema_version}
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 8, 0)
        column.setSpacing(10)
        self.groups = [GroupCard(spec) for spec in form_groups()]
        for group in self.groups:
            column.addWidget(group)
            for row in group.rows:
                self.rows[row.spec.path] = row
                row.edited.connect(self.edited)
                row.focused.connect(self.focused)
        self._nothing = plain_label(_("No setting matches the search."))
        self._nothing.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        column.addWidget(self._nothing)
        column.addStretch(1)
        self._align_titles()
        self._filter()

    def _align_titles(self) -> None:
        limit = colours.wanted_width(self, MAX_TITLE_CHARACTERS)
        widest = max(self.fontMetrics().horizontalAdvance(row.title.text()) + 8 for row in self.rows.values())
        for row in self.rows.values():
            row.set_title_width(min(widest, limit))

    def values(self) -> dict[str, Any]:
        """Everything in the form, nested as in the file, right or wrong."""
        return nest(self._held | {path: row.value() for path, row in self.rows.items()})

    def set_values(self, values: Mapping[str, Any]) -> None:
        """Show ``values`` (nested) without a signal."""
        for path, value in flatten(values).items():
            if path in self.rows:
                self.rows[path].set_value(value)
            else:
                self._held[path] = value

    def show_problems(self, problems: Sequence[FieldProblem]) -> None:
        """Each problem beneath its row; those of a whole section beneath the section's title."""
        by_row: dict[str, FieldProblem] = {}
        by_group: dict[str, FieldProblem] = {}
        for problem in problems:
            path = problem.path
            while path and path not in self.rows and "." in path:
                path = path.rpartition(".")[0]  # an entry of a list belongs to the list's row
            if path in self.rows:
                by_row.setdefault(path, problem)
            else:
                by_group.setdefault(path.partition(".")[0], problem)
        for path, row in self.rows.items():
            row.set_problem(by_row.get(path))
        for group in self.groups:
            group.show_problem(by_group.get(group.spec.path))
        self._filter()

    def set_locked(self, locked: bool) -> None:
        """Show the values without letting anyone change them; they stay legible."""
        self.setEnabled(not locked)
        ink = colours.muted(self.palette()).name()
        kinds = "QLineEdit:disabled, QDoubleSpinBox:disabled, QComboBox:disabled"
        sheet = f"{kinds} {{ color: {ink}; }}" if locked else ""
        if self.styleSheet() != sheet:
            self.setStyleSheet(sheet)

    def set_search(self, text: str) -> None:
        """Show only rows that hold every word of ``text``; an empty text shows all."""
        self._words = text.lower().split()
        self._filter()

    def set_all(self, everything: bool) -> None:
        """Show advanced settings too."""
        self._all = everything
        self._filter()

    def set_changed_only(self, only: bool) -> None:
        """Show only what differs from its default, or is wrong."""
        self._changed_only = only
        self._filter()

    def is_shown(self, row: FieldRow) -> bool:
        """A row with a problem is never hidden by Basic, nor an advanced one that was changed."""
        if self._changed_only and not row.changed and row.problem is None:
            return False
        if self._words:
            return row.matches(self._words)
        return self._all or not row.spec.advanced or row.problem is not None or row.changed

    def _filter(self) -> None:
        found = False
        for group in self.groups:
            shown = False
            for row in group.rows:
                visible = self.is_shown(row)
                if row.isHidden() == visible:
                    row.setVisible(visible)
                shown = shown or visible
            group.setVisible(shown)
            found = found or shown
        self._nothing.setVisible(not found)
