"""A command of ``so8t`` in a process of its own: lines of progress, its JSON result, and a way to stop it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from PySide6.QtCore import QObject, QProcess, QProcessEnvironment, Signal

from so8t_engine.i18n import N_, _, language
from so8t_engine.plain_text import visible

KILL_AFTER_MS = 3000


class CommandRunner(QObject):
    """Runs one command at a time.

    Args:
        not_started, exit_code: said by `failed` with ``reason`` or ``code`` where the command says nothing.

    Signals:
        said: a line of progress.
        done: the object that ``--json`` printed.
        failed: what went wrong, in a sentence; empty after `cancel`.
    """

    said = Signal(str)
    done = Signal(object)
    failed = Signal(str)

    def __init__(
        self,
        parent: QObject | None = None,
        *,
        not_started: str = N_("The command could not be started: %(reason)s."),
        exit_code: str = N_("The command ended with exit code %(code)d."),
    ) -> None:
        super().__init__(parent)
        self._not_started, self._exit_code = not_started, exit_code
        self._process: QProcess | None = None
        self._cancelled = False

    @property
    def running(self) -> bool:
        """Whether the command is under way."""
        return self._process is not None

    def start(self, arguments: Sequence[str]) -> None:
        """Begin ``so8t`` with ``arguments`` and ``--json``; does nothing while one is running."""
        if self._process is not None:
            return
        self._cancelled = False
        process = QProcess(self)
        environment = QProcessEnvironment.systemEnvironment()
        environment.insert("SO8T_LANG", language())
        environment.insert("PYTHONIOENCODING", "utf-8")
        process.setProcessEnvironment(environment)
        process.readyReadStandardError.connect(self._progress)
        process.finished.connect(self._finished)
        process.errorOccurred.connect(self._failed_to_start)
        self._process = process
        process.start(sys.executable, ["-m", "so8t_engine.cli", *arguments, "--json"])

    def cancel(self) -> None:
        """Stop it; ``failed`` follows."""
        if self._process is not None:
            self._cancelled = True
            self._process.kill()

    def shut_down(self) -> None:
        """As `cancel`, and wait for the process."""
        process = self._process
        if process is not None:
            self.cancel()
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
            self.failed.emit(_(self._not_started) % {"reason": reason})

    def _finished(self, code: int, _status: QProcess.ExitStatus) -> None:
        if self._process is None:
            return
        output = bytes(self._process.readAllStandardOutput().data()).decode("utf-8", "replace")
        self._release()
        result = _parsed(output)
        if self._cancelled:
            self.failed.emit("")
        elif code == 0 and result is not None:
            self.done.emit(result)
        else:
            self.failed.emit(_said(result) or _(self._exit_code) % {"code": code})

    def _release(self) -> None:
        if self._process is not None:
            self._process.deleteLater()
        self._process = None


def _parsed(output: str) -> dict[str, Any] | None:
    try:
        found = json.loads(output)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _said(result: dict[str, Any] | None) -> str:
    """The sentence and mend of ``--json``'s error object; empty where there is none."""
    error = result.get("error") if result else None
    if not isinstance(error, dict):
        return ""
    return visible(f"{error.get('sentence', '')} {error.get('mend', '')}".strip())
