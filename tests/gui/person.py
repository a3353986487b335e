"""Somebody at the window: clicks and types on what is visible, and counts.

A step is a click, a shortcut, or a text typed into one place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PySide6.QtCore import QPoint, Qt, QTimer
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QApplication, QFileDialog, QLineEdit, QListWidget, QMenu, QWidget
from pytestqt.qtbot import QtBot

from so8t_gui.main_window import MainWindow

LEFT = Qt.MouseButton.LeftButton
Ready = Callable[[], bool]


def _named(action: QAction, text: str) -> bool:
    return action.text().replace("&", "").startswith(text)


class Person:
    """Clicks and types on what is visible, and counts."""

    def __init__(self, window: MainWindow, qtbot: QtBot) -> None:
        self.window, self._qtbot, self.steps = window, qtbot, 0
        #: The steps of the task, once it is done.
        self.counted: int | None = None

    def begin(self, steps: int = 0) -> None:
        """The task begins here: what came before, but for ``steps``, was needed to get there."""
        self.steps = steps

    def end(self, expected: int) -> None:
        """The task is done, in as many steps as it is listed with."""
        assert self.steps == expected
        self.counted = self.steps

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

    def menu(self, *texts: str) -> None:
        """Click through the menu bar: a menu, and its entries down to the last."""
        bar = self.window.menuBar()
        first = next(a for a in bar.actions() if _named(a, texts[0]))
        left = self._click_through(texts[1:])
        self.click(bar, bar.actionGeometry(first).center())
        self.wait(lambda: not left)

    def click_menu(self, button: QWidget, *texts: str) -> None:
        """Click on a button that opens a menu, and on its entries down to the last."""
        left = self._click_through(texts)
        self.click(button)
        self.wait(lambda: not left)

    def _click_through(self, texts: Sequence[str]) -> list[str]:
        """Click on each entry as its menu opens; what is still to be clicked on is returned.

        A menu may hold the event loop until it closes, so its entries are clicked from a timer.
        """
        left = list(texts)

        def entry() -> None:
            menu = QApplication.activePopupWidget()
            found = (
                next((a for a in menu.actions() if _named(a, left[0])), None)
                if isinstance(menu, QMenu)
                else None
            )
            if not isinstance(menu, QMenu) or found is None:
                QTimer.singleShot(30, entry)
                return
            assert found.isEnabled(), left[0]
            self.steps += 1
            place = menu.actionGeometry(found).center()
            # A menu takes no click of a pointer that has not moved since it opened.
            for back in range(8, -1, -1):
                self._qtbot.mouseMove(menu, QPoint(place.x() - back, place.y()))
            left.pop(0)  # before the click: what an entry does may hold the event loop
            self._qtbot.mouseClick(menu, LEFT, pos=place)
            if left:
                QTimer.singleShot(30, entry)

        if left:
            QTimer.singleShot(30, entry)
        return left

    def answer_file_dialog(self, name: str) -> None:
        """Have a name typed and Return pressed in the next file dialog; it holds the event loop too."""

        def answer() -> None:
            dialog = QApplication.activeModalWidget()
            if not isinstance(dialog, QFileDialog) or not dialog.isVisible():
                QTimer.singleShot(30, answer)
                return
            field = dialog.findChildren(QLineEdit)[0]
            self.write(field, name)
            self.keys(field, Qt.Key.Key_Return)

        QTimer.singleShot(30, answer)

    def wait(self, ready: Ready, seconds: float = 60) -> None:
        self._qtbot.waitUntil(ready, timeout=int(seconds * 1000))
