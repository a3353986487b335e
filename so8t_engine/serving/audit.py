"""The audit log: a row for every outcome, keyed hashes only, in a chain whose end is anchored.

SQLite in WAL mode with full sync. A row's ``body`` is canonical JSON; its ``mac`` is an HMAC over the MAC of
the row before it and the body, so no row can be changed, moved, removed or put in between by whoever lacks
the key. The last row's number and MAC stand in a file of their own (``….head``), signed, written after each
commit: a log that lost its end does not reach its anchor. After a crash the log may be one batch ahead of
the anchor, never behind it.

What it cannot see: log and anchor both put back to an earlier, consistent state. Note the head that
``so8t audit verify`` prints somewhere else, and give it to the next ``verify --head``.
"""

from __future__ import annotations

import json
import queue
import secrets
import sqlite3
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any

from so8t_engine.errors import SO8TError
from so8t_engine.files import write_atomically
from so8t_engine.i18n import _
from so8t_engine.serving.keys import KeySet, KeyStore, Where

GENESIS = "0" * 64
_SCHEMA = """
CREATE TABLE IF NOT EXISTS audit (
    seq INTEGER NOT NULL PRIMARY KEY, body TEXT NOT NULL, mac TEXT NOT NULL
) STRICT, WITHOUT ROWID;  -- with a rowid SQLite would store a byte for seq that it never reads
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""


class AuditError(SO8TError):
    """The audit log cannot be written or used; without it nothing is answered."""

    kind = "audit"


def canonical(body: dict[str, Any]) -> bytes:
    """The one way in which a body is written: sorted keys, no spaces, ASCII."""
    return json.dumps(
        body, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode()


def chain_mac(keys: KeySet, key: str, previous: str, body: bytes) -> str:
    """The MAC of a row behind the row whose MAC is ``previous``."""
    return keys.mac(key, "chain", previous.encode() + b"\n" + body)


def head_path(path: Path) -> Path:
    """The file that anchors the end of the log at ``path``."""
    return path.with_name(path.name + ".head")


def head_text(keys: KeySet, log: str, seq: int, mac: str, key: str) -> str:
    """The anchor's content."""
    signed = canonical({"log": log, "seq": seq, "mac": mac, "key": key})
    return json.dumps(
        {"log": log, "seq": seq, "mac": mac, "key": key, "sign": keys.mac(key, "head", signed)},
        sort_keys=True,
    )


def start_text(keys: KeySet, first: int, previous: str, key: str) -> str:
    """Where a chain begins that had its oldest rows removed on purpose."""
    signed = canonical({"first": first, "previous": previous, "key": key})
    return json.dumps(
        {"first": first, "previous": previous, "key": key, "sign": keys.mac(key, "start", signed)},
        sort_keys=True,
    )


class AuditLog:
    """Appends rows. One thread owns the database; rows that arrive together share one commit and one sync.

    Args:
        path: the SQLite file; created when missing.
        key: where its keys live. key_folder: of the key file.

    Raises:
        AuditError: it cannot be opened, its keys are missing, or another process writes to it.
    """

    def __init__(self, path: Path, key: Where = "auto", key_folder: Path | None = None) -> None:
        self.path = path
        self._lock_file = _claim(path)
        try:
            fresh = not path.exists()
            self._db = connect(path)
            self.log = self._log_id(fresh)
            self.store = KeyStore(self.log, key, key_folder)
            self.keys = self._load_keys()
            self._seq, self._mac = self._last()
        except sqlite3.Error as error:
            raise AuditError(
                _("The audit log %(path)s cannot be opened: %(reason)s.")
                % {"path": str(path), "reason": error},
                _("Check it with 'so8t audit verify'; move it aside to begin a new one."),
            ) from error
        self._waiting: queue.SimpleQueue[tuple[dict[str, Any], Future[tuple[int, str]]] | None]
        self._waiting = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._write, name="audit", daemon=True)
        self._thread.start()

    # -- opening -----------------------------------------------------------------------------------

    def _log_id(self, fresh: bool) -> str:
        with self._db:
            self._db.executescript(_SCHEMA)
            found = self._db.execute("SELECT value FROM meta WHERE name = 'log'").fetchone()
            if found is None:
                if not fresh and self._db.execute("SELECT 1 FROM audit LIMIT 1").fetchone():
                    raise AuditError(_("The audit log %(path)s lost its name.") % {"path": str(self.path)})
                log = secrets.token_hex(8)
                self._db.execute("INSERT INTO meta VALUES ('log', ?)", (log,))
                return log
        return text_of(found[0])

    def _load_keys(self) -> KeySet:
        keys = self.store.load()
        if keys is None:
            if self._db.execute("SELECT 1 FROM audit LIMIT 1").fetchone():
                raise AuditError(
                    _("The keys of the audit log %(path)s are missing.") % {"path": str(self.path)},
                    _("Restore %(key)s, or move the log aside to begin a new one.")
                    % {"key": str(self.store.path)},
                )
            keys = KeySet()
            keys.add()
            self.store.save(keys)
        return keys

    def _last(self) -> tuple[int, str]:
        found = self._db.execute("SELECT seq, mac FROM audit ORDER BY seq DESC LIMIT 1").fetchone()
        if found is not None:
            return int(found[0]), text_of(found[1])
        start = self._db.execute("SELECT value FROM meta WHERE name = 'start'").fetchone()
        if start is None:
            return 0, GENESIS
        told = json.loads(start[0])
        return int(told["first"]) - 1, str(told["previous"])

    # -- use ---------------------------------------------------------------------------------------

    @property
    def rows(self) -> int:
        """The number of the newest row."""
        return self._seq

    def hash_text(self, text: str) -> str:
        """The keyed hash under which a query or a thinking is recorded; never the text itself."""
        return self.keys.mac(self.keys.active, "text", text.encode("utf-8", "surrogatepass"))

    def append(self, body: dict[str, Any]) -> Future[tuple[int, str]]:
        """Record an outcome. The future holds (number, MAC) once the row is on the disk and anchored."""
        future: Future[tuple[int, str]] = Future()
        if self._failure is not None or not self._thread.is_alive():
            future.set_exception(
                AuditError(_("The audit log cannot be written."), _("Free some disk space and restart."))
            )
        else:
            self._waiting.put((body, future))
        return future

    def close(self) -> None:
        """Write what is waiting, and end."""
        if self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join()
        self._db.close()
        self._lock_file.close()

    def rotate(self) -> str:
        """A new key for the rows to come; its first row says so, signed by the old one. Returns its id."""
        old = self.keys.active
        changed = KeySet(dict(self.keys.keys), old)
        new = changed.add()
        changed.active = old
        self.store.save(changed)  # before a row names it
        self.keys = changed
        self.append({"event": "key_rotated", "new_key": new}).result()
        activated = KeySet(dict(changed.keys), new)
        self.store.save(activated)
        self.keys = activated
        self.append({"event": "key_in_use"}).result()
        return new

    def prune(self, days: float) -> int:
        """Remove rows older than ``days``; the chain's new beginning is signed. Returns how many."""
        limit = time.time() - days * 86400
        last_old = None
        for seq, body, mac in self._db.execute("SELECT seq, body, mac FROM audit ORDER BY seq"):
            if json.loads(body)["time"] >= limit:
                break
            last_old = (int(seq), text_of(mac))
        if last_old is None:
            return 0
        seq, mac = last_old
        self.append({"event": "retention", "removed_through": seq}).result()
        with self._db:
            start = start_text(self.keys, seq + 1, mac, self.keys.active)
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('start', ?)", (start,))
            return self._db.execute("DELETE FROM audit WHERE seq <= ?", (seq,)).rowcount

    # -- the writing thread ------------------------------------------------------------------------

    def _write(self) -> None:
        while True:
            batch = [self._waiting.get()]
            while not self._waiting.empty() and len(batch) < 1000:
                batch.append(self._waiting.get())
            rows = [one for one in batch if one is not None]
            if rows:
                self._commit(rows)
            if len(rows) < len(batch):
                return

    def _commit(self, rows: Sequence[tuple[dict[str, Any], Future[tuple[int, str]]]]) -> None:
        seq, mac = self._seq, self._mac
        records: list[tuple[int, bytes, str]] = []
        key = self.keys.active
        try:
            for body, _future in rows:
                seq += 1
                text = canonical({**body, "seq": seq, "time": time.time(), "key": key})
                mac = chain_mac(self.keys, key, mac, text)
                records.append((seq, text, mac))
            with self._db:
                self._db.executemany(
                    "INSERT INTO audit VALUES (?, ?, ?)", [(n, text.decode(), m) for n, text, m in records]
                )
            write_atomically(head_path(self.path), head_text(self.keys, self.log, seq, mac, key))
        except BaseException as error:  # noqa: BLE001  (whoever waits must learn of it)
            self._failure = error
            for _body, future in rows:
                future.set_exception(
                    AuditError(
                        _("The audit log cannot be written: %(reason)s.") % {"reason": error},
                        _("Free some disk space and restart."),
                    )
                )
            return
        self._seq, self._mac = seq, mac
        for (_body, future), (number, _text, row_mac) in zip(rows, records, strict=True):
            future.set_result((number, row_mac))


def connect(path: Path) -> sqlite3.Connection:
    """The database, WAL and full sync, texts as bytes: a damaged one must not stop the reader."""
    database = sqlite3.connect(path, check_same_thread=False, timeout=5.0)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.text_factory = bytes
    return database


def text_of(value: object) -> str:
    """A text column."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _claim(path: Path) -> Any:  # noqa: ANN401
    """One writer at a time: two would fork the chain. The lock goes with the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_name(path.name + ".lock").open("a+b")
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise AuditError(
            _("Another process writes to the audit log %(path)s.") % {"path": str(path)},
            _("Stop the other service first."),
        ) from error
    return file


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows as they stand, unverified, for export. Raises `AuditError`."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            found = database.execute("SELECT body, mac FROM audit ORDER BY seq").fetchall()
            return [{**json.loads(body), "mac": mac} for body, mac in found]
    except (sqlite3.Error, ValueError) as error:
        raise AuditError(
            _("The audit log %(path)s cannot be read: %(reason)s.") % {"path": str(path), "reason": error},
            _("'so8t audit verify' names the damaged row."),
        ) from error
