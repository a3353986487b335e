"""The settings page's questions about files."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFileDialog, QMessageBox, QWidget

from so8t_engine.i18n import _


def may_discard(parent: QWidget) -> bool:
    """Whether a person lets unsaved changes go."""
    box = QMessageBox(parent)
    box.setTextFormat(Qt.TextFormat.PlainText)
    box.setIcon(QMessageBox.Icon.Question)
    box.setText(_("Replace the settings? Unsaved changes are lost."))
    replace = box.addButton(_("Replace"), QMessageBox.ButtonRole.AcceptRole)
    box.setDefaultButton(box.addButton(_("Cancel"), QMessageBox.ButtonRole.RejectRole))
    box.exec()
    return box.clickedButton() is replace


def to_load(parent: QWidget) -> Path | None:
    """The file that a person chose; None for none."""
    name, _filter = QFileDialog.getOpenFileName(
        parent, _("Load settings"), "", _("Settings (*.yaml *.yml)") + ";;" + _("All files (*)")
    )
    return Path(name) if name else None


def to_save(parent: QWidget, suggested: str) -> Path | None:
    """Where a person wants the settings; None for nowhere."""
    name, _filter = QFileDialog.getSaveFileName(
        parent, _("Save settings"), suggested, _("Settings (*.yaml *.yml)")
    )
    if not name:
        return None
    return Path(name) if Path(name).suffix else Path(name + ".yaml")
