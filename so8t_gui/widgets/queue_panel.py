"""The queue of runs: what waits, in which order, and what becomes of it after a failure."""

from __future__ import annotations

from PySide6.QtCore import QModelIndex, Qt, Signal
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QFrame,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.history.queue import ON_FAILURE_NAMES, OnFailure
from so8t_engine.i18n import _
from so8t_engine.plain_text import visible
from so8t_gui.plain import plain_tooltip
from so8t_gui.queue_controller import QueueController
from so8t_gui.widgets.empty_note import EmptyNote


class _Waiting(QListWidget):
    """Signals: ``move_asked`` by so many places; ``remove_asked``."""

    move_asked = Signal(int)
    remove_asked = Signal()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Alt with an arrow moves the run itself, Delete takes it out."""
        by = {Qt.Key.Key_Up: -1, Qt.Key.Key_Down: 1}.get(Qt.Key(event.key()), 0)
        if by and event.modifiers() & Qt.KeyboardModifier.AltModifier:
            self.move_asked.emit(by)
        elif event.key() == Qt.Key.Key_Delete:
            self.remove_asked.emit()
        else:
            super().keyPressEvent(event)


class QueuePanel(QFrame):
    """Signals: ``add_asked`` for the settings page's run; ``edit_asked`` with a queued run's file."""

    add_asked = Signal()
    edit_asked = Signal(object)

    def __init__(self, queue: QueueController, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("card")
        self._queue = queue
        title = QLabel(_("Queue"))
        title.setObjectName("title")
        self.hint = QLabel()
        self.hint.setObjectName("muted")
        self.hint.setTextFormat(Qt.TextFormat.PlainText)
        self.list = _Waiting()
        self.list.setAccessibleName(_("Runs that wait"))
        self.list.setDragDropMode(QAbstractItemView.DragDropMode.InternalMove)
        self.list.setDefaultDropAction(Qt.DropAction.MoveAction)
        self.list.setFixedHeight(self.fontMetrics().lineSpacing() * 5 + 30)
        self.list.setToolTip(_("Drag a run, or press Alt+Up and Alt+Down, to change the order."))
        self.list.currentRowChanged.connect(lambda _row: self._refresh_buttons())
        self.list.itemActivated.connect(lambda _item: self._edit())
        EmptyNote(self.list, _("Runs that wait stand here; they start one after the other."))
        self.list.model().rowsMoved.connect(self._dragged)
        self.add = self._button(
            _("Add the setti&ngs"), _("Appends a run with the settings as they stand."), self.add_asked.emit
        )
        self.up = self._button("↑", _("Earlier (Alt+Up)"), lambda: self._move(-1))
        self.down = self._button("↓", _("Later (Alt+Down)"), lambda: self._move(1))
        self.up.setAccessibleName(_("Earlier"))
        self.down.setAccessibleName(_("Later"))
        self.remove = self._button(_("Remo&ve"), _("Takes the run out of the queue (Delete)."), self._remove)
        self.undo = self._button(_("&Undo"), _("Puts the run back that was removed last."), queue.undo)
        self.start = self._button(
            _("Start the ne&xt"), _("Trains the first run that waits; the others follow."), queue.start_next
        )
        self.choice = QComboBox()
        self.choice.setAccessibleName(_("After a failure"))
        for key, name in ON_FAILURE_NAMES.items():
            self.choice.addItem(_(name), str(key))
        self.choice.activated.connect(lambda _row: queue.set_on_failure(OnFailure(self.choice.currentData())))
        self._arrange(title)
        self.list.move_asked.connect(self._move)
        self.list.remove_asked.connect(self._remove)
        queue.changed.connect(self.refresh)
        self.refresh()

    def _arrange(self, title: QLabel) -> None:
        head = QHBoxLayout()
        head.addWidget(title)
        head.addWidget(self.hint, 1)
        label = QLabel(_("After a &failure"))
        label.setBuddy(self.choice)
        head.addWidget(label)
        head.addWidget(self.choice)
        foot = QHBoxLayout()
        for button in (self.add, self.start, self.up, self.down, self.remove, self.undo):
            foot.addWidget(button)
        foot.addStretch(1)
        column = QVBoxLayout(self)
        column.setContentsMargins(12, 8, 12, 10)
        column.addLayout(head)
        column.addWidget(self.list, 1)
        column.addLayout(foot)

    @staticmethod
    def _button(text: str, tip: str, slot: object) -> QPushButton:
        button = QPushButton(text)
        button.setToolTip(tip)
        button.clicked.connect(lambda _on=False: slot())  # type: ignore[operator]
        return button

    def disconnect_controller(self) -> None:
        """Hear nothing more of the queue: this panel is being replaced."""
        self._queue.changed.disconnect(self.refresh)

    def refresh(self) -> None:
        """Show the queue as it is; what was chosen stays chosen."""
        row = self.list.currentRow()
        chosen = self.list.item(row).data(Qt.ItemDataRole.UserRole) if row >= 0 else None
        self.list.clear()
        for place, entry in enumerate(self._queue.entries, 1):
            problem = f"  –  {visible(entry.problem, 200)}" if entry.problem else ""
            item = QListWidgetItem(f"{place}.  {visible(entry.name, 80)}{problem}")
            item.setData(Qt.ItemDataRole.UserRole, entry.id)
            item.setToolTip(plain_tooltip(entry.problem or str(entry.file)))
            self.list.addItem(item)
            if entry.id == chosen:
                self.list.setCurrentItem(item)
        if self.list.currentRow() < 0 and self.list.count():
            self.list.setCurrentRow(min(max(row, 0), self.list.count() - 1))
        self.hint.setText("" if self.list.count() else _("No run waits."))
        self.choice.setCurrentIndex(self.choice.findData(str(self._queue.on_failure)))
        self._refresh_buttons()

    def _refresh_buttons(self) -> None:
        row, count = self.list.currentRow(), self.list.count()
        self.up.setEnabled(row > 0)
        self.down.setEnabled(0 <= row < count - 1)
        self.remove.setEnabled(row >= 0)
        self.undo.setVisible(self._queue.can_undo)
        self.start.setEnabled(self._queue.can_start)

    def _move(self, by: int) -> None:
        row = self.list.currentRow()
        if 0 <= row + by < self.list.count():
            self._queue.move(row, row + by)

    def _dragged(self, _parent: QModelIndex, start: int, _end: int, _to: QModelIndex, row: int) -> None:
        # Qt counts the place before the row was taken out; the list is read anew afterwards.
        self._queue.move(start, row - 1 if row > start else row)

    def _remove(self) -> None:
        self._queue.remove(self.list.currentRow())

    def _edit(self) -> None:
        row = self.list.currentRow()
        if 0 <= row < len(self._queue.entries):
            self.edit_asked.emit(self._queue.entries[row].file)
