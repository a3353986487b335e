"""A SQLite index over run folders. It holds nothing of its own: delete it, and it is made anew."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import yaml

from so8t_engine.history.compare import flat
from so8t_engine.history.notes import FILE, RunNotes
from so8t_engine.history.summary import RunSummary, summarise
from so8t_engine.training.states import ENDED, State

VERSION = 1
MAX_CONFIG_BYTES = 200_000
COLUMNS = "path, stamp, state, started, step, total, loss, checkpoint, tags, note, pinned, archived, words"


@dataclass(frozen=True, slots=True)
class IndexedRun:
    """A run as the index knows it. ``words``: everything that a search looks at, in lower case."""

    summary: RunSummary
    notes: RunNotes
    words: str

    def matches(self, search: str) -> bool:
        """Whether every word of ``search`` occurs; ``tag:x`` asks for a tag, ``state:x`` for a state."""
        for word in search.lower().split():
            kind, colon, value = word.partition(":")
            if colon and kind == "tag":
                if value not in [tag.lower() for tag in self.notes.tags]:
                    return False
            elif colon and kind == "state":
                if self.summary.state is None or not str(self.summary.state).startswith(value):
                    return False
            elif word not in self.words:
                return False
        return True


def index_file() -> Path:
    """Where the index lies."""
    return Path(platformdirs.user_cache_dir("so8t", appauthor=False)) / "runs.sqlite"


def _stamp(run: Path) -> str:
    """Changes when anything that the index holds of a run may have changed."""
    parts = []
    for name in ("events.jsonl", "config.yaml", FILE, "process.json"):
        try:
            found = (run / name).stat()
            parts.append(f"{found.st_size}.{found.st_mtime_ns}")
        except OSError:
            parts.append("-")
    return " ".join(parts)


class RunIndex:
    """Looks through a folder of runs and reads only those that have changed.

    Args:
        file: the database; one that cannot be used is replaced, one that cannot be written is done without.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file or index_file()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            connection = self._connect(self._file)
        except (sqlite3.DatabaseError, OSError):
            try:
                self._file.unlink(missing_ok=True)
                connection = self._connect(self._file)
            except (sqlite3.DatabaseError, OSError):
                connection = self._connect(None)
        with closing(connection):
            yield connection
            connection.commit()

    @staticmethod
    def _connect(file: Path | None) -> sqlite3.Connection:
        connection = sqlite3.connect(file if file is not None else ":memory:", timeout=10)
        if connection.execute("PRAGMA user_version").fetchone()[0] != VERSION:
            connection.execute("DROP TABLE IF EXISTS runs")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS runs (path TEXT PRIMARY KEY, stamp TEXT, state TEXT, started REAL,"
            " step INTEGER, total INTEGER, loss REAL, checkpoint INTEGER, tags TEXT, note TEXT,"
            " pinned INTEGER, archived INTEGER, words TEXT)"
        )
        return connection

    def runs(self, folder: Path) -> list[IndexedRun]:
        """Runs directly below ``folder``: the pinned first, then the newest. Raises `OSError`."""
        found: list[IndexedRun] = []
        folder = folder.expanduser().absolute()
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
        with self._open() as connection:
            marks = f"{folder}/%".replace("\\", "/")
            known = {
                row[0]: row
                for row in connection.execute(f"SELECT {COLUMNS} FROM runs WHERE path LIKE ?", (marks,))
            }
            for path in paths:
                if not (path / "events.jsonl").is_file():
                    continue
                try:
                    found.append(self._one(connection, path, known.pop(path.as_posix(), None)))
                except OSError:
                    continue  # another program may be removing it at this moment
            for gone in known:
                if Path(gone).parent == folder:
                    connection.execute("DELETE FROM runs WHERE path = ?", (gone,))
        found.sort(key=lambda run: (run.notes.pinned, run.summary.started or 0.0), reverse=True)
        return found

    def _one(self, connection: sqlite3.Connection, path: Path, row: tuple[object, ...] | None) -> IndexedRun:
        stamp = _stamp(path)
        ended = row is not None and row[2] in {str(state) for state in ENDED}
        if row is not None and row[1] == stamp and ended:
            return _from_row(path, row)
        # A run that has not ended is looked at each time: its trainer may have died without a word.
        run = IndexedRun(summarise(path), RunNotes.read(path), "")
        run = IndexedRun(run.summary, run.notes, _words(path, run))
        summary, notes = run.summary, run.notes
        connection.execute(
            f"INSERT OR REPLACE INTO runs ({COLUMNS}) VALUES ({', '.join('?' * 13)})",
            (
                path.as_posix(),
                stamp,
                None if summary.state is None else str(summary.state),
                summary.started,
                summary.step,
                summary.of,
                summary.loss,
                summary.has_checkpoint,
                json.dumps(notes.tags),
                notes.note,
                notes.pinned,
                notes.archived,
                run.words,
            ),
        )
        return run


def _words(path: Path, run: IndexedRun) -> str:
    """Name, state, tags, note, and each setting as ``lora.r=16``."""
    try:
        config = path / "config.yaml"
        text = config.read_text(encoding="utf-8") if config.stat().st_size < MAX_CONFIG_BYTES else ""
        held = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError):
        held = None
    settings = [f"{name}={value}" for name, value in flat(held).items()] if isinstance(held, dict) else []
    state = str(run.summary.state or "")
    return " ".join((path.name, state, *run.notes.tags, run.notes.note, *settings)).lower()


def _from_row(path: Path, row: tuple[object, ...]) -> IndexedRun:
    _path, _seen, state, started, step, total, loss, checkpoint, tags, note, pinned, archived, words = row
    summary = RunSummary(
        path=path,
        state=State(str(state)),
        live=False,
        lost=False,
        started=started,  # type: ignore[arg-type]
        step=step,  # type: ignore[arg-type]
        of=total,  # type: ignore[arg-type]
        loss=loss,  # type: ignore[arg-type]
        has_checkpoint=bool(checkpoint),
    )
    held = RunNotes(tuple(json.loads(str(tags))), str(note), bool(pinned), bool(archived))
    return IndexedRun(summary, held, str(words))
