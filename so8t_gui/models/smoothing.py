"""Exponential moving averages of long columns, continued as the columns grow. No Qt."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from so8t_gui.models.buffers import Columns

BLOCK = 64
Float64 = npt.NDArray[np.float64]


def filter_exponentially(values_N: Float64, decay: float, before: float) -> Float64:
    """``y[n] = decay * y[n-1] + (1 - decay) * values_N[n]`` with ``y[-1] = before``, shape (N,).

    In blocks: a triangular product within each, and one multiplication from block to block. A loop over a
    million rows would take a second.
    """
    padded = -len(values_N) % BLOCK
    blocks = np.concatenate([values_N, np.zeros(padded)]).reshape(-1, BLOCK)
    lag = np.subtract.outer(np.arange(BLOCK), np.arange(BLOCK))
    kernel = np.where(lag >= 0, (1 - decay) * decay ** np.maximum(lag, 0), 0.0)
    inside = blocks @ kernel.T
    carried = np.empty(len(blocks))
    across = decay**BLOCK
    for index, end in enumerate(inside[:, -1].tolist()):
        carried[index] = before
        before = across * before + end
    out: Float64 = inside + np.outer(carried, decay ** np.arange(1, BLOCK + 1))
    return out.reshape(-1)[: len(values_N)]


class Smoothed:
    """One smoothed column beside its source.

    The average is divided by the sum of its own weights, so that it is right from the first row; rows
    without a finite value add no weight and stay gaps.

    Attributes:
        table: ``step``, ``elapsed`` and the smoothed column, row for row as in the source.
    """

    def __init__(self, source: Columns, name: str, decay: float) -> None:
        self._source, self._name, self._decay = source, name, decay
        self._start()

    def _start(self) -> None:
        self.table = Columns(single=True)
        self._generation = self._source.generation
        self._top = self._bottom = 0.0

    def update(self) -> Columns:
        """Take in what was appended to the source; returns `table`."""
        if self._generation != self._source.generation:
            self._start()
        done = len(self.table)
        if done < len(self._source):
            values = self._source.view(self._name)[done:].astype(np.float64)
            known = np.isfinite(values)
            top = filter_exponentially(np.where(known, values, 0.0), self._decay, self._top)
            bottom = filter_exponentially(known.astype(np.float64), self._decay, self._bottom)
            self._top, self._bottom = float(top[-1]), float(bottom[-1])
            smooth = np.divide(top, bottom, out=np.full(len(top), np.nan), where=known)
            rows = {
                key: self._source.view(key)[done:] for key in ("step", "elapsed") if key in self._source.names
            }
            self.table.extend(rows | {self._name: smooth})
        return self.table
