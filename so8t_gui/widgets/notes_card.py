"""Tags and a note about a run, written while one looks at the list."""

from __future__ import annotations

from dataclasses import replace

from PySide6.QtCore import QEvent, QObject, Signal
from PySide6.QtWidgets import QFrame, QLabel, QLineEdit, QPlainTextEdit, QVBoxLayout, QWidget

from so8t_engine.history.index import IndexedRun
from so8t_engine.history.notes import RunNotes, parse_tags
from so8t_engine.i18n import _


class NotesCard(QFrame):
    """Signal ``written`` with the run and its new notes, when a field was left after a change."""

    written = Signal(object, object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("card")
        self._run: IndexedRun | None = None
        self.tags = QLineEdit()
        self.tags.setAccessibleName(_("Tags"))
        self.tags.setPlaceholderText(_("with commas between them"))
        self.tags.editingFinished.connect(self.keep)
        self.note = QPlainTextEdit()
        self.note.setAccessibleName(_("Note"))
        self.note.setTabChangesFocus(True)
        self.note.setPlaceholderText(_("What is this run for? What came out?"))
        self.note.setMaximumHeight(self.fontMetrics().lineSpacing() * 4 + 20)
        self.note.installEventFilter(self)
        column = QVBoxLayout(self)
        column.setContentsMargins(12, 8, 12, 10)
        for text, field in ((_("&Tags"), self.tags), (_("&Note"), self.note)):
            label = QLabel(text)
            label.setBuddy(field)
            column.addWidget(label)
            column.addWidget(field)
        column.addStretch(1)
        self.show_run(None)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if watched is self.note and event.type() is QEvent.Type.FocusOut:
            self.keep()
        return False

    def show_run(self, run: IndexedRun | None) -> None:
        """Write about another run; what was written about the one before is kept."""
        self.keep()
        self._run = run
        notes = run.notes if run is not None else RunNotes()
        self.tags.setText(", ".join(notes.tags))
        self.note.setPlainText(notes.note)
        self.setEnabled(run is not None)

    def keep(self) -> None:
        """Hand over what was changed."""
        if self._run is None:
            return
        notes = replace(self._run.notes, tags=parse_tags(self.tags.text()), note=self.note.toPlainText())
        if notes != self._run.notes:
            run, self._run = self._run, replace(self._run, notes=notes)
            self.written.emit(run, notes)
