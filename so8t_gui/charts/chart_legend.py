"""The readings above a chart, which also switch its series on and off."""

from __future__ import annotations

import html
from dataclasses import dataclass, field

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFrame, QLabel, QSizePolicy, QWidget

from so8t_engine.i18n import _
from so8t_gui import theme
from so8t_gui.charts.plot import marks_in_words
from so8t_gui.charts.series import Series, format_value, unbroken
from so8t_gui.models.buffers import Columns
from so8t_gui.models.marks import Marks


@dataclass
class ChartOptions:
    """What a person chose for a chart."""

    smoothing: float = 0.0
    log: bool = False
    robust: bool = True
    hidden: set[str] = field(default_factory=set)


class ChartLegend(QFrame):
    """What a chart says in words: of each series its newest value, or the one under the cursor."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.options = ChartOptions()
        self.along = "step"
        self.marks: Marks | None = None
        self._legend = self.make_legend()
        self._cursor: float | None = None
        self._series: dict[str, Series] = {}
        self._sources: dict[str, Columns] = {}
        self._notes: list[str] = []
        self._range_note = ""

    def make_legend(self) -> QLabel:
        """The label; a click on a series in it is a link."""
        legend = QLabel()
        legend.setTextFormat(Qt.TextFormat.RichText)
        legend.setWordWrap(True)
        legend.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        # The menu does the same by the keyboard.
        legend.setTextInteractionFlags(Qt.TextInteractionFlag.LinksAccessibleByMouse)
        return legend

    def _write_legend(self) -> None:
        parts, words = [], []
        for name, one in self._series.items():
            value = self._value_of(name, one)
            parts.append(self._reading(one, value))
            if name not in self.options.hidden:
                words.append(f"{one.label} {self._value_text(one, value)}")
        notes = [*self._notes, *([self._range_note] if self._range_note else [])]
        if self.options.smoothing:
            notes.append(_("smoothed %(factor)g") % {"factor": self.options.smoothing})
        text = "&nbsp;&nbsp; ".join(parts + [html.escape(note) for note in notes])
        if text != self._legend.text():
            self._legend.setText(text)
            marks = marks_in_words(self.marks) if self.marks is not None else ""
            self.setAccessibleDescription("; ".join([*words, *notes, *([marks] if marks else [])]))

    def _value_of(self, name: str, one: Series) -> float | None:
        table = self._sources.get(name)
        if table is None:
            return None
        if self._cursor is None:
            return table.last(one.column)
        row = table.nearest(self.along, self._cursor)
        return None if row is None else table.at(one.column, row)

    def _reading(self, one: Series, value: float | None) -> str:
        sign = "●" if one.points else "┄" if one.dashed else "━"
        off = one.id in self.options.hidden
        colour = theme.current()["disabled"] if off else one.colour
        ink = theme.current()["muted" if off else "text"]
        figure = "" if off else f"&nbsp;<b>{unbroken(self._value_text(one, value))}</b>"
        return (
            f'<a href="{html.escape(one.id)}" style="text-decoration:none;color:{ink};white-space:nowrap">'
            f'<span style="color:{colour}">{sign}</span>&nbsp;{unbroken(one.label)}{figure}</a>'
        )

    def _value_text(self, one: Series, value: float | None) -> str:
        """What stands behind a series' name."""
        return format_value(value)
