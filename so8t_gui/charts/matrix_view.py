"""A small matrix as coloured cells: rotations (diverging, centred at 0) and confusion counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QHelpEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from so8t_gui import theme
from so8t_gui.alignment import RIGHT

Matrix = npt.NDArray[np.float64]

# Blue and orange differ for colour-blind eyes as well; the middle is the card's own colour.
NEGATIVE = {"light": "#1f5fae", "dark": "#5aa9f5"}
POSITIVE = {"light": "#b8501a", "dark": "#f29a52"}

#: Of a cell with a number: its width at most, in heights.
WIDEST = 2.4


def mix(a: QColor, b: QColor, t: float) -> QColor:
    """The colour ``t`` of the way from ``a`` to ``b``."""
    t = min(1.0, max(0.0, t))
    return QColor.fromRgbF(
        a.redF() + (b.redF() - a.redF()) * t,
        a.greenF() + (b.greenF() - a.greenF()) * t,
        a.blueF() + (b.blueF() - a.blueF()) * t,
    )


def _luminance(colour: QColor) -> float:
    """Relative luminance as WCAG 2 defines it."""
    parts = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (colour.redF(), colour.greenF(), colour.blueF())
    ]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def _draw_narrowed(painter: QPainter, place: QRectF, text: str) -> None:
    """``text`` in the middle of ``place``: in narrower letters where it is too wide, then cut off."""
    painter.save()
    wide = painter.fontMetrics().horizontalAdvance(text)
    room = place.width() - 4
    if wide > room > 0:
        font = painter.font()
        font.setStretch(max(62, int(100 * room / wide)))
        painter.setFont(font)
    shown = painter.fontMetrics().elidedText(text, Qt.TextElideMode.ElideRight, int(place.width()))
    painter.drawText(place, Qt.AlignmentFlag.AlignCenter, shown)
    painter.restore()


class MatrixView(QWidget):
    """Square cells with optional row and column names and numbers.

    Args:
        name: for screen readers, translated.
        diverging: values −limit … limit around 0; otherwise 0 … largest.
        numbers: write each value into its cell.
    """

    def __init__(
        self,
        name: str,
        *,
        diverging: bool = True,
        numbers: bool = False,
        labels: Sequence[str] = (),
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setAccessibleName(name)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setMinimumSize(110, 110)
        self._diverging = diverging
        self._numbers = numbers
        self._labels = list(labels)
        self._matrix: Matrix | None = None
        self._limit = 1.0

    def sizeHint(self) -> QSize:
        return QSize(220, 220)

    def set_matrix(self, matrix: Matrix | None, limit: float | None = None) -> None:
        """Show another matrix; None shows that there is none."""
        self._matrix = matrix
        if matrix is not None:
            self._limit = limit or max(float(np.abs(matrix).max()), 1e-12)
        self.update()

    def _geometry(self, rows: int, columns: int) -> tuple[float, float, float, float]:
        """Left, top, width and height of the cells, with room for names and the frame.

        Numbers have cells up to `WIDEST` times as wide as high: the names of columns need the width.
        """
        metrics = self.fontMetrics()
        left = max((metrics.horizontalAdvance(text) for text in self._labels), default=-8) + 8.0
        top = metrics.height() + 4.0 if self._labels else 0.0
        room = self.width() - left - 1
        high = min(room / columns, (self.height() - top - 1) / rows)
        wide = max(1.0, min(room / columns, high * WIDEST) if self._numbers else high)
        return left + max(0.0, (room - wide * columns) / 2), top, wide, max(high, 1.0)

    def _colour(self, value: float) -> QColor:
        colours = theme.current()
        base = colours.colour("surface")
        share = abs(value) / self._limit
        end = POSITIVE if value >= 0 and self._diverging else NEGATIVE
        return mix(base, QColor(end[colours.base]), share)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        colours = theme.current()
        if self._matrix is None:
            painter.setPen(colours.colour("muted"))
            painter.drawText(self.rect(), Qt.AlignmentFlag.AlignCenter, "—")
            return
        rows, columns = self._matrix.shape
        left, top, wide, high = self._geometry(rows, columns)
        light, dark = QColor("#ffffff"), QColor("#10151d")
        for i in range(rows):
            for j in range(columns):
                cell = QRectF(left + j * wide, top + i * high, wide, high)
                colour = self._colour(float(self._matrix[i, j]))
                painter.fillRect(cell.adjusted(0.5, 0.5, -0.5, -0.5), colour)
                if self._numbers:
                    painter.setPen(dark if _luminance(colour) > 0.18 else light)
                    painter.drawText(cell, Qt.AlignmentFlag.AlignCenter, f"{self._matrix[i, j]:g}")
        painter.setPen(colours.colour("line"))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawRect(QRectF(left, top, wide * columns, high * rows))
        self._paint_labels(painter, left, top, wide, high)

    def _paint_labels(self, painter: QPainter, left: float, top: float, wide: float, high: float) -> None:
        painter.setPen(theme.current().colour("muted"))
        for i, text in enumerate(self._labels):
            painter.drawText(QRectF(0, top + i * high, left - 6, high), RIGHT, text)
            column = QRectF(left + i * wide, 0, wide, top)
            _draw_narrowed(painter, column, text)

    def _cell_at(self, point: QPointF) -> tuple[int, int] | None:
        if self._matrix is None:
            return None
        rows, columns = self._matrix.shape
        left, top, wide, high = self._geometry(rows, columns)
        i, j = int((point.y() - top) // high), int((point.x() - left) // wide)
        return (i, j) if 0 <= i < rows and 0 <= j < columns else None

    def event(self, event: QEvent) -> bool:
        """The value under the pointer as a tooltip."""
        if isinstance(event, QHelpEvent) and event.type() is QEvent.Type.ToolTip:
            cell = self._cell_at(QPointF(event.pos()))
            if cell is not None and self._matrix is not None:
                i, j = cell
                names = f"{self._labels[i]} → {self._labels[j]}" if self._labels else f"[{i}, {j}]"
                QToolTip.showText(event.globalPos(), f"{names}: {self._matrix[i, j]:.6g}", self)
            else:
                QToolTip.hideText()
            return True
        return super().event(event)
