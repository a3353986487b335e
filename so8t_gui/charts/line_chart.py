"""One chart of one or more series over steps or time, in a card with title and readings.

Drawing stays cheap at a million points: lines one pixel wide without antialiasing, reduced to the
peaks of each pixel column, and only what the view shows.
"""

from __future__ import annotations

import html
from dataclasses import dataclass

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QMouseEvent
from PySide6.QtWidgets import QFrame, QLabel, QSizePolicy, QStackedLayout, QVBoxLayout, QWidget

from so8t_engine.i18n import _
from so8t_gui import theme
from so8t_gui.charts.axis import NumberAxis
from so8t_gui.models.buffers import Columns

pg.setConfigOptions(antialias=False, useOpenGL=False)

MISSING_TEXT = "—"


@dataclass(frozen=True, slots=True)
class Series:
    """A line. ``label`` is already translated; ``points`` draws the rows as dots, for sparse rows."""

    column: str
    label: str
    colour: str
    points: bool = False
    dashed: bool = False


def format_value(value: float | None) -> str:
    """Four significant digits, or a dash for a missing reading."""
    return MISSING_TEXT if value is None else f"{value:.4g}"


def _unbroken(label: str) -> str:
    """The label as markup in which no line breaks: Japanese breaks between any two signs."""
    return "&#8288;".join(html.escape(sign) for sign in label.replace(" ", "\u00a0"))


class _Plot(pg.PlotWidget):  # type: ignore[misc]
    """A plot whose double click shows everything again."""

    whole = Signal()

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        self.enableAutoRange()
        self.whole.emit()
        event.accept()


class LineChart(QFrame):
    """A titled chart.

    Args:
        title: translated.
        log: logarithmic values.
    """

    def __init__(self, title: str, *, log: bool = False, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("card")
        self.setAccessibleName(title)
        self._title_text = title
        self._x = "step"
        self._series: dict[str, Series] = {}
        self._items: dict[str, pg.PlotDataItem] = {}
        self._notes: list[str] = []
        self._title = QLabel(title)
        self._title.setObjectName("title")
        self._title.setTextFormat(Qt.TextFormat.PlainText)
        self._legend = QLabel()
        self._legend.setTextFormat(Qt.TextFormat.RichText)
        self._legend.setWordWrap(True)
        self._legend.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self._bottom = NumberAxis("bottom")
        # Without pyqtgraph's context menus, which are sixty untranslated widgets a chart.
        self.plot = _Plot(
            axisItems={"bottom": self._bottom, "left": NumberAxis("left")},
            viewBox=pg.ViewBox(enableMenu=False),
            enableMenu=False,
        )
        self.plot.setBackground(theme.current()["surface"])
        self.plot.hideButtons()
        self.plot.showGrid(x=True, y=True, alpha=0.18)
        self.plot.setLogMode(y=log)
        self.plot.setFrameShape(QFrame.Shape.NoFrame)
        self.plot.setMinimumSize(120, 70)
        self.plot.setAccessibleName(title)
        # A plot does nothing with keys; a stop at each would only lengthen the way through the page.
        self.plot.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.plot.viewport().setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.plot.setToolTip(_("Wheel zooms, dragging moves, double click shows everything."))
        item = self.plot.getPlotItem()
        item.setDownsampling(auto=True, mode="peak")
        item.setClipToView(True)
        item.getViewBox().setAutoVisible(y=True)
        self._empty = QLabel(_("No data yet"))
        self._empty.setObjectName("notice")
        self._empty.setTextFormat(Qt.TextFormat.PlainText)
        self._empty.setWordWrap(True)
        self._empty.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._stack = QStackedLayout()
        self._stack.addWidget(self._empty)
        self._stack.addWidget(self.plot)
        layout = self._layout = QVBoxLayout(self)
        layout.setContentsMargins(10, 7, 8, 4)
        layout.setSpacing(1)
        layout.addWidget(self._title)
        layout.addWidget(self._legend)
        layout.addLayout(self._stack, 1)
        self.set_x("step")

    def dispose(self) -> None:
        """Take the plot apart in the order that pyqtgraph wants, before Qt deletes the widgets."""
        self._items.clear()
        self.plot.close()

    def set_title(self, title: str) -> None:
        """Another title, translated."""
        self._title_text = title
        self._title.setText(title)
        self.setAccessibleName(title)

    def set_x(self, column: str, label: str = "") -> None:
        """Draw over ``step``, ``elapsed`` or another column, whose translated ``label`` is then given."""
        self._x = column
        self._bottom.durations = column == "elapsed"
        label = label or (_("time") if column == "elapsed" else _("step"))
        self._bottom.setLabel(label, **{"color": theme.current()["muted"], "font-size": "8pt"})
        self._bottom.picture = None
        self.plot.enableAutoRange()

    def set_series(self, series: list[Series]) -> None:
        """Which columns to draw; lines that stay keep their item."""
        wanted = {one.column: one for one in series}
        for column in [c for c in self._items if wanted.get(c) != self._series.get(c)]:
            self.plot.removeItem(self._items.pop(column))
        self._series = wanted
        for column, one in wanted.items():
            if column not in self._items:
                self._items[column] = self._make_item(one)

    def _make_item(self, one: Series) -> pg.PlotDataItem:
        style = Qt.PenStyle.DashLine if one.dashed else Qt.PenStyle.SolidLine
        dots = (
            {"symbol": "o", "symbolSize": 6, "symbolBrush": one.colour, "symbolPen": None}
            if one.points
            else {}
        )
        item = pg.PlotDataItem(pen=pg.mkPen(one.colour, width=1, style=style), connect="finite", **dots)
        self.plot.addItem(item)
        return item

    def add_level(self, value: float, label: str, colour: str) -> pg.InfiniteLine:
        """A horizontal line with a name, such as φ; returned so that it can be moved or hidden."""
        line = pg.InfiniteLine(
            pos=value,
            angle=0,
            pen=pg.mkPen(colour, width=1, style=Qt.PenStyle.DashLine),
            label=label,
            labelOpts={"position": 0.05, "color": colour, "anchors": [(0, 0), (0, 0)]},
        )
        self.plot.addItem(line)
        return line

    def set_note(self, text: str) -> None:
        """A remark behind the readings; plain text, already translated."""
        self._notes = [text] if text else []

    def set_empty_text(self, text: str) -> None:
        """What stands in place of an empty chart, already translated."""
        self._empty.setText(text)

    def draw(self, *tables: Columns) -> None:
        """Draw the series; each is taken from the first table that knows its column."""
        parts: list[str] = []
        anything = False
        for column, one in self._series.items():
            table = next((t for t in tables if column in t.names), None)
            if table is None or not len(table):
                self._items[column].setData([], [])
                parts.append(self._reading(one, None))
                continue
            x, y = table.view(self._x), table.view(column)
            if len(table) < len(y):
                y = y[: len(table)]
            if one.points:
                known = np.isfinite(y)
                x, y = x[known], y[known]
            anything = anything or bool(np.isfinite(y).any())
            self._items[column].setData(x, y)
            parts.append(self._reading(one, table.last(column)))
        self._legend.setText("&nbsp;&nbsp; ".join(parts + [html.escape(note) for note in self._notes]))
        self._stack.setCurrentIndex(1 if anything else 0)

    def _reading(self, one: Series, value: float | None) -> str:
        sign = "●" if one.points else "┄" if one.dashed else "━"
        return (
            f'<span style="white-space:nowrap"><span style="color:{one.colour}">{sign}</span>'
            f"&nbsp;{_unbroken(one.label)}&nbsp;<b>{_unbroken(self._value_text(one, value))}</b></span>"
        )

    def _value_text(self, one: Series, value: float | None) -> str:
        """What stands behind a series' name: here its newest value."""
        return format_value(value)


def link_x(charts: list[LineChart]) -> None:
    """Zooming or moving one chart by hand shows the same steps in all of them.

    pyqtgraph's own link aligns charts by their place on the screen, which is wrong for a grid.
    """

    def follow(source: LineChart) -> None:
        low, high = source.plot.getViewBox().viewRange()[0]
        for chart in charts:
            if chart is not source:
                chart.plot.setXRange(low, high, padding=0)

    for chart in charts:
        chart.plot.getViewBox().sigRangeChangedManually.connect(lambda *_args, c=chart: follow(c))
        chart.plot.whole.connect(lambda: [other.plot.enableAutoRange() for other in charts])
