"""Closing the window during a run: the question, and the wait for the trainer."""

from __future__ import annotations

from enum import Enum

from PySide6.QtCore import Qt, QTimer
from PySide6.QtWidgets import (
    QDialog,
    QHBoxLayout,
    QMessageBox,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.i18n import _
from so8t_gui.run_controller import KILL_AFTER_S, RunController
from so8t_gui.widgets.ending_panel import TICK_MS, EndingWords, kill_text


class CloseChoice(Enum):
    """What becomes of the run."""

    STOP = "stop"
    ABORT = "abort"
    KEEP = "keep"
    TRAY = "tray"
    CANCEL = "cancel"


def ask_before_closing(
    parent: QWidget, *, may_keep: bool, may_tray: bool = False, waiting: int = 0
) -> CloseChoice:
    """The question; closing it means Cancel.

    Args:
        may_keep: the trainer goes on without this program.
        may_tray: the desktop has a place for an icon, from where the window comes back.
        waiting: runs in the queue.
    """
    box = QMessageBox(parent)
    box.setObjectName("closeQuestion")
    box.setIcon(QMessageBox.Icon.Question)
    box.setTextFormat(Qt.TextFormat.PlainText)
    box.setWindowTitle(_("A run is going on"))
    box.setText(_("A run is going on. What shall become of it?"))
    texts = [_("'Stop and save' writes a checkpoint from which it can go on. 'Abort' saves nothing.")]
    if may_tray:
        texts.append(
            _("'Go on in the tray' only hides the window; the icon beside the clock shows it again.")
        )
    elif not may_keep:
        texts.append(
            _("This desktop has no tray, so the run cannot go on without a window; minimise it instead.")
        )
    if may_keep:
        texts.append(_("'Keep training' leaves it to itself; open it later from the history."))
    if waiting:
        texts.append(_queue_sentence(waiting, may_keep=may_keep, may_tray=may_tray))
    box.setInformativeText(" ".join(texts))
    role = QMessageBox.ButtonRole
    buttons = {box.addButton(_("Stop and save"), role.AcceptRole): CloseChoice.STOP}
    abort = box.addButton(_("Abort"), role.DestructiveRole)
    abort.setProperty("role", "danger")
    buttons[abort] = CloseChoice.ABORT
    if may_tray:
        buttons[box.addButton(_("Go on in the tray"), role.ActionRole)] = CloseChoice.TRAY
    if may_keep:
        buttons[box.addButton(_("Keep training"), role.ActionRole)] = CloseChoice.KEEP
    cancel = box.addButton(_("Cancel"), role.RejectRole)
    box.setEscapeButton(cancel)
    box.setDefaultButton(next(iter(buttons)))
    for button, choice in buttons.items():
        button.setObjectName(choice.value)
    box.exec()
    clicked = box.clickedButton()
    box.deleteLater()
    return next((choice for button, choice in buttons.items() if button is clicked), CloseChoice.CANCEL)


def _queue_sentence(waiting: int, *, may_keep: bool, may_tray: bool) -> str:
    """What becomes of the runs that wait."""
    count = {"count": waiting}
    if may_keep or may_tray:
        return _("%(count)d runs wait in the queue: they follow if the run goes on, else they stay.") % count
    return _("%(count)d runs wait in the queue and stay there until the next start.") % count


class EndingDialog(QDialog):
    """Stays until the trainer has ended; offers Kill once that takes long."""

    def __init__(self, controller: RunController, parent: QWidget) -> None:
        super().__init__(parent)
        self.setObjectName("ending")
        self.setWindowTitle(_("Ending the run"))
        self.setModal(True)
        self._controller = controller
        self.words = EndingWords(controller)
        bar = QProgressBar()
        bar.setRange(0, 0)
        bar.setTextVisible(False)
        bar.setAccessibleName(_("Progress"))
        self.kill = QPushButton(_("Kill"))
        self.kill.setProperty("role", "danger")
        self.kill.setEnabled(False)
        self.kill.clicked.connect(controller.kill)
        self.stay = QPushButton(_("Stay"))
        self.stay.setToolTip(_("Keeps the window open; the run still ends."))
        self.stay.clicked.connect(self.reject)
        row = QHBoxLayout()
        row.addStretch(1)
        row.addWidget(self.kill)
        row.addWidget(self.stay)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(18, 16, 18, 14)
        layout.setSpacing(12)
        layout.addWidget(self.words)
        layout.addWidget(bar)
        layout.addLayout(row)
        self.setMinimumWidth(520)
        self._timer = QTimer(self)
        self._timer.setInterval(TICK_MS)
        self._timer.timeout.connect(self._tick)
        self._timer.start()
        self._tick()
        controller.ended.connect(self._done)

    def _tick(self) -> None:
        if not self._controller.live:
            self.accept()
            return
        waited = self._controller.waiting_for_end() or 0.0
        self.kill.setText(kill_text(waited, self._controller.can_kill))
        self.kill.setEnabled(waited >= KILL_AFTER_S and self._controller.can_kill)
        self.kill.setVisible(self._controller.can_kill)
        self.words.refresh(waited)

    def _done(self, _status: int) -> None:
        self.accept()

    def done(self, result: int) -> None:
        """Stop ticking, however the dialog ends."""
        self._timer.stop()
        super().done(result)
