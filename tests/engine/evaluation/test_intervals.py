"""Intervals and tests against closed forms and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from so8t_engine.evaluation.intervals import bootstrap, holm, mcnemar, paired_t, t_interval


def test_a_bootstrap_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(100):
        hits = generator.random(200) < 0.8
        found = bootstrap(lambda rows, hits=hits: float(hits[rows].mean()), 200, draws=400, seed=trial)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.8 <= found.high
    assert 88 <= covered <= 100


def test_nothing_gives_no_interval() -> None:
    assert bootstrap(lambda rows: float("nan"), 0).value is None
    assert bootstrap(lambda rows: float("nan"), 5).value is None
    assert t_interval([]).value is None
    assert (t_interval([0.5]).value, t_interval([0.5]).low) == (0.5, None)


def test_mcnemar_is_the_exact_binomial() -> None:
    first = [True] * 10 + [False] * 2 + [True] * 50
    second = [False] * 10 + [True] * 2 + [True] * 50
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (10, 2)
    # 2 Σ_{k ≤ 2} C(12, k) / 2¹²
    assert found.p == pytest.approx(2 * (1 + 12 + 66) / 4096)
    assert mcnemar([True], [True]).p is None


def test_t_interval_and_paired_test_against_the_textbook() -> None:
    values = [0.90, 0.92, 0.88, 0.91, 0.89]
    found = t_interval(values)
    half = 2.776445 * np.std(values, ddof=1) / math.sqrt(5)  # t of 4 degrees of freedom, 97.5 %
    assert found.value == pytest.approx(0.9)
    assert found.high == pytest.approx(0.9 + half, rel=1e-6)
    shifted = [v - 0.05 for v in values]
    difference, p = paired_t(shifted, values)
    assert difference.value == pytest.approx(-0.05)
    assert p is None or p < 1e-9  # no spread at all, up to rounding
    assert paired_t(values, values)[1] is None


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=12))
def test_holm_is_monotone_and_never_below_the_raw_value(p_values: list[float | None]) -> None:
    adjusted = holm(p_values)
    pairs = [(p, a) for p, a in zip(p_values, adjusted, strict=True) if p is not None and a is not None]
    assert [a is None for a in adjusted] == [p is None for p in p_values]
    assert all(p <= a <= 1 for p, a in pairs)
    ordered = [a for _p, a in sorted(pairs)]
    assert ordered == sorted(ordered)
    if pairs:
        smallest = min(p for p, _a in pairs)
        assert min(ordered) == pytest.approx(min(1.0, smallest * len(pairs)))
