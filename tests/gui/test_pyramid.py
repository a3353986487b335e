"""Reduced columns keep every extreme, wherever one looks and however they grew."""

from __future__ import annotations

import warnings

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from so8t_gui.models.buffers import Columns
from so8t_gui.models.smoothing import Smoothed

ROW = st.one_of(st.just(float("nan")), st.floats(-1e6, 1e6, width=32))


@given(
    st.lists(st.integers(1, 900), min_size=1, max_size=6),
    st.integers(0, 2**31),
    st.integers(1, 50),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_each_bucket_holds_the_extremes_of_its_rows(
    parts: list[int], seed: int, buckets: int, a: float, b: float, cut: float
) -> None:
    rng = np.random.default_rng(seed)
    columns = Columns(capacity=4)
    for index, part in enumerate(parts):
        values = np.where(rng.random(part) < 0.2, np.nan, rng.normal(size=part)).astype(np.float32)
        columns.extend({"step": len(columns) + np.arange(part), "x": values})
        columns.reduce("x", 0, len(columns), 3)
        if index == 2:
            columns.truncate_from(int(cut * len(columns)))
    x = columns.view("x")
    start, stop = sorted((int(a * len(x)), int(b * len(x))))
    if start == stop:
        return
    found = columns.reduce("x", start, stop, buckets)
    assert min(buckets, stop - start) <= len(found.first)
    assert len(found.first) <= 2 * buckets + 2
    for first, low, high in zip(found.first, found.low, found.high, strict=True):
        rows = x[first : first + found.size]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            expected = (np.nanmin(rows), np.nanmax(rows))
        np.testing.assert_array_equal((low, high), expected)


@given(st.lists(ROW, max_size=300), st.integers(1, 299), st.sampled_from([0.5, 0.9, 0.99]))
def test_smoothing_is_the_debiased_moving_average_however_rows_arrive(
    values: list[float], piece: int, decay: float
) -> None:
    columns = Columns()
    smoothed = Smoothed(columns, "x", decay)
    for start in range(0, len(values), piece):
        part = values[start : start + piece]
        columns.extend({"step": start + np.arange(len(part)), "x": np.array(part)})
        smoothed.update()
    top = bottom = 0.0
    expected = []
    for value in values:
        top, bottom = decay * top, decay * bottom
        if np.isfinite(value):
            top, bottom = top + (1 - decay) * value, bottom + (1 - decay)
        expected.append(top / bottom if bottom and np.isfinite(value) else np.nan)
    scale = max((abs(v) for v in values if np.isfinite(v)), default=1.0) + 1e-30
    got = smoothed.table.view("x") / scale
    np.testing.assert_allclose(got, np.array(expected) / scale, rtol=1e-5, atol=1e-6)
