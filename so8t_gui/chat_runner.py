"""The model one chats with: a child process of its own. This process never loads torch."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from PySide6.QtCore import QObject, QProcess, QProcessEnvironment, Signal

from so8t_engine.i18n import _, language
from so8t_engine.plain_text import visible

LET_GO_MS = 3000


class ChatRunner(QObject):
    """Loads one run at a time, passes questions on and answers back.

    Signals:
        changed: loading, loaded, busy or gone.
        told: an answer of the child, see `so8t_engine.serving.chat_child`.
        failed: the child could not be started, or ended by itself; one sentence.
    """

    changed = Signal()
    told = Signal(dict)
    failed = Signal(str)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._process: QProcess | None = None
        self._buffer = b""
        self.run: Path | None = None
        self.loaded: dict[str, Any] | None = None
        self.busy = False

    @property
    def alive(self) -> bool:
        """A child exists: it loads, or it is loaded and holds memory."""
        return self._process is not None

    @property
    def pid(self) -> int:
        return 0 if self._process is None else int(self._process.processId())

    def load(self, run: Path, device: str = "") -> None:
        """Start the child for ``run``; ends the one there is."""
        self.unload()
        process = QProcess(self)
        environment = QProcessEnvironment.systemEnvironment()
        environment.insert("SO8T_LANG", language())
        environment.insert("PYTHONIOENCODING", "utf-8")
        process.setProcessEnvironment(environment)
        process.setWorkingDirectory(os.getcwd())  # noqa: PTH109  (paths in the run's settings are relative to it)
        process.readyReadStandardOutput.connect(self._read)
        process.readyReadStandardError.connect(self._drain)
        process.finished.connect(self._finished)
        process.errorOccurred.connect(self._not_started)
        self._process, self.run, self._buffer = process, run, b""
        arguments = ["-m", "so8t_engine.serving.chat_child", str(run), *([device] if device else [])]
        process.start(sys.executable, arguments)
        self.changed.emit()

    def unload(self) -> None:
        """End the child: its memory is the system's again."""
        process, self._process = self._process, None
        self.loaded, self.busy = None, False
        if process is None:
            return
        process.readyReadStandardOutput.disconnect(self._read)
        process.finished.disconnect(self._finished)
        process.kill()
        process.waitForFinished(LET_GO_MS)
        process.deleteLater()
        self.changed.emit()

    def ask(self, **command: Any) -> None:  # noqa: ANN401
        """Put a question; answers come as `told`."""
        if self._process is not None and self.loaded is not None and not self.busy:
            self.busy = True
            self._send({"do": "ask", **command})
            self.changed.emit()

    def stop(self) -> None:
        """End the answer between two tokens."""
        if self.busy:
            self._send({"do": "stop"})

    def _send(self, command: dict[str, Any]) -> None:
        if self._process is not None:
            self._process.write(json.dumps(command).encode() + b"\n")

    def _read(self) -> None:
        if self._process is None:
            return
        self._buffer += bytes(self._process.readAllStandardOutput().data())
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            try:
                answer = json.loads(line)
            except ValueError:
                continue
            self._take(answer)

    def _take(self, answer: dict[str, Any]) -> None:
        kind = answer.get("type")
        if kind == "loaded":
            self.loaded = answer
        elif kind in {"done", "error"}:
            self.busy = False
        self.told.emit(answer)
        if kind in {"loaded", "done", "error"}:
            self.changed.emit()

    def _drain(self) -> None:
        if self._process is not None:
            self._process.readAllStandardError()

    def _not_started(self, error: QProcess.ProcessError) -> None:
        if error is QProcess.ProcessError.FailedToStart and self._process is not None:
            reason = visible(self._process.errorString())
            self._process.deleteLater()
            self._process, self.loaded, self.busy = None, None, False
            self.failed.emit(_("The model's process could not be started: %(reason)s.") % {"reason": reason})
            self.changed.emit()

    def _finished(self, code: int, _status: QProcess.ExitStatus) -> None:
        self._read()
        if self._process is not None:
            self._process.deleteLater()
        known = self.loaded is None and code == 1  # it has said why
        self._process, self.loaded, self.busy = None, None, False
        if not known:
            self.failed.emit(_("The model's process ended with exit code %(code)d.") % {"code": code})
        self.changed.emit()
