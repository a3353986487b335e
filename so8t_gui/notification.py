"""Telling a person who looks elsewhere that an unattended pipeline is over."""

from __future__ import annotations

from PySide6.QtWidgets import QApplication, QSystemTrayIcon, QWidget

from so8t_engine.i18n import _
from so8t_engine.pipeline.over import sentence
from so8t_gui.icons import program_icon

SHOWN_MS = 15_000


def notify(window: QWidget, status: str) -> None:
    """A message beside the clock where the system has one, and the window's mark in the task bar."""
    text = sentence(status)
    QApplication.alert(window)
    if not QSystemTrayIcon.isSystemTrayAvailable():
        return
    tray = QSystemTrayIcon(program_icon(), window)
    tray.show()
    tray.messageClicked.connect(window.activateWindow)
    icon = (
        QSystemTrayIcon.MessageIcon.Information
        if status == "finished"
        else QSystemTrayIcon.MessageIcon.Warning
    )
    tray.showMessage(_("SO8T Control Panel"), text, icon, SHOWN_MS)
