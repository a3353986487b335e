"""What is decided with files and little memory equals what whole arrays in memory give."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from so8t_engine.pipeline.preprocess import external, splits
from so8t_engine.pipeline.preprocess.alike import _Sketches
from so8t_engine.pipeline.preprocess.chunks import META, chunk_files
from so8t_engine.pipeline.preprocess.duplicates import find_duplicates
from so8t_engine.pipeline.preprocess.external import SortedWords, equal_pairs
from so8t_engine.pipeline.preprocess.signatures import band_keys, signatures, sketch
from tests.engine.pipeline.preprocess import whole


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """So little that some hundred rows go through runs, merges, and partitions of partitions."""
    monkeypatch.setattr(external, "HELD_WORDS", 50)
    monkeypatch.setattr(external, "MERGE_WORDS", 7)
    monkeypatch.setattr(external, "RUNS", 3)
    monkeypatch.setattr(external, "WORKING_ROWS", 40)
    monkeypatch.setattr(external, "PAIRED_ROWS", 64)
    monkeypatch.setattr(splits, "PART_ROWS", 23)


def source(keys: list[int], block: int) -> external.Source:
    def read() -> list[tuple[external.Words, external.Rows]]:
        every = np.array(keys, np.uint64)
        rows = np.arange(len(keys), dtype=np.uint32)
        return [(every[at : at + block], rows[at : at + block]) for at in range(0, len(keys), block)]

    return read


KEYS = st.integers(0, 2**31).flatmap(
    lambda seed: st.builds(
        lambda count, kinds, skew: _skewed(seed, count, kinds, skew),
        st.integers(0, 600),
        st.integers(1, 400),
        st.sampled_from([1.0, 3.0, 9.0]),
    )
)


def _skewed(seed: int, count: int, kinds: int, skew: float) -> list[int]:
    """Keys of which some are frequent: with a large skew most are equal."""
    rng = random.Random(seed)
    return [int(kinds * rng.random() ** skew) * 0x9E3779B97F4A7C15 % 2**64 for _n in range(count)]


@pytest.mark.usefixtures("little_memory")
@settings(max_examples=60, deadline=None)
@given(KEYS, st.integers(1, 100), st.booleans())
@example([7] * 300 + list(range(100)), 50, False)  # one key fills working sets: pairs made in passing
@example([7, 8, 9] * 200, 50, True)
def test_equal_keys_are_paired_as_in_memory(keys: list[int], block: int, chain: bool) -> None:
    with TemporaryDirectory() as folder:
        blocks = list(equal_pairs(source(keys, block), len(keys), Path(folder), chain=chain))
        assert list(Path(folder).iterdir()) == []
    found = {(int(word) >> 32, int(word) & 0xFFFFFFFF) for part in blocks for word in part.tolist()}
    if chain:
        last: dict[int, int] = {}
        expected = set()
        for row, key in enumerate(keys):
            if key in last:
                expected.add((last[key], row))
            last[key] = row
        assert found == expected
    else:
        assert found == whole.bucket_pairs(keys)
    assert max((part.size for part in blocks), default=0) <= 31 * 200


@pytest.mark.usefixtures("little_memory")
@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 500), max_size=40), max_size=30), st.integers(1, 30))
def test_a_sorted_set_is_one_whatever_fits_into_memory(parts: list[list[int]], size: int) -> None:
    with TemporaryDirectory() as folder:
        words = SortedWords(Path(folder) / "words")
        for part in parts:
            words.add(np.array(part, np.uint64))
        expected = sorted({word for part in parts for word in part})
        assert words.count() == len(expected)
        blocks = list(words.blocks(size))
        assert [len(block) for block in blocks[:-1]] == [size] * max(0, len(blocks) - 1)
        assert [word for block in blocks for word in block.tolist()] == expected


def made(scratch: Path, seed: int, count: int) -> tuple[tuple[int, ...], list[int]]:
    """Chunks as cleaning leaves them, of texts that repeat earlier ones in many ways."""
    rng = random.Random(seed)
    words = [f"{a}{b}" for a in ("ka", "to", "mi", "re", "shu") for b in ("ba", "ro", "n", "sel", "ti")]
    texts: list[tuple[str, str]] = []
    for _n in range(count):
        kind = rng.random()
        if not texts or kind < 0.4:
            texts.append((" ".join(rng.choices(words, k=rng.randint(8, 40))), rng.choice(["yes", "no", ""])))
        elif kind < 0.6:
            texts.append(texts[0] if rng.random() < 0.5 else rng.choice(texts))
        else:
            parts = rng.choice(texts)[0].split()
            for at in rng.sample(range(len(parts)), max(1, len(parts) // rng.choice([5, 12, 30]))):
                parts[at] = rng.choice(words)
            texts.append((" ".join(parts), rng.choice(["yes", "no, this is quite another answer"])))
    tasks = [rng.choice([-1, -1, 0, 0, 3]) for _text in texts]
    starts = [0]
    while starts[-1] < count:
        starts.append(min(count, starts[-1] + rng.choice([1, 30, 77])))
    for number, (begin, end) in enumerate(pairwise(starts)):
        files, part = chunk_files(scratch, number), texts[begin:end]
        values = signatures([measured for measured, _rest in part], 1)
        np.save(files["keys"], band_keys(values))
        np.save(files["sketch"], sketch(values))
        documents = [rng.choice([rng.randrange(40), rng.randrange(2**63)]) for _text in part]
        np.save(files["meta"], np.array([(name, 0, 0) for name in documents], META))
        raw = [f"{measured}\0{rest}".encode() for measured, rest in part]
        files["text"].write_bytes(b"".join(raw))
        np.save(files["offsets"], np.cumsum([0, *map(len, raw)], dtype=np.int64))
    return tuple(starts), tasks


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("seed", range(6))
def test_duplicates_are_those_of_whole_arrays(tmp_path: Path, seed: int) -> None:
    starts, tasks = made(tmp_path, seed, 150 + 25 * seed)
    before = sorted(tmp_path.iterdir())
    found = find_duplicates(
        tmp_path, starts, np.array(tasks, np.int8), 0.8, 1, lambda: None, lambda *_told: None
    )
    dropped, exact, near, contradicting, groups = whole.duplicates(tmp_path, starts, tasks, 0.8)
    assert found.dropped.tolist() == dropped
    assert (found.exact, found.near, found.contradicting) == (exact, near, contradicting)
    assert found.groups.tolist() == groups
    assert exact > 10
    assert near > 3
    assert contradicting > 3
    assert sorted(tmp_path.iterdir()) == before  # nothing is left of what was put aside


def test_an_interrupted_decision_leaves_nothing_that_counts(tmp_path: Path, little_memory: None) -> None:
    starts, tasks = made(tmp_path, 3, 300)
    whole_found = find_duplicates(
        tmp_path, starts, np.array(tasks, np.int8), 0.8, 1, lambda: None, lambda *_told: None
    )
    calls = iter(range(10_000))

    def stop() -> None:
        if next(calls) > 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_duplicates(tmp_path, starts, np.array(tasks, np.int8), 0.8, 1, stop, lambda *_told: None)
    assert (tmp_path / "alike").exists()
    again = find_duplicates(
        tmp_path, starts, np.array(tasks, np.int8), 0.8, 1, lambda: None, lambda *_told: None
    )
    assert np.array_equal(again.groups, whole_found.groups)
    assert np.array_equal(again.dropped, whole_found.dropped)


@pytest.mark.usefixtures("little_memory")
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 300), st.sampled_from([0.0, 0.1, 0.6]))
def test_splits_are_those_of_whole_arrays(seed: int, count: int, test: float) -> None:
    rng = np.random.default_rng(seed)
    groups = np.arange(count)
    grouped = rng.random(count) < rng.random()
    groups[grouped] = rng.integers(0, max(1, count // 5), int(grouped.sum()))
    strata = rng.integers(0, 4, count)
    keep = rng.random(count) < 0.9
    fractions = (0.9 - test, 0.1, test)
    expected = whole.splits(groups, strata, keep, fractions, seed)
    assert np.array_equal(splits.assign(groups, strata, keep, fractions, seed), expected)


def test_sketches_are_the_same_by_chunk_and_by_row(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    every = rng.integers(0, 256, (1000, 128), np.uint8)
    np.save(chunk_files(tmp_path, 0)["sketch"], every[:990])
    np.save(chunk_files(tmp_path, 1)["sketch"], every[990:])
    rows = np.array([995, 7, 991, 7, 3, 999, 990, 989], np.uint64)  # few of the first, most of the second
    sketches = _Sketches(tmp_path, (0, 990, 1000))
    assert np.array_equal(sketches.read(rows), every[rows.astype(int)])
    sketches.close()
