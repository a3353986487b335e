"""What part of the data a chart shows: following it, or as a person chose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from PySide6.QtCore import Signal
from PySide6.QtWidgets import QWidget

from so8t_engine.i18n import _
from so8t_gui.charts.chart_legend import ChartLegend
from so8t_gui.charts.series import Values, format_value, full_range, grown_span, robust_range

if TYPE_CHECKING:
    from so8t_gui.charts.plot import Plot


class ChartRanges(ChartLegend):
    """Ranges of a chart's axes.

    Signals: ``spanned`` with low and high when a person zoomed or moved; ``whole`` when everything is to
    be seen again.
    """

    spanned = Signal(float, float)
    whole = Signal()
    #: Whether the ranges follow the data; a subclass that sets its own says no.
    fits = True
    #: How often an empty chart has become a drawn one: such a redrawing lays out and paints much anew, and
    #: says nothing about how long the next one takes.
    plots_shown: ClassVar[int] = 0

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._plot: Plot | None = None
        self._span: tuple[float, float] | None = None
        self._by_hand = False
        self._setting = False
        #: Values that the vertical range always holds.
        self._levels: list[float] = []

    @property
    def plot(self) -> Plot:
        """The drawing surface, made when it is first wanted: an empty chart has none."""
        if self._plot is None:
            self._plot = self._make_plot()
            self._plot_made(self._plot)
        return self._plot

    def _make_plot(self) -> Plot:
        raise NotImplementedError

    def _plot_made(self, plot: Plot) -> None:
        """Show in it what was asked for before it was there."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Draw again what was handed over last, as after zooming."""
        raise NotImplementedError

    def extent(self) -> tuple[float, float] | None:
        """The smallest and the largest x of all series; None without data."""
        ends = [(float(t.view(self.along)[0]), float(t.view(self.along)[-1])) for t in self._sources.values()]
        return (min(low for low, _h in ends), max(high for _l, high in ends)) if ends else None

    def _own_span(self) -> tuple[float, float]:
        extent = self.extent()
        return grown_span(extent, self.plot.box.viewRange()[0]) if extent else (0.0, 1.0)

    def show_span(self, low: float, high: float, *, by_hand: bool = False) -> None:
        """Show x from ``low`` to ``high``; by hand, it stays there until `show_whole`."""
        self._span, self._by_hand = (low, high), by_hand
        if self._plot is not None:
            self._set_x_range(low, high)
        if by_hand:
            self.refresh()

    def show_whole(self) -> None:
        """Follow the data again, in both directions."""
        self._span, self._by_hand = None, False
        if self._plot is not None:
            self._plot.box.values_follow = True
        self.refresh()
        self.whole.emit()

    @property
    def zoomed(self) -> bool:
        """Whether a person has chosen what part is shown."""
        return self._by_hand

    @property
    def follows(self) -> bool:
        """Whether both axes follow the data."""
        return not self._by_hand and (self._plot is None or self._plot.box.values_follow)

    def _set_x_range(self, low: float, high: float) -> None:
        if self.plot.box.viewRange()[0] != [low, high]:
            self._setting = True
            self.plot.setXRange(low, high, padding=0)
            self._setting = False

    def _fit_values(self, values: Values) -> None:
        found = (robust_range if self.options.robust else full_range)(values)
        self._range_note = ""
        if found is None:
            return
        low, high = found
        if self._levels:
            low, high = min(low, *self._levels), max(high, *self._levels)
        outside = values[np.isfinite(values) & (values > high)]
        if len(outside):
            peak = float(outside.max())
            text = format_value(10**peak if self.options.log else peak)
            self._range_note = _("▲ up to %(value)s outside the range") % {"value": text}
        # Scaled far enough that the range moves seldom: each move writes the axis anew.
        room = 0.06 * (high - low) or 0.5 * abs(high) or 0.5
        now_low, now_high = self.plot.box.viewRange()[1]
        least = 0.015 * (high - low)  # on the very edge a line is half cut off
        fits = now_low <= low - least and high + least <= now_high
        fits = fits and (now_high - now_low) <= 1.35 * (high - low)
        if not fits or high == low:
            self.plot.setYRange(low - room, high + room, padding=0)

    def _on_hand(self, axes: Sequence[bool]) -> None:
        if axes[1] and not axes[0]:
            self.plot.box.values_follow = False
        if axes[0]:
            low, high = self.plot.box.viewRange()[0]
            self._span, self._by_hand = (low, high), True
            self.spanned.emit(low, high)
        self.refresh()

    def _on_x_range(self) -> None:
        if not self._setting and self._by_hand and self.fits:
            self._span = tuple(self.plot.box.viewRange()[0])
