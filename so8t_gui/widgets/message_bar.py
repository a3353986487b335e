"""A message across the page that a person can dismiss: what is wrong, and the mend."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from so8t_engine.i18n import _
from so8t_gui import theme


class MessageBar(QFrame):
    """Hidden until there is something to say. Texts may come from files and models: plain text only."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("messageBar")
        self.sentence = QLabel()
        self.sentence.setTextFormat(Qt.TextFormat.PlainText)
        self.sentence.setWordWrap(True)
        self.sentence.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        font = self.sentence.font()
        font.setBold(True)
        self.sentence.setFont(font)
        self.mend = QLabel()
        self.mend.setTextFormat(Qt.TextFormat.PlainText)
        self.mend.setWordWrap(True)
        self.mend.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._do: Callable[[], object] | None = None
        self.action = QPushButton()
        self.action.setProperty("role", "primary")
        self.action.clicked.connect(self._act)
        self.action.hide()
        self.dismiss = QPushButton(_("Dismiss"))
        self.dismiss.clicked.connect(self.hide)
        words = QVBoxLayout()
        words.setSpacing(2)
        words.addWidget(self.sentence)
        words.addWidget(self.mend)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(12, 8, 8, 8)
        layout.addLayout(words, 1)
        layout.addWidget(self.action, 0, Qt.AlignmentFlag.AlignTop)
        layout.addWidget(self.dismiss, 0, Qt.AlignmentFlag.AlignTop)
        self.hide()

    def show_message(
        self,
        level: str,
        sentence: str,
        mend: str = "",
        action: str = "",
        do: Callable[[], object] | None = None,
    ) -> None:
        """Show a message of level ``error``, ``warning`` or ``good``, with a button that does something."""
        self._do = do
        self.action.setText(action)
        self.action.setVisible(do is not None)
        self.setProperty("level", level)
        theme.restyle(self)
        self.sentence.setText(sentence)
        self.mend.setText(mend)
        self.mend.setVisible(bool(mend))
        self.setAccessibleName(f"{sentence} {mend}".strip())
        self.show()

    def _act(self) -> None:
        do, self._do = self._do, None
        self.hide()
        if do is not None:
            do()
