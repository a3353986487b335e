"""What a window does first: take up the run that went on without it, offer those that were interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject

from so8t_engine.errors import SO8TError
from so8t_engine.i18n import _
from so8t_engine.training.process import ProcessMark
from so8t_engine.training.run_directory import RunDirectory

if TYPE_CHECKING:
    from so8t_engine.training.interrupted import Interrupted
    from so8t_gui.history_loader import StartScan
    from so8t_gui.main_window import MainWindow
    from so8t_gui.widgets.interrupted_dialog import InterruptedDialog


def _outlives_windows(path: Path) -> bool:
    """Whether a run goes on without its window. One that cannot be read is not taken up unasked."""
    try:
        return RunDirectory.open(path).config().run.when_window_dies == "continue"
    except SO8TError:
        return False


class StartUp(QObject):
    """Looks at the runs folder once, in the background.

    A living run that was meant to outlive its window is attached to; another living one is offered. Runs
    that were interrupted are offered in a dialog, unless a person asked not to be.
    """

    def __init__(self, window: MainWindow) -> None:
        super().__init__(window)
        self._window = window
        self.dialog: InterruptedDialog | None = None
        self._scan: StartScan | None = None

    def look(self, folder: Path) -> None:
        """Begin; what is found is dealt with when the scan has ended."""
        from so8t_gui.history_loader import StartScan

        self._scan = StartScan(folder.expanduser().absolute(), self)
        self._scan.found.connect(self._found)
        self._scan.finished.connect(self._done)
        self._scan.start()

    def shut_down(self) -> None:
        """Wait for the scan: the window is closing."""
        if self._scan is not None:
            self._scan.wait()
        if self.dialog is not None:
            self.dialog.reject()

    def _done(self) -> None:
        scan, self._scan = self._scan, None
        if scan is not None:
            scan.wait()
            scan.deleteLater()

    def _found(self, live: list[Path], interrupted: list[Interrupted]) -> None:
        from so8t_gui.widgets.interrupted_dialog import InterruptedDialog

        if self._window.controller.live:
            return
        if live:
            self._offer_live(live)
            return
        left_alone = self._window.preferences.left_alone
        runs = [run for run in interrupted if run.step and str(run.path) not in left_alone]
        if runs and self._window.isVisible():
            self.dialog = InterruptedDialog(runs, self._window)
            self.dialog.finished.connect(self._answered)
            self.dialog.open()

    def _offer_live(self, live: list[Path]) -> None:
        mine = [path for path in live if _outlives_windows(path)]
        if len(mine) == 1:
            self._window.attach(mine[0])
            return
        path = live[0]
        mark = ProcessMark.read(RunDirectory(path).process)
        self._window.run_page.message.show_message(
            "good",
            _("The run %(name)s is being trained by process %(pid)d.")
            % {"name": path.name, "pid": mark.pid if mark is not None else 0},
            _("This window can watch and control it.")
            if len(live) == 1
            else _("It is one of %(count)d; the history shows all.") % {"count": len(live)},
            _("Watch and control"),
            lambda: self._window.attach(path),
        )

    def _answered(self) -> None:
        from so8t_gui.widgets.interrupted_dialog import Answer

        dialog, self.dialog = self.dialog, None
        if dialog is None:
            return
        if dialog.answer is Answer.CONTINUE:
            self._window.resume(dialog.chosen.path)
        elif dialog.dismissed:
            self._window.preferences.leave_alone({str(path) for path in dialog.dismissed})
        dialog.deleteLater()
