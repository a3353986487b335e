"""What may wait until a person sees the window."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QEvent, QObject, QTimer
from PySide6.QtWidgets import QWidget

#: A window that is shown and never painted, behind others or on no screen, gets the rest all the same.
AT_LAST_MS = 2000


class FirstPainting(QObject):
    """Calls ``then`` once, when ``widget`` has been painted.

    A timer alone is not enough: a screen lets the first painting wait longer than any time one would choose,
    and what was to come after it then comes before.
    """

    def __init__(self, widget: QWidget, then: Callable[[], None]) -> None:
        super().__init__(widget)
        self._widget, self._then = widget, then
        self._done = False
        self._at_last = QTimer(self, singleShot=True, interval=AT_LAST_MS)
        self._at_last.timeout.connect(self._finish)
        self._at_last.start()
        widget.installEventFilter(self)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Qt's hook."""
        if event.type() is QEvent.Type.Paint:
            # After this painting, and whatever else waits already.
            QTimer.singleShot(0, self, self._finish)
            self._widget.removeEventFilter(self)
        return super().eventFilter(watched, event)

    def _finish(self) -> None:
        self._at_last.stop()
        self._widget.removeEventFilter(self)
        if not self._done:
            self._done = True
            self.deleteLater()
            self._then()
