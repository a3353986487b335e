"""Somebody at the window: clicks and types on what is visible, and counts.

A step is a click, a shortcut, or a text typed into one place.
"""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QPoint, Qt, QTimer
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QApplication, QLineEdit, QListWidget, QMenu, QWidget
from pytestqt.qtbot import QtBot

from so8t_gui.main_window import MainWindow

LEFT = Qt.MouseButton.LeftButton
Ready = Callable[[], bool]


class Person:
    """Clicks and types on what is visible, and counts."""

    def __init__(self, window: MainWindow, qtbot: QtBot) -> None:
        self.window, self._qtbot, self.steps = window, qtbot, 0

    def click(self, widget: QWidget, place: QPoint | None = None, *, ctrl: bool = False) -> None:
        self._qtbot.waitUntil(lambda: widget.isVisible() and widget.isEnabled(), timeout=180_000)
        self.steps += 1
        keys = Qt.KeyboardModifier.ControlModifier if ctrl else Qt.KeyboardModifier.NoModifier
        self._qtbot.mouseClick(widget, LEFT, keys, place or widget.rect().center())

    def keys(
        self,
        widget: QWidget,
        key: Qt.Key,
        modifier: Qt.KeyboardModifier = Qt.KeyboardModifier.NoModifier,
    ) -> None:
        self.steps += 1
        self._qtbot.keyClick(widget, key, modifier)

    def write(self, field: QWidget, text: str) -> None:
        """Type into a field in place of what it holds."""
        self.steps += 1
        if isinstance(field, QLineEdit):
            field.selectAll()
        self._qtbot.keyClicks(field, text)

    def page(self, name: str) -> None:
        index = [spec.name for spec in self.window.pages.specs].index(name)
        navigation = self.window.navigation
        self.click(navigation.viewport(), navigation.visualItemRect(navigation.item(index)).center())
        self.wait(lambda: self.window.pages.currentIndex() == index)

    def item(self, widget: QListWidget, row: int) -> None:
        self.click(widget.viewport(), widget.visualItemRect(widget.item(row)).center())

    def menu(self, text: str) -> QMenu:
        """Click on a menu of the menu bar."""
        self.steps += 1
        actions = self.window.menuBar().actions()
        found = next(a for a in actions if a.text().replace("&", "").startswith(text)).menu()
        assert isinstance(found, QMenu)
        return found

    def choose(self, menu: QMenu, *texts: str) -> None:
        """Click through a menu that is open or in the menu bar, entry by entry."""
        for text in texts:
            menu.aboutToShow.emit()
            action: QAction = next(a for a in menu.actions() if a.text().replace("&", "").startswith(text))
            self.steps += 1
            inner = action.menu()
            if isinstance(inner, QMenu):
                menu = inner
            else:
                action.trigger()

    def click_menu(self, button: QWidget, text: str) -> None:
        """Click on a button that opens a menu, and on one of its entries.

        The menu holds the event loop until it closes, so its entry is clicked from a timer.
        """

        def entry() -> None:
            menu = QApplication.activePopupWidget()
            if not isinstance(menu, QMenu):
                QTimer.singleShot(30, entry)
                return
            action = next(a for a in menu.actions() if a.text().replace("&", "").startswith(text))
            assert action.isEnabled(), text
            self.steps += 1
            place = menu.actionGeometry(action).center()
            # A menu takes no click of a pointer that has not moved since it opened.
            for back in range(8, -1, -1):
                self._qtbot.mouseMove(menu, QPoint(place.x() - back, place.y()))
            self._qtbot.mouseClick(menu, LEFT, pos=place)

        QTimer.singleShot(30, entry)
        self.click(button)

    def wait(self, ready: Ready, seconds: float = 10) -> None:
        self._qtbot.waitUntil(ready, timeout=int(seconds * 1000))
