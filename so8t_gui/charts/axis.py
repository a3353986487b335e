"""Axes: short numbers, and durations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyqtgraph as pg
from PySide6.QtCore import QRectF
from PySide6.QtGui import QFont, QFontMetrics, QPainter
from PySide6.QtWidgets import QWidget

from so8t_gui import theme
from so8t_gui.charts.stamp import Stamp
from so8t_gui.models.clock import format_duration

#: Between two numbers beside each other, in pixels.
GAP = 4.0
#: Between two durations, in pixels, at least.
TICK = 70.0
ROUND_SECONDS = (
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800
)  # fmt: skip


class NumberAxis(pg.AxisItem):  # type: ignore[misc]
    """Ticks with three significant digits; ``durations`` writes seconds as 3:07."""

    def __init__(self, orientation: str) -> None:
        super().__init__(orientation)
        self.durations = False
        self._stamp = Stamp()
        self._drawn = 0
        #: The numbers that stand there: place, alignment and text of each.
        self.shown_texts: list[tuple[QRectF, Any, str]] = []
        colours = theme.current()
        self.setPen(colours["line"])
        self.setTextPen(colours["muted"])
        font = QFont()
        font.setFamilies(theme.FONT_FAMILIES)
        font.setPointSizeF(8)
        self.setStyle(tickFont=font, tickLength=-4, tickTextOffset=3, hideOverlappingLabels=True)
        self.enableAutoSIPrefix(False)
        # A fixed size keeps charts aligned and spares a second layout on each new digit.
        metrics = QFontMetrics(font)
        if orientation == "left":
            self.setWidth(metrics.horizontalAdvance("0.00015") + 10)
        else:
            self.setHeight(metrics.height() * 2 + 6)

    def paint(self, p: QPainter, opt: object, widget: QWidget | None) -> None:
        """pyqtgraph's hook: numbers and grid are drawn when they change, not whenever a line does."""
        if self.picture is None:
            self._drawn += 1

        def draw(painter: QPainter) -> None:
            pg.AxisItem.paint(self, painter, opt, widget)

        self._stamp.paint(p, self.boundingRect(), widget, (self._drawn,), draw)

    def generateDrawSpecs(self, p: QPainter) -> Any:  # noqa: ANN401
        """pyqtgraph's hook: numbers that would touch one that is drawn already are left out."""
        specs = super().generateDrawSpecs(p)
        self.shown_texts = []
        if specs is None:
            return None
        line, ticks, texts = specs
        for rect, flags, text in texts:
            wide = rect.adjusted(-GAP, -1, GAP, 1)
            if not any(wide.intersects(other) for other, _flags, _text in self.shown_texts):
                self.shown_texts.append((rect, flags, text))
        return line, ticks, self.shown_texts

    def tickSpacing(self, minVal: float, maxVal: float, size: float) -> Any:  # noqa: ANN401
        """pyqtgraph's hook: durations are told in round minutes and hours."""
        least = (maxVal - minVal) * TICK / max(size, 1.0)
        found = next((one for one in ROUND_SECONDS if one >= least), None)
        if not self.durations or found is None or maxVal - minVal < 3 * ROUND_SECONDS[0]:
            return super().tickSpacing(minVal, maxVal, size)
        return [(found, 0)]

    def tickStrings(self, values: Sequence[float], scale: float, spacing: float) -> list[str]:
        """pyqtgraph's hook."""
        if self.durations:
            return [format_duration(value) if value >= 0 else "" for value in values]
        if self.logMode:
            return [f"{10**value:.3g}" for value in values]
        return [short_number(0.0 if abs(value) < spacing * 1e-6 else value) for value in values]


def short_number(value: float) -> str:
    """Four significant digits; 20k for 20,000 and 1.5M for 1,500,000, where 2e+04 would be harder to read."""
    for size, sign in ((1e6, "M"), (1e4, "k")):
        if size <= abs(value) < 1e9:
            return f"{value / (1e6 if sign == 'M' else 1e3):.4g}{sign}"
    return f"{value:.4g}"
