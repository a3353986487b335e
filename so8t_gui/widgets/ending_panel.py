"""While a run is ending or hangs: what is going on, what will be on disk, and Kill after a countdown."""

from __future__ import annotations

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from so8t_engine.i18n import _
from so8t_gui.models.ending import going_on, kept_after_kill, on_disk
from so8t_gui.run_controller import KILL_AFTER_S, RunController

TICK_MS = 250


def kill_text(waited: float, can_kill: bool) -> str:
    """What the Kill button says after ``waited`` seconds."""
    left = KILL_AFTER_S - waited
    if can_kill and left > 0:
        return _("Kill (in %(seconds)d s)") % {"seconds": -int(-left // 1)}
    return _("Kill")


def _label(name: str = "") -> QLabel:
    label = QLabel()
    label.setObjectName(name)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setWordWrap(True)
    return label


class EndingWords(QWidget):
    """Two sentences, kept in step with the run."""

    def __init__(self, controller: RunController, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._controller = controller
        self.now, self.disk = _label("title"), _label("muted")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.now)
        layout.addWidget(self.disk)

    def refresh(self, waited: float | None) -> None:
        """Say what is so now."""
        controller, model = self._controller, self._controller.model
        stall = controller.session.stall if controller.session is not None else None
        if waited is None and stall is not None:
            self.now.setText(stall.sentence)
            self.disk.setText(f"{stall.mend} {kept_after_kill(model)}")
            return
        self.now.setText(going_on(model, controller.asked))
        late = waited is not None and waited >= KILL_AFTER_S
        text = on_disk(model, controller.asked)
        if late and controller.can_kill:
            text = _("This takes longer than usual.") + f" {kept_after_kill(model)}"
        elif late:
            text = _("This takes longer than usual; the trainer lives in this window's process.")
        self.disk.setText(text)


class EndingPanel(QFrame):
    """Hidden unless the run is ending or its trainer gives no sign of life."""

    kill_clicked = Signal()

    def __init__(self, controller: RunController, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("messageBar")
        self.setProperty("level", "warning")
        self._controller = controller
        self.words = EndingWords(controller)
        self.kill = QPushButton()
        self.kill.setProperty("role", "danger")
        self.kill.setToolTip(
            _("Ends the trainer's process at once. Nothing since the last checkpoint is kept.")
        )
        self.kill.clicked.connect(self.kill_clicked)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(12, 8, 8, 8)
        layout.addWidget(self.words, 1)
        layout.addWidget(self.kill, 0, Qt.AlignmentFlag.AlignTop)
        self._timer = QTimer(self)
        self._timer.setInterval(TICK_MS)
        self._timer.timeout.connect(self.refresh)
        self.hide()

    def refresh(self) -> None:
        """Show or hide, and count down."""
        controller = self._controller
        waited = controller.waiting_for_end()
        stalled = controller.session is not None and controller.session.stall is not None
        wanted = controller.live and (waited is not None or stalled)
        # While a run lives its trainer may fall silent, which no event tells.
        if controller.live and not self._timer.isActive():
            self._timer.start()
        elif not controller.live and self._timer.isActive():
            self._timer.stop()
        self.setVisible(wanted)
        if not wanted:
            return
        self.words.refresh(waited)
        seconds = KILL_AFTER_S if stalled else (waited or 0.0)
        self.kill.setText(kill_text(seconds, controller.can_kill))
        self.kill.setEnabled(controller.can_kill and seconds >= KILL_AFTER_S)
        self.kill.setVisible(controller.can_kill)

    def dispose(self) -> None:
        """Count no more: this panel is being replaced."""
        self._timer.stop()
