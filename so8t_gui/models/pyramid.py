"""Smallest and largest values of a long column at several levels of detail, kept as it grows.

A chart of a million rows draws a few thousand points whatever the zoom: of each bucket its smallest and
largest value, so that no spike is lost. NaN is passed over; a bucket of NaN alone stays NaN, a gap.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

FACTOR = 16
Values = npt.NDArray[np.floating[Any]]


@dataclass
class _Level:
    low: Values = field(default_factory=lambda: np.empty(64, np.float32))
    high: Values = field(default_factory=lambda: np.empty(64, np.float32))
    length: int = 0

    def append(self, low: Values, high: Values) -> None:
        need = self.length + len(low)
        if need > len(self.low):
            room = max(need, len(self.low) * 2)
            self.low = np.concatenate([self.low[: self.length], np.empty(room - self.length, np.float32)])
            self.high = np.concatenate([self.high[: self.length], np.empty(room - self.length, np.float32)])
        self.low[self.length : need] = low
        self.high[self.length : need] = high
        self.length = need


@dataclass(frozen=True, slots=True)
class Reduced:
    """Buckets of ``size`` rows each. ``first``: the row at which each bucket begins."""

    first: npt.NDArray[np.int64]
    low: Values
    high: Values
    size: int


def _halve(low: Values, high: Values, times: int) -> tuple[Values, Values]:
    """Join 2**times neighbours; a short last group counts as a group. Halving is quicker than a long axis."""
    for _i in range(times):
        if len(low) % 2:
            low, high = np.append(low, low.dtype.type("nan")), np.append(high, high.dtype.type("nan"))
        low = np.fmin(low[0::2], low[1::2])
        high = np.fmax(high[0::2], high[1::2])
    return low, high


class Pyramid:
    """Level ``i`` holds the buckets of 16**(i+1) rows that are complete."""

    def __init__(self) -> None:
        self._levels: list[_Level] = []

    def update(self, column: Values) -> None:
        """Take in what was appended to ``column`` since the last call."""
        low = high = column
        index = 0
        while len(low) >= FACTOR:
            if index == len(self._levels):
                self._levels.append(_Level())
            level = self._levels[index]
            complete = len(low) // FACTOR
            if complete > level.length:
                rows = slice(level.length * FACTOR, complete * FACTOR)
                level.append(*_halve(low[rows], high[rows], FACTOR.bit_length() - 1))
            low, high = level.low[: level.length], level.high[: level.length]
            index += 1

    def truncate(self, rows: int) -> None:
        """Only the first ``rows`` rows of the column remain."""
        for index, level in enumerate(self._levels):
            level.length = min(level.length, rows // FACTOR ** (index + 1))

    def reduce(self, column: Values, start: int, stop: int, buckets: int) -> Reduced:
        """Rows ``start`` to ``stop`` in about ``buckets`` buckets, and at most twice as many.

        Bucket borders lie at multiples of their size, so that they do not move as rows are appended; the
        first and the last bucket may therefore reach beyond what was asked for.

        Args:
            column: the whole column, which `update` has seen.
        """
        wanted = max(1, (stop - start) // max(1, buckets))
        halvings = wanted.bit_length() - 1
        size = 1 << halvings
        start, stop = start // size * size, min(len(column), -(-stop // size) * size)
        depth = min(halvings // 4, len(self._levels))
        if depth == 0:
            low, high = _halve(column[start:stop], column[start:stop], halvings)
        else:
            level, width = self._levels[depth - 1], FACTOR**depth
            begin, end = start // width, min(level.length, -(-stop // width))
            tail = column[end * width : stop]
            low, high = level.low[begin:end], level.high[begin:end]
            if len(tail):
                more_low, more_high = _halve(tail, tail, 4 * depth)
                low, high = np.concatenate([low, more_low]), np.concatenate([high, more_high])
            low, high = _halve(low, high, halvings - 4 * depth)
        first = start + size * np.arange(len(low), dtype=np.int64)
        return Reduced(first, low, high, size)
