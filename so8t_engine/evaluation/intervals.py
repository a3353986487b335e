"""Intervals and paired tests for evaluation figures: bootstrap, McNemar, Student's t. NumPy and SciPy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Metric = Callable[[NDArray[np.int64]], float]
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval; bounds are None where there is too little to say."""

    value: float | None
    low: float | None
    high: float | None


def percentile_interval(value: float, draws: Sequence[float] | Floats) -> Interval:
    """The 2.5 % and 97.5 % quantiles of bootstrap draws; draws that are NaN (a class was not drawn) are
    left out. Efron and Tibshirani 1993, chapter 13."""
    known = np.array([d for d in draws if not math.isnan(d)])
    if math.isnan(value):
        return Interval(None, None, None)
    if len(known) < 100:
        return Interval(value, None, None)
    low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()
    return Interval(value, low, high)


def bootstrap(metric: Metric, rows: int, *, draws: int = 2000, seed: int = 0) -> Interval:
    """Resample rows with replacement.

    Args:
        metric: the figure on given row numbers (a row may occur several times); NaN where it has none.
        rows: how many there are.
    """
    if rows == 0:
        return Interval(None, None, None)
    generator = np.random.default_rng(seed)
    found = [metric(generator.integers(0, rows, rows)) for _draw in range(draws)]
    return percentile_interval(metric(np.arange(rows)), found)


@dataclass(frozen=True)
class McNemar:
    """Two classifiers on the same rows.

    Attributes:
        only_first, only_second: rows that only the first, or only the second, has right.
        p: exact two-sided binomial p-value; None where they never differ.
    """

    only_first: int
    only_second: int
    p: float | None


def mcnemar(first_right: Sequence[bool], second_right: Sequence[bool]) -> McNemar:
    """The exact McNemar test (McNemar 1947; exact binomial on the discordant pairs)."""
    first, second = np.asarray(first_right, bool), np.asarray(second_right, bool)
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    if only_first + only_second == 0:
        return McNemar(0, 0, None)
    from scipy.stats import binomtest

    return McNemar(
        only_first, only_second, float(binomtest(only_first, only_first + only_second, 0.5).pvalue)
    )


def t_interval(values: Sequence[float]) -> Interval:
    """Mean of independent repeats (seeds) and Student's 95 % interval; no interval for fewer than two."""
    known = np.array([v for v in values if not math.isnan(v)])
    if not len(known):
        return Interval(None, None, None)
    mean = float(known.mean())
    if len(known) < 2:
        return Interval(mean, None, None)
    from scipy.stats import t

    half = float(t.ppf((1 + CONFIDENCE) / 2, len(known) - 1) * known.std(ddof=1) / math.sqrt(len(known)))
    return Interval(mean, mean - half, mean + half)


def paired_t(values: Sequence[float], others: Sequence[float]) -> tuple[Interval, float | None]:
    """Mean of ``values − others`` over pairs, its 95 % interval, and the two-sided p of Student's paired
    test; p is None where it is not defined (fewer than two pairs, or no spread)."""
    difference = np.asarray(values, float) - np.asarray(others, float)
    known = difference[~np.isnan(difference)]
    found = t_interval(known.tolist())
    if len(known) < 2 or float(known.std(ddof=1)) == 0.0:
        return found, None
    from scipy.stats import ttest_1samp

    return found, float(ttest_1samp(known, 0.0).pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment (1979) of the p-values that exist, in place."""
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, index) in enumerate(order):
        highest = max(highest, min(1.0, p * (len(order) - rank)))
        adjusted[index] = highest
    return adjusted
