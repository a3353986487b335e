"""The run directory: what a run is, on disk. Charts, history, resume and a second window read it.

Layout: ``config.yaml  environment.json  events.jsonl  commands.jsonl  process.json  heartbeat.json  run.lock
log.txt  checkpoints/  rotations/  index/  final/``. ``index`` is made from the events and can be deleted.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from so8t_engine.config import Config, load_config
from so8t_engine.errors import RunError
from so8t_engine.files import make_private, write_all, write_atomically
from so8t_engine.history.event_indexer import EventIndexer
from so8t_engine.i18n import _
from so8t_engine.redaction import redact
from so8t_engine.safe_paths import is_there
from so8t_engine.training.checkpoint import standing
from so8t_engine.training.events import Event, check_seal, parse_event, seal
from so8t_engine.training.states import Command

log = logging.getLogger(__name__)


_READ_AND_WRITE = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)


def _new_id(name: str) -> str:
    slug = re.sub(r"[^\w\-]+", "-", name).strip("-") or "run"
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{slug}-{secrets.token_hex(2)}"


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Paths of one run. Making an instance touches nothing on disk."""

    path: Path

    @classmethod
    def create(cls, config: Config, path: Path | None = None) -> RunDirectory:
        """Make a new run directory: ``path``, or a fresh one below ``config.run.directory``.

        Raises:
            RunError: the place cannot be written, or ``path`` already holds a run.
        """
        target = path or Path(config.run.directory) / _new_id(config.name)
        target = target.expanduser().absolute()
        run = cls(target)
        if is_there(run.events):
            raise RunError(
                _("%(path)s already holds a run.") % {"path": str(target)},
                _("Choose another folder, or continue it with --resume."),
            )
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            make_private(target)
            for folder in (run.checkpoints, run.rotations):
                folder.mkdir(exist_ok=True)
            write_atomically(run.config_file, config.to_yaml())
            run.events.touch()
            run.commands.touch()
        except OSError as error:
            raise RunError(
                _("The run folder %(path)s cannot be written: %(reason)s.")
                % {"path": str(target), "reason": error.strerror or str(error)},
                _("Choose a folder that you may write to, with --run-dir or in the settings (Runs folder)."),
            ) from error
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """An existing run. Raises `RunError` where there is none."""
        run = cls(Path(path).expanduser().absolute())
        files = (run.events, run.config_file)
        if not all(is_there(file) and file.is_file() for file in files):
            raise RunError(
                _("%(path)s is not a run folder.") % {"path": str(path)},
                _("A run folder holds config.yaml and events.jsonl."),
            )
        return run

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def commands(self) -> Path:
        return self.path / "commands.jsonl"

    @property
    def process(self) -> Path:
        return self.path / "process.json"

    @property
    def heartbeat(self) -> Path:
        return self.path / "heartbeat.json"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def rotations(self) -> Path:
        return self.path / "rotations"

    @property
    def final(self) -> Path:
        return standing(self.path / "final")

    @property
    def lock(self) -> Path:
        return self.path / "run.lock"

    def config(self) -> Config:
        """The configuration that the run was started with."""
        return load_config(self.config_file)

    def read_events(self) -> list[Event]:
        """All complete events so far."""
        return EventReader(self.events).read()

    def send(self, command: Command) -> None:
        """Append a command for the trainer; any process may."""
        line = json.dumps({"time": time.time(), "command": str(command)}) + "\n"
        with self.commands.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()


class EventWriter:
    """Appends events to a run's ``events.jsonl``. One writer at a time; safe from any thread.

    An event that cannot be written now, because the disk is full, waits in memory for the next one: the run
    goes on, and order and numbers stay.
    """

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._waiting: list[bytes] = []
        self._end, self.seq = self._repair()
        self._handle = os.open(run.events, _READ_AND_WRITE, 0o666)
        self._indexer = EventIndexer(run.events)

    def _repair(self) -> tuple[int, int]:
        """Length and last sequence number. Cuts off a torn last line, which a crash may have left."""
        data = self._run.events.read_bytes() if self._run.events.exists() else b""
        keep = data.rfind(b"\n") + 1
        if keep < len(data):
            os.truncate(self._run.events, keep)
        for line in reversed(data[:keep].splitlines()):
            event = parse_event(line)
            if event is not None:
                return keep, event.seq
        return keep, 0

    def continue_after(self, seq: int) -> None:
        """Number further events from above ``seq``."""
        with self._lock:
            self.seq = max(self.seq, seq)

    def write(self, event: Event) -> Event:
        """Number, stamp and append ``event``; returns it as written."""
        with self._lock:
            self.seq += 1
            stamped = event.model_copy(
                update={"seq": self.seq, "time": event.time or time.time(), "run": self._run.id}
            )
            # Redacted as text: what replaces a secret holds no quote, so the line stays JSON.
            self._waiting.append(seal(redact(stamped.model_dump_json(by_alias=True))))
            self._flush(durably=stamped.type in {"state", "checkpoint", "end", "error"})
            self._indexer.grown(self._end)
            return stamped

    def _flush(self, durably: bool) -> None:
        data = b"".join(self._waiting)
        try:
            os.lseek(self._handle, self._end, os.SEEK_SET)
            write_all(self._handle, data)
            self._end += len(data)
            self._waiting.clear()
            if durably:
                os.fsync(self._handle)
        except OSError as error:
            log.warning("%s: %d events wait: %s", self._run.events, len(self._waiting), error)
            with contextlib.suppress(OSError):  # a part of a line is cut off by the next writer, too
                os.ftruncate(self._handle, self._end)

    def put_back(self) -> None:
        """Make the folder again, which somebody has deleted or moved away, with all events so far.

        The file that is open still holds them. Raises `OSError`.
        """
        with self._lock:
            os.lseek(self._handle, 0, os.SEEK_SET)
            data = bytearray()
            while len(data) < self._end and (part := os.read(self._handle, self._end - len(data))):
                data += part
            for folder in (self._run.path, self._run.checkpoints, self._run.rotations):
                folder.mkdir(mode=0o700, exist_ok=True)
            handle = os.open(self._run.events, _READ_AND_WRITE | os.O_EXCL, 0o666)
            try:
                write_all(handle, data)
                os.fsync(handle)
            except OSError:
                os.close(handle)
                self._run.events.unlink()
                raise
            os.close(self._handle)
            self._handle, self._end = handle, len(data)
            self._indexer = EventIndexer(self._run.events)

    def close(self) -> None:
        """Write what waits, if it can be written now."""
        with self._lock:
            if self._waiting:
                self._flush(durably=True)
            os.close(self._handle)
        self._indexer.close()


@dataclass
class EventReader:
    """Reads a growing ``events.jsonl`` from where it left off; a line counts once it is complete.

    What stands behind the last complete line is read again next time: the next writer may cut it off.
    """

    path: Path
    offset: int = 0
    _sealed: bool = field(default=False, repr=False)

    def read(self) -> list[Event]:
        """Events that were completed since the last call. Unknown and damaged lines are left out."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                data = file.read()
        except FileNotFoundError:
            return []
        complete = data[: data.rfind(b"\n") + 1]
        self.offset += len(complete)
        events = []
        for line in complete.split(b"\n"):
            # Once lines carry checksums, one without is a damaged one.
            seal_state = check_seal(line)
            self._sealed |= seal_state is True
            if seal_state is False or (seal_state is None and self._sealed):
                continue
            event = parse_event(line)
            if event is not None:
                events.append(event)
        return events


@dataclass
class CommandReader:
    """Reads commands appended since it was made. A file that has become shorter is another one: it is read
    from its beginning."""

    path: Path
    offset: int = 0
    _rest: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        self.offset = self.path.stat().st_size if self.path.exists() else 0

    def read(self) -> Iterator[Command]:
        """Commands since the last call; a malformed line is passed over."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < self.offset:
            self.offset, self._rest = 0, b""
        if size <= self.offset:
            return
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read()
        self.offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            try:
                record: Any = json.loads(line)
                yield Command(record["command"])
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
