"""Presets, load, save, search, and Basic or All: the row above the form."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Signal
from PySide6.QtGui import QKeySequence, QShortcut
from PySide6.QtWidgets import QHBoxLayout, QLineEdit, QMenu, QPushButton, QWidget

from so8t_engine.config import preset_paths
from so8t_engine.i18n import _
from so8t_gui.forms.check_box import CheckBox


class SettingsToolbar(QWidget):
    """Buttons and filters; what they do is the page's affair.

    Signals: ``preset_chosen`` with a preset's file, ``load_clicked``, ``save_clicked``,
    ``search_changed`` with the text, ``all_toggled``, ``changed_toggled``, ``yaml_toggled``,
    ``undo_clicked``, ``redo_clicked``.
    """

    preset_chosen = Signal(Path)
    load_clicked = Signal()
    save_clicked = Signal()
    search_changed = Signal(str)
    all_toggled = Signal(bool)
    changed_toggled = Signal(bool)
    yaml_toggled = Signal(bool)
    undo_clicked = Signal()
    redo_clicked = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.presets = QPushButton(_("Presets"))
        menu = QMenu(self.presets)
        for name, path in preset_paths().items():
            action = menu.addAction(name)
            action.triggered.connect(lambda _on=False, file=path: self.preset_chosen.emit(file))
        self.presets.setMenu(menu)
        self.load = QPushButton(_("Load…"))
        self.load.setToolTip(_("Read settings from a YAML file"))
        self.load.clicked.connect(self.load_clicked)
        self.save = QPushButton(_("Save as…"))
        self.save.setToolTip(_("Write these settings to a YAML file"))
        self.save.clicked.connect(self.save_clicked)
        self.search = QLineEdit()
        self.search.setPlaceholderText(_("Search (Ctrl+F)"))
        self.search.setAccessibleName(_("Search settings"))
        self.search.setClearButtonEnabled(True)
        hint = self.search.fontMetrics().horizontalAdvance(self.search.placeholderText())
        # Room for the hint, the field's own edges and the button that clears it.
        self.search.setMinimumWidth(hint + 48)
        self.search.textChanged.connect(self.search_changed)
        self.all = CheckBox(_("All settings"))
        self.all.setToolTip(_("Also show settings that seldom need a change"))
        self.all.toggled.connect(self.all_toggled)
        self.changed = CheckBox(_("Changed only"))
        self.changed.setToolTip(_("Show only settings that differ from their defaults"))
        self.changed.toggled.connect(self.changed_toggled)
        self.undo = QPushButton("↶")
        self.undo.setAccessibleName(_("Undo"))
        self.undo.setToolTip(_("Takes back the last change in the form (Ctrl+Z)."))
        self.undo.clicked.connect(self.undo_clicked)
        self.redo = QPushButton("↷")
        self.redo.setAccessibleName(_("Redo"))
        self.redo.setToolTip(_("Does again what was taken back (Ctrl+Shift+Z)."))
        self.redo.clicked.connect(self.redo_clicked)
        self.yaml = QPushButton("YAML")
        self.yaml.setCheckable(True)
        self.yaml.setToolTip(_("Edit the settings as text, in step with the form."))
        self.yaml.toggled.connect(self.yaml_toggled)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        for button in (self.presets, self.load, self.save, self.undo, self.redo, self.yaml):
            row.addWidget(button)
        row.addStretch(1)
        row.addWidget(self.search, 2)
        row.addWidget(self.changed)
        row.addWidget(self.all)
        QShortcut(QKeySequence(QKeySequence.StandardKey.Find), self, self._focus_search)

    def _focus_search(self) -> None:
        self.search.setFocus()
        self.search.selectAll()

    def set_locked(self, locked: bool) -> None:
        """While a run is live the settings cannot be replaced; saving them stays possible."""
        self.presets.setEnabled(not locked)
        self.load.setEnabled(not locked)
        self._locked = locked
        self.show_steps(self._steps)

    _locked = False
    _steps = (False, False)

    def show_steps(self, steps: tuple[bool, bool]) -> None:
        """Whether there is something to undo, and to redo."""
        self._steps = steps
        self.undo.setEnabled(steps[0] and not self._locked)
        self.redo.setEnabled(steps[1] and not self._locked)

    def show_text(self, text: bool) -> None:
        """While the settings are shown as text, there is nothing to search and to filter."""
        for widget in (self.search, self.changed, self.all):
            widget.setEnabled(not text)
