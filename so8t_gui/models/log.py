"""Lines of the log pane, bounded."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum

MAX_LINES = 5000


class Level(IntEnum):
    """How much a line matters; a filter shows its level and those above."""

    DETAIL = 0
    INFO = 1
    WARNING = 2
    ERROR = 3


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line. ``time`` in seconds since 1970, 0 where unknown; ``text`` is plain text."""

    time: float
    level: Level
    text: str


@dataclass
class RunLog:
    """The newest `MAX_LINES` lines; ``written`` counts all there ever were."""

    written: int = 0
    lines: deque[LogLine] = field(default_factory=lambda: deque(maxlen=MAX_LINES))

    def add(self, time: float, level: Level, text: str) -> None:
        self.lines.append(LogLine(time, level, text))
        self.written += 1

    def since(self, count: int) -> list[LogLine]:
        """Lines after the first ``count`` ones, as far as they are still kept."""
        new = min(self.written - count, len(self.lines))
        return list(self.lines)[len(self.lines) - new :] if new > 0 else []
