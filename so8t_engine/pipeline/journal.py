"""The pipeline's folder as others see it: events, commands, and who is running it."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import yaml

from so8t_engine.files import forget, write_atomically
from so8t_engine.i18n import _
from so8t_engine.pipeline.config import PipelineConfig
from so8t_engine.pipeline.errors import PipelineError
from so8t_engine.training.events import EndEvent, Event, StateEvent
from so8t_engine.training.process import ProcessMark
from so8t_engine.training.run_directory import CommandReader, EventWriter, RunDirectory
from so8t_engine.training.states import Command, State

#: Seconds between two looks at the commands.
LOOK_S = 0.2
_STATES = {"finished": State.FINISHED, "stopped": State.STOPPED, "failed": State.FAILED}


class Journal:
    """Opens a pipeline's folder for one call: ``pipeline.yaml  events.jsonl  commands.jsonl  log.txt``.

    Raises:
        PipelineError: the folder cannot be written, or another process runs this pipeline.
    """

    def __init__(
        self, work: Path, config: PipelineConfig, on_event: Callable[[Event], None] | None = None
    ) -> None:
        self._run = RunDirectory(work)
        self._config = config
        self._on_event = on_event
        self._began = time.monotonic()
        self._asked = threading.Event()
        self._looked = 0.0
        self._restore: dict[int, Any] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Journal:
        run = self._run
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            mark = ProcessMark.read(run.process)
            if mark is not None and mark.alive() and mark != ProcessMark.current():
                raise PipelineError(
                    _("Process %(pid)d is running this pipeline already.") % {"pid": mark.pid},
                    _("Wait for its end, or give the pipeline another name."),
                )
            ProcessMark.current().write(run.process)
            text = yaml.safe_dump(self._config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
            write_atomically(run.path / "pipeline.yaml", text)
            run.commands.touch()
            self._writer = EventWriter(run)
            self._handler = logging.FileHandler(run.log, encoding="utf-8")
        except OSError as error:
            raise PipelineError(
                _("The pipeline's folder %(path)s cannot be written: %(reason)s.")
                % {"path": str(run.path), "reason": error.strerror or str(error)},
                _("Choose another folder in the setting 'directory'."),
            ) from error
        self._commands = CommandReader(run.commands)
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.getLogger().addHandler(self._handler)
        logging.getLogger("so8t_engine").setLevel(logging.INFO)
        self._state = State.IDLE
        self._move(State.LOADING)
        self._move(State.RUNNING)
        self._install_signals()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._restore.items():
            signal.signal(number, handler)
        logging.getLogger().removeHandler(self._handler)
        self._handler.close()
        self._writer.close()
        forget(self._run.process)

    def emit(self, event: Event) -> None:
        """Write an event and hand it on; safe from any thread."""
        with self._lock:
            written = self._writer.write(event)
            if self._on_event is not None:
                self._on_event(written)

    def stopping(self) -> bool:
        """Whether a stop was asked for, by a signal or through ``commands.jsonl``."""
        now = time.monotonic()
        if not self._asked.is_set() and now - self._looked >= LOOK_S:
            self._looked = now
            if any(command in {Command.STOP, Command.ABORT} for command in self._commands.read()):
                self._asked.set()
        return self._asked.is_set()

    def end(self, status: Literal["finished", "stopped", "failed"]) -> int:
        """Write how it ended; the exit status."""
        if status == "stopped":
            self._move(State.STOPPING)
        self._move(_STATES[status])
        self.emit(EndEvent(status=status, step=0, seconds=time.monotonic() - self._began))
        return 0 if status == "finished" else 1

    def _move(self, to: State) -> None:
        before, self._state = self._state, to
        self.emit(StateEvent(from_=before, to=to))

    def _install_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return

        def ask(number: int, _frame: object) -> None:
            if self._asked.is_set():  # the second time: at once; every step survives it
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            self._asked.set()

        numbers = [signal.SIGINT, signal.SIGTERM]
        # A closing session is SIGHUP, on Windows SIGBREAK; each exists on its own system only.
        numbers += [getattr(signal, name) for name in ("SIGHUP", "SIGBREAK") if hasattr(signal, name)]
        self._restore = {int(number): signal.signal(number, ask) for number in numbers}
