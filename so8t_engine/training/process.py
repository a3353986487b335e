"""Which process is training a run: written by the trainer, read by windows that attach.

A pid alone may be reused by the system, so the creation time belongs to it. On Linux that time is derived
from the clock and moves when the clock is set, so the kernel's own count and the boot are kept beside it.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil


def _boot() -> str:
    """What tells one start of the machine from another; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _ticks(pid: int) -> int | None:
    """A process's start in clock ticks since boot, which no change of the clock moves; Linux only."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        record = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        # The program's name stands in brackets and may hold spaces and brackets itself.
        return int(record.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


@dataclass(frozen=True, slots=True)
class ProcessMark:
    """A process, recognisable after its end.

    Attributes:
        pid: its number.
        created: creation time in seconds since 1970.
        ticks, boot: Linux: the same in clock ticks since the boot with this id; else None and empty.
        run: id of the run that it trains; empty where it is no trainer's.
    """

    pid: int
    created: float
    ticks: int | None = None
    boot: str = ""
    run: str = ""

    @classmethod
    def current(cls, run: str = "") -> ProcessMark:
        return cls.of(os.getpid(), run)

    @classmethod
    def of(cls, pid: int, run: str = "") -> ProcessMark:
        """The mark of a running process. Raises `psutil.NoSuchProcess`."""
        return cls(pid, psutil.Process(pid).create_time(), _ticks(pid), _boot(), run)

    @classmethod
    def parse(cls, text: str) -> ProcessMark | None:
        """The mark in a JSON text; None where it is none."""
        try:
            record = json.loads(text)
            ticks = record.get("ticks")
            return cls(
                int(record["pid"]),
                float(record["created"]),
                None if ticks is None else int(ticks),
                str(record.get("boot", "")),
                str(record.get("run", "")),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            return None

    @classmethod
    def read(cls, path: Path) -> ProcessMark | None:
        """The mark in a file; None where there is none, it is unreadable, or it is another run's.

        A run folder that was copied brings the mark of the run it was copied from.
        """
        try:
            mark = cls.parse(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            return None
        return None if mark is None or mark.run not in {"", path.parent.name} else mark

    def to_json(self) -> str:
        """As `parse` reads it."""
        return json.dumps(asdict(self))

    def write(self, path: Path) -> None:
        path.write_text(self.to_json(), encoding="utf-8")

    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            if self.ticks is not None and self.boot and self.boot == _boot():
                return _ticks(self.pid) == self.ticks
            if self.boot and self.boot != _boot():
                return False
            return abs(process.create_time() - self.created) < 1.0
        except (psutil.NoSuchProcess, ValueError, OverflowError):
            return False
        except psutil.AccessDenied:
            return True
