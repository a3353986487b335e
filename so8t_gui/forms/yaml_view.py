"""The settings as the file that they are: edited as text, in step with the form, faults named by line."""

from __future__ import annotations

import re

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtGui import QTextCursor
from PySide6.QtWidgets import QLabel, QPlainTextEdit, QTextEdit, QVBoxLayout, QWidget

from so8t_engine.config import Config
from so8t_engine.config.loading import parse_config
from so8t_engine.errors import ConfigError
from so8t_engine.i18n import _
from so8t_gui import theme
from so8t_gui.forms import colours
from so8t_gui.forms.row import plain_label

DEBOUNCE_MS = 250
#: The name that stands before the line in the engine's errors about this text.
NAME = "YAML"


class YamlView(QWidget):
    """Signal ``parsed`` with the `Config` after a change by a person that is right as a whole."""

    parsed = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.error: ConfigError | None = None
        self._config: Config | None = None
        self._filling = False
        self.text = QPlainTextEdit()
        self.text.setAccessibleName(_("Settings as YAML"))
        self.text.setFont(theme.mono_font(self.font().pointSizeF()))
        self.text.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        self.text.setTabChangesFocus(True)
        self.text.textChanged.connect(self._on_text)
        self.problem: QLabel = plain_label(wrap=True)
        self.problem.hide()
        self._timer = QTimer(self, singleShot=True, interval=DEBOUNCE_MS)
        self._timer.timeout.connect(self.check)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 8, 0)
        column.addWidget(self.text, 1)
        column.addWidget(self.problem)

    def show_config(self, config: Config) -> None:
        """The form holds this now. A text that says the same stays as it was typed, comments and all."""
        if config != self._config or self.error is not None:
            self.set_text(config.to_yaml())
            self._config = config

    def set_text(self, text: str) -> None:
        """Replace the text without a signal."""
        self._filling = True
        self.text.setPlainText(text)
        self._filling = False
        self._show_error(None)

    def set_locked(self, locked: bool) -> None:
        """Show without letting anyone change it."""
        self.text.setReadOnly(locked)

    def _on_text(self) -> None:
        if not self._filling:
            self._timer.start()

    def flush(self) -> None:
        """Do now what a change has asked for."""
        if self._timer.isActive():
            self.check()

    def check(self) -> None:
        """Read the text; tell what it says, or which line is wrong."""
        self._timer.stop()
        try:
            config = parse_config(self.text.toPlainText(), name=NAME)
        except ConfigError as error:
            self._show_error(error)
            return
        self._show_error(None)
        self._config = config
        self.parsed.emit(config)

    def forget_fault(self) -> None:
        """The form is shown again, and it is right: the next look at the text begins from the form."""
        if self.error is not None:
            self._config = None
            self._show_error(None)

    def wrong_line(self) -> int | None:
        """The line that is wrong, from 1; None where the fault has none."""
        found = re.match(rf"{NAME}:(\d+)", self.error.sentence) if self.error is not None else None
        return int(found[1]) if found else None

    def _show_error(self, error: ConfigError | None) -> None:
        self.error = error
        self.problem.setText(str(error) if error is not None else "")
        self.problem.setVisible(error is not None)
        colours.tint(self.problem, colours.bad(self.palette()))
        line = self.wrong_line()
        marks = []
        if line is not None:
            block = self.text.document().findBlockByNumber(line - 1)
            mark = QTextEdit.ExtraSelection()
            mark.cursor = QTextCursor(block)
            mark.format.setBackground(theme.current().colour("bad_bg"))
            mark.format.setProperty(mark.format.Property.FullWidthSelection, True)
            marks.append(mark)
        self.text.setExtraSelections(marks)

    def focus_text(self) -> None:
        """Put the keyboard into the text."""
        self.text.setFocus(Qt.FocusReason.OtherFocusReason)
