"""A probe in a process of its own, started from the settings page; the window stays free and can stop it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PySide6.QtCore import QObject, QProcess, QProcessEnvironment, Signal

from so8t_engine.config import Config
from so8t_engine.i18n import _, language
from so8t_engine.plain_text import visible

KILL_AFTER_MS = 3000


class ProbeRunner(QObject):
    """Runs ``so8t probe`` for one configuration at a time.

    Signals: ``said`` with a line of progress; ``ended`` with an empty string, or with what went wrong.
    """

    said = Signal(str)
    ended = Signal(str)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._process: QProcess | None = None
        self._folder: TemporaryDirectory[str] | None = None
        self._cancelled = False

    @property
    def running(self) -> bool:
        """Whether a probe is under way."""
        return self._process is not None

    def start(self, config: Config) -> None:
        """Begin; does nothing while one is running."""
        if self._process is not None:
            return
        self._cancelled = False
        self._folder = TemporaryDirectory(prefix="so8t-probe-")
        file = Path(self._folder.name) / "probe.yaml"
        file.write_text(config.to_yaml(), encoding="utf-8")
        process = QProcess(self)
        environment = QProcessEnvironment.systemEnvironment()
        environment.insert("SO8T_LANG", language())
        environment.insert("PYTHONIOENCODING", "utf-8")
        process.setProcessEnvironment(environment)
        process.setWorkingDirectory(os.getcwd())  # noqa: PTH109  (paths in the settings are relative to it)
        process.readyReadStandardError.connect(self._progress)
        process.finished.connect(self._finished)
        process.errorOccurred.connect(self._failed_to_start)
        self._process = process
        process.start(sys.executable, ["-m", "so8t_engine.cli", "probe", str(file), "--json"])

    def cancel(self) -> None:
        """Stop the probe; nothing of it is kept. ``ended`` follows."""
        if self._process is None:
            return
        self._cancelled = True
        self._process.kill()

    def shut_down(self) -> None:
        """As `cancel`, and wait for the process: the window is closing."""
        process = self._process
        if process is not None:
            self._cancelled = True
            process.kill()
            process.waitForFinished(KILL_AFTER_MS)

    def _progress(self) -> None:
        if self._process is None:
            return
        text = bytes(self._process.readAllStandardError().data()).decode("utf-8", "replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if lines:
            self.said.emit(visible(lines[-1]))

    def _failed_to_start(self, error: QProcess.ProcessError) -> None:
        if error is QProcess.ProcessError.FailedToStart and self._process is not None:
            reason = self._process.errorString()
            self._release()
            self.ended.emit(_("The probe could not be started: %(reason)s.") % {"reason": reason})

    def _finished(self, code: int, _status: QProcess.ExitStatus) -> None:
        process = self._process
        if process is None:
            return
        output = bytes(process.readAllStandardOutput().data()).decode("utf-8", "replace")
        self._release()
        if self._cancelled:
            self.ended.emit(_("The probe was cancelled."))
        elif code == 0:
            self.ended.emit("")
        else:
            self.ended.emit(_reason(output, code))

    def _release(self) -> None:
        if self._process is not None:
            self._process.deleteLater()
        self._process = None
        if self._folder is not None:
            self._folder.cleanup()
        self._folder = None


def _reason(output: str, code: int) -> str:
    """The sentence of ``--json``'s error object, or the exit code where there is none."""
    try:
        error = json.loads(output)["error"]
        return visible(f"{error['sentence']} {error['mend']}".strip())
    except (ValueError, KeyError, TypeError):
        return _("The probe ended with exit code %(code)d.") % {"code": code}
