"""A line of text that ends in … where it has too little room, and says all of it under the pointer."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QSize, Qt
from PySide6.QtGui import QHelpEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import QLabel, QToolTip, QWidget

LEAST = 4  # letters


class ElidedLabel(QLabel):
    """`text` is always the whole text, for screen readers too."""

    def __init__(self, text: str = "", parent: QWidget | None = None) -> None:
        super().__init__(text, parent)
        self.setTextFormat(Qt.TextFormat.PlainText)

    def minimumSizeHint(self) -> QSize:
        wanted = super().minimumSizeHint()
        return QSize(min(wanted.width(), self.fontMetrics().averageCharWidth() * LEAST), wanted.height())

    @property
    def elided(self) -> bool:
        """Whether a part of the text is left out."""
        return self.fontMetrics().horizontalAdvance(self.text()) > self.contentsRect().width()

    def paintEvent(self, event: QPaintEvent) -> None:
        if not self.elided:
            super().paintEvent(event)
            return
        painter = QPainter(self)
        place = self.contentsRect()
        shown = self.fontMetrics().elidedText(self.text(), Qt.TextElideMode.ElideRight, place.width())
        painter.setPen(self.palette().color(self.foregroundRole()))
        painter.drawText(place, self.alignment(), shown)

    def event(self, event: QEvent) -> bool:
        """The whole text as a tooltip, where it is not to be seen."""
        if isinstance(event, QHelpEvent) and event.type() is QEvent.Type.ToolTip and self.elided:
            QToolTip.showText(event.globalPos(), self.text(), self)
            return True
        return super().event(event)
