"""An answer as it is written, each token tinted by what the gate did to it."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QEvent
from PySide6.QtGui import QColor, QHelpEvent, QTextCharFormat, QTextCursor
from PySide6.QtWidgets import QPlainTextEdit, QToolTip, QWidget

from so8t_engine.i18n import _
from so8t_engine.plain_text import visible
from so8t_gui import theme
from so8t_gui.charts.matrix_view import POSITIVE, mix

#: KL divergence, in nats, at which a token has its full tint.
FULL_TINT = 0.5


class AnswerView(QPlainTextEdit):
    """Text alone is inserted, never markup; the pointer over a token tells its numbers."""

    def __init__(self, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setReadOnly(True)
        self.setAccessibleName(name)
        self.setUndoRedoEnabled(False)
        self.tokens: list[dict[str, Any]] = []
        self._ends: list[int] = []

    def begin(self) -> None:
        """An empty answer."""
        self.clear()
        self.tokens, self._ends = [], []

    def add(self, token: dict[str, Any]) -> None:
        """Append a token."""
        cursor = self.textCursor()
        cursor.movePosition(QTextCursor.MoveOperation.End)
        style = QTextCharFormat()
        kl = token.get("kl")
        if kl is not None and kl > 1e-4:
            base, tint = theme.current().colour("surface"), QColor(POSITIVE[theme.current().base])
            style.setBackground(mix(base, tint, 0.6 * min(1.0, kl / FULL_TINT)))
        cursor.insertText(token["text"], style)
        self.tokens.append(token)
        self._ends.append(cursor.position())

    def event(self, event: QEvent) -> bool:
        """The numbers of the token under the pointer."""
        if event.type() is QEvent.Type.ToolTip and isinstance(event, QHelpEvent) and self._ends:
            place = self.cursorForPosition(self.viewport().mapFromGlobal(event.globalPos())).position()
            index = next((i for i, end in enumerate(self._ends) if place < end), len(self._ends) - 1)
            QToolTip.showText(event.globalPos(), self.describe(index), self)
            return True
        return super().event(event)

    def describe(self, index: int) -> str:
        """What the gate did to a token, in plain text."""
        token = self.tokens[index]
        if token.get("shift") is None:
            return ""
        text = _("moved by %(shift).3f of its length, KL %(kl).4f nats") % {
            "shift": token["shift"],
            "kl": token["kl"],
        }
        if token.get("other") is not None:
            text += "\n" + _("without the gate the likeliest would be: %(token)s") % {
                "token": visible(token["other"], 40)
            }
        return text
