"""Small cards beside the form: help for the focused setting, and the equivalent command."""

from __future__ import annotations

from PySide6.QtCore import QEvent, Qt
from PySide6.QtGui import QFont, QFontDatabase, QGuiApplication
from PySide6.QtWidgets import QFrame, QHBoxLayout, QPlainTextEdit, QPushButton, QVBoxLayout, QWidget

from so8t_engine.i18n import _
from so8t_gui.forms import colours
from so8t_gui.forms.fields import FieldSpec
from so8t_gui.forms.row import plain_label


class Card(QFrame):
    """A titled frame."""

    def __init__(self, title: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("card")
        self.setFrameShape(QFrame.Shape.StyledPanel)
        self.title = plain_label(title, wrap=True)
        self.title.setObjectName("title")
        font = self.title.font()
        font.setBold(True)
        self.title.setFont(font)
        self.column = QVBoxLayout(self)
        self.column.setContentsMargins(12, 10, 12, 10)
        self.column.setSpacing(5)
        self.column.addWidget(self.title)


class HelpCard(Card):
    """What the focused setting does, its bounds, default and name in the file."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(_("Help"), parent)
        self.text = plain_label(_("Click a setting to read what it does."), wrap=True)
        self.facts = plain_label(wrap=True)
        self.column.addWidget(self.text)
        self.column.addWidget(self.facts)
        self._colour()

    def show_field(self, spec: FieldSpec) -> None:
        """Describe ``spec``."""
        self.title.setText(_(spec.title))
        self.text.setText(_(spec.help))
        facts = [spec.range_text(), _("Default: %(value)s") % {"value": spec.default_text()}, spec.path]
        self.facts.setText("\n".join(fact for fact in facts if fact))

    def _colour(self) -> None:
        colours.tint(self.facts, colours.muted(self.palette()))

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() is QEvent.Type.PaletteChange and hasattr(self, "facts"):
            self._colour()


class CommandCard(Card):
    """The command that starts the same run without the window, to be copied."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(_("Equivalent command"), parent)
        self.text = QPlainTextEdit()
        self.text.setReadOnly(True)
        self.text.setTabChangesFocus(True)
        self.text.setPlaceholderText(_("Shown once every setting is right."))
        self.text.setAccessibleName(_("Equivalent command"))
        mono = QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont)
        mono.setFamilies(["JetBrains Mono", "Consolas", "DejaVu Sans Mono", "Noto Sans Mono CJK JP"])
        mono.setStyleHint(QFont.StyleHint.Monospace)
        self.text.setFont(mono)
        self.text.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.text.setMinimumHeight(self.text.fontMetrics().lineSpacing() * 3 + 16)
        self.text.setMaximumHeight(self.text.fontMetrics().lineSpacing() * 7 + 16)
        self.copy = QPushButton(_("Copy"))
        self.copy.clicked.connect(self._copy)
        self.column.addWidget(self.text)
        row = QHBoxLayout()
        row.addStretch(1)
        row.addWidget(self.copy)
        self.column.addLayout(row)

    def show_command(self, command: str) -> None:
        """Show ``command``; an empty one cannot be copied."""
        if self.text.toPlainText() != command:
            self.text.setPlainText(command)
        self.copy.setEnabled(bool(command))

    def _copy(self) -> None:
        QGuiApplication.clipboard().setText(self.text.toPlainText())
