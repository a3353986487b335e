"""Checking an audit log: every row against its MAC and its neighbour, the end against its anchor."""

from __future__ import annotations

import hmac
import json
import re
import sqlite3
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from so8t_engine.errors import SO8TError
from so8t_engine.i18n import _
from so8t_engine.serving.audit import GENESIS, AuditError, canonical, chain_mac, head_path, text_of
from so8t_engine.serving.keys import KeySet, KeyStore, Where


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `verify` found.

    Attributes:
        valid: nothing was changed, removed or put in.
        row: the first row that is wrong or missing; None where none is, or where it cannot be told.
        problem: one sentence; empty when valid.
        first, last: numbers of the rows there are. head: ``number:MAC`` of the last, to be noted elsewhere.
        ahead: rows written after the anchor, by a service that was killed before it moved it.
    """

    valid: bool
    row: int | None
    problem: str
    first: int | None
    last: int | None
    rows: int
    head: str
    ahead: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class _Broken(Exception):  # noqa: N818
    def __init__(self, row: int | None, problem: str) -> None:
        super().__init__(problem)
        self.row, self.problem = row, problem


def verify(
    path: Path, key: Where = "auto", key_folder: Path | None = None, expected_head: str = ""
) -> Verdict:
    """Check the log at ``path``; may be used while a service writes to it.

    Args:
        expected_head: ``number:MAC`` noted earlier; the log must still hold that row.

    Raises:
        AuditError: there is no log, or its keys are missing: nothing can be said about it then.
    """
    if not path.is_file():
        raise AuditError(
            _("There is no audit log at %(path)s.") % {"path": str(path)}, _("Name the file audit.sqlite.")
        )
    state = _State()
    try:
        # The anchor before the rows: what a service adds in between is then ahead of it, never missing.
        anchor = _read_anchor(head_path(path))
        _verify(path, state, key, key_folder, expected_head, anchor)
    except _Broken as broken:
        return state.verdict(broken.row, broken.problem)
    except sqlite3.DatabaseError as error:
        row = None if state.last is None else state.last + 1
        return state.verdict(
            row,
            _("the database is damaged at or after row %(row)s: %(why)s") % {"row": row or 1, "why": error},
        )
    return state.verdict(None, "")


class _State:
    def __init__(self) -> None:
        self.first: int | None = None
        self.last: int | None = None
        self.rows = self.ahead = 0
        self.mac = GENESIS
        self.key = ""

    def verdict(self, row: int | None, problem: str) -> Verdict:
        head = f"{self.last}:{self.mac}" if self.last is not None else ""
        return Verdict(not problem, row, problem, self.first, self.last, self.rows, head, self.ahead)


def _verify(
    path: Path,
    state: _State,
    key: Where,
    folder: Path | None,
    expected_head: str,
    anchor: Any,  # noqa: ANN401
) -> None:
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5.0)) as database:
        database.text_factory = bytes
        database.execute("BEGIN")
        meta = {
            text_of(name): text_of(value) for name, value in database.execute("SELECT name, value FROM meta")
        }
        log = meta.get("log", "")
        if not re.fullmatch(r"[0-9a-f]{16}", log):
            raise _Broken(None, _("the log's name is damaged"))
        keys = KeyStore(log, key, folder).load()
        if keys is None:
            if anchor is not None and anchor.get("log") != log:
                raise _Broken(None, _("the log's name is not the anchor's"))
            raise AuditError(
                _("The keys of the audit log %(path)s are missing.") % {"path": str(path)},
                _("Verify it where it was written, or restore the keys from a backup."),
            )
        state.last, state.mac = _start(meta.get("start"), keys)
        expected = dict([_split_head(expected_head)]) if expected_head else {}
        rows = database.execute("SELECT seq, body, mac, typeof(body), typeof(mac) FROM audit ORDER BY seq")
        before = state.last
        for record in rows:
            _check_row(record, state, keys, expected)
        last = state.last if state.last != before else before
        for seq in expected:
            if seq > (last or 0):
                raise _Broken(seq, _("row %(row)d, noted as the head, is missing") % {"row": seq})
        _check_anchor(anchor, state, keys, log, database)
        # Bytes between the rows: lengths and pointers that happen to lead to the same content.
        (page,) = database.execute("PRAGMA integrity_check(1)").fetchone()
        if page != b"ok":
            raise _Broken(None, _("the database file is damaged: %(why)s") % {"why": text_of(page)})
    if state.last == 0:
        state.last = None


def _start(text: str | None, keys: KeySet) -> tuple[int, str]:
    """The row before the first, and its MAC."""
    if text is None:
        return 0, GENESIS
    try:
        told = json.loads(text)
        signed = canonical({name: told[name] for name in ("first", "previous", "key")})
        if not hmac.compare_digest(keys.mac(told["key"], "start", signed), str(told["sign"])):
            raise ValueError
        return int(told["first"]) - 1, str(told["previous"])
    except (ValueError, KeyError, TypeError) as error:
        raise _Broken(None, _("the record of the removed oldest rows is damaged")) from error


def _check_row(record: tuple[Any, ...], state: _State, keys: KeySet, expected: dict[int, str]) -> None:
    seq, body, mac, *types = record
    awaited = (state.last or 0) + 1
    if seq != awaited:
        raise _Broken(awaited, _("row %(row)d is missing or was renumbered") % {"row": awaited})
    try:
        if types != [b"text", b"text"]:
            raise ValueError
        told = json.loads(body)
        key = told["key"]
        right = chain_mac(keys, key, state.mac, body)
        if not hmac.compare_digest(right.encode(), mac) or told["seq"] != seq or canonical(told) != body:
            raise ValueError
        if key != state.key and state.key and not state_allows(told):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _Broken(awaited, _("row %(row)d was changed") % {"row": awaited}) from error
    if seq in expected and not hmac.compare_digest(expected[seq], right):
        raise _Broken(seq, _("row %(row)d is not the one that was noted as the head") % {"row": seq})
    state.first = seq if state.first is None else state.first
    state.last, state.mac, state.key = seq, right, key
    state.rows += 1


def state_allows(told: dict[str, Any]) -> bool:
    """Whether a row may be the first of a new key: a change of key is announced by its own row."""
    return told.get("event") == "key_in_use"


def _split_head(text: str) -> tuple[int, str]:
    match = re.fullmatch(r"(\d{1,18}):([0-9a-f]{64})", text.strip())
    if match is None:
        raise SO8TError(
            _("%(text)s is no head.") % {"text": text},
            _("Give the number:MAC that an earlier verify printed."),
        )
    return int(match[1]), match[2]


def _read_anchor(path: Path) -> Any:  # noqa: ANN401
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}


def _check_anchor(anchor: Any, state: _State, keys: KeySet, log: str, database: sqlite3.Connection) -> None:  # noqa: ANN401
    if anchor is None:
        if state.rows or state.last:
            raise _Broken(None, _("the anchor of the log's end is missing"))
        return
    try:
        signed = canonical({name: anchor[name] for name in ("log", "seq", "mac", "key")})
        if not hmac.compare_digest(keys.mac(anchor["key"], "head", signed), str(anchor["sign"])):
            raise ValueError
        seq, mac = int(anchor["seq"]), str(anchor["mac"])
        if anchor["log"] != log:
            raise ValueError
    except (ValueError, KeyError, TypeError) as error:
        raise _Broken(None, _("the anchor of the log's end is damaged")) from error
    last = state.last or 0
    if seq > last:
        raise _Broken(
            last + 1,
            _("rows %(first)d to %(last)d are missing at the end") % {"first": last + 1, "last": seq},
        )
    found = database.execute("SELECT mac FROM audit WHERE seq = ?", (seq,)).fetchone()
    held = text_of(found[0]) if found else (state.mac if seq == last else None)
    if held is not None and not hmac.compare_digest(held, mac):
        raise _Broken(seq, _("row %(row)d is not the one that was anchored") % {"row": seq})
    state.ahead = last - seq
