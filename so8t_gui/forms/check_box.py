"""A check box whose frame is legible in every palette; the platform style's fades on dark grounds."""

from __future__ import annotations

from PySide6.QtCore import QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QPainter, QPaintEvent, QPalette, QPen
from PySide6.QtWidgets import QCheckBox

from so8t_gui.forms import colours

BOX, GAP, MARGIN = 16, 7, 3
#: An ampersand underlines the letter of the shortcut.
SHOWN = Qt.TextFlag.TextShowMnemonic


class CheckBox(QCheckBox):
    """A box with a tick, drawn from the palette alone."""

    def sizeHint(self) -> QSize:
        metrics = self.fontMetrics()
        text = metrics.size(SHOWN, self.text()).width() + GAP if self.text() else 0
        return QSize(BOX + text + 2 * MARGIN, max(BOX, metrics.height()) + 2 * MARGIN)

    def minimumSizeHint(self) -> QSize:
        return self.sizeHint()

    def hitButton(self, position: object) -> bool:
        return True

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        palette, enabled = self.palette(), self.isEnabled()
        group = QPalette.ColorGroup.Active if enabled else QPalette.ColorGroup.Disabled
        text = palette.color(group, QPalette.ColorRole.WindowText)
        frame = colours.muted(palette) if enabled else text
        fill = palette.color(QPalette.ColorRole.Base)
        if self.isChecked():
            fill = frame = palette.color(QPalette.ColorRole.Highlight) if enabled else text
        top = (self.height() - BOX) / 2
        box = QRectF(MARGIN + 0.5, top + 0.5, BOX - 1, BOX - 1)
        painter.setPen(QPen(frame, 1))
        painter.setBrush(fill)
        painter.drawRoundedRect(box, 3, 3)
        if self.isChecked():
            painter.setPen(QPen(palette.color(QPalette.ColorRole.HighlightedText), 2))
            left = MARGIN
            painter.drawPolyline(
                [QPointF(left + 4, top + 8.5), QPointF(left + 7, top + 11.5), QPointF(left + 12, top + 5)]
            )
        if self.hasFocus():
            painter.setPen(QPen(palette.color(QPalette.ColorRole.Highlight), 1.5))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(box.adjusted(-2.5, -2.5, 2.5, 2.5), 5, 5)
        if self.text():
            painter.setPen(text)
            rest = self.rect().adjusted(MARGIN + BOX + GAP, 0, 0, 0)
            painter.drawText(
                rest, Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft | SHOWN, self.text()
            )
