"""The readings above a chart, which also switch its series on and off."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFrame, QLabel, QSizePolicy, QWidget

from so8t_engine.i18n import _
from so8t_gui import theme
from so8t_gui.charts.mark_words import marks_in_words
from so8t_gui.charts.series import Series, format_value, unbroken
from so8t_gui.models.buffers import Columns
from so8t_gui.models.marks import Marks
from so8t_gui.widgets.steady import SteadyBox

#: Of a chart's height that its readings may take.
MOST = 0.3


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
        #: Holds the readings, so that a new figure in them does not lay out the whole window.
        self.readings = SteadyBox(self._legend)
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
        values = {name: self._value_of(name, one) for name, one in self._series.items()}
        words = [
            f"{one.label} {self._value_text(one, values[name])}"
            for name, one in self._series.items()
            if name not in self.options.hidden
        ]
        notes = [*self._notes, *([self._range_note] if self._range_note else [])]
        if self.options.smoothing:
            notes.append(_("smoothed %(factor)g") % {"factor": self.options.smoothing})
        brief = self._too_long([*words, *notes])
        parts = [self._reading(one, values[name], brief=brief) for name, one in self._series.items()]
        if not brief:
            parts += [html.escape(note) for note in notes]
        text = "&nbsp;&nbsp; ".join(parts)
        if text != self._legend.text():
            self._legend.setText(text)
        self.readings.fit()
        marks = marks_in_words(self.marks) if self.marks is not None else ""
        told = "; ".join([*words, *notes, *([marks] if marks else [])])
        if told != self.accessibleDescription():
            self.setAccessibleDescription(told)
        tip = "\n".join([*words, *notes]) if brief else ""
        if tip != self._legend.toolTip():
            self._legend.setToolTip(tip)

    def _too_long(self, words: Sequence[str]) -> bool:
        """Whether the readings would leave too little of a small chart: names alone then stand there."""
        metrics, width = self.fontMetrics(), max(1, self._legend.width())
        lines, at = 1, 0.0
        for word in words:
            needs = 1.06 * metrics.horizontalAdvance(f"━ {word}   ")  # values are bold
            if at and at + needs > width:
                lines, at = lines + 1, 0.0
            lines += int(needs // width)
            at += needs
        return lines > 2 and lines * metrics.height() > MOST * self.height()

    def _value_of(self, name: str, one: Series) -> float | None:
        table = self._sources.get(name)
        if table is None:
            return None
        if self._cursor is None:
            return table.last(one.column)
        row = table.nearest(self.along, self._cursor)
        return None if row is None else table.at(one.column, row)

    def _reading(self, one: Series, value: float | None, *, brief: bool = False) -> str:
        sign = "●" if one.points else "┄" if one.dashed else "━"
        off = one.id in self.options.hidden
        colour = theme.current()["disabled"] if off else one.colour
        ink = theme.current()["muted" if off else "text"]
        figure = "" if off or brief else f"&nbsp;<b>{unbroken(self._value_text(one, value))}</b>"
        return (
            f'<a href="{html.escape(one.id)}" style="text-decoration:none;color:{ink};white-space:nowrap">'
            f'<span style="color:{colour}">{sign}</span>&nbsp;{unbroken(one.label)}{figure}</a>'
        )

    def _value_text(self, one: Series, value: float | None) -> str:
        """What stands behind a series' name."""
        return format_value(value)
