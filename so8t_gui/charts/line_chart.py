"""One chart of one or more series over steps or time, in a card with title, readings and a menu."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QHBoxLayout, QLabel, QStackedLayout, QVBoxLayout, QWidget

from so8t_engine.i18n import _
from so8t_gui import theme
from so8t_gui.charts.chart_legend import ChartOptions
from so8t_gui.charts.chart_lines import ChartLines
from so8t_gui.charts.chart_ranges import ChartRanges
from so8t_gui.charts.series import (
    MISSING_TEXT,
    Series,
    format_value,
)
from so8t_gui.models.buffers import Columns
from so8t_gui.models.marks import Marks
from so8t_gui.widgets.elided_label import ElidedLabel

if TYPE_CHECKING:
    from so8t_gui.charts.plot import Plot

__all__ = ["MISSING_TEXT", "LineChart", "Series", "format_value"]
#: A plot's smallest width and height in pixels.
LEAST = (120, 70)


class LineChart(ChartLines):
    """A titled chart.

    Args:
        title: translated.
        log: logarithmic values.
        robust: whether few outliers may lie outside the range of values.

    Signals: ``hovered`` with x or None; ``region_moved`` with low and high; ``drawn``.
    """

    hovered = Signal(object)
    region_moved = Signal(float, float)
    drawn = Signal()
    options_changed = Signal()

    def __init__(
        self, title: str, *, log: bool = False, robust: bool = True, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.setObjectName("card")
        self.setAccessibleName(title)
        self.options = ChartOptions(log=log, robust=robust)
        self.title_text = title
        self.along = "step"
        self._region: Any = None
        self._x_label = ""
        self._build(title)

    def _build(self, title: str) -> None:
        self._title = ElidedLabel(title)
        self._title.setObjectName("title")
        self.header = QWidget()
        head = QHBoxLayout(self.header)
        head.setContentsMargins(0, 0, 0, 0)
        head.addWidget(self._title, 1)
        self._legend.linkActivated.connect(self.toggle_series)
        self._empty = QLabel(_("No data yet"))
        self._empty.setObjectName("notice")
        self._empty.setTextFormat(Qt.TextFormat.PlainText)
        self._empty.setWordWrap(True)
        self._empty.setAlignment(Qt.AlignmentFlag.AlignCenter)
        # The plot's place is kept for it: nothing moves when it comes.
        self._empty.setMinimumSize(*LEAST)
        layout = self._layout = QVBoxLayout(self)
        layout.setContentsMargins(10, 7, 8, 4)
        layout.setSpacing(1)
        layout.addWidget(self.header)
        layout.addWidget(self.readings)
        self._stack = QStackedLayout()
        layout.addLayout(self._stack, 1)
        # Into a layout that has its place: it shows the first at once, else as a window of its own.
        self._stack.addWidget(self._empty)
        self.set_x("step")

    def _make_plot(self) -> Plot:
        from so8t_gui.charts import plot_parts

        plot = plot_parts.make_plot(self.title_text, log=self.options.log)
        plot.setMinimumSize(*LEAST)
        plot.whole.connect(self.show_whole)
        plot.hovered.connect(self.hovered)
        plot.box.sigRangeChangedManually.connect(self._on_hand)
        plot.box.sigXRangeChanged.connect(self._on_x_range)
        self._stack.addWidget(plot)
        return plot

    def _plot_made(self, plot: Plot) -> None:
        self._name_axis(plot)
        plot.layer.marks = self.marks
        for name, one in self._series.items():
            self._add_line(name, one)
        for level in self._levels_told:
            self._add_level_line(plot, *level)
        if self._span is not None:
            self._set_x_range(*self._span)
        plot.set_cursor(self._cursor)

    def prepare(self) -> None:
        """Make the plot before there is anything to draw, while nobody waits for it."""
        self.plot.ensurePolished()

    def dispose(self) -> None:
        """Take the plot apart in the order that pyqtgraph wants, before Qt deletes the widgets."""
        # A layout may still resize it: there is nothing to draw any more.
        self._items.clear()
        self._series.clear()
        self._sources.clear()
        if self._plot is not None:
            self._plot.close()

    def add_to_header(self, widget: QWidget) -> None:
        """Put a button behind the title."""
        layout = self.header.layout()
        assert layout is not None
        layout.addWidget(widget)

    def detach_header(self) -> QWidget:
        """The title and its buttons, to serve as the title bar of a panel."""
        self._layout.removeWidget(self.header)
        self.header.setObjectName("chartHead")
        self.header.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self.header.setContentsMargins(10, 4, 4, 2)
        self.setObjectName("chartBody")
        self._layout.setContentsMargins(10, 0, 8, 4)
        return self.header

    # What is drawn

    def set_title(self, title: str) -> None:
        """Another title, translated."""
        self.title_text = title
        self._title.setText(title)
        self.setAccessibleName(title)

    def set_x(self, column: str, label: str = "") -> None:
        """Draw over ``step``, ``elapsed`` or another column, whose translated ``label`` is then given."""
        self.along = column
        self._x_label = label or (_("time") if column == "elapsed" else _("step"))
        self._span, self._by_hand = None, False
        if self._plot is not None:
            self._name_axis(self._plot)
            self._plot.box.values_follow = True

    def _name_axis(self, plot: Plot) -> None:
        plot.layer.x = self.along
        bottom = plot.getPlotItem().getAxis("bottom")
        bottom.durations = self.along == "elapsed"
        bottom.setLabel(self._x_label, **{"color": theme.current()["muted"], "font-size": "8pt"})
        bottom.picture = None

    def set_note(self, text: str) -> None:
        """A remark behind the readings; plain text, already translated."""
        self._notes = [text] if text else []

    def set_empty_text(self, text: str) -> None:
        """What stands in place of an empty chart, already translated."""
        self._empty.setText(text)

    def set_marks(self, marks: Marks | None) -> None:
        """Phases and marks to draw behind the lines."""
        self.marks = marks
        if self._plot is not None:
            self._plot.layer.marks = marks

    def draw(self, *tables: Columns) -> None:
        """Draw the series; each is taken from the first table that knows its column."""
        found = {}
        for name, one in self._series.items():
            table = next((t for t in tables if one.column in t.names), None)
            if table is not None:
                found[name] = table
        self.draw_from(found)

    def draw_from(self, sources: dict[str, Columns]) -> None:
        """Draw the series, each from its own table by `Series.id`."""
        self._sources = {name: table for name, table in sources.items() if len(table)}
        anything = any(
            self._sources[name].has_any(one.column)
            for name, one in self._series.items()
            if name in self._sources
        )
        if anything:
            if self._stack.currentWidget() is not self.plot:
                ChartRanges.plots_shown += 1
            self._stack.setCurrentWidget(self.plot)
        else:
            self._stack.setCurrentWidget(self._empty)
        self.refresh()
        self.drawn.emit()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        if self._sources:
            self.refresh()

    # Choices

    def set_options(
        self,
        *,
        smoothing: float | None = None,
        log: bool | None = None,
        robust: bool | None = None,
        hidden: set[str] | None = None,
    ) -> None:
        """Change what is given, and draw again."""
        if smoothing is not None and smoothing != self.options.smoothing:
            self.options.smoothing = smoothing
            self._smooth.clear()
        if log is not None:
            self.options.log = log
            if self._plot is not None:
                self._plot.getPlotItem().getAxis("left").setLogMode(log)
                self._plot.box.values_follow = True
        if robust is not None:
            self.options.robust = robust
        if hidden is not None:
            self.options.hidden = hidden
            for name, item in self._items.items():
                item.setVisible(name not in hidden)
        self.refresh()
        self.options_changed.emit()

    def take_options(self, held: dict[str, Any]) -> None:
        """Options as a person left them; what is not understood is passed over."""
        smoothing, hidden = held.get("smoothing"), held.get("hidden")
        known = isinstance(smoothing, int | float) and 0 <= smoothing < 1
        self.set_options(
            smoothing=float(smoothing) if known and smoothing is not None else None,
            log=bool(held.get("log")),
            robust=bool(held.get("robust", True)),
            hidden={str(name) for name in hidden} if isinstance(hidden, list) else None,
        )

    def toggle_series(self, name: str) -> None:
        """Show a hidden line, or hide a shown one."""
        self.set_options(hidden=self.options.hidden ^ {name})

    # Cursor, region

    def set_cursor(self, x: float | None) -> None:
        """Show the readings at ``x`` in every legend; None shows the newest."""
        self._cursor = x
        if self._plot is not None:
            self._plot.set_cursor(x)
        self._write_legend()

    def set_region(self, region: tuple[float, float] | None) -> None:
        """Mark a part of the horizontal axis; None takes the mark away."""
        if self._region is None:
            if region is None:
                return
            from so8t_gui.charts import plot_parts

            self._region = plot_parts.make_region(self.plot)
            self._region.sigRegionChanged.connect(self._on_region)
        self._region.setVisible(region is not None)
        if region is not None and tuple(self._region.getRegion()) != region:
            self._region.blockSignals(True)
            self._region.setRegion(region)
            self._region.blockSignals(False)

    def _on_region(self) -> None:
        low, high = self._region.getRegion()
        self.region_moved.emit(low, high)
