"""Words of 64 bits, more of them than memory holds: sorted sets as runs in files, equal keys by partitions.

What is held at a time is bounded by `HELD_WORDS` and `WORKING_ROWS`, whatever the number of rows; beyond
these the rest lies in files of a folder that the caller removes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from so8t_engine.data.similarity import _mixed

Words = NDArray[np.uint64]
Rows = NDArray[np.uint32]
#: Keys with the numbers of their rows, ascending, block by block; called again for each pass.
Source = Callable[[], Iterable[tuple[Words, Rows]]]

#: A sorted set of more words goes to a file (32 MiB).
HELD_WORDS = 2**22
#: So many words of each run are held while runs are merged.
MERGE_WORDS = 2**16
#: Runs that lie beside each other before they become one.
RUNS = 16
#: Rows whose keys are sorted at a time; of up to twice as many, for partitions are never quite equal.
WORKING_ROWS = 2**20
#: In a bucket of more rows, mostly copies of one text, each meets its neighbour and the first only.
SMALL_BUCKET = 32
#: Rows of buckets whose pairs are made at a time.
PAIRED_ROWS = 2**17
_PARTITIONS = 64
_DEPTH = 4
_RECORD = np.dtype([("key", "<u8"), ("row", "<u4")])


class SortedWords:
    """A set of words in order.

    Args:
        folder: for what does not fit into memory; made when it is needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: Words = np.zeros(0, np.uint64)
        self._pending: list[Words] = []
        self._waiting = 0
        self._runs: list[Path] = []
        self._made = 0

    def add(self, words: Words) -> None:
        """Words in any order; `lacks` knows them after the next `settle`."""
        if words.size:
            self._pending.append(words)
            self._waiting += words.size
            if self._waiting >= HELD_WORDS:
                self.settle()

    def settle(self) -> None:
        """Sort in what was added; a set that has grown too large becomes a run."""
        if self._pending:
            self._held = np.unique(np.concatenate([self._held, *self._pending]))
            self._pending, self._waiting = [], 0
        if self._held.size >= HELD_WORDS:
            self._spill()

    def lacks(self, words: Words) -> NDArray[np.bool_]:
        """Whether each word is missing from what memory holds; runs are not asked."""
        if not self._held.size:
            return np.ones(words.size, np.bool_)
        at = np.minimum(np.searchsorted(self._held, words), self._held.size - 1)
        missing: NDArray[np.bool_] = self._held[at] != words
        return missing

    def count(self) -> int:
        """How many words there are; runs become one run for it."""
        self.settle()
        if not self._runs:
            return int(self._held.size)
        if self._held.size:
            self._spill()
        if len(self._runs) > 1:
            self._merge()
        return self._runs[0].stat().st_size // 8

    def blocks(self, size: int) -> Iterator[Words]:
        """All words in order, ``size`` at a time."""
        if not self.count():
            return
        if not self._runs:
            yield from (self._held[at : at + size] for at in range(0, self._held.size, size))
            return
        with self._runs[0].open("rb") as file:
            while (block := np.fromfile(file, np.uint64, size)).size:
                yield block

    def _new(self) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._made += 1
        return self._folder / f"{self._made:06d}.run"

    def _spill(self) -> None:
        path = self._new()
        self._held.tofile(path)
        self._runs.append(path)
        self._held = np.zeros(0, np.uint64)
        if len(self._runs) >= RUNS:
            self._merge()

    def _merge(self) -> None:
        path = self._new()
        with path.open("wb") as file:
            for block in _merged(self._runs):
                block.tofile(file)
        for run in self._runs:
            run.unlink()
        self._runs = [path]


def _merged(runs: list[Path]) -> Iterator[Words]:
    """The distinct words of sorted files, in order."""
    files = [path.open("rb") for path in runs]
    try:
        buffers = [np.fromfile(file, np.uint64, MERGE_WORDS) for file in files]
        while any(buffer.size for buffer in buffers):
            # What is not read yet of a run is larger than the last word read of it.
            bound = min(buffer[-1] for buffer in buffers if buffer.size)
            taken = []
            for n, buffer in enumerate(buffers):
                cut = int(np.searchsorted(buffer, bound, side="right"))
                taken.append(buffer[:cut])
                rest = buffer[cut:]
                buffers[n] = rest if rest.size else np.fromfile(files[n], np.uint64, MERGE_WORDS)
            yield np.unique(np.concatenate(taken))
    finally:
        for file in files:
            file.close()


def packed(a: NDArray[np.integer], b: NDArray[np.integer]) -> Words:
    """Pairs of rows as smaller << 32 | larger."""
    low, high = np.minimum(a, b).astype(np.uint64), np.maximum(a, b).astype(np.uint64)
    words: Words = (low << np.uint64(32)) | high
    return words


def equal_pairs(
    source: Source, count: int, folder: Path, *, chain: bool = False, depth: int = 0
) -> Iterator[Words]:
    """Pairs of rows with equal keys, sorted within a block; a pair may come twice.

    All pairs of a bucket up to `SMALL_BUCKET`; of a larger one each row with its neighbour and the first.

    Args:
        source: all keys.
        count: how many.
        folder: for partitions; exists.
        chain: neighbours only, of every bucket.
        depth: of the partition in partitions.
    """
    if count <= 2 * WORKING_ROWS or depth >= _DEPTH:
        blocks = list(source())
        if blocks:
            keys, rows = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
            del blocks
            yield from _sorted_pairs(keys, rows, chain)
        return
    # Only a key with very many rows makes a partition too large: its pairs are made in passing.
    heavy = _Heavy(_frequent(source, count) if depth else np.zeros(0, np.uint64), chain)
    parts = min(_PARTITIONS, -(-count // WORKING_ROWS))
    paths = [folder / f"{depth}-{number}.part" for number in range(parts)]
    files = [path.open("wb") for path in paths]
    sizes = np.zeros(parts, np.int64)
    try:
        for keys, rows in source():
            keys, rows, pairs = heavy.split(keys, rows)
            if pairs.size:
                yield pairs
            # Other bits at each depth: one of them cannot be split by those that made it.
            mixed = _mixed(keys + np.uint64(depth + 1)) >> np.uint64(32)
            part = ((mixed * np.uint64(parts)) >> np.uint64(32)).astype(np.int64)
            order = np.argsort(part, kind="stable")
            cuts = np.searchsorted(part[order], np.arange(parts + 1))
            records = np.empty(keys.size, _RECORD)
            records["key"], records["row"] = keys[order], rows[order]
            for number in np.flatnonzero(np.diff(cuts)).tolist():
                files[number].write(records[cuts[number] : cuts[number + 1]].tobytes())
            sizes += np.diff(cuts)
    finally:
        for file in files:
            file.close()
    for path, size in zip(paths, sizes.tolist(), strict=True):
        yield from equal_pairs(_records(path), size, folder, chain=chain, depth=depth + 1)
        path.unlink()


def _records(path: Path) -> Source:
    def read() -> Iterator[tuple[Words, Rows]]:
        with path.open("rb") as file:
            while (block := np.fromfile(file, _RECORD, PAIRED_ROWS)).size:
                yield np.ascontiguousarray(block["key"]), np.ascontiguousarray(block["row"])

    return read


def _frequent(source: Source, count: int) -> Words:
    """Every key that fills a working set by itself, and few others, each in a bucket that is not small."""
    found: list[Words] = []
    for keys, _rows in source():
        values, counts = np.unique(keys, return_counts=True)
        share = max(SMALL_BUCKET + 1, keys.size * WORKING_ROWS // (2 * count))
        found.append(values[counts >= share])
    return np.unique(np.concatenate(found)) if found else np.zeros(0, np.uint64)


class _Heavy:
    """Pairs of keys with very many rows, from one pass in the order of rows."""

    def __init__(self, keys: Words, chain: bool) -> None:
        self._keys, self._chain = keys, chain
        self._ends: dict[int, tuple[int, int]] = {}

    def split(self, keys: Words, rows: Rows) -> tuple[Words, Rows, Words]:
        """The keys and rows that are no matter of this, and the pairs of those that are."""
        none = np.zeros(0, np.uint64)
        if not self._keys.size:
            return keys, rows, none
        own = np.isin(keys, self._keys)
        found = [none]
        for key in np.unique(keys[own]).tolist():
            mine = rows[keys == np.uint64(key)]
            first, last = self._ends.get(key, (int(mine[0]), None))
            self._ends[key] = (first, int(mine[-1]))
            previous = np.r_[mine[:1] if last is None else np.uint32(last), mine[:-1]]
            found.append(packed(previous, mine))
            if not self._chain:
                found.append(packed(np.full(mine.size, first, np.uint32), mine))
        pairs = np.unique(np.concatenate(found))
        apart = (pairs >> np.uint64(32)) != (pairs & np.uint64(0xFFFFFFFF))  # the first row met itself
        return keys[~own], rows[~own], pairs[apart]


def _sorted_pairs(keys: Words, rows: Rows, chain: bool) -> Iterator[Words]:
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    same_as_next = ordered[1:] == ordered[:-1]
    shared = np.r_[False, same_as_next] | np.r_[same_as_next, False]
    del same_as_next
    ordered, members = ordered[shared], rows[order[shared]]
    del order, shared
    if not members.size:
        return
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    del ordered
    begin = 0
    while begin < members.size:  # whole buckets at a time
        after = int(np.searchsorted(starts, begin + PAIRED_ROWS))
        end = int(starts[after]) if after < starts.size else int(members.size)
        inside = starts[int(np.searchsorted(starts, begin)) : after]
        yield _bucket_pairs(members[begin:end], inside - begin, chain)
        begin = end


def _bucket_pairs(members: Rows, starts: NDArray[np.int64], chain: bool) -> Words:
    """Of buckets one after the other, each of two rows at least, that begin at ``starts``."""
    sizes = np.diff(np.r_[starts, members.size])
    bucket = np.repeat(np.arange(starts.size), sizes)
    if chain:
        same = bucket[1:] == bucket[:-1]
        return packed(members[:-1][same], members[1:][same])
    small = sizes[bucket] <= SMALL_BUCKET
    found: list[Words] = []
    for distance in range(1, min(int(sizes.max()), SMALL_BUCKET)):
        same = bucket[distance:] == bucket[:-distance]
        if distance > 1:
            same &= small[:-distance]
        at = np.flatnonzero(same)
        found.append(packed(members[at], members[at + distance]))
    large = np.flatnonzero(~small)
    if large.size:
        first = starts[bucket[large]]
        apart = large != first
        found.append(packed(members[first[apart]], members[large[apart]]))
    return np.unique(np.concatenate(found))
