"""Leaving the window: the question during a run, the tray, the wait for the trainer; no orphan is left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, QTimer
from PySide6.QtGui import QCloseEvent
from PySide6.QtWidgets import QApplication

from so8t_engine.i18n import _
from so8t_engine.training.states import Command
from so8t_gui import tray
from so8t_gui.widgets.close_dialogs import CloseChoice, EndingDialog, ask_before_closing

if TYPE_CHECKING:
    from so8t_gui.main_window import MainWindow


class Leaving(QObject):
    """What a closed window's run becomes."""

    def __init__(self, window: MainWindow) -> None:
        super().__init__(window)
        self._window = window
        self._ending: EndingDialog | None = None
        self._asking = False
        self.sure = False
        self.tray = tray.Tray(window, self.come_back, self.close_without_asking)

    @property
    def in_tray(self) -> bool:
        """Whether the window is closed and its run goes on in this process."""
        return bool(self.tray.actions)

    def close_without_asking(self) -> None:
        """Stop and save if a run lives, wait for it, close. For signals and ends of sessions."""
        if self._ending is None:
            self._end_run(CloseChoice.STOP)

    def may_close(self, event: QCloseEvent) -> bool:
        """Whether the window may close now; if not, the event is ignored and the question follows."""
        if not self._window.controller.live or self.sure:
            return True
        event.ignore()
        # Qt ignores a close() made inside closeEvent, so the question comes after it.
        QTimer.singleShot(0, self, self._ask_and_leave)
        return False

    def _ask_and_leave(self) -> None:
        if self._asking or self._ending is not None:
            return
        self._asking = True
        try:
            choice = self._ask()
        finally:
            self._asking = False
        self._end_run(choice)

    def _ask(self) -> CloseChoice:
        controller = self._window.controller
        session, config = controller.session, controller.config
        joined = session is not None and session.attached
        continues = config is not None and config.run.when_window_dies == "continue"
        in_process = session is not None and session.in_process
        return ask_before_closing(
            self._window,
            may_keep=(joined or continues) and not in_process,
            may_tray=tray.tray_available(),
            waiting=len(self._window.queue.entries),
        )

    def _end_run(self, choice: CloseChoice) -> None:
        controller = self._window.controller
        if choice is CloseChoice.CANCEL:
            return
        if choice is CloseChoice.TRAY:
            self._to_tray()
            return
        if choice is CloseChoice.KEEP:
            path = controller.run_path
            controller.detach()
            if path is not None:
                self._window.queue.hand_over(path)
        if not controller.live:
            self._leave()
            return
        controller.send_when_possible(Command.ABORT if choice is CloseChoice.ABORT else Command.STOP)
        self.come_back()
        # Not exec(): a nested event loop would hold up whoever closed the window.
        self._ending = EndingDialog(controller, self._window)
        self._ending.finished.connect(self._on_ending)
        self._ending.open()

    def _on_ending(self) -> None:
        if self._ending is not None:
            self._ending.deleteLater()
            self._ending = None
        if not self._window.controller.live:
            self._leave()

    def _leave(self) -> None:
        self.sure = True
        self.tray.take_down()
        self._set_quit_with_window(True)
        self._window.close()

    # The tray

    def _to_tray(self) -> None:
        path = self._window.controller.run_path
        self._set_quit_with_window(False)
        self.tray.put_up(_("SO8T Control Panel") + (f" – {path.name}" if path is not None else ""))
        self._window.hide()

    def come_back(self) -> None:
        """Show the window again."""
        if self.in_tray:
            self.tray.take_down()
            self._set_quit_with_window(True)
        self._window.show()
        self._window.raise_()
        self._window.activateWindow()

    @staticmethod
    def _set_quit_with_window(on: bool) -> None:
        app = QApplication.instance()
        if isinstance(app, QApplication):
            app.setQuitOnLastWindowClosed(on)
