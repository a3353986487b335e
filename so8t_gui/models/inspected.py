"""What the inspect page shows of one run or soul file. No Qt, no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from so8t_engine.so8t.inspection import (
    RotationSet,
    commutators,
    drift,
    eigen_angles,
    load_rotations,
    stored_rotations,
)
from so8t_gui.models.buffers import Columns

Values = npt.NDArray[np.float64]
KEPT = 8


@dataclass
class Inspected:
    """A run's stored rotations; the few looked at last are kept.

    Attributes:
        path: run folder or file. files: in the order of steps. travel: drift of M and commutator over them.
    """

    path: Path
    files: list[Path]
    travel: Columns = field(default_factory=Columns)
    _sets: dict[int, RotationSet] = field(default_factory=dict)
    _read: int = 0

    @classmethod
    def open(cls, path: Path) -> Inspected:
        """Raises `RunError`: there are no rotations."""
        found = cls(path, stored_rotations(path))
        found.at(0)
        return found

    def __len__(self) -> int:
        return len(self.files)

    @property
    def read(self) -> int:
        """How many files `travel` has taken in, damaged ones among them."""
        return self._read

    def at(self, index: int) -> RotationSet:
        """The rotations of one file. Raises `RunError`."""
        if index not in self._sets:
            self._sets[index] = load_rotations(self.files[index])
            for old in [key for key in self._sets if key not in {0, index}][: -KEPT or None]:
                del self._sets[old]
        return self._sets[index]

    def read_one(self) -> bool:
        """Take the next file into `travel`; False when all are in. A damaged one is a gap."""
        if self._read >= len(self.files):
            return False
        index, self._read = self._read, self._read + 1
        now, start = self.at(index), self.at(0)
        if now.total_B88.shape != start.total_B88.shape:
            return True
        moved, commutator_B = drift(now.total_B88, start.total_B88), commutators(now)
        self.travel.append(
            {
                "step": float(now.step if now.step is not None else index),
                "drift_mean": float(moved.mean()),
                "drift_max": float(moved.max()),
                "commutator_mean": float(commutator_B.mean()),
            }
        )
        return True


def histogram(values: Values, low: float, high: float, column: str, bins: int = 48) -> Columns:
    """Shares of ``values`` in equal bins, as a table of ``value`` and ``column``."""
    counts, edges = np.histogram(np.clip(values, low, high), bins=bins, range=(low, high))
    table = Columns("value", capacity=bins + 1)
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        table.append({"value": float((left + right) / 2), column: float(count) / max(1, values.size)})
    return table


def both(first: Columns, second: Columns | None, name: str, other: str) -> Columns:
    """One table of two histograms with the same bins."""
    if second is None:
        return first
    table = Columns("value", capacity=len(first) + 1)
    for value, a, b in zip(first.view("value"), first.view(name), second.view(other), strict=True):
        table.append({"value": float(value), name: float(a), other: float(b)})
    return table


def angles_of(rotations: RotationSet) -> Values:
    """All eigen-angles of M in units of π."""
    return eigen_angles(rotations.total_B88).ravel() / np.pi
