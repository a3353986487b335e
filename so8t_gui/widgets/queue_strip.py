"""One line on the run page about the runs that wait."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QPushButton, QWidget

from so8t_engine.i18n import _
from so8t_engine.plain_text import visible
from so8t_gui.queue_controller import QueueController


class QueueStrip(QFrame):
    """Hidden while nothing waits. Signal ``show_asked`` for the whole queue."""

    show_asked = Signal()

    def __init__(self, queue: QueueController, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("card")
        self._queue = queue
        self.words = QLabel()
        self.words.setTextFormat(Qt.TextFormat.PlainText)
        self.words.setWordWrap(True)
        self.start = QPushButton(_("Start the next"))
        self.start.clicked.connect(lambda _on=False: queue.start_next())
        self.show_all = QPushButton(_("Show the queue"))
        self.show_all.clicked.connect(self.show_asked)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(12, 4, 8, 4)
        layout.addWidget(self.words, 1)
        layout.addWidget(self.start)
        layout.addWidget(self.show_all)
        queue.changed.connect(self.refresh)
        self.refresh()

    def disconnect_controller(self) -> None:
        """Hear nothing more of the queue: this line is being replaced."""
        self._queue.changed.disconnect(self.refresh)

    def refresh(self) -> None:
        """Say what waits now."""
        entries = self._queue.entries
        self.setVisible(bool(entries))
        if entries:
            values = {"count": len(entries), "name": visible(entries[0].name, 60)}
            text = _("Queue: %(count)d runs wait, next %(name)s") % values
            held = "" if self._queue.live else self._queue.held_because
            self.words.setText(f"{text}  –  {held}" if held else text)
        self.start.setVisible(self._queue.can_start)
