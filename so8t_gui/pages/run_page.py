"""The page of the run that the window drives."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QKeySequence, QShortcut
from PySide6.QtWidgets import QMessageBox, QVBoxLayout, QWidget

from so8t_engine.i18n import _
from so8t_engine.training.checkpoint import checkpoints
from so8t_engine.training.states import Command
from so8t_gui.models.ending import kept_after_kill, on_disk
from so8t_gui.preferences import Preferences
from so8t_gui.queue_controller import QueueController
from so8t_gui.run_controller import RunController
from so8t_gui.widgets.control_bar import ControlBar
from so8t_gui.widgets.ending_panel import EndingPanel
from so8t_gui.widgets.message_bar import MessageBar
from so8t_gui.widgets.queue_strip import QueueStrip
from so8t_gui.widgets.run_view import RunView


class RunPage(QWidget):
    """Controls, messages and the view of the run.

    Signals:
        resume_asked: the folder of the run that failed and is to go on.
        queue_asked: the whole queue is to be shown.
    """

    resume_asked = Signal(object)
    queue_asked = Signal()

    def __init__(
        self,
        controller: RunController,
        preferences: Preferences | None = None,
        queue: QueueController | None = None,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._controller = controller
        self._announced: tuple[object, ...] = ()
        self.controls = ControlBar(controller)
        self.ending = EndingPanel(controller)
        self.message = MessageBar()
        self.view = RunView(preferences)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(12, 10, 12, 8)
        layout.setSpacing(8)
        layout.addWidget(self.controls)
        layout.addWidget(self.ending)
        layout.addWidget(self.message)
        self.queue = QueueStrip(queue) if queue is not None else None
        if self.queue is not None:
            self.queue.show_asked.connect(self.queue_asked)
            controller.state_changed.connect(self.queue.refresh)
            layout.addWidget(self.queue)
        layout.addWidget(self.view, 1)
        self.controls.command_clicked.connect(self.ask)
        self.ending.kill_clicked.connect(self.kill)
        controller.replaced.connect(self._bind)
        controller.state_changed.connect(self.controls.refresh)
        controller.state_changed.connect(self.ending.refresh)
        controller.digested.connect(self._on_digested)
        controller.failed.connect(self._on_failed)
        controller.ended.connect(self._on_ended)
        for keys, action in (
            ("Ctrl+P", self._pause_or_resume),
            ("Ctrl+S", lambda: self.ask(Command.CHECKPOINT)),
            ("Ctrl+.", lambda: self.ask(Command.STOP)),
            ("Ctrl+Shift+.", lambda: self.ask(Command.ABORT)),
            ("Ctrl+L", self.view.log.focus_text),
        ):
            QShortcut(QKeySequence(keys), self, action)
        self._bind()

    def show_alarm(self, sentence: str, mend: str) -> None:
        """Something about the figures of the run that a person should look at."""
        self.message.show_message("warning", sentence, mend)

    def disconnect_controller(self) -> None:
        """Hear nothing more of the run: this page is being replaced."""
        controller = self._controller
        controller.replaced.disconnect(self._bind)
        controller.state_changed.disconnect(self.controls.refresh)
        controller.state_changed.disconnect(self.ending.refresh)
        self.ending.dispose()
        if self.queue is not None:
            controller.state_changed.disconnect(self.queue.refresh)
            self.queue.disconnect_controller()
        controller.digested.disconnect(self._on_digested)
        controller.failed.disconnect(self._on_failed)
        controller.ended.disconnect(self._on_ended)

    def _bind(self) -> None:
        self.message.hide()
        self._announced = ()
        self.view.bind(self._controller.model, self._controller.run_path)
        self.controls.refresh()
        self.ending.refresh()

    def _on_digested(self) -> None:
        self.view.poke()
        self.controls.refresh_soon()
        self._announce()

    def _announce(self) -> None:
        """Say once what must not be missed."""
        model = self._controller.model
        news = (model.last_error, model.converged_at)
        if news == self._announced:
            return
        before, self._announced = self._announced, news
        if model.last_error is not None and (not before or before[0] is not model.last_error):
            self.message.show_message("error", model.last_error.sentence, model.last_error.mend)
        elif model.converged_at is not None:
            self.message.show_message("good", model.convergence_sentence())

    def _on_failed(self, sentence: str, mend: str) -> None:
        self.message.show_message("error", sentence, mend)

    def _on_ended(self, _status: int) -> None:
        self.controls.refresh()
        self.ending.refresh()
        self._offer_resume()
        self.view.poke()

    def _offer_resume(self) -> None:
        """A run that failed stays on the page, with its cause and the way on."""
        model, path = self._controller.model, self._controller.run_path
        if model.last_error is None or path is None or self._controller.live:
            return
        can_go_on = bool(checkpoints(path / "checkpoints"))
        self.message.show_message(
            "error",
            model.last_error.sentence,
            model.last_error.mend,
            _("Continue training") if can_go_on else "",
            (lambda: self.resume_asked.emit(path)) if can_go_on else None,
        )

    def _pause_or_resume(self) -> None:
        self.ask(Command.PAUSE if self._controller.accepts(Command.PAUSE) else Command.RESUME)

    def ask(self, command: Command) -> None:
        """Send a command if the state takes it; abort asks first."""
        if not self._controller.accepts(command):
            return
        if command is Command.ABORT and not self._confirm(
            _("Abort the run?"),
            on_disk(self._controller.model, Command.ABORT) + " " + _("'Stop and save' loses nothing."),
            _("Abort"),
        ):
            return
        self._controller.send(command)

    def kill(self) -> None:
        """End the trainer at once, after asking."""
        if self._confirm(
            _("Kill the trainer?"),
            _("Its process ends at once.") + " " + kept_after_kill(self._controller.model),
            _("Kill"),
        ):
            self._controller.kill()

    def _confirm(self, title: str, text: str, yes: str) -> bool:
        box = QMessageBox(self)
        box.setObjectName("confirm")
        box.setIcon(QMessageBox.Icon.Question)
        box.setTextFormat(Qt.TextFormat.PlainText)
        box.setWindowTitle(title)
        box.setText(title)
        box.setInformativeText(text)
        accept = box.addButton(yes, QMessageBox.ButtonRole.DestructiveRole)
        accept.setProperty("role", "danger")
        cancel = box.addButton(_("Cancel"), QMessageBox.ButtonRole.RejectRole)
        # Return must not lose work.
        box.setDefaultButton(cancel)
        box.setEscapeButton(cancel)
        box.exec()
        chosen = box.clickedButton() is accept
        box.deleteLater()
        return chosen
