"""The review: one key a label, one key to take it back, doubtful rows first."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QObject, Qt, QThread, Signal
from PySide6.QtGui import QKeySequence, QShortcut
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QPlainTextEdit,
    QPushButton,
    QSplitter,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.data.labels import Task
from so8t_engine.i18n import N_, _
from so8t_engine.pipeline.preprocess.review import read_reviews
from so8t_engine.plain_text import visible
from so8t_gui.alignment import LEFT
from so8t_gui.models.review_table import MISSING, ReviewTable

HELP = N_(
    "Keys: 1 ALLOW, 2 ESCALATION, 3 DENY, 4 REFUSE, Space skips, Ctrl+Z takes back. "
    "The next run of the preprocessing applies the labels."
)


class _Loader(QThread):
    """Reads the rows to review away from the window."""

    loaded = Signal(object, object)

    def __init__(self, work: Path, file: Path, parent: QObject) -> None:
        super().__init__(parent)
        self._work, self._file = work, file

    def run(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            rows = pq.read_table(self._file).to_pylist()
        except (OSError, pa.ArrowException):
            rows = []
        self.loaded.emit(rows, read_reviews(self._work))


class ReviewPanel(QWidget):
    """Table, the whole text of the chosen row, and the balance of classes.

    Signals: ``failed`` with what could not be written.
    """

    failed = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.table_model = ReviewTable(self)
        self._loader: _Loader | None = None
        self._shown: tuple[Path, float] | None = None
        self.table = QTableView()
        self.table.setModel(self.table_model)
        self.table.setAccessibleName(_("Rows to review"))
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setAlternatingRowColors(True)
        self.table.setWordWrap(False)
        self.table.setTabKeyNavigation(False)
        header = self.table.horizontalHeader()
        header.setDefaultAlignment(LEFT)
        header.setStretchLastSection(True)
        for column in range(5):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.ResizeToContents)
        self.text = QPlainTextEdit()
        self.text.setReadOnly(True)
        self.text.setAccessibleName(_("Whole text"))
        self.text.setPlaceholderText(_("There are no rows to review; run the preprocessing first."))
        splitter = QSplitter(Qt.Orientation.Vertical)
        splitter.addWidget(self.table)
        splitter.addWidget(self.text)
        splitter.setStretchFactor(0, 3)
        splitter.setStretchFactor(1, 1)
        self.balance = QLabel()
        self.balance.setTextFormat(Qt.TextFormat.PlainText)
        self.balance.setWordWrap(True)
        self.help = QLabel(_(HELP))
        self.help.setObjectName("muted")
        self.help.setWordWrap(True)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 6, 0, 0)
        layout.addLayout(self._buttons())
        layout.addWidget(self.balance)
        layout.addWidget(splitter, 1)
        layout.addWidget(self.help)
        self.table.selectionModel().currentRowChanged.connect(self._show_text)
        self.table_model.decided.connect(self._show_balance)
        self._shortcuts()
        self._show_balance()

    def _buttons(self) -> QHBoxLayout:
        row = QHBoxLayout()
        self.buttons: dict[Task, QPushButton] = {}
        for task in Task:
            button = QPushButton(f"{task + 1} {task.name}")
            button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
            button.clicked.connect(lambda _checked=False, task=task: self.decide(task))
            self.buttons[task] = button
            row.addWidget(button)
        self.undo_button = QPushButton(_("&Take back"))
        self.undo_button.clicked.connect(self.undo)
        row.addWidget(self.undo_button)
        row.addStretch(1)
        return row

    def _shortcuts(self) -> None:
        def add(keys: QKeySequence | str, slot: object) -> None:
            shortcut = QShortcut(QKeySequence(keys), self)
            shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            shortcut.activated.connect(slot)

        for task in Task:
            add(str(task + 1), lambda task=task: self.decide(task))
        add("Space", lambda: self._go(1))
        add(QKeySequence(QKeySequence.StandardKey.Undo), self.undo)

    def load(self, work: Path, file: Path) -> None:
        """Show the rows in ``file``, unless they are shown already."""
        try:
            stamp = file.stat().st_mtime
        except OSError:
            self._shown = None
            self.table_model.load(work, [], {})
            self.text.clear()
            return
        if self._loader is not None or self._shown == (file, stamp):
            return
        self._shown = (file, stamp)
        self._loader = _Loader(work, file, self)
        self._loader.loaded.connect(lambda rows, done: self._loaded(work, rows, done))
        self._loader.finished.connect(self._loader_done)
        self._loader.start()

    def _loaded(self, work: Path, rows: object, decisions: object) -> None:
        assert isinstance(rows, list)
        assert isinstance(decisions, dict)
        self.table_model.load(work, rows, decisions)
        if rows:
            self.table.selectRow(0)
        else:
            self.text.clear()

    def _loader_done(self) -> None:
        if self._loader is not None:
            self._loader.deleteLater()
            self._loader = None

    def shut_down(self) -> None:
        """Wait for reading to end."""
        if self._loader is not None:
            self._loader.wait()

    def decide(self, task: Task) -> None:
        """Give the chosen row a class and go to the next."""
        index = self.table.currentIndex()
        if not index.isValid():
            return
        try:
            self.table_model.decide(index.row(), task)
        except OSError as error:
            self.failed.emit(error.strerror or str(error))
            return
        self._go(1)

    def undo(self) -> None:
        """Take the last decision back and go to its row."""
        try:
            row = self.table_model.undo()
        except OSError as error:
            self.failed.emit(error.strerror or str(error))
            return
        if row is not None:
            self.table.selectRow(row)

    def _go(self, by: int) -> None:
        row = self.table.currentIndex().row() + by
        if 0 <= row < self.table_model.rowCount():
            self.table.selectRow(row)

    def _show_text(self) -> None:
        index = self.table.currentIndex()
        if not index.isValid():
            self.text.clear()
            return
        row = self.table_model.rows[index.row()]
        parts = [str(row["prompt"] or ""), str(row["response"] or "")]
        self.text.setPlainText(
            "\n\n→ ".join("\n".join(visible(line, 4000) for line in p.split("\n")) for p in parts if p)
        )

    def _show_balance(self) -> None:
        counts = self.table_model.balance()
        names = [*(task.name for task in Task), MISSING]
        shown = "   ".join(f"{name} {counts[name]}" for name in names if counts[name])
        done = _("%(done)d of %(of)d reviewed") % {
            "done": self.table_model.reviewed(), "of": self.table_model.rowCount(),
        }  # fmt: skip
        self.balance.setText(f"{done}   {shown}".strip())
        self.undo_button.setEnabled(self.table_model.can_undo)
        for button in self.buttons.values():
            button.setEnabled(bool(self.table_model.rows))
