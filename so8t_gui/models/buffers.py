"""Growable columns: a table of numbers that is appended to and plotted without copying.

numpy arrays cannot grow; doubling the capacity keeps appending at constant amortised cost, and a
view of the filled part goes to the chart as it is.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
MISSING = float("nan")


class Columns:
    """Rows of named float64 columns of equal length.

    A column that is first named after some rows is filled with NaN up to there, and a row that does
    not name a column holds NaN in it: a missing reading is a gap in the chart, never 0.

    Args:
        key: the column by which rows ascend (``step``); `truncate_from` cuts along it.
    """

    def __init__(self, key: str = "step", capacity: int = 256) -> None:
        self._key = key
        self._capacity = capacity
        self._length = 0
        self._data: dict[str, FloatArray] = {key: np.full(capacity, MISSING)}

    def __len__(self) -> int:
        return self._length

    @property
    def names(self) -> list[str]:
        """Columns in the order in which they first appeared."""
        return list(self._data)

    def append(self, row: Mapping[str, float | None]) -> None:
        """Add one row; None is stored as NaN."""
        if self._length == self._capacity:
            self._grow()
        for name, value in row.items():
            column = self._data.get(name)
            if column is None:
                column = self._data[name] = np.full(self._capacity, MISSING)
            column[self._length] = MISSING if value is None else value
        self._length += 1

    def _grow(self) -> None:
        for name, column in self._data.items():
            self._data[name] = np.concatenate([column, np.full(self._capacity, MISSING)])
        self._capacity *= 2

    def view(self, name: str) -> FloatArray:
        """The filled part of a column, without a copy; all NaN where the column is unknown."""
        column = self._data.get(name)
        if column is None:
            return np.full(self._length, MISSING)
        return column[: self._length]

    def last(self, name: str) -> float | None:
        """The newest value; None where it is missing."""
        if not self._length or name not in self._data:
            return None
        value = float(self._data[name][self._length - 1])
        return None if np.isnan(value) else value

    def has_any(self, name: str) -> bool:
        """Whether the column holds at least one reading."""
        return bool(np.isfinite(self.view(name)).any())

    def truncate_from(self, value: float) -> None:
        """Drop the rows whose key is at least ``value``: a resumed run walks those steps again."""
        keep = int(np.searchsorted(self.view(self._key), value, side="left"))
        for column in self._data.values():
            column[keep : self._length] = MISSING
        self._length = min(self._length, keep)
