"""All blocks at a glance: one cell a block, the more R_safe and R_cmd disagree in order the lighter."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyqtgraph as pg
from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QHelpEvent, QKeyEvent, QMouseEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from so8t_engine.i18n import _
from so8t_gui import theme

Values = npt.NDArray[np.float64]
CELL = 11
KEYS = {Qt.Key.Key_Left: -1, Qt.Key.Key_Right: 1}


class BlockStrip(QWidget):
    """Signal ``chosen`` with a block's number. Arrow keys go from block to block, Home to the largest."""

    chosen = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAccessibleName(_("All blocks by commutator"))
        self.setToolTip(_("Every block's commutator; click one to look at it. Home: the largest."))
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self._values: Values = np.empty(0)
        self._marked = 0
        # Perceptually uniform, and legible without colours: it grows lighter.
        self._colours = pg.colormap.get("viridis").getLookupTable(nPts=256)

    def set_values(self, values: Values | None) -> None:
        """Show another snapshot's commutators, shape (B,)."""
        count = len(self._values)
        self._values = values if values is not None else np.empty(0)
        if len(self._values) != count:
            self.updateGeometry()
            self.setFixedHeight(self._rows() * CELL + 4)
        self._describe()
        self.update()

    def set_marked(self, block: int) -> None:
        """Which block is shown."""
        self._marked = block
        self._describe()
        self.update()

    def largest(self) -> int | None:
        """The block with the largest commutator."""
        return int(self._values.argmax()) if len(self._values) else None

    def _describe(self) -> None:
        if self._marked < len(self._values):
            text = _("block %(block)d of %(count)d, commutator %(value).4f")
            self.setAccessibleDescription(
                text
                % {"block": self._marked, "count": len(self._values), "value": self._values[self._marked]}
            )

    def _columns(self) -> int:
        return max(1, (self.width() - 4) // CELL)

    def _rows(self) -> int:
        return max(1, -(-len(self._values) // self._columns()))

    def sizeHint(self) -> QSize:
        return QSize(300, self._rows() * CELL + 4)

    def resizeEvent(self, event: QEvent) -> None:
        self.setFixedHeight(self._rows() * CELL + 4)

    def _cell(self, block: int) -> QRectF:
        row, column = divmod(block, self._columns())
        return QRectF(2 + column * CELL, 2 + row * CELL, CELL - 1, CELL - 1)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        if not len(self._values):
            painter.setPen(theme.current().colour("muted"))
            painter.drawText(self.rect(), Qt.AlignmentFlag.AlignCenter, "—")
            return
        low, high = float(self._values.min()), float(self._values.max())
        shares = (self._values - low) / (high - low) if high > low else np.zeros(len(self._values))
        for block, share in enumerate(shares):
            painter.fillRect(self._cell(block), QColor(*map(int, self._colours[int(share * 255)][:3])))
        if self._marked < len(self._values):
            pen = pg.mkPen(theme.current()["bad" if not self.hasFocus() else "accent"], width=2)
            painter.setPen(pen)
            painter.drawRect(self._cell(self._marked).adjusted(-1, -1, 1, 1))

    def _block_at(self, point: QPointF) -> int | None:
        column, row = int((point.x() - 2) // CELL), int((point.y() - 2) // CELL)
        block = row * self._columns() + column
        inside = 0 <= column < self._columns() and row >= 0
        return block if inside and block < len(self._values) else None

    def mousePressEvent(self, event: QMouseEvent) -> None:
        block = self._block_at(event.position())
        if block is not None:
            self.chosen.emit(block)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        key = Qt.Key(event.key())
        steps = KEYS | {Qt.Key.Key_Up: -self._columns(), Qt.Key.Key_Down: self._columns()}
        largest = self.largest()
        if key is Qt.Key.Key_Home and largest is not None:
            self.chosen.emit(largest)
        elif key in steps and len(self._values):
            self.chosen.emit(min(max(self._marked + steps[key], 0), len(self._values) - 1))
        else:
            super().keyPressEvent(event)

    def event(self, event: QEvent) -> bool:
        """The value under the pointer as a tooltip."""
        if isinstance(event, QHelpEvent) and event.type() is QEvent.Type.ToolTip:
            block = self._block_at(QPointF(event.pos()))
            if block is not None:
                QToolTip.showText(event.globalPos(), f"{block}: {self._values[block]:.4f}", self)
                return True
        return super().event(event)
