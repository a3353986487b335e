"""Splits: no near-duplicate crosses them, they repeat, and the measure is what it claims to be."""

from __future__ import annotations

import random
import string
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from so8t_engine.data import similarity as measure
from so8t_engine.data.rows import Row
from so8t_engine.data.split import assign_components, split_rows
from so8t_engine.errors import DataError


def row(prompt: str, task: int | None = None, line: int = 1) -> Row:
    return Row(prompt, "answer", task, None, None, "rows", line)


def by_definition(a: str, b: str) -> float:
    """Jaccard of character 5-grams, written with Python's own sets of strings."""
    grams = [{t[i : i + 5] for i in range(max(1, len(t) - 4))} for t in map(measure.normalise, (a, b)) if t]
    if len(grams) < 2:
        return float(not grams)
    return len(grams[0] & grams[1]) / len(grams[0] | grams[1])


TEXT = st.text(alphabet="ab あ漢", max_size=30)


@settings(max_examples=200, deadline=None)
@given(TEXT, TEXT)
def test_similarity_is_jaccard_of_five_grams(a: str, b: str) -> None:
    assert measure.similarity(a, b) == pytest.approx(by_definition(a, b))


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXT, max_size=14), st.sampled_from([0.3, 0.5, 0.6, 0.75, 1.0]))
def test_exact_search_finds_every_pair_at_the_threshold(texts: list[str], threshold: float) -> None:
    sets = [measure.shingles(text) for text in texts]
    found = measure.components(len(texts), measure.near_duplicate_pairs(sets, threshold))
    every = [
        (i, j, 1.0)
        for j in range(len(texts))
        for i in range(j)
        if by_definition(texts[i], texts[j]) >= threshold - 1e-12
    ]
    assert found == measure.components(len(texts), every)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(TEXT, max_size=6), min_size=2, max_size=3))
def test_the_largest_cross_similarity_is_exact(groups: list[list[str]]) -> None:
    value, _a, _b = measure.max_cross_similarity(groups)
    every = [
        by_definition(a, b)
        for i, group in enumerate(groups)
        for other in groups[:i]
        for a in group
        for b in other
    ]
    best = max(every, default=0.0)
    assert value == pytest.approx(best) if best >= 0.1 else value < 0.1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(TEXT, st.sampled_from([0, 1, 2, 3, None])), min_size=2, max_size=40),
    st.floats(0.05, 0.5),
    st.integers(0, 99),
)
def test_no_near_duplicate_crosses_and_the_split_repeats(
    data: list[tuple[str, int | None]], fraction: float, seed: int
) -> None:
    rows = [row(text or "-", task, line) for line, (text, task) in enumerate(data, start=1)]
    alike = (
        len(
            measure.components(
                len(rows), measure.near_duplicate_pairs([measure.shingles(one.prompt) for one in rows])
            )
        )
        == 1
    )
    if alike:
        with pytest.raises(DataError, match="near-duplicates of one another"):
            split_rows(rows, fraction, seed)
        return
    train, held = split_rows(rows, fraction, seed)
    assert sorted(r.line for r in train + held) == [r.line for r in rows]
    assert train
    assert held
    assert all(by_definition(a.prompt, b.prompt) < measure.THRESHOLD for a in train for b in held)
    assert split_rows(rows, fraction, seed) == (train, held)


def distinct(rng: random.Random, count: int) -> list[str]:
    return ["".join(rng.choices(string.ascii_lowercase, k=60)) for _ in range(count)]


def test_the_split_is_stratified_and_seeded() -> None:
    rows = [row(text, line % 4, line) for line, text in enumerate(distinct(random.Random(0), 800))]
    train, held = split_rows(rows, 0.1, seed=1)
    assert Counter(r.task for r in held) == dict.fromkeys(range(4), 20)
    assert len(train) == 720
    assert split_rows(rows, 0.1, seed=2)[1] != held


def test_large_components_stay_whole() -> None:
    parts = [list(range(50)), *([i] for i in range(50, 100))]
    first, second = assign_components(parts, ["x"] * 100, [0.8, 0.2], seed=0)
    assert set(range(50)) <= set(first)
    assert (len(first), len(second)) == (80, 20)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_an_impossible_fraction_is_refused(fraction: float) -> None:
    with pytest.raises(DataError, match="fraction"):
        split_rows([row("a"), row("b")], fraction, 0)


def test_fraction_zero_holds_nothing_out() -> None:
    rows = [row("a"), row("a")]
    assert split_rows(rows, 0.0, 0) == (rows, [])


def test_many_rows_are_split_by_minhash_without_crossing_copies() -> None:
    """Above the exact limit: copies with a changed word land on the same side, in reasonable time."""
    rng = random.Random(3)
    originals = distinct(rng, 4_000)
    copies = [text[:30] + "#" + text[31:] for text in originals]  # similarity (56 - 5) / (56 + 5) = 0.84
    rows = [row(text, None, line) for line, text in enumerate(originals + copies)]
    assert len(rows) > measure.EXACT_LIMIT
    began = time.perf_counter()
    train, held = split_rows(rows, 0.1, seed=0)
    assert time.perf_counter() - began < 60
    assert 0.09 < len(held) / len(rows) < 0.11
    sides = {r.line: True for r in train} | {r.line: False for r in held}
    assert sum(sides[i] != sides[i + 4_000] for i in range(4_000)) == 0


def test_minhash_reaches_its_predicted_recall() -> None:
    """The share of pairs found at a known similarity is close to 1 - (1 - s^r)^b."""
    rng = np.random.default_rng(5)
    found, tried, expected = 0, 300, []
    sets: list[measure.Shingles] = []
    for _pair in range(tried):
        shared, own = 60, 20  # similarity 60 / 100
        words = np.unique(rng.integers(1, 2**63, size=shared + 2 * own, dtype=np.uint64))
        sets += [np.sort(words[: shared + own]), np.sort(np.r_[words[:shared], words[shared + own :]])]
        expected.append(measure.jaccard(sets[-2], sets[-1]))
    candidates = set(measure._minhash_pairs(sets, seed=0))
    found = sum((2 * i, 2 * i + 1) in candidates for i in range(tried))
    similarity = float(np.mean(expected))
    predicted = 1 - (1 - similarity**measure.ROWS_PER_BAND) ** measure.BANDS
    assert found / tried == pytest.approx(predicted, abs=0.04)
