"""Duplicates among all rows, in constant memory: bands are looked at one by one, pairs verified exactly."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from so8t_engine.data.similarity import THRESHOLD, jaccard, shingles
from so8t_engine.pipeline.preprocess.chunks import chunk_files
from so8t_engine.pipeline.preprocess.pool import spread
from so8t_engine.pipeline.preprocess.signatures import BANDS, estimated

SMALL_BUCKET = 32
#: Pairs whose estimate is below this are not looked at again: two deviations below what must be found.
ESTIMATE = THRESHOLD - 0.09
TASK_PAIRS = 20_000
SKETCH_PAIRS = 50_000
#: Up to so many bytes the file of sketches is mapped; beyond it rows are read one by one: constant memory.
MAPPED_BYTES = 256 * 2**20
_OPEN_FILES = 128
Pairs = NDArray[np.uint64]
LOW = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class VerifyTask:
    """Pairs (i << 32 | j) to verify. ``starts``: the number of the first row of each chunk, and the end."""

    scratch: Path
    starts: tuple[int, ...]
    pairs: Pairs


def _band_pairs(keys: NDArray[np.uint64]) -> Pairs:
    """Candidate pairs of one band; in a bucket of many copies each meets its neighbour and the first only."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    same_as_next = ordered[1:] == ordered[:-1]
    shared = np.r_[False, same_as_next] | np.r_[same_as_next, False]
    order, ordered = order[shared], ordered[shared]  # few: what follows takes no memory to speak of
    if not order.size:
        return np.zeros(0, np.uint64)
    new = np.r_[True, ordered[1:] != ordered[:-1]]
    starts = np.flatnonzero(new)
    sizes = np.diff(np.r_[starts, ordered.size])
    many = sizes > 1
    found: list[Pairs] = []
    bucket = np.cumsum(new) - 1
    small = sizes[bucket] <= SMALL_BUCKET
    largest = int(sizes[many].max()) if many.any() else 0
    for distance in range(1, min(largest, SMALL_BUCKET)):
        same = bucket[distance:] == bucket[:-distance]
        if distance > 1:
            same &= small[:-distance]
        at = np.flatnonzero(same)
        found.append(_packed(order[at], order[at + distance]))
    large = np.flatnonzero(~small)
    if large.size:
        first = starts[bucket[large]]
        apart = large != first
        found.append(_packed(order[first[apart]], order[large[apart]]))
    return np.unique(np.concatenate(found)) if found else np.zeros(0, np.uint64)


def _packed(a: NDArray[np.int64], b: NDArray[np.int64]) -> Pairs:
    low, high = np.minimum(a, b).astype(np.uint64), np.maximum(a, b).astype(np.uint64)
    return (low << np.uint64(32)) | high


def candidates(scratch: Path, chunks: int, progress: Callable[[int, int], None]) -> Pairs:
    """All pairs of rows that share a band and whose sketches are alike enough, sorted."""
    sketches = _Sketches(scratch, chunks)
    kept: Pairs = np.zeros(0, np.uint64)
    for band in range(BANDS):
        progress(band, BANDS)
        pairs = _band_pairs(_band(scratch, chunks, band))
        pairs = pairs[~np.isin(pairs, kept, assume_unique=True)]
        alike = [pairs[at : at + SKETCH_PAIRS] for at in range(0, pairs.size, SKETCH_PAIRS)]
        alike = [part[sketches.estimate(part) >= ESTIMATE] for part in alike]
        kept = np.unique(np.concatenate([kept, *alike]))
    progress(BANDS, BANDS)
    return kept


def _band(scratch: Path, chunks: int, band: int) -> NDArray[np.uint64]:
    """One band's keys of all rows; no file stays mapped, for mapped pages are memory too."""
    parts = [
        np.array(np.load(chunk_files(scratch, number)["keys"], mmap_mode="r")[band])
        for number in range(chunks)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint64)


class _Sketches:
    """Sketches of all rows, 128 bytes each, in a file."""

    def __init__(self, scratch: Path, chunks: int) -> None:
        self._path = scratch / "sketches.u8"
        with self._path.open("wb") as file:
            for number in range(chunks):
                file.write(np.load(chunk_files(scratch, number)["sketch"]).tobytes())
        self._rows = self._path.stat().st_size // 128

    def estimate(self, pairs: Pairs) -> NDArray[np.float64]:
        if not pairs.size:
            return np.zeros(0)
        return estimated(self._read(pairs >> np.uint64(32)), self._read(pairs & LOW))

    def _read(self, rows_P: Pairs) -> NDArray[np.uint8]:
        if self._rows * 128 <= MAPPED_BYTES:
            all_ND = np.memmap(self._path, np.uint8, "r", shape=(self._rows, 128))
            return np.array(all_ND[rows_P])
        found = np.empty((rows_P.size, 128), np.uint8)
        with self._path.open("rb", buffering=0) as file:
            for n, row in enumerate(rows_P.tolist()):
                file.seek(row * 128)
                file.readinto(found[n].data)
        return found


def verify_pairs(task: VerifyTask) -> NDArray[np.float32]:
    """(P, 3): the exact similarity of the measured texts, of what follows them, and whether all is equal."""
    texts = _Texts(task.scratch, task.starts)
    result = np.zeros((task.pairs.size, 3), np.float32)
    for n, pair in enumerate(task.pairs.tolist()):
        a, b = texts.get(pair >> 32), texts.get(pair & 0xFFFFFFFF)
        if a[2] == b[2]:
            result[n] = 1.0, 1.0, 1.0
            continue
        result[n, 0] = jaccard(a[0], b[0])
        if result[n, 0] >= THRESHOLD:
            result[n, 1] = 1.0 if a[1] == b[1] else jaccard(shingles(a[1]), shingles(b[1]))
    return result


class _Texts:
    """Texts of rows by their number, read one by one; the last few thousand are kept."""

    def __init__(self, scratch: Path, starts: tuple[int, ...]) -> None:
        self._scratch, self._starts = scratch, np.array(starts)
        self._files: OrderedDict[int, tuple[BinaryIO, NDArray[np.int64]]] = OrderedDict()
        self._kept: OrderedDict[int, tuple[NDArray[np.uint64], str, bytes]] = OrderedDict()

    def get(self, row: int) -> tuple[NDArray[np.uint64], str, bytes]:
        held = self._kept.get(row)
        if held is not None:
            self._kept.move_to_end(row)
            return held
        chunk = int(np.searchsorted(self._starts, row, side="right")) - 1
        file, offsets = self._file(chunk)
        at = row - int(self._starts[chunk])
        file.seek(int(offsets[at]))
        raw = file.read(int(offsets[at + 1] - offsets[at]))
        measured, _zero, rest = raw.decode().partition("\0")
        self._kept[row] = held = (shingles(measured), rest, raw)
        if len(self._kept) > 4096:
            self._kept.popitem(last=False)
        return held

    def _file(self, chunk: int) -> tuple[BinaryIO, NDArray[np.int64]]:
        held = self._files.get(chunk)
        if held is None:
            files = chunk_files(self._scratch, chunk)
            held = (files["text"].open("rb"), np.load(files["offsets"]))
            self._files[chunk] = held
            if len(self._files) > _OPEN_FILES:
                self._files.popitem(last=False)[1][0].close()
        self._files.move_to_end(chunk)
        return held


@dataclass(frozen=True, slots=True)
class Duplicates:
    """What was found.

    Args:
        dropped: whether each row is left out. exact, near: how many for which reason.
        contradicting: pairs as alike as duplicates whose labels differ; both stay, in one split.
        groups: a number for each row, the same for rows that must share a split.
    """

    dropped: NDArray[np.bool_]
    exact: int
    near: int
    contradicting: int
    groups: NDArray[np.int32]


def find_duplicates(
    scratch: Path,
    starts: tuple[int, ...],
    tasks_N: NDArray[np.int8],
    documents_N: NDArray[np.uint64],
    threshold: float,
    workers: int,
    check: Callable[[], None],
    progress: Callable[[str, int, int], None],
    dask: str = "",
) -> Duplicates:
    """Which rows repeat an earlier one, and which must stay together.

    Args:
        tasks_N: each row's class, -1 for none. Rows of different classes are never duplicates: a pair that
            differs in one word and in its label is what a learner needs.
        documents_N: rows with the same value stay together.
        dask: as for `spread`.
        threshold: similarity from which a row repeats another, of what is measured and of what follows it.
    """
    count = starts[-1]
    pairs = candidates(scratch, len(starts) - 1, lambda done, of: progress("bands", done, of))
    cuts = range(0, pairs.size, TASK_PAIRS)
    work = [VerifyTask(scratch, starts, pairs[at : at + TASK_PAIRS]) for at in cuts]
    results: dict[int, NDArray[np.float32]] = {}
    for done, (task, result) in enumerate(spread(verify_pairs, work, workers, check, dask), start=1):
        results[int(task.pairs[0])] = result
        progress("pairs", done, len(work))
    values = (
        np.concatenate([results[key] for key in sorted(results)]) if results else np.zeros((0, 3), np.float32)
    )
    i, j = (pairs >> np.uint64(32)).astype(np.int64), (pairs & LOW).astype(np.int64)
    same = (tasks_N[i] == tasks_N[j]) | (tasks_N[i] < 0) | (tasks_N[j] < 0)
    alike = (values[:, 0] >= threshold) & (values[:, 1] >= threshold)
    equal = values[:, 2] > 0
    dropped = np.zeros(count, np.bool_)
    exact = near = 0
    # By the later row: it is left out for an earlier one that stays, so that each loss has its counterpart.
    chosen = np.flatnonzero(alike & same)
    for n in chosen[np.lexsort((i[chosen], j[chosen]))].tolist():
        if not dropped[i[n]] and not dropped[j[n]]:
            dropped[j[n]] = True
            exact, near = exact + bool(equal[n]), near + (not equal[n])
    together = values[:, 0] >= THRESHOLD
    groups = _groups(count, i[together], j[together], documents_N)
    return Duplicates(dropped, exact, near, int((alike & ~same).sum()), groups)


def _groups(
    count: int, i: NDArray[np.int64], j: NDArray[np.int64], documents_N: NDArray[np.uint64]
) -> NDArray[np.int32]:
    order = np.argsort(documents_N, kind="stable")
    ordered = documents_N[order]
    twins = np.flatnonzero(ordered[1:] == ordered[:-1])
    del ordered
    parent = np.arange(count, dtype=np.int32)

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = int(parent[node])
        return int(node)

    links: Iterator[tuple[int, int]] = itertools.chain(
        zip(i.tolist(), j.tolist(), strict=True),
        zip(order[twins].tolist(), order[twins + 1].tolist(), strict=True),
    )
    del order
    for a, b in links:
        x, y = root(a), root(b)
        parent[max(x, y)] = min(x, y)
    while True:  # every row to its root
        above = parent[parent]
        if (above == parent).all():
            return parent
        parent = above
