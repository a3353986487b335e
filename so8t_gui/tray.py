"""The icon beside the clock: messages, and the way back to a window that was closed during a run."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtGui import QAction
from PySide6.QtWidgets import QMenu, QSystemTrayIcon, QWidget

from so8t_engine.i18n import _
from so8t_gui.icons import program_icon


def tray_available() -> bool:
    """Whether this desktop shows such icons now."""
    return QSystemTrayIcon.isSystemTrayAvailable()


class Tray:
    """One icon for everything; there is none before it is needed.

    Args:
        show_window: brings the window back. quit_program: stops and saves a run, then leaves.
    """

    def __init__(
        self, window: QWidget, show_window: Callable[[], object], quit_program: Callable[[], object]
    ) -> None:
        self._window, self._show_window, self._quit = window, show_window, quit_program
        self._icon: QSystemTrayIcon | None = None
        self._menu: QMenu | None = None
        self.actions: list[QAction] = []

    def _ensure(self) -> QSystemTrayIcon:
        if self._icon is None:
            self._icon = QSystemTrayIcon(program_icon(), self._window)
            self._icon.activated.connect(lambda _reason: self._show_window())
            self._icon.messageClicked.connect(lambda: self._show_window())
        return self._icon

    def put_up(self, tip: str) -> None:
        """Show the icon with a menu: the window is closed and this is the way back."""
        icon = self._ensure()
        self._menu = QMenu()
        self.actions = [
            self._menu.addAction(_("Show the window")),
            self._menu.addAction(_("Stop, save and quit")),
        ]
        for action, slot in zip(self.actions, (self._show_window, self._quit), strict=True):
            action.triggered.connect(lambda _on=False, s=slot: s())
        icon.setContextMenu(self._menu)
        self.set_tip(tip)
        icon.show()

    def set_tip(self, tip: str) -> None:
        """What the icon says under the mouse."""
        if self._icon is not None:
            self._icon.setToolTip(tip)

    def message(self, title: str, text: str, *, bad: bool) -> None:
        """Show a message for a while, where the system has a place for it."""
        if not tray_available():
            return
        icon = self._ensure()
        icon.show()
        kind = QSystemTrayIcon.MessageIcon
        icon.showMessage(title, text, kind.Critical if bad else kind.Information)

    def take_down(self) -> None:
        """No icon any more."""
        if self._icon is not None:
            self._icon.hide()
            self._icon.deleteLater()
            self._icon = None
        if self._menu is not None:
            self._menu.deleteLater()
            self._menu = None
        self.actions = []
