"""What happened at a point of a run: checkpoints, memory that ran out, pauses, NaN; and the gate's phases.

No Qt.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """Kinds of marks, in the order in which they are drawn above each other."""

    CHECKPOINT = "checkpoint"
    PAUSE = "pause"
    MEMORY = "memory"
    NAN = "nan"


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase of the gate, from ``step`` on (``elapsed`` seconds of work) until the next begins."""

    name: str
    step: float
    elapsed: float


@dataclass
class _Row:
    step: list[float] = field(default_factory=list)
    elapsed: list[float] = field(default_factory=list)

    def along(self, x: str) -> list[float]:
        return self.elapsed if x == "elapsed" else self.step


@dataclass
class Marks:
    """Marks by kind, each in ascending order, and the phases."""

    rows: dict[Kind, _Row] = field(default_factory=lambda: {kind: _Row() for kind in Kind})
    phases: list[Phase] = field(default_factory=list)

    def add(self, kind: Kind, step: float, elapsed: float) -> None:
        """Something happened; once a step is enough."""
        row = self.rows[kind]
        if not row.step or row.step[-1] != step:
            row.step.append(step)
            row.elapsed.append(elapsed)

    def enter(self, name: str, step: float, elapsed: float) -> None:
        """The gate was in phase ``name`` at ``step``."""
        if name and (not self.phases or self.phases[-1].name != name):
            self.phases.append(Phase(name, step, elapsed))

    def rewind(self, step: float) -> None:
        """Forget what lies at ``step`` and after it: it is being walked again."""
        for row in self.rows.values():
            keep = bisect_left(row.step, step)
            del row.step[keep:], row.elapsed[keep:]
        self.phases = [phase for phase in self.phases if phase.step < step]

    def between(self, kind: Kind, x: str, low: float, high: float) -> list[float]:
        """Places of the marks of a kind along ``step`` or ``elapsed``."""
        places = self.rows[kind].along(x)
        return places[bisect_left(places, low) : bisect_right(places, high)]

    def count(self, kind: Kind) -> int:
        return len(self.rows[kind].step)
