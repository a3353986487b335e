"""Everything that can be done, found by typing: actions, pages, settings, presets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from PySide6.QtCore import QEvent, QModelIndex, QObject, QPersistentModelIndex, QRect, Qt
from PySide6.QtGui import QAction, QKeyEvent, QKeySequence, QPainter
from PySide6.QtWidgets import (
    QDialog,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QMenu,
    QMenuBar,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.i18n import _
from so8t_gui import theme
from so8t_gui.alignment import RIGHT

MAX_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Entry:
    """Something to do. ``also``: further words by which it is found."""

    title: str
    do: Callable[[], object]
    keys: str = ""
    also: str = ""

    def matches(self, words: list[str]) -> bool:
        """Whether every word occurs."""
        text = f"{self.title} {self.also}".lower()
        return all(word in text for word in words)


def menu_entries(bar: QMenuBar) -> Iterable[Entry]:
    """The usable actions of a menu bar, with the menus' names before them."""

    def walk(menu: QMenu, before: str) -> Iterable[Entry]:
        for action in menu.actions():
            inner = action.menu()
            title = before + plain(action)
            if isinstance(inner, QMenu):
                yield from walk(inner, f"{title}: ")
            elif not action.isSeparator() and action.isEnabled():
                yield Entry(title, action.trigger, shown_keys(action.shortcut()))

    for top in bar.actions():
        menu = top.menu()
        if isinstance(menu, QMenu):
            yield from walk(menu, f"{plain(top)}: ")


def plain(action: QAction) -> str:
    """An action's text without its mnemonic, in Japanese also without the letter in brackets."""
    text = action.text()
    start = text.find("(&")
    if start >= 0 and text[start + 3 : start + 4] == ")":
        text = text[:start] + text[start + 4 :]
    return text.replace("&", "").replace("…", "")


def shown_keys(keys: QKeySequence) -> str:
    """Keys as they are printed on this computer."""
    return keys.toString(QKeySequence.SequenceFormat.NativeText)


class _Keys(QStyledItemDelegate):
    """The keys of an entry at the right of its row."""

    def paint(
        self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex
    ) -> None:
        super().paint(painter, option, index)
        entry: Entry = index.data(Qt.ItemDataRole.UserRole)
        place: QRect = option.rect.adjusted(0, 0, -10, 0)
        painter.setPen(theme.current().colour("muted"))
        painter.drawText(place, RIGHT, entry.keys)


class CommandPalette(QDialog):
    """A field and a list; Enter does what is marked, Up and Down move the mark, Esc leaves."""

    def __init__(self, entries: Iterable[Entry], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle(_("Commands"))
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.resize(560, 420)
        self._entries = list(entries)
        self.field = QLineEdit()
        self.field.setAccessibleName(_("Search commands"))
        self.field.setPlaceholderText(_("What do you want to do?"))
        self.field.textChanged.connect(self._fill)
        self.field.installEventFilter(self)
        self.list = QListWidget()
        self.list.setAccessibleName(_("Commands"))
        self.list.setItemDelegate(_Keys(self.list))
        self.list.itemActivated.connect(lambda _item: self.run_marked())
        layout = QVBoxLayout(self)
        layout.addWidget(self.field)
        layout.addWidget(self.list, 1)
        self._fill()

    def _fill(self) -> None:
        words = self.field.text().lower().split()
        self.list.clear()
        for entry in [entry for entry in self._entries if entry.matches(words)][:MAX_SHOWN]:
            item = QListWidgetItem(entry.title)
            item.setData(Qt.ItemDataRole.UserRole, entry)
            item.setData(Qt.ItemDataRole.AccessibleTextRole, f"{entry.title} {entry.keys}".rstrip())
            self.list.addItem(item)
        self.list.setCurrentRow(0)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Keys that belong to the list while the field has the keyboard."""
        if watched is self.field and isinstance(event, QKeyEvent) and event.type() is QEvent.Type.KeyPress:
            steps = {Qt.Key.Key_Down: 1, Qt.Key.Key_Up: -1, Qt.Key.Key_PageDown: 10, Qt.Key.Key_PageUp: -10}
            key = Qt.Key(event.key())
            if key in steps and self.list.count():
                row = self.list.currentRow() + steps[key]
                self.list.setCurrentRow(min(max(row, 0), self.list.count() - 1))
                return True
            if key in {Qt.Key.Key_Return, Qt.Key.Key_Enter}:
                self.run_marked()
                return True
        return False

    def run_marked(self) -> None:
        """Do what is marked; the dialog is gone before it begins."""
        item = self.list.currentItem()
        if not self.list.count():
            return
        entry: Entry = item.data(Qt.ItemDataRole.UserRole)
        self.accept()
        entry.do()
