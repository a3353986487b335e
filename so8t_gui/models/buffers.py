"""Growable columns: a table of numbers that is appended to and plotted without copying.

numpy arrays cannot grow; enlarging the capacity by a share keeps appending at constant amortised cost, and
a view of the filled part goes to the chart as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from so8t_gui.models.pyramid import Pyramid, Reduced

FloatArray = npt.NDArray[np.floating[Any]]
MISSING = float("nan")
ASCENDING = frozenset({"step", "elapsed"})
GROWTH = 1.5


class Columns:
    """Rows of named columns of equal length.

    A column that is first named after some rows is filled with NaN up to there, and a row that does
    not name a column holds NaN in it: a missing reading is a gap in the chart, never 0.

    Args:
        key: the column by which rows ascend (``step``); `truncate_from` cuts along it.
        single: keep values as float32, as accurate as the trainer's own losses and half as large; what
            rows ascend along stays float64.
    """

    def __init__(self, key: str = "step", capacity: int = 256, *, single: bool = False) -> None:
        self._key = key
        self._single = single
        self._capacity = capacity
        self._length = 0
        self._data: dict[str, FloatArray] = {key: self._fresh(key, capacity)}
        self._pyramids: dict[str, Pyramid] = {}
        #: Up to which row a column is known to hold no reading.
        self._blank: dict[str, int] = {}
        #: Grows when rows are dropped: what was derived from them must be derived anew.
        self.generation = 0

    def _fresh(self, name: str, size: int) -> FloatArray:
        wide = not self._single or name == self._key or name in ASCENDING
        return np.full(size, MISSING, np.float64 if wide else np.float32)

    def __len__(self) -> int:
        return self._length

    @property
    def names(self) -> list[str]:
        """Columns in the order in which they first appeared."""
        return list(self._data)

    def append(self, row: Mapping[str, float | None]) -> None:
        """Add one row; None is stored as NaN."""
        self._reserve(1)
        for name, value in row.items():
            column = self._data.get(name)
            if column is None:
                column = self._data[name] = self._fresh(name, self._capacity)
            column[self._length] = MISSING if value is None else value
        self._length += 1

    def extend(self, rows: Mapping[str, npt.NDArray[Any]], *, copy: bool = True) -> None:
        """Add many rows, given as arrays of equal length by column.

        Not to ``copy`` is for who has just read them and does not use them any more.
        """
        count = len(next(iter(rows.values())))
        if not self._length and count >= self._capacity:
            # The usual way of a past run: all of it at once, and nothing to keep.
            self._capacity = self._length = count
            self._data = {
                name: values.astype(self._fresh(name, 0).dtype, copy=copy) for name, values in rows.items()
            }
            return
        self._reserve(count)
        for name, values in rows.items():
            if name not in self._data:
                self._data[name] = self._fresh(name, self._capacity)
            self._data[name][self._length : self._length + count] = values
        self._length += count

    def _reserve(self, count: int) -> None:
        need = self._length + count
        if need <= self._capacity:
            return
        self._capacity = max(need, int(self._capacity * GROWTH))
        for name, column in self._data.items():
            larger = self._fresh(name, self._capacity)
            larger[: self._length] = column[: self._length]
            self._data[name] = larger

    def view(self, name: str) -> FloatArray:
        """The filled part of a column, without a copy; all NaN where the column is unknown."""
        column = self._data.get(name)
        if column is None:
            return np.full(self._length, MISSING)
        return column[: self._length]

    def reduce(self, name: str, start: int, stop: int, buckets: int) -> Reduced:
        """Smallest and largest values of the rows in about ``buckets`` buckets; see `Pyramid.reduce`."""
        pyramid = self._pyramids.setdefault(name, Pyramid())
        column = self.view(name)
        pyramid.update(column)
        return pyramid.reduce(column, start, stop, buckets)

    def last(self, name: str) -> float | None:
        """The newest value; None where it is missing."""
        return self.at(name, self._length - 1)

    def at(self, name: str, row: int) -> float | None:
        """The value of one row; None where it is missing."""
        if not 0 <= row < self._length or name not in self._data:
            return None
        value = float(self._data[name][row])
        return None if np.isnan(value) else value

    def nearest(self, name: str, value: float) -> int | None:
        """The row whose ``name`` lies nearest to ``value``; None without rows. The column must ascend."""
        if not self._length:
            return None
        column = self.view(name)
        after = min(int(np.searchsorted(column, value)), self._length - 1)
        before = max(after - 1, 0)
        return before if abs(value - column[before]) <= abs(column[after] - value) else after

    def has_any(self, name: str) -> bool:
        """Whether the column holds at least one reading."""
        column = self._data.get(name)
        if column is None or not self._length:
            return False
        # The ends first: a column with readings nearly always has one there. One without any is asked again
        # at each drawing, and only its new rows are looked at.
        if np.isfinite(column[0]) or np.isfinite(column[self._length - 1]):
            return True
        blank = self._blank.get(name, 0)
        if np.isfinite(column[blank : self._length]).any():
            return True
        self._blank[name] = self._length
        return False

    def prepare(self) -> None:
        """Do now, in the thread that reads a long run, what the first drawing would else wait for."""
        for name in self._data:
            if name not in ASCENDING and self.has_any(name):
                self._pyramids.setdefault(name, Pyramid()).update(self.view(name))

    def truncate_from(self, value: float) -> None:
        """Drop the rows whose key is at least ``value``: a resumed run walks those steps again."""
        keep = int(np.searchsorted(self.view(self._key), value, side="left"))
        if keep >= self._length:
            return
        for column in self._data.values():
            column[keep : self._length] = MISSING
        self._length = keep
        self._blank = {name: min(row, keep) for name, row in self._blank.items()}
        self.generation += 1
        for pyramid in self._pyramids.values():
            pyramid.truncate(keep)
