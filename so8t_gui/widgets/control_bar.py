"""The run's controls, its state in words, and its progress."""

from __future__ import annotations

import time

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QProgressBar, QPushButton, QVBoxLayout, QWidget

from so8t_engine.i18n import N_, _
from so8t_engine.training.states import COMMAND_NAMES, STATE_NAMES, Command, State
from so8t_gui import theme
from so8t_gui.alignment import RIGHT
from so8t_gui.models.clock import format_duration
from so8t_gui.models.run_model import RunModel
from so8t_gui.plain import plain_tooltip
from so8t_gui.run_controller import RunController
from so8t_gui.widgets.steady import SteadyBox, SteadyLabel

MISSING_TEXT = "—"
SOON_MS = 150

#: Shown from the click until the state event follows.
ASKED: dict[Command, str] = {
    Command.PAUSE: N_("pausing…"),
    Command.RESUME: N_("resuming…"),
    Command.CHECKPOINT: N_("saving…"),
    Command.STOP: N_("stopping…"),
    Command.ABORT: N_("aborting…"),
}
TOOLTIPS: dict[Command, str] = {
    Command.PAUSE: N_("Holds the run after the present step (Ctrl+P)."),
    Command.RESUME: N_("Goes on with a paused run (Ctrl+P)."),
    Command.CHECKPOINT: N_("Saves a checkpoint after the present step and goes on (Ctrl+S)."),
    Command.STOP: N_("Saves a checkpoint and ends the run; it can be continued later (Ctrl+.)."),
    Command.ABORT: N_("Ends the run without saving; asks first (Ctrl+Shift+.)."),
}


class ControlBar(QFrame):
    """Buttons enabled exactly as the state allows."""

    start_clicked = Signal()
    command_clicked = Signal(object)

    def __init__(self, controller: RunController, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("controlBar")
        self._controller = controller
        self._startable = (True, "")
        self.start = QPushButton(_("Start"))
        self.start.setProperty("role", "primary")
        self.start.clicked.connect(self.start_clicked)
        self.buttons: dict[Command, QPushButton] = {}
        for command in Command:
            button = QPushButton(_(COMMAND_NAMES[command]))
            button.setToolTip(_(TOOLTIPS[command]))
            button.setAccessibleName(_(COMMAND_NAMES[command]))
            button.clicked.connect(lambda _checked=False, c=command: self.command_clicked.emit(c))
            self.buttons[command] = button
        self.buttons[Command.ABORT].setProperty("role", "danger")
        self.state = self._label("state", SteadyLabel())
        self.state.setAccessibleName(_("State of the run"))
        self.detail = self._label("muted")
        self.detail.setWordWrap(True)
        # Progress is told many times a second.
        self._detail_box = SteadyBox(self.detail)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setAccessibleName(_("Progress"))
        self.figures = self._label("muted", SteadyLabel())
        self.figures.setAlignment(RIGHT)
        self._arrange()
        self._second = QTimer(self)
        self._second.setInterval(1000)
        self._second.timeout.connect(self.refresh)
        self._soon = QTimer(self, singleShot=True, interval=SOON_MS)
        self._soon.timeout.connect(self.refresh)
        self.refresh()

    @staticmethod
    def _label(name: str, label: QLabel | None = None) -> QLabel:
        label = label or QLabel()
        label.setObjectName(name)
        label.setTextFormat(Qt.TextFormat.PlainText)
        return label

    def _arrange(self) -> None:
        buttons = QHBoxLayout()
        buttons.setSpacing(6)
        for button in (self.start, *self.buttons.values()):
            buttons.addWidget(button)
        words = QHBoxLayout()
        words.setSpacing(10)
        words.addWidget(self.state)
        words.addWidget(self._detail_box, 1)
        above, below = QHBoxLayout(), QHBoxLayout()
        above.addLayout(words, 1)
        above.addLayout(buttons)
        # The bar ends where the figures begin, and takes the whole row while there are none.
        below.setSpacing(14)
        below.addStrut(self.fontMetrics().height() + 1)  # as high without them
        below.addWidget(self.bar, 1)
        below.addWidget(self.figures)
        rows = QVBoxLayout(self)
        rows.setContentsMargins(12, 9, 12, 9)
        rows.setSpacing(7)
        rows.addLayout(above)
        rows.addLayout(below)

    def set_startable(self, possible: bool, reason: str) -> None:
        """Whether the settings allow a start, and if not why not."""
        self._startable = (possible, reason)
        self.refresh()

    def refresh_soon(self) -> None:
        """Bring figures up to date, a few times a second however many events there are."""
        if not self._soon.isActive():
            self._soon.start()

    def refresh(self) -> None:
        """Bring everything in line with the controller and its model."""
        controller, model = self._controller, self._controller.model
        live = controller.live
        if live and not self._second.isActive():
            self._second.start()
        elif not live and self._second.isActive():
            self._second.stop()
        possible, reason = self._startable
        self.start.setEnabled(not live and possible)
        self.start.setToolTip(
            _("A run is going on.")
            if live
            else plain_tooltip(reason)
            if not possible
            else _("Starts a new run (Ctrl+Return).")
        )
        for command, button in self.buttons.items():
            button.setEnabled(controller.accepts(command))
        self.state.setText(self._state_text(model))
        level = "bad" if model.state is State.FAILED and not live else ""
        if self.state.property("level") != level:
            self.state.setProperty("level", level)
            theme.restyle(self.state)
        self.detail.setText(self._detail_text(model))
        self._detail_box.fit()
        self._show_progress(model)

    def _state_text(self, model: RunModel) -> str:
        asked = self._controller.asked
        if asked is not None:
            return _(ASKED[asked])
        if self._controller.live and model.state is State.IDLE:
            return _("starting…")
        return _(STATE_NAMES[model.state])

    def _detail_text(self, model: RunModel) -> str:
        if model.live and model.progress is not None:
            work = model.progress
            amount = f"{work.done}/{work.of}" if work.of is not None else str(work.done)
            return f"{work.what} {amount}"
        if self._controller.run_path is not None:
            return self._controller.run_path.name
        possible, reason = self._startable
        return _("Choose the settings and press Start.") if possible else reason

    def _show_progress(self, model: RunModel) -> None:
        step = model.last_step
        if step is None:
            busy = self._controller.live and model.state in {State.IDLE, State.LOADING}
            self.bar.setRange(0, 0 if busy else 1)
            self.bar.setValue(0)
            self.figures.setText("")
            self.figures.hide()
            return
        self.bar.setRange(0, max(1, step.of))
        self.bar.setValue(step.step)
        now = time.time() if self._controller.live else 0.0
        left = model.clock.remaining(step.of - step.step) if model.live else None
        parts = [
            _("step %(step)d of %(of)d") % {"step": step.step, "of": step.of},
            _("epoch %(epoch).2f") % {"epoch": step.epoch},
            _("elapsed %(time)s") % {"time": format_duration(model.clock.elapsed(now))},
        ]
        if model.live:
            rest = MISSING_TEXT if left is None else format_duration(left)
            parts.append(_("about %(time)s left (estimate)") % {"time": rest})
        self.figures.setText("   ".join(parts))
        self.figures.show()
