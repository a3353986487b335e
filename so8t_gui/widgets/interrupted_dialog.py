"""At the start: runs that no person ended, what was lost of each, and the offer to go on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QDialog,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.i18n import _
from so8t_engine.training.interrupted import Interrupted


class Answer(Enum):
    """What becomes of the interrupted runs."""

    CONTINUE = "continue"
    LATER = "later"
    NEVER = "never"


def _plain(text: str = "", name: str = "") -> QLabel:
    label = QLabel()
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setText(text)
    label.setObjectName(name)
    label.setWordWrap(True)
    return label


class InterruptedDialog(QDialog):
    """Shows ``runs``; after `done`, `answer` and `chosen` tell what was decided. Closing it means later."""

    def __init__(self, runs: Sequence[Interrupted], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("interrupted")
        self.setWindowTitle(_("Interrupted training"))
        self.setModal(True)
        self.setMinimumWidth(560)
        self.runs = list(runs)
        self.answer = Answer.LATER
        self.list = QListWidget()
        self.list.setAccessibleName(_("Interrupted runs"))
        self.list.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        for run in self.runs:
            self.list.addItem(QListWidgetItem(f"{run.path.name}   {self._when(run)}"))
        self.list.setCurrentRow(0)
        rows = min(6, len(self.runs))
        self.list.setSpacing(2)
        # The style's padding comes with the first painting, after which the hint of a row is too small.
        self.list.setFixedHeight(rows * (self.list.fontMetrics().height() + 10) + 12)
        self.list.setVisible(len(self.runs) > 1)
        self.name = _plain(name="title")
        self.cause, self.loss = _plain(), _plain()
        self.go = QPushButton(_("Continue training"))
        self.go.setProperty("role", "primary")
        self.go.setDefault(True)
        later = QPushButton(_("Later"))
        later.setToolTip(_("Asks again at the next start; the history offers it at any time."))
        never = QPushButton(_("Do not ask again"))
        never.setToolTip(_("Leaves these runs as they are; the history can still continue them."))
        self.buttons = {Answer.CONTINUE: self.go, Answer.LATER: later, Answer.NEVER: never}
        for answer, button in self.buttons.items():
            button.clicked.connect(lambda _checked=False, answer=answer: self._decide(answer))
        row = QHBoxLayout()
        row.addWidget(never)
        row.addStretch(1)
        row.addWidget(later)
        row.addWidget(self.go)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(18, 16, 18, 14)
        layout.setSpacing(8)
        count = len(self.runs)
        layout.addWidget(
            _plain(
                _("%(count)d runs were interrupted.") % {"count": count}
                if count > 1
                else _("A run was interrupted."),
                "pageTitle",
            )
        )
        for widget in (self.list, self.name, self.cause, self.loss):
            layout.addWidget(widget)
        layout.addSpacing(6)
        layout.addLayout(row)
        self.go.setFocus()
        self.list.currentRowChanged.connect(lambda _row: self._show())
        self._show()

    @staticmethod
    def _when(run: Interrupted) -> str:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(run.heard))

    @property
    def chosen(self) -> Interrupted:
        """The run that is selected."""
        return self.runs[max(0, self.list.currentRow())]

    def _show(self) -> None:
        run = self.chosen
        self.name.setText(run.path.name)
        self.cause.setText(
            _("Its trainer ended without a word, last heard of at %(time)s.") % {"time": self._when(run)}
            if run.died
            else _("It saved and stopped at %(time)s, because the program or the session ended.")
            % {"time": self._when(run)}
        )
        self.loss.setText(run.sentence())
        self.go.setEnabled(run.continuable)

    def _decide(self, answer: Answer) -> None:
        self.answer = answer
        self.done(QDialog.DialogCode.Accepted if answer is Answer.CONTINUE else QDialog.DialogCode.Rejected)

    @property
    def dismissed(self) -> list[Path]:
        """The runs that are not to be asked about again."""
        return [run.path for run in self.runs] if self.answer is Answer.NEVER else []
