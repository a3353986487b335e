"""Undo and redo by the keyboard, over a whole form."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QObject, Qt
from PySide6.QtGui import QKeyEvent, QKeySequence, QShortcut
from PySide6.QtWidgets import QAbstractButton, QAbstractSpinBox, QLineEdit, QWidget

UNDO, REDO = QKeySequence.StandardKey.Undo, QKeySequence.StandardKey.Redo


class UndoKeys(QObject):
    """Ctrl+Z in a field goes back in the form as a whole, not letter by letter in that field."""

    def __init__(self, form: QWidget, undo: QAbstractButton, redo: QAbstractButton) -> None:
        super().__init__(form)
        for key, button in ((UNDO, undo), (REDO, redo)):
            QShortcut(QKeySequence(key), form, button.click).setContext(
                Qt.ShortcutContext.WidgetWithChildrenShortcut
            )
        # A spin box asks its own line edit when that one has declined.
        for field in (*form.findChildren(QLineEdit), *form.findChildren(QAbstractSpinBox)):
            field.installEventFilter(self)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Leave the keys to the form."""
        if (
            event.type() is QEvent.Type.ShortcutOverride
            and isinstance(event, QKeyEvent)
            and (event.matches(UNDO) or event.matches(REDO))
        ):
            event.ignore()
            return True
        return False
