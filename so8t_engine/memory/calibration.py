"""What finished runs needed, beside what was predicted for them; and what follows for the next estimate.

Each run that ends appends one line to a file of this user's. Per card, once three runs are there, the median
of measured over predicted corrects the estimate, and the median of what lay outside the allocator replaces
the assumed driver context. Both are bounded: a wrong reading cannot carry the estimate away.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

from platformdirs import user_data_path

from so8t_engine.files import move

log = logging.getLogger(__name__)

#: Runs of one card that a correction needs, and how many of the newest it looks at.
ENOUGH, NEWEST = 3, 20
#: How far measured over predicted may correct: of a card's allocator, and of a process's memory.
CARD_BOUNDS, CPU_BOUNDS = (0.95, 1.10), (0.6, 1.6)
CONTEXT_BOUNDS = (150_000_000, 1_500_000_000)
#: Lines that are kept.
MOST = 500


@dataclass(frozen=True, slots=True)
class Finished:
    """One run that came to its end.

    Attributes:
        device: the card's name, or ``cpu``. date: ISO, UTC. name: of the run.
        predicted: bytes that the estimate said, corrections included; what it compares with.
        plain: the same without corrections.
        measured: bytes at the peak: reserved by the allocator, or on the CPU resident.
        fills: the longest row filled the sequence length; only then are the two comparable.
        context: bytes on the card outside the allocator; None where it could not be told.
        source: ``estimated`` or ``measured``, what the prediction was.
    """

    device: str
    date: str
    name: str
    predicted: int
    plain: int
    measured: int
    fills: bool
    context: int | None = None
    source: str = "estimated"

    @property
    def error(self) -> float:
        """Predicted over measured, less 1."""
        return self.predicted / self.measured - 1.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """Corrections for one card.

    Attributes:
        runs: how many they rest on; 0 corrects nothing.
        factor: by which what the allocator reserves is multiplied.
        context: bytes of driver context; None keeps the assumed one.
    """

    runs: int = 0
    factor: float = 1.0
    context: int | None = None


def _file() -> Path:
    return user_data_path("so8t") / "memory_runs.jsonl"


_cache: dict[Path, tuple[tuple[int, int], list[Finished]]] = {}


def finished_runs() -> list[Finished]:
    """All that is stored, oldest first; damaged lines are passed over. Read again only when changed."""
    file = _file()
    try:
        status = file.stat()
        key = status.st_mtime_ns, status.st_size
        held = _cache.get(file)
        if held is not None and held[0] == key:
            return held[1]
        found = [run for line in file.read_text(encoding="utf-8").splitlines() if (run := _parse(line))]
    except (OSError, UnicodeDecodeError):
        return []
    _cache[file] = key, found
    return found


def _parse(line: str) -> Finished | None:
    try:
        values: dict[str, Any] = json.loads(line)
        known = {field.name for field in fields(Finished)}
        run = Finished(**{name: value for name, value in values.items() if name in known})
        return run if min(run.predicted, run.plain, run.measured) > 0 else None
    except (ValueError, TypeError, AttributeError):
        return None


def remember(run: Finished) -> None:
    """Append ``run``; the oldest lines go beyond `MOST`. A file that cannot be written is logged."""
    file = _file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        lines = [*lines, json.dumps(asdict(run))][-MOST:]
        own = file.with_name(f"{file.name}.{os.getpid()}")
        own.write_text("\n".join(lines) + "\n", encoding="utf-8")
        move(own, file, over=True)
    except (OSError, UnicodeDecodeError) as error:
        log.warning("the run's memory was not remembered: %s", error)


def calibration_for(device: str) -> Calibration:
    """What the newest comparable runs on ``device`` teach; nothing where they are too few."""
    own = [run for run in finished_runs() if device and run.device == device]
    comparable = [run for run in own if run.fills][-NEWEST:]
    contexts = [run.context for run in own[-NEWEST:] if run.context is not None]
    factor, count = 1.0, 0
    if len(comparable) >= ENOUGH:
        low, high = CPU_BOUNDS if device == "cpu" else CARD_BOUNDS
        count = len(comparable)
        factor = min(max(median(run.measured / run.plain for run in comparable), low), high)
    context = None
    if len(contexts) >= ENOUGH:
        context = int(min(max(median(contexts), CONTEXT_BOUNDS[0]), CONTEXT_BOUNDS[1]))
    return Calibration(count, factor, context)
