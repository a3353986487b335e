"""Reading that takes a while: what is read, how far it is, how long it will take, and Cancel."""

from __future__ import annotations

import time

from PySide6.QtCore import Qt, QThread, QTimer
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QProgressBar, QPushButton, QWidget

from so8t_engine.i18n import _
from so8t_gui.history_loader import RunLoader
from so8t_gui.models.clock import format_duration

#: What is over sooner than this is not worth a word.
PATIENCE_MS = 400
THOUSANDTHS = 1000


class LoadingBar(QFrame):
    """Hidden unless a reader that is watched takes its time."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("messageBar")
        self._reader: QThread | None = None
        self._name = ""
        self._since = 0.0
        self.words = QLabel()
        self.words.setTextFormat(Qt.TextFormat.PlainText)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setAccessibleName(_("Progress"))
        self.cancel = QPushButton(_("Cancel"))
        self.cancel.clicked.connect(self._cancel)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(12, 6, 8, 6)
        layout.addWidget(self.words)
        layout.addWidget(self.bar, 1)
        layout.addWidget(self.cancel)
        self._patience = QTimer(self, singleShot=True, interval=PATIENCE_MS)
        self._patience.timeout.connect(self.show)
        self.hide()

    def watch(self, reader: RunLoader, name: str) -> None:
        """Follow ``reader``, which is about to start."""
        self._reader, self._since, self._name = reader, time.monotonic(), name
        self.bar.setRange(0, 0)
        self._say("")
        reader.progress.connect(self._on_progress)
        reader.finished.connect(self._on_finished)
        self._patience.start()

    def _say(self, left: str) -> None:
        text = _("Reading %(name)s…") % {"name": self._name}
        self.words.setText(f"{text} {left}".rstrip())

    def _on_progress(self, done: int, of: int) -> None:
        if self.sender() is not self._reader or not of:
            return
        self.bar.setRange(0, THOUSANDTHS)
        self.bar.setValue(int(done * THOUSANDTHS // of))
        spent = time.monotonic() - self._since
        self._say(_("about %(time)s left") % {"time": format_duration(spent * (of - done) / max(done, 1))})

    def _on_finished(self) -> None:
        if self.sender() is self._reader:
            self._reader = None
            self._patience.stop()
            self.hide()

    def _cancel(self) -> None:
        if self._reader is not None:
            self._reader.requestInterruption()
