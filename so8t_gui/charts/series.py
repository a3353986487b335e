"""What a line in a chart is, how its readings are written, and the range that shows it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from so8t_gui.models.buffers import Columns

MISSING_TEXT = "—"
#: Quantiles of what is in view between which values are never left out, and how far beyond them is shown.
LOW_QUANTILE, HIGH_QUANTILE, REACH = 0.02, 0.98, 1.5
Values = npt.NDArray[np.float64]

#: Steps, or seconds, that an axis spans which has one place to show.
ALONE = 10.0


@dataclass(frozen=True, slots=True)
class Series:
    """A line. ``label`` is already translated; ``points`` draws the rows as dots, for sparse rows.

    ``key`` tells the lines of several runs apart that show the same column.
    """

    column: str
    label: str
    colour: str
    points: bool = False
    dashed: bool = False
    key: str = ""

    @property
    def id(self) -> str:
        return self.key or self.column


@dataclass(frozen=True, slots=True)
class Statistics:
    """One series between two places: ``change`` is the last value less the first; None without values."""

    label: str
    count: int
    mean: float | None = None
    deviation: float | None = None
    smallest: float | None = None
    largest: float | None = None
    change: float | None = None


def statistics(label: str, table: Columns, column: str, x: str, low: float, high: float) -> Statistics:
    """Over the finite values of ``column`` where ``x`` lies in [low, high], at full resolution."""
    start, stop = rows_between(table, x, low, high)
    values = table.view(column)[start:stop].astype(np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return Statistics(label, 0)
    return Statistics(
        label,
        len(values),
        float(values.mean()),
        float(values.std()),
        float(values.min()),
        float(values.max()),
        float(values[-1] - values[0]),
    )


def rows_between(table: Columns, x: str, low: float, high: float) -> tuple[int, int]:
    """Rows whose ``x`` lies in [low, high], as start and stop."""
    along = table.view(x)
    return int(np.searchsorted(along, low, "left")), int(np.searchsorted(along, high, "right"))


def format_value(value: float | None) -> str:
    """Four significant digits, or a dash for a missing reading."""
    return MISSING_TEXT if value is None else f"{value:.4g}"


def unbroken(label: str) -> str:
    """The label as markup in which no line breaks: Japanese breaks between any two signs."""
    return "&#8288;".join(html.escape(sign) for sign in label.replace(" ", "\u00a0"))


def robust_range(values: Values) -> tuple[float, float] | None:
    """The range that shows ``values`` without letting few outliers squeeze the rest; None without any."""
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    # As `np.quantile`, which takes three times as long here and imports numpy's masked arrays.
    known.sort()
    places = np.multiply((LOW_QUANTILE, HIGH_QUANTILE), len(known) - 1)
    low, high = np.interp(places, np.arange(len(known)), known).tolist()
    room = REACH * (high - low)
    return max(float(known[0]), low - room), min(float(known[-1]), high + room)


def full_range(values: Values) -> tuple[float, float] | None:
    """From the smallest to the largest finite value; None without any."""
    known = values[np.isfinite(values)]
    return (float(known.min()), float(known.max())) if len(known) else None


def grown_span(extent: tuple[float, float], now: Sequence[float]) -> tuple[float, float]:
    """A span that holds ``extent`` with room ahead; the present one while it still fits.

    A single place gets a span of `ALONE`. The room makes the axis move seldom while a run goes on: each
    move writes its numbers anew.
    """
    low, high = extent
    if high == low:
        high = low + ALONE
    width = high - low
    left, right = float(now[0]), float(now[1])
    held = left <= low and high <= right and low - left <= 0.05 * width
    if held and width <= right - left <= 1.12 * width:
        return left, right
    return low - 0.01 * width, high + 0.05 * width
