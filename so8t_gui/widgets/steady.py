"""Labels whose text changes many times a second without everything around them being laid out anew.

Qt asks every layout up to the window for its sizes when a label's text changes, whether it needs more room or
not: with nine of them, at twenty readings a second, that was a tenth of a processor.
"""

from __future__ import annotations

import re
import time

from PySide6.QtCore import QSize
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QLabel, QWidget

_DIGIT = re.compile(r"\d")
#: A steady label gives room back when it needs less than this part of it.
SHRINKS_AT = 0.6
#: Figures that are a line longer now and then do not make everything below them jump.
SHRINKS_AFTER_S = 10.0


class SteadyBox(QWidget):
    """Holds a label of several lines, and changes its own height only when the number of lines changes."""

    #: Whether the height is the label's; a chart that sets it by itself says no.
    fits = True

    def __init__(self, label: QLabel, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.label = label
        self._known: tuple[int, str] | None = None
        self._asked = self._wide = -1
        self._needed = 0.0
        label.setParent(self)
        policy = label.sizePolicy()
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)

    def sizeHint(self) -> QSize:
        return self.label.sizeHint()

    def minimumSizeHint(self) -> QSize:
        """All lines: a dock's layout does not ask for a height at a width, and would cut what is below."""
        least = self.label.minimumSizeHint()
        return QSize(least.width(), max(least.height(), self._asked)) if self.fits else least

    def hasHeightForWidth(self) -> bool:
        return True

    def heightForWidth(self, width: int) -> int:
        return self.label.heightForWidth(width)

    def fit(self) -> None:
        """The label's text is another: ask for another height if it needs one, for less after a while."""
        width = self.width()
        if not self.fits or width <= 0:
            return
        # Digits are equally wide: another number takes no other room.
        known = (width, _DIGIT.sub("0", self.label.text()))
        if known == self._known:
            return
        self._known = known
        height, now = self.label.heightForWidth(width), time.monotonic()
        if height == self._asked or width != self._wide:
            self._needed = now
        if width != self._wide or height > self._asked or now - self._needed > SHRINKS_AFTER_S:
            self._wide, self._asked, self._needed = width, height, now
            self.updateGeometry()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self.label.setGeometry(0, 0, self.width(), self.height())
        self.fit()


class SteadyLabel(QLabel):
    """A line of plain text of a fixed size, which grows with its text and seldom shrinks."""

    def setText(self, text: str) -> None:
        """Show ``text``."""
        if text == self.text():
            return
        super().setText(text)
        needs = self.sizeHint()
        fits = needs.width() <= self.maximumWidth() and needs.height() <= self.maximumHeight()
        if not fits or self.minimumSize().isEmpty() or needs.width() < SHRINKS_AT * self.maximumWidth():
            self.setFixedSize(needs)
