"""What was read of a long event file, kept so that the run opens at once the next time. No Qt.

The cache can be thrown away at any time: it is made anew from the event file, which stays the truth. It
counts only for a file that begins and goes on exactly as the one it was made from.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import platformdirs

from so8t_engine.history.event_blocks import EventBlocks

VERSION = 2
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
    return cache_folder() / f"{name}.npz"


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
        with events.open("rb") as file, np.load(cache_file(events), allow_pickle=False) as held:
            head: dict[str, Any] = json.loads(bytes(held["head"]).decode())
            offset = int(head["offset"])
            file.seek(0, os.SEEK_END)
            if head["version"] != VERSION or offset > file.tell() or _proof(file, offset) != head["proof"]:
                return None
            blocks = EventBlocks(
                offset, int(head["lines"]), phases=list(head["phases"]), arrived=head["arrived"]
            )
            blocks.newest = {kind: text.encode() for kind, text in head["newest"].items()}
            for kind, names in head["columns"].items():
                if only is not None:
                    names = [name for name in names if name in {"line", "step", "time", *only.get(kind, ())}]
                    names = names if kind in only else []
                if names:
                    blocks.frequent[kind] = [{name: held[f"{kind}/{name}"] for name in names}]
            texts = bytes(held["rare"]).split(b"\n")
            blocks.rare = list(zip(held["places"].tolist(), texts, strict=False))
            return blocks
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None  # the cache is a convenience: without it the file itself is read


def save(events: Path, blocks: EventBlocks) -> None:
    """Keep ``blocks`` for `load`; silently not, where the folder cannot be written."""
    joined = {kind: blocks.joined(kind) if parts else {} for kind, parts in blocks.frequent.items()}
    arrays = {f"{kind}/{name}": column for kind, table in joined.items() for name, column in table.items()}
    with contextlib.suppress(OSError), events.open("rb") as file:
        head = {
            "version": VERSION,
            "offset": blocks.offset,
            "lines": blocks.lines,
            "phases": blocks.phases,
            "arrived": blocks.arrived,
            "newest": {kind: text.decode() for kind, text in blocks.newest.items()},
            "columns": {kind: list(table) for kind, table in joined.items()},
            "proof": _proof(file, blocks.offset),
        }
        target = cache_file(events)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as out:
                np.savez(
                    out,
                    head=np.frombuffer(json.dumps(head).encode(), np.uint8),
                    rare=np.frombuffer(b"\n".join(text for _place, text in blocks.rare), np.uint8),
                    places=np.array([place for place, _text in blocks.rare], np.int64),
                    **arrays,  # type: ignore[arg-type]
                )
            Path(name).replace(target)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
        _forget_oldest(target.parent)


def _forget_oldest(folder: Path) -> None:
    files = sorted(folder.glob("*.npz"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files[KEPT:]:
        path.unlink(missing_ok=True)
