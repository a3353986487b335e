"""A past run, or the past of a live one, from its event file. No Qt."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from so8t_engine.history import event_index
from so8t_engine.history.event_blocks import EventBlocks
from so8t_engine.history.event_indexer import SEGMENT_BYTES
from so8t_engine.training.events import Event, parse_event
from so8t_gui.models import event_cache
from so8t_gui.models.bulk import digest_blocks
from so8t_gui.models.run_model import RunModel

CHUNK_BYTES = 1_000_000


class ReadingStoppedError(Exception):
    """Whoever wanted the run does not want it any more."""


def read_run(
    events: Path,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
    stopped: Callable[[], bool] = lambda: False,
    only: Mapping[str, Collection[str]] | None = None,
) -> tuple[RunModel, int]:
    """The model of everything in ``events``, and the offset up to which it goes.

    ``only`` names the columns that are wanted where a long run comes from its cache or its index.

    Raises `OSError`, and `ReadingStoppedError` after ``stopped`` said so.
    """
    size = events.stat().st_size
    if size < event_cache.WORTHWHILE_BYTES:
        return _one_by_one(events, size, progress, stopped)
    cached = event_cache.load(events, only)
    blocks = cached or event_index.load(events, only) or EventBlocks()
    known = blocks.offset
    with events.open("rb") as file:
        for offset in blocks.read(file):
            if stopped():
                raise ReadingStoppedError
            progress(offset, size)
    # Beyond the trainer's index there is less than a stretch, read as quickly as its cache.
    worthwhile = 2 * SEGMENT_BYTES if known and cached is None else event_cache.WORTHWHILE_BYTES
    if (known == 0 or only is None) and blocks.offset - known >= worthwhile:
        event_cache.save(events, blocks)
    return digest_blocks(blocks), blocks.offset


def _one_by_one(
    path: Path, size: int, progress: Callable[[int, int], None], stopped: Callable[[], bool]
) -> tuple[RunModel, int]:
    model, offset = RunModel(), 0
    with path.open("rb") as file:
        while lines := file.readlines(CHUNK_BYTES):
            if stopped():
                raise ReadingStoppedError
            # A line without its end is still being written, or was torn by a crash.
            whole = [line for line in lines if line.endswith(b"\n")]
            events: list[Event] = [event for line in whole if (event := parse_event(line)) is not None]
            model.digest(events)
            offset += sum(map(len, whole))
            progress(offset, size)
    return model, offset
