"""Reading ahead keeps the order, tells faults in their turn and leaves nothing behind."""

from __future__ import annotations

import threading
import time

import pytest

from so8t_engine.read_ahead import read_ahead


def test_the_order_is_the_items_and_two_are_read_at_once() -> None:
    both = threading.Barrier(2, timeout=10)

    def read(item: int) -> int:
        if item < 2:
            both.wait()  # the first two meet, or this test fails
            time.sleep(0.02 * (1 - item))
        return item * item

    assert list(read_ahead(read, range(20), ahead=3)) == [n * n for n in range(20)]
    assert list(read_ahead(read, [])) == []


def test_a_fault_comes_in_its_turn_and_no_more_than_asked_is_read() -> None:
    seen = []

    def read(item: int) -> int:
        seen.append(item)
        if item == 2:
            raise ValueError(item)
        return item

    found = read_ahead(read, range(1000), ahead=4)
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ValueError, match="2"):
        next(found)
    assert max(seen) <= 2 + 4
