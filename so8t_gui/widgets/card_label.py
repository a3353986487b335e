"""The graphics card's memory in the status bar, read from the driver, with or without a run."""

from __future__ import annotations

from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QHideEvent, QShowEvent
from PySide6.QtWidgets import QLabel, QWidget

from so8t_engine.i18n import _
from so8t_engine.memory.nvml import NvmlMissing, read_memory
from so8t_gui.forms import colours
from so8t_gui.plain import plain_tooltip

READ_MS = 1000
#: Degrees Celsius, and part of the memory, from which on the label warns: the engine's own limits.
HOT_C, FULL = 75.0, 0.95
GIB = 2**30


class CardLabel(QLabel):
    """Reads every second while it is seen; without a card it says so and stops reading."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setAccessibleName(_("Graphics card"))
        self._there = True
        self._timer = QTimer(self)
        self._timer.setInterval(READ_MS)
        self._timer.timeout.connect(self.read)
        self.read()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        if self._there:
            self._timer.start()

    def hideEvent(self, event: QHideEvent) -> None:
        self._timer.stop()
        super().hideEvent(event)

    def read(self) -> None:
        """Take a reading and show it."""
        reading = read_memory()
        if isinstance(reading, NvmlMissing):
            self._there = False
            self._timer.stop()
            self.setText(_("VRAM —: no NVIDIA card"))
            self.setToolTip(plain_tooltip(reading.reason))
            return
        self.setToolTip(plain_tooltip(reading.name))
        parts = [
            _("VRAM %(used).1f of %(total).1f GiB")
            % {"used": reading.used / GIB, "total": reading.total / GIB}
        ]
        if reading.utilisation is not None:
            parts.append(f"{reading.utilisation:.0%}")
        if reading.temperature_c is not None:
            parts.append(f"{reading.temperature_c:.0f} °C")
        if reading.power_w is not None:
            parts.append(f"{reading.power_w:.0f} W")
        if reading.throttled:
            reasons = ", ".join(_(name) for name in reading.throttled)
            parts.append(_("slowed down: %(reasons)s") % {"reasons": reasons})
        self.setText("  ".join(parts))
        hot = reading.temperature_c is not None and reading.temperature_c >= HOT_C
        self._warn(hot or reading.used >= FULL * reading.total)

    def _warn(self, warning: bool) -> None:
        """In the colour of errors, and in bold, for whom colours say nothing."""
        if warning:
            colours.tint(self, colours.bad(self.palette()), bold=True)
        elif self.styleSheet():
            self.setStyleSheet("")
