"""A probe in a process of its own, started from the settings page; the window stays free and can stop it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from PySide6.QtCore import QObject, Signal

from so8t_engine.config import Config
from so8t_engine.i18n import N_, _
from so8t_gui.command_runner import CommandRunner


class ProbeRunner(QObject):
    """Runs ``so8t probe`` for one configuration at a time.

    Signals: ``said`` with a line of progress; ``ended`` with an empty string, or with what went wrong.
    """

    said = Signal(str)
    ended = Signal(str)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._folder: TemporaryDirectory[str] | None = None
        self._runner = CommandRunner(
            self,
            not_started=N_("The probe could not be started: %(reason)s."),
            exit_code=N_("The probe ended with exit code %(code)d."),
        )
        self._runner.said.connect(self.said)
        self._runner.done.connect(lambda _result: self._end(""))
        self._runner.failed.connect(lambda reason: self._end(reason or _("The probe was cancelled.")))

    @property
    def running(self) -> bool:
        """Whether a probe is under way."""
        return self._runner.running

    def start(self, config: Config) -> None:
        """Begin; does nothing while one is running."""
        if self.running:
            return
        self._folder = TemporaryDirectory(prefix="so8t-probe-", ignore_cleanup_errors=True)
        file = Path(self._folder.name) / "probe.yaml"
        file.write_text(config.to_yaml(), encoding="utf-8")
        self._runner.start(["probe", str(file)])

    def cancel(self) -> None:
        """Stop the probe; nothing of it is kept. ``ended`` follows."""
        self._runner.cancel()

    def shut_down(self) -> None:
        """As `cancel`, and wait for the process: the window is closing."""
        self._runner.shut_down()

    def _end(self, reason: str) -> None:
        if self._folder is not None:
            self._folder.cleanup()
        self._folder = None
        self.ended.emit(reason)
