"""What the settings page says above its form."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QEvent
from PySide6.QtWidgets import QVBoxLayout, QWidget

from so8t_engine.i18n import _
from so8t_gui.forms import colours
from so8t_gui.forms.row import plain_label


class SettingsNotes(QWidget):
    """Where the settings come from, whose they are while a run is live, and what was said last."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.lock, self.message, self.source = (plain_label(wrap=True) for _i in range(3))
        self.lock.hide()
        self.message.hide()
        # Always there, so that the form does not jump with the first change.
        self.source.setMinimumHeight(self.fontMetrics().height())
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for label in (self.source, self.lock, self.message):
            layout.addWidget(label)
        self._colour()

    def show_source(self, source: str, unsaved: bool) -> None:
        """The file or preset that was loaded, and whether anything was changed since."""
        parts = [_("From %(source)s.") % {"source": Path(source).name}] if source else []
        if unsaved:
            parts.append(_("There are unsaved changes."))
        self.source.setText(" ".join(parts))

    def show_lock(self, locked: bool, name: str) -> None:
        """Whether the settings are those of a live run of that name."""
        text = _("A run is live. These are the settings of '%(name)s'; they can be edited once it has ended.")
        self.lock.setText(text % {"name": name})
        self.lock.setVisible(locked)

    def say(self, text: str, *, bad: bool = False) -> None:
        """Say what became of a command; nothing takes the words away."""
        self.message.setText(text)
        self.message.setVisible(bool(text))
        palette = self.palette()
        colours.tint(self.message, colours.bad(palette) if bad else colours.muted(palette), bold=bad)

    def _colour(self) -> None:
        palette = self.palette()
        colours.tint(self.source, colours.muted(palette))
        colours.tint(self.lock, palette.color(palette.ColorRole.WindowText), bold=True)

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() is QEvent.Type.PaletteChange and hasattr(self, "source"):
            self._colour()
