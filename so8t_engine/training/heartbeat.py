"""Signs of life: the trainer writes them, whoever supervises it reads them.

A thread of the trainer writes ``heartbeat.json`` every second; the count in it is moved by the training
thread alone. A file that stands still means that the process is held up (stopped, swapped out, stuck in
the driver); a count that stands still means that the training thread hangs while the process lives.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path

from so8t_engine.i18n import _

log = logging.getLogger(__name__)

WRITE_S = 1.0
#: Seconds without a written heartbeat after which a living process is called silent.
SILENT_S = 20.0
#: A step may take this many times the longest interval seen so far before it is called a hang.
PATIENCE = 10.0
#: Loading reads gigabytes, perhaps over a network, and has no steps to count.
LOADING_S = 1800.0


class Pulse:
    """The trainer's side.

    Args:
        path: of ``heartbeat.json``.
        limit_s: seconds without progress that count as a hang; None never does.
    """

    def __init__(self, path: Path, limit_s: float | None) -> None:
        self._path = path
        self.limit_s = limit_s
        self.beats = 0
        self._last = time.monotonic()
        self._longest_s = 0.0
        self._next_write = 0.0
        self._told = False

    def beat(self, counted: bool = True) -> None:
        """The training thread got further. ``counted`` is False where the interval says nothing of steps."""
        now = time.monotonic()
        if counted:
            self._longest_s = max(self._longest_s, now - self._last)
        self.beats += 1
        self._last = now
        self._told = False

    def forget_intervals(self) -> None:
        """What was seen so far says nothing of what follows."""
        self.beat(counted=False)
        self._longest_s = 0.0

    @property
    def idle_s(self) -> float:
        """Seconds since the last beat."""
        return time.monotonic() - self._last

    def write(self, state: str) -> None:
        """Write the file if it is due. A full disk costs the sign of life and nothing else."""
        now = time.monotonic()
        if now < self._next_write:
            return
        self._next_write = now + WRITE_S
        record = {
            "time": time.time(),
            "state": state,
            "beats": self.beats,
            "idle_s": round(self.idle_s, 1),
            "hangs_after_s": self.hangs_after_s(state == "loading"),
        }
        try:
            self._path.write_text(json.dumps(record), encoding="utf-8")
        except OSError as error:
            log.debug("no heartbeat: %s", error)

    def hangs_after_s(self, loading: bool) -> float | None:
        """Seconds without progress that count as a hang now."""
        if self.limit_s is None:
            return None
        return max(self.limit_s, LOADING_S if loading else PATIENCE * self._longest_s)

    def hangs(self, loading: bool) -> bool:
        """Whether there was no progress for too long; True once for each hang."""
        limit_s = self.hangs_after_s(loading)
        if limit_s is None or self._told:
            return False
        self._told = self.idle_s > limit_s
        return self._told


@dataclass(frozen=True, slots=True)
class Stall:
    """A trainer that lives and gets nowhere.

    Attributes:
        silent: its process writes nothing any more; else it is the training thread that hangs.
        seconds: for how long.
    """

    silent: bool
    seconds: float

    @property
    def sentence(self) -> str:
        """What is the matter, for a person."""
        text = (
            _("The trainer's process has given no sign of life for %(seconds)d s.")
            if self.silent
            else _("The trainer has made no progress for %(seconds)d s.")
        )
        return text % {"seconds": self.seconds}

    @property
    def mend(self) -> str:
        """What a person can do."""
        return _("Wait if the computer is busy; else choose Kill and continue from the last checkpoint.")


class Watchdog:
    """The supervisor's side: reads the heartbeat once a second, by its own clock.

    Args:
        path: of ``heartbeat.json``.
        silent_s: seconds without a new heartbeat that count as silence.
    """

    def __init__(self, path: Path, silent_s: float = SILENT_S) -> None:
        self._path = path
        self._silent_s = silent_s
        self._next = 0.0
        self._content = b""
        self._changed = time.monotonic()
        self.stall: Stall | None = None

    def look(self) -> Stall | None:
        """The present stall, if there is one. Cheap: the file is read at most once a second."""
        now = time.monotonic()
        if now < self._next:
            return self.stall
        self._next = now + WRITE_S
        try:
            content = self._path.read_bytes()
        except OSError:
            content = b""
        if content != self._content or not content:
            # Nothing written yet: the process is starting, and its end is noticed elsewhere.
            self._content, self._changed = content, now
            self.stall = self._stuck(content)
        elif now - self._changed > self._silent_s:
            self.stall = Stall(True, now - self._changed)
        return self.stall

    @staticmethod
    def _stuck(content: bytes) -> Stall | None:
        try:
            record = json.loads(content)
            idle_s, limit_s = float(record["idle_s"]), record["hangs_after_s"]
            if limit_s is None or record["state"] == "paused":
                return None
            return Stall(False, idle_s) if idle_s > float(limit_s) else None
        except (ValueError, KeyError, TypeError, RecursionError):
            return None  # torn while it was written; the next one is whole
