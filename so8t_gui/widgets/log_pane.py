"""What happened, in words: bounded, plain text, filtered by level."""

from __future__ import annotations

import time

from PySide6.QtCore import Qt
from PySide6.QtGui import QColor, QTextCharFormat, QTextCursor
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QLabel, QPlainTextEdit, QVBoxLayout, QWidget

from so8t_engine.i18n import _
from so8t_gui import theme
from so8t_gui.models.log import MAX_LINES, Level, LogLine, RunLog


class LogPane(QWidget):
    """Shows a `RunLog`; stays at the newest line unless a person has scrolled up."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._log: RunLog | None = None
        self._shown = 0
        self.text = QPlainTextEdit()
        self.text.setReadOnly(True)
        self.text.setMaximumBlockCount(MAX_LINES)
        self.text.setLineWrapMode(QPlainTextEdit.LineWrapMode.WidgetWidth)
        self.text.setFont(theme.mono_font(self.font().pointSizeF() - 0.5))
        self.text.setAccessibleName(_("Log"))
        self.text.setPlaceholderText(_("Nothing has happened yet."))
        self.level = QComboBox()
        self.level.setAccessibleName(_("Log level"))
        for name, level in (
            (_("Everything"), Level.DETAIL),
            (_("Information and above"), Level.INFO),
            (_("Warnings and errors"), Level.WARNING),
            (_("Errors"), Level.ERROR),
        ):
            self.level.addItem(name, level)
        self.level.currentIndexChanged.connect(self._refill)
        title = QLabel(_("&Log"))
        title.setObjectName("title")
        title.setBuddy(self.text)
        head = QHBoxLayout()
        head.addWidget(title)
        head.addStretch(1)
        head.addWidget(self.level)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 4, 0, 0)
        layout.setSpacing(4)
        layout.addLayout(head)
        layout.addWidget(self.text, 1)

    def draw(self, log: RunLog) -> None:
        """Append what is new; another log replaces the text."""
        if log is not self._log:
            self._log = log
            self._refill()
            return
        self._append(log.since(self._shown))
        self._shown = log.written

    def _refill(self) -> None:
        self.text.clear()
        if self._log is not None:
            self._append(list(self._log.lines))
            self._shown = self._log.written

    def _append(self, lines: list[LogLine]) -> None:
        lowest = self.level.currentData()
        lines = [line for line in lines if line.level >= lowest]
        if not lines:
            return
        bar = self.text.verticalScrollBar()
        follow = bar.value() >= bar.maximum() - 2
        colours = theme.current()
        roles = {Level.DETAIL: "muted", Level.INFO: "text", Level.WARNING: "warn", Level.ERROR: "bad"}
        cursor = QTextCursor(self.text.document())
        cursor.beginEditBlock()
        cursor.movePosition(QTextCursor.MoveOperation.End)
        for line in lines:
            style = QTextCharFormat()
            style.setForeground(QColor(colours[roles[line.level]]))
            if not self.text.document().isEmpty():
                cursor.insertBlock()
            clock = time.strftime("%H:%M:%S", time.localtime(line.time)) if line.time else "--:--:--"
            # insertText never interprets markup; further lines of a sample become lines of their own.
            cursor.insertText(f"{clock}  {line.text}", style)
        cursor.endEditBlock()
        if follow:
            bar.setValue(bar.maximum())

    def focus_text(self) -> None:
        """Put the keyboard into the log."""
        self.text.setFocus(Qt.FocusReason.ShortcutFocusReason)
