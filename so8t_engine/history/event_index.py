"""Columns of a long event file beside it, written stretch by stretch while the run goes on.

``RUN/index/`` holds one file for each 16 MB of ``events.jsonl``: the numbers of its frequent events as
arrays, its rare events as lines. A run with a million steps has 1.2 GB of events, which take ten seconds of
a processor to parse; with the index it opens at once, on any computer, the first time too. The event file
stays the truth: a stretch counts only with the digest of the text that it was made from, and what is missing
or damaged is parsed anew. Nothing here is synced; nothing is lost with it.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from so8t_engine.history.event_blocks import PHASE, Columns, EventBlocks
from so8t_engine.history.event_indexer import SEGMENT_BYTES, index_folder

log = logging.getLogger(__name__)

VERSION = 1
PROOF_BYTES = 16_384
Wanted = Mapping[str, Collection[str]]


def _proof(file: BinaryIO, start: int, end: int) -> str:
    """A digest of the beginning and the end of a stretch of the file."""
    digest = hashlib.sha256()
    for place in (start, max(start, end - PROOF_BYTES)):
        file.seek(place)
        digest.update(file.read(min(PROOF_BYTES, end - place)))
    return digest.hexdigest()


def write_segment(events: Path, start: int) -> int:
    """Index the complete lines of one stretch from ``start``; returns its end. Raises `OSError`."""
    blocks = EventBlocks(offset=start)
    with events.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        for _offset in blocks.read(file, limit=min(size, start + SEGMENT_BYTES)):
            break
        if blocks.offset == start:
            return start
        proof = _proof(file, start, blocks.offset)
    arrays = {
        f"{kind}/{name}": column
        for kind, parts in blocks.frequent.items()
        for name, column in (parts[0] if parts else {}).items()
    }
    head = {
        "version": VERSION,
        "start": start,
        "end": blocks.offset,
        "lines": blocks.lines,
        "phases": blocks.phases,
        "arrived": blocks.arrived,
        "newest": {kind: text.decode() for kind, text in blocks.newest.items()},
        "columns": {kind: list(parts[0]) if parts else [] for kind, parts in blocks.frequent.items()},
        "proof": proof,
    }
    folder = index_folder(events)
    folder.mkdir(exist_ok=True)
    target = folder / f"{start:014d}-{blocks.offset:014d}.npz"
    temporary = target.with_suffix(".tmp")
    with temporary.open("wb") as out:
        np.savez(
            out,
            head=np.frombuffer(json.dumps(head).encode(), np.uint8),
            rare=np.frombuffer(b"\n".join(text for _place, text in blocks.rare), np.uint8),
            places=np.array([place for place, _text in blocks.rare], np.int64),
            **arrays,  # type: ignore[arg-type]
        )
    temporary.replace(target)
    return blocks.offset


def write_whole(events: Path) -> None:
    """Index a file as far as whole stretches go. Raises `OSError`."""
    size, place = events.stat().st_size, 0
    while size - place >= SEGMENT_BYTES and (end := write_segment(events, place)) > place:
        place = end


def load(events: Path, only: Wanted | None = None) -> EventBlocks | None:
    """Everything that the index holds of an event file, from its beginning on; None where that is nothing.

    Args:
        only: by frequent type the columns that are wanted, for who overlays many runs.
    """
    found = EventBlocks()
    try:
        with events.open("rb") as file:
            for path in sorted(index_folder(events).glob("*.npz")):
                if not _append(found, path, file, only):
                    break
    except OSError as error:
        log.info("%s: no index: %s", events, error)
    return found if found.offset else None


def _append(found: EventBlocks, path: Path, file: BinaryIO, only: Wanted | None) -> bool:
    """Take in one stretch; False, with nothing taken, where it does not continue what is there."""
    try:
        with np.load(path, allow_pickle=False) as held:
            head: dict[str, Any] = json.loads(bytes(held["head"]).decode())
            start, end = int(head["start"]), int(head["end"])
            if (
                head["version"] != VERSION
                or start != found.offset
                or _proof(file, start, end) != head["proof"]
            ):
                return False
            tables = dict(_tables(held, head["columns"], only))
            texts = bytes(held["rare"]).split(b"\n")
            rare = list(zip(held["places"].tolist(), texts, strict=False))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return False  # a convenience: what it does not hold is read from the file itself
    numbers = [_number(found.phases, name) for name in head["phases"]]
    for kind, table in tables.items():
        table["line"] = table["line"] + found.lines
        if PHASE in table and numbers != list(range(len(numbers))):
            table[PHASE] = np.array(numbers, np.int16)[table[PHASE]]
        found.frequent[kind].append(table)
    if found.arrived and head["arrived"]:
        # Each stretch notes the first event after α's arrival; only the run's first one tells anything.
        rare = [(place, text) for place, text in rare if b'"type":"gate"' not in text]
    found.rare += [(place + found.lines, text) for place, text in rare]
    found.newest |= {kind: text.encode() for kind, text in head["newest"].items()}
    found.arrived |= bool(head["arrived"])
    found.lines += int(head["lines"])
    found.offset = end
    return True


def _tables(
    held: Mapping[str, Any], columns: Mapping[str, list[str]], only: Wanted | None
) -> Iterator[tuple[str, Columns]]:
    for kind, names in columns.items():
        if only is not None:
            names = [name for name in names if name in {"line", "step", "time", *only.get(kind, ())}]
            names = names if kind in only else []
        if names:
            yield kind, {name: held[f"{kind}/{name}"] for name in names}


def _number(phases: list[str], name: str) -> int:
    if name not in phases:
        phases.append(name)
    return phases.index(name)
