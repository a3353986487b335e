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
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from so8t_engine.files import move
from so8t_engine.history import column_file
from so8t_engine.history.event_blocks import PHASE, Array, Columns, EventBlocks
from so8t_engine.history.event_indexer import ENDING, SEGMENT_BYTES, index_folder
from so8t_engine.read_ahead import read_ahead

log = logging.getLogger(__name__)

VERSION = 2
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
    folder = index_folder(events)
    folder.mkdir(exist_ok=True)
    target = folder / f"{start:014d}-{blocks.offset:014d}{ENDING}"
    temporary = target.with_suffix(".tmp")
    with temporary.open("wb") as out:
        write_blocks(out, blocks, {"version": VERSION, "start": start, "end": blocks.offset, "proof": proof})
    move(temporary, target, over=True)
    return blocks.offset


def write_blocks(out: BinaryIO, blocks: EventBlocks, head: Mapping[str, Any]) -> None:
    """Everything that was read of an event file, with ``head`` to tell which. Raises `OSError`."""
    tables = {kind: blocks.joined(kind) if parts else {} for kind, parts in blocks.frequent.items()}
    column_file.write(
        out,
        {
            **head,
            "lines": blocks.lines,
            "phases": blocks.phases,
            "arrived": blocks.arrived,
            "newest": {kind: text.decode() for kind, text in blocks.newest.items()},
        },
        {
            "rare": np.frombuffer(b"\n".join(text for _place, text in blocks.rare), np.uint8),
            "places": np.array([place for place, _text in blocks.rare], np.int64),
            **{f"{kind}/{name}": column for kind, table in tables.items() for name, column in table.items()},
        },
    )


def read_blocks(path: Path, only: Wanted | None = None) -> tuple[column_file.Head, EventBlocks]:
    """What `write_blocks` wrote, from place 0 on. Raises `OSError`, or `ValueError` where it is damaged.

    Args:
        only: by frequent type the columns that are wanted, for who overlays many runs.
    """

    def wanted(stored: str) -> bool:
        kind, _slash, name = stored.partition("/")
        if only is None or not name:
            return True
        return kind in only and (name in {"line", "step", "time"} or name in only[kind])

    try:
        head, columns = column_file.read(path, wanted)
        blocks = EventBlocks(
            0, int(head["lines"]), phases=list(head["phases"]), arrived=bool(head["arrived"])
        )
        blocks.newest = {kind: text.encode() for kind, text in head["newest"].items()}
        blocks.rare = list(
            zip(columns.pop("places").tolist(), columns.pop("rare").tobytes().split(b"\n"), strict=False)
        )
        tables: dict[str, Columns] = {}
        for stored, column in columns.items():
            kind, _slash, name = stored.partition("/")
            tables.setdefault(kind, {})[name] = column
        for kind, table in tables.items():
            if len({len(column) for column in table.values()}) > 1:
                raise ValueError(path)
            blocks.frequent[kind].append(table)
    except (KeyError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        raise ValueError(path) from error
    return head, blocks


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
            stretches = sorted(index_folder(events).glob(f"*{ENDING}"))
            for head, blocks in read_ahead(lambda path: read_blocks(path, only), stretches):
                if not _append(found, head, blocks, file):
                    break
    except (OSError, ValueError) as error:
        log.info("%s: its index ends at %d: %s", events, found.offset, error)
    return found if found.offset else None


def _append(found: EventBlocks, head: column_file.Head, blocks: EventBlocks, file: BinaryIO) -> bool:
    """Take in one stretch; False, with nothing taken, where it does not continue what is there."""
    try:
        start, end = int(head["start"]), int(head["end"])
        fits = head["version"] == VERSION and start == found.offset and end > start
        if not fits or _proof(file, start, end) != head["proof"]:
            return False
    except (KeyError, TypeError):
        return False
    numbers: Array = np.array([_number(found.phases, name) for name in blocks.phases], np.int16)
    for kind, parts in blocks.frequent.items():
        for table in parts:
            table["line"] += found.lines
            if PHASE in table and numbers.tolist() != list(range(len(numbers))):
                table[PHASE] = numbers[table[PHASE]]
            found.frequent[kind].append(table)
    # Each stretch notes the first event after α's arrival; only the run's first one tells anything.
    twice = found.arrived and blocks.arrived
    found.rare += [
        (place + found.lines, text) for place, text in blocks.rare if not (twice and b'"type":"gate"' in text)
    ]
    found.newest |= blocks.newest
    found.arrived |= blocks.arrived
    found.lines += blocks.lines
    found.offset = end
    return True


def _number(phases: list[str], name: str) -> int:
    if name not in phases:
        phases.append(name)
    return phases.index(name)
