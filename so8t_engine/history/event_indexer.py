"""Has a growing event file indexed, see `event_index`. Imports nothing heavy before there is work."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

log = logging.getLogger(__name__)

SEGMENT_BYTES = 16_000_000
#: Of the file of a stretch.
ENDING = ".columns"


def index_folder(events: Path) -> Path:
    """Where the index of an event file lies."""
    return events.parent / "index"


def indexed(events: Path) -> int:
    """Up to which byte the index goes, by the name of its newest stretch."""
    newest = max(index_folder(events).glob(f"*-*{ENDING}"), default=None)
    end = newest.stem.partition("-")[2] if newest is not None else ""
    return int(end) if end.isdecimal() else 0


class EventIndexer:
    """Indexes in a thread of its own, one stretch at a time; a fault of it is logged and harms no run."""

    def __init__(self, events: Path) -> None:
        self._events = events
        self._end = indexed(events)
        self._thread: threading.Thread | None = None

    def grown(self, size: int) -> None:
        """The file has ``size`` bytes of complete lines now."""
        if size - self._end < SEGMENT_BYTES or (self._thread is not None and self._thread.is_alive()):
            return
        self._thread = threading.Thread(target=self._work, name="event-index", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            from so8t_engine.history.event_index import write_segment

            self._end = write_segment(self._events, self._end)
        except (OSError, ImportError, MemoryError) as error:
            log.warning("%s is not indexed further: %s", self._events, error)
            self._end = 1 << 62  # a gap would make what follows useless

    def close(self) -> None:
        """Wait for the stretch in work."""
        if self._thread is not None:
            self._thread.join()
