"""The lines of a chart: series that are drawn as far as the view shows them.

Drawing stays cheap at a million points: lines one pixel wide without antialiasing, reduced to the
extremes of each pixel column.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PySide6.QtWidgets import QWidget

from so8t_gui.charts.chart_ranges import ChartRanges
from so8t_gui.charts.series import Series, Statistics, Values, rows_between, statistics
from so8t_gui.models.buffers import Columns
from so8t_gui.models.smoothing import Smoothed

if TYPE_CHECKING:
    from so8t_gui.charts.plot import Plot

MAX_DOTS = 400


class ChartLines(ChartRanges):
    """Series and levels; what a chart draws, where its axes stand."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._items: dict[str, Any] = {}
        self._smooth: dict[str, tuple[Columns, float, Smoothed]] = {}
        self._levels_told: list[tuple[float, str, str]] = []
        #: The lines of `levels`, in their order, once there is a plot.
        self.level_lines: list[Any] = []

    def set_series(self, series: Sequence[Series]) -> None:
        """Which columns to draw; lines that stay keep their item."""
        wanted = {one.id: one for one in series}
        if wanted == self._series:
            return
        for name in [n for n in self._items if wanted.get(n) != self._series.get(n)]:
            self.plot.removeItem(self._items.pop(name))
            self._smooth.pop(name, None)
        self._series = wanted
        if self._plot is None:
            return
        for name, one in wanted.items():
            if name not in self._items:
                self._add_line(name, one)

    @property
    def series(self) -> list[Series]:
        return list(self._series.values())

    def _add_line(self, name: str, one: Series) -> None:
        from so8t_gui.charts import plot_parts

        item = self._items[name] = plot_parts.make_line(self.plot, one)
        item.setVisible(name not in self.options.hidden)

    def add_level(self, value: float, label: str, colour: str, *, in_view: bool = False) -> None:
        """A horizontal line with a name, such as φ; ``in_view``: the range of values always holds it."""
        self._levels_told.append((value, label, colour))
        if in_view:
            self._levels.append(value)
        if self._plot is not None:
            self._add_level_line(self._plot, value, label, colour)

    def _add_level_line(self, plot: Plot, value: float, label: str, colour: str) -> None:
        from so8t_gui.charts import plot_parts

        self.level_lines.append(plot_parts.make_level(plot, value, label, colour))

    def refresh(self) -> None:
        """Draw again what was handed over last, as after zooming."""
        if self._plot is not None:
            self._draw_lines(self._plot)
        self._write_legend()

    def _draw_lines(self, plot: Plot) -> None:
        if self.fits and not self._by_hand:
            self._set_x_range(*(self._span or self._own_span()))
        low, high = plot.box.viewRange()[0]
        if not self.fits:
            low, high = -np.inf, np.inf
        parts = [self._draw_one(name, low, high) for name in self._series]
        if self.fits and plot.box.values_follow:
            self._fit_values(np.concatenate(parts) if parts else np.empty(0))
        plot.layer.update()

    def _table(self, name: str) -> Columns | None:
        """The table of a series: its source, or that smoothed."""
        source = self._sources.get(name)
        one = self._series[name]
        if source is None or one.column not in source.names:
            return None
        decay = self.options.smoothing
        if not decay or one.points or self.along not in {"step", "elapsed"}:
            return source
        held = self._smooth.get(name)
        if held is None or held[0] is not source or held[1] != decay:
            held = self._smooth[name] = (source, decay, Smoothed(source, one.column, decay))
        return held[2].update()

    def _draw_one(self, name: str, low: float, high: float) -> Values:
        """Hand a line's visible part to its item; returns the values that are drawn."""
        one, item = self._series[name], self._items[name]
        table = self._table(name)
        if table is None or name in self.options.hidden:
            item.setData([], [])
            return np.empty(0)
        start, stop = rows_between(table, self.along, low, high)
        start, stop = max(0, start - 1), min(len(table), stop + 1)
        places = table.view(self.along)
        buckets = max(64, int(self.plot.box.width()))
        if stop - start <= 2 * buckets:
            x, y = places[start:stop], table.view(one.column)[start:stop].astype(np.float64)
            if one.points:
                known = np.isfinite(y)
                x, y = x[known], y[known]
        else:
            found = table.reduce(one.column, start, stop, buckets)
            x = np.repeat(places[found.first], 2)
            y = np.stack([found.low, found.high], axis=1).reshape(-1).astype(np.float64)
        if self.options.log:
            with np.errstate(divide="ignore", invalid="ignore"):
                y = np.where(y > 0, np.log10(y), np.nan)
        dots = one.points and len(x) <= MAX_DOTS
        if dots:
            item.setData(x, y, symbol="o", symbolSize=6, symbolBrush=one.colour, symbolPen=None)
        else:
            item.setData(x, y, symbol=None)
        return y

    def statistics(self, low: float, high: float) -> list[Statistics]:
        """Figures of each shown series between two places, unsmoothed."""
        return [
            statistics(one.label, self._sources[name], one.column, self.along, low, high)
            for name, one in self._series.items()
            if name in self._sources and name not in self.options.hidden
        ]

    def sources(self) -> dict[str, Columns]:
        """The tables that the series come from, by `Series.id`."""
        return dict(self._sources)

    def levels(self) -> list[tuple[float, str, str]]:
        """The horizontal lines: value, name and colour of each."""
        return list(self._levels_told)

    def shown_tables(self) -> list[tuple[Series, Columns]]:
        """Each shown series with its unsmoothed table."""
        return [
            (one, self._sources[name])
            for name, one in self._series.items()
            if name in self._sources and name not in self.options.hidden
        ]
