"""Several charts that are looked at as one: the same span, the same cursor, the same region."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from PySide6.QtCore import QObject, QTimer, Signal

from so8t_gui.charts.line_chart import LineChart
from so8t_gui.charts.series import grown_span
from so8t_gui.models.buffers import Columns

HOVER_MS = 25
ZOOM = 1.6
Span = tuple[float, float]


class ChartLink(QObject):
    """Keeps charts together.

    Signals: ``hovered`` with x or None; ``region_changed`` with a span or None; ``following_changed``.
    """

    hovered = Signal(object)
    region_changed = Signal(object)
    following_changed = Signal(bool)

    def __init__(self, charts: Sequence[LineChart], parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.charts: list[LineChart] = []
        self.following = True
        self.newest: int | None = None
        self.region: Span | None = None
        self._extent: Span | None = None
        self._aim: Span = (0.0, 0.0)
        self._x: float | None = None
        # The pointer reports each pixel; every report would write every legend.
        self._later = QTimer(self, singleShot=True, interval=HOVER_MS)
        self._later.timeout.connect(self._show_cursor)
        for chart in charts:
            self.add(chart)

    def add(self, chart: LineChart) -> None:
        """Take in another chart."""
        self.charts.append(chart)
        chart.spanned.connect(self._on_spanned)
        chart.whole.connect(self.follow)
        chart.hovered.connect(self._on_hovered)
        chart.region_moved.connect(lambda low, high: self.set_region((low, high)))

    # Span

    def fit(self, tables: Iterable[Columns], x: str) -> None:
        """The data's extent is another; charts that follow show it at once."""
        if self.aim(tables, x):
            for chart in self.charts:
                self.place(chart)

    def aim(self, tables: Iterable[Columns], x: str) -> bool:
        """The data's extent is another; charts that follow are to show it, each when it is placed.

        Eight charts that write their axes anew in one go keep the window from hearing anybody.
        While `newest` is a number of rows, only so many newest rows of the first table are shown.
        """
        filled = [table for table in tables if len(table)]
        if not filled:
            return False
        ends = [(float(t.view(x)[0]), float(t.view(x)[-1])) for t in filled]
        low, high = min(e[0] for e in ends), max(e[1] for e in ends)
        if self.newest is not None:
            low = max(low, float(filled[0].view(x)[max(0, len(filled[0]) - self.newest)]))
        self._extent = (low, high)
        self._aim = grown_span(self._extent, self._aim)
        return self.following

    def place(self, chart: LineChart) -> None:
        """Have a chart that follows show what was aimed at."""
        if self.following and self._extent is not None:
            chart.show_span(*self._aim)

    def span(self) -> Span:
        """What is shown now."""
        low, high = self.charts[0].plot.box.viewRange()[0]
        return float(low), float(high)

    def _show(self, low: float, high: float) -> None:
        for chart in self.charts:
            chart.show_span(low, high, by_hand=not self.following)

    def _on_spanned(self, low: float, high: float) -> None:
        self.show_span(low, high)

    def show_span(self, low: float, high: float) -> None:
        """Show a part by choice; it stays until `follow`."""
        self._set_following(False)
        self._show(low, high)

    def _set_following(self, following: bool) -> None:
        if following != self.following:
            self.following = following
            self.following_changed.emit(following)

    def follow(self) -> None:
        """Show everything, or the newest rows, and go on doing so."""
        self._set_following(True)
        for chart in self.charts:
            if not chart.follows:
                chart.blockSignals(True)
                chart.show_whole()
                chart.blockSignals(False)
        if self._extent is not None:
            self._aim = grown_span(self._extent, (0.0, 0.0))
            self._show(*self._aim)
            for chart in self.charts:
                chart.refresh()

    def zoom(self, factor: float) -> None:
        """Show ``factor`` times as much around the middle, or around the cursor."""
        low, high = self.span()
        middle = self._x if self._x is not None and low <= self._x <= high else (low + high) / 2
        self.show_span(middle - (middle - low) * factor, middle + (high - middle) * factor)

    def move(self, share: float) -> None:
        """Move by a share of what is shown."""
        low, high = self.span()
        by = share * (high - low)
        self.show_span(low + by, high + by)

    # Cursor and region

    def _on_hovered(self, x: float | None) -> None:
        self._x = x
        if not self._later.isActive():
            self._later.start()

    def move_cursor(self, rows: int, table: Columns, x: str) -> None:
        """Put the cursor some rows further, as by keys."""
        if not len(table):
            return
        row = table.nearest(x, self._x) if self._x is not None else len(table) - 1
        row = min(max((row or 0) + rows, 0), len(table) - 1)
        self._x = float(table.view(x)[row])
        self._show_cursor()

    def _show_cursor(self) -> None:
        for chart in self.charts:
            chart.set_cursor(self._x)
        self.hovered.emit(self._x)

    def set_region(self, region: Span | None) -> None:
        """Mark the same part in every chart."""
        if region is not None and region[0] > region[1]:
            region = (region[1], region[0])
        self.region = region
        for chart in self.charts:
            chart.set_region(region)
        self.region_changed.emit(region)
