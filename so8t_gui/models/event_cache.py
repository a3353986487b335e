"""What was read of a long event file, kept so that the run opens at once the next time. No Qt.

The cache can be thrown away at any time: it is made anew from the event file, which stays the truth. It
counts only for a file that begins and goes on exactly as the one it was made from.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import BinaryIO

import platformdirs

from so8t_engine.files import move
from so8t_engine.history.event_blocks import EventBlocks
from so8t_engine.history.event_index import read_blocks, write_blocks
from so8t_engine.history.event_indexer import ENDING

VERSION = 3
#: Shorter files are read as quickly as their cache.
WORTHWHILE_BYTES = 4_000_000
PROOF_BYTES = 65_536
KEPT = 40


def cache_folder() -> Path:
    """Where caches of event files lie."""
    return Path(platformdirs.user_cache_dir("so8t", appauthor=False)) / "events"


def cache_file(events: Path) -> Path:
    """The cache of one event file, named by its absolute path."""
    name = hashlib.sha256(str(events.absolute()).encode()).hexdigest()[:32]
    return cache_folder() / f"{name}{ENDING}"


def _proof(file: BinaryIO, offset: int) -> str:
    """A digest of the beginning and the end of the first ``offset`` bytes."""
    digest = hashlib.sha256()
    for start in (0, max(0, offset - PROOF_BYTES)):
        file.seek(start)
        digest.update(file.read(min(PROOF_BYTES, offset - start)))
    return digest.hexdigest()


def load(events: Path, only: Mapping[str, Collection[str]] | None = None) -> EventBlocks | None:
    """The cached part of an event file; None where there is none, or where it is of another file.

    Args:
        only: by frequent type the columns that are wanted, for who overlays many runs.
    """
    try:
        head, blocks = read_blocks(cache_file(events), only)
        offset = int(head["offset"])
        with events.open("rb") as file:
            file.seek(0, os.SEEK_END)
            if head["version"] != VERSION or offset > file.tell() or _proof(file, offset) != head["proof"]:
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # the cache is a convenience: without it the file itself is read
    blocks.offset = offset
    return blocks


def save(events: Path, blocks: EventBlocks) -> None:
    """Keep ``blocks`` for `load`; silently not, where the folder cannot be written."""
    with contextlib.suppress(OSError), events.open("rb") as file:
        head = {"version": VERSION, "offset": blocks.offset, "proof": _proof(file, blocks.offset)}
        target = cache_file(events)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as out:
                write_blocks(out, blocks, head)
            move(Path(name), target, over=True)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
        _forget_oldest(target.parent)


def _forget_oldest(folder: Path) -> None:
    for old in folder.glob("*.npz"):  # of earlier versions
        old.unlink(missing_ok=True)
    files = sorted(folder.glob(f"*{ENDING}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files[KEPT:]:
        path.unlink(missing_ok=True)
