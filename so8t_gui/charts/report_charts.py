"""The evaluation report's pictures, drawn in the window's colours: intervals and reliability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PySide6.QtCore import QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QWidget

from so8t_engine.i18n import _
from so8t_gui import theme
from so8t_gui.alignment import RIGHT

CENTRE = Qt.AlignmentFlag.AlignCenter


class _Picture(QWidget):
    """A widget that paints itself and says in words what it shows."""

    def __init__(self, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAccessibleName(name)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def _painter(self) -> QPainter:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        return painter

    def _share_axis(self, painter: QPainter, plot: QRectF, low: float, high: float, digits: int) -> None:
        """A horizontal axis below ``plot`` with five marks from ``low`` to ``high``."""
        colours = theme.current()
        height = self.fontMetrics().height()
        for n in range(6):
            x = plot.left() + plot.width() * n / 5
            painter.setPen(QPen(colours.colour("line"), 1))
            painter.drawLine(QPointF(x, plot.top()), QPointF(x, plot.bottom()))
            painter.setPen(colours.colour("muted"))
            value = f"{low + (high - low) * n / 5:.{digits}f}"
            painter.drawText(QRectF(x - 40, plot.bottom() + 3, 80, height), CENTRE, value)


class IntervalChart(_Picture):
    """Base and tuned, one above the other, with their intervals; shares between 0 and 1."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(_("Base against tuned"), parent)
        self._rows: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = []

    def set_rows(self, rows: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any]]]) -> None:
        """(name, base, tuned); each of the two has value, low and high, of which any may be None."""
        self._rows = list(rows)
        self.updateGeometry()
        self.update()

    def sizeHint(self) -> QSize:
        line = self.fontMetrics().height()
        return QSize(420, int(len(self._rows) * 2.1 * line + 2.8 * line))

    def minimumSizeHint(self) -> QSize:
        return QSize(300, self.sizeHint().height())

    def paintEvent(self, _event: QPaintEvent) -> None:
        painter, colours, metrics = self._painter(), theme.current(), self.fontMetrics()
        line = metrics.height()
        left = max((metrics.horizontalAdvance(name) for name, _b, _t in self._rows), default=0) + 14
        plot = QRectF(left, 1.4 * line, self.width() - left - 28, self.height() - 2.8 * line)
        self._share_axis(painter, plot, 0.0, 1.0, 1)
        shades = (("base", colours.colour("muted")), ("tuned", colours.colour("accent")))
        x = plot.left()
        for which, colour in shades:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(colour)
            painter.drawEllipse(QPointF(x + 5, line * 0.6), 4, 4)
            painter.setPen(colours.colour("text"))
            painter.drawText(QPointF(x + 14, line * 0.6 + metrics.ascent() / 2 - 1), _(which))
            x += metrics.horizontalAdvance(_(which)) + 34
        step = plot.height() / max(1, len(self._rows))
        for n, (name, base, tuned) in enumerate(self._rows):
            middle = plot.top() + (n + 0.5) * step
            painter.setPen(colours.colour("text"))
            painter.drawText(QRectF(0, middle - line / 2, left - 10, line), RIGHT, name)
            for shift, entry, (_which, colour) in zip((-0.18, 0.18), (base, tuned), shades, strict=True):
                y = middle + shift * step
                if entry.get("value") is None:
                    continue
                if entry.get("low") is not None and entry.get("high") is not None:
                    painter.setPen(QPen(colour, 2.0))
                    ends = [plot.left() + plot.width() * float(entry[key]) for key in ("low", "high")]
                    painter.drawLine(QPointF(ends[0], y), QPointF(ends[1], y))
                painter.setPen(Qt.PenStyle.NoPen)
                painter.setBrush(colour)
                painter.drawEllipse(QPointF(plot.left() + plot.width() * float(entry["value"]), y), 4, 4)
        painter.end()


class ReliabilityChart(_Picture):
    """Share that is right over the probability given, the diagonal, and how many rows each bin has."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(_("Calibration"), parent)
        self._bins: list[Mapping[str, Any]] = []

    def set_bins(self, bins: Sequence[Mapping[str, Any]]) -> None:
        """Each with low, high, rows, confidence and accuracy."""
        self._bins = list(bins)
        self.update()

    def sizeHint(self) -> QSize:
        return QSize(360, 300)

    def minimumSizeHint(self) -> QSize:
        return QSize(280, 300)

    def paintEvent(self, _event: QPaintEvent) -> None:
        painter, colours, metrics = self._painter(), theme.current(), self.fontMetrics()
        line = metrics.height()
        left = metrics.horizontalAdvance("0.00") + line + 16
        width, bottom = self.width() - left - 24, self.height() - 2.6 * line
        plot = QRectF(left, 6, width, (bottom - 6) * 0.74)
        rows = QRectF(left, plot.bottom() + 8, width, bottom - plot.bottom() - 8)
        for n in range(5):
            y = plot.bottom() - plot.height() * n / 4
            painter.setPen(QPen(colours.colour("line"), 1))
            painter.drawLine(QPointF(plot.left(), y), QPointF(plot.right(), y))
            painter.setPen(colours.colour("muted"))
            painter.drawText(QRectF(0, y - line / 2, left - 8, line), RIGHT, f"{n / 4:.2f}")
        painter.setPen(QPen(colours.colour("muted"), 1, Qt.PenStyle.DotLine))
        painter.drawLine(plot.bottomLeft(), plot.topRight())
        self._share_axis(painter, rows, 0.0, 1.0, 1)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(colours.colour("accent"))
        most = max((int(one["rows"]) for one in self._bins), default=1)
        for one in self._bins:
            x = rows.left() + rows.width() * float(one["low"])
            wide = rows.width() * (float(one["high"]) - float(one["low"])) - 1
            high = rows.height() * int(one["rows"]) / max(1, most)
            painter.drawRect(QRectF(x, rows.bottom() - high, wide, high))
        points = [
            QPointF(plot.left() + width * float(one["confidence"]),
                    plot.bottom() - plot.height() * float(one["accuracy"]))
            for one in self._bins if one.get("accuracy") is not None
        ]  # fmt: skip
        painter.setPen(QPen(colours.colour("accent"), 2))
        painter.drawPolyline(points)
        for point in points:
            painter.drawEllipse(point, 3, 3)
        painter.setPen(colours.colour("muted"))
        below = QRectF(left, self.height() - line - 1, width, line)
        painter.drawText(below, CENTRE, _("probability of the predicted class"))
        for place, text in ((plot, _("share that is right")), (rows, _("rows"))):
            painter.save()
            painter.translate(line * 0.6, place.center().y())
            painter.rotate(-90)
            painter.drawText(QRectF(-place.height(), -line / 2, 2 * place.height(), line), CENTRE, text)
            painter.restore()
        painter.end()
