"""Growable columns behave as plain lists do."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from so8t_gui.models.buffers import Columns

VALUE = st.one_of(st.none(), st.floats(allow_nan=False, width=32))
ROWS = st.lists(st.dictionaries(st.sampled_from(["a", "b", "c"]), VALUE), max_size=40)


@given(ROWS, st.integers(1, 7))
def test_columns_hold_what_a_list_would(rows: list[dict[str, float | None]], capacity: int) -> None:
    columns = Columns(capacity=capacity)
    for number, row in enumerate(rows):
        columns.append({"step": number, **row})
    assert len(columns) == len(rows)
    for name in ("a", "b", "c"):
        expected = [math.nan if (v := row.get(name)) is None else v for row in rows]
        np.testing.assert_array_equal(columns.view(name), np.array(expected, dtype=float))
    last = rows[-1].get("a") if rows else None
    assert columns.last("a") == last


@given(st.lists(st.integers(0, 50), max_size=40).map(sorted), st.integers(0, 51))
def test_truncating_keeps_only_earlier_rows(steps: list[int], cut: int) -> None:
    columns = Columns(capacity=2)
    for step in steps:
        columns.append({"step": step, "x": step * 2})
    columns.truncate_from(cut)
    kept = [step for step in steps if step < cut]
    assert columns.view("step").tolist() == kept
    columns.append({"step": 99})
    assert columns.last("x") is None, "a dropped value must not shine through"


def test_a_view_is_not_a_copy() -> None:
    columns = Columns(capacity=8)
    columns.append({"step": 1, "x": 2.0})
    assert np.shares_memory(columns.view("x"), columns.view("x"))
