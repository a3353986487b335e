"""Pairs of rows that may be alike, by bands and sketches, and their comparison text by text.

What is held is bounded whatever the number of rows: see `so8t_engine.pipeline.preprocess.external`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from so8t_engine.data.similarity import THRESHOLD, jaccard, shingles
from so8t_engine.pipeline.preprocess.chunks import chunk_files
from so8t_engine.pipeline.preprocess.external import Rows, SortedWords, Words, equal_pairs
from so8t_engine.pipeline.preprocess.signatures import BANDS, PERMUTATIONS, estimated

#: Pairs whose estimate is below this are not looked at again: two deviations below what must be found.
ESTIMATE = THRESHOLD - 0.09
SKETCH_PAIRS = 50_000
#: Bytes of texts and their shingles that a process keeps while it compares.
KEPT_BYTES = 24 * 2**20
_OPEN_FILES = 64
LOW = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class VerifyTask:
    """Pairs (i << 32 | j) to verify. ``starts``: the number of the first row of each chunk, and the end."""

    scratch: Path
    starts: tuple[int, ...]
    pairs: Words


def candidates(
    scratch: Path,
    starts: tuple[int, ...],
    folder: Path,
    check: Callable[[], None],
    progress: Callable[[int, int], None],
) -> SortedWords:
    """All pairs of rows that share a band and whose sketches are alike enough.

    Args:
        starts: the number of the first row of each chunk, and the end.
        folder: for what memory does not hold; exists.
        check: raises to stop.
    """
    sketches = _Sketches(scratch, starts)
    kept = SortedWords(folder / "pairs")
    for band in range(BANDS):
        progress(band, BANDS)
        for pairs in equal_pairs(partial(_band, scratch, starts, band), starts[-1], folder):
            check()
            new = pairs[kept.lacks(pairs)]
            for at in range(0, new.size, SKETCH_PAIRS):
                some = new[at : at + SKETCH_PAIRS]
                kept.add(some[sketches.estimate(some) >= ESTIMATE])
        kept.settle()
    progress(BANDS, BANDS)
    sketches.close()
    return kept


def _band(scratch: Path, starts: tuple[int, ...], band: int) -> Iterator[tuple[Words, Rows]]:
    """One band's keys; no file stays mapped, for mapped pages are memory too."""
    for number, (start, end) in enumerate(pairwise(starts)):
        if start == end:
            continue
        keys = np.array(np.load(chunk_files(scratch, number)["keys"], mmap_mode="r")[band])
        yield keys, np.arange(start, end, dtype=np.uint32)


class _Files:
    """The files of chunks, open few at a time, each with the place where its array begins."""

    def __init__(self, scratch: Path, kind: str) -> None:
        self._scratch, self._kind = scratch, kind
        self._open: OrderedDict[int, tuple[BinaryIO, int]] = OrderedDict()

    def get(self, chunk: int) -> tuple[BinaryIO, int]:
        held = self._open.get(chunk)
        if held is None:
            path = chunk_files(self._scratch, chunk)[self._kind]
            begin = int(np.load(path, mmap_mode="r").offset) if path.suffix == ".npy" else 0
            self._open[chunk] = held = (path.open("rb", buffering=0), begin)
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)[1][0].close()
        self._open.move_to_end(chunk)
        return held

    def close(self) -> None:
        for file, _begin in self._open.values():
            file.close()
        self._open.clear()


class _Sketches:
    """Sketches of all rows, 128 bytes each, in the chunks' files."""

    def __init__(self, scratch: Path, starts: tuple[int, ...]) -> None:
        self._scratch, self._starts = scratch, np.array(starts)
        self._files = _Files(scratch, "sketch")

    def estimate(self, pairs: Words) -> NDArray[np.float64]:
        """The similarity of each pair's texts."""
        if not pairs.size:
            return np.zeros(0)
        return estimated(self.read(pairs >> np.uint64(32)), self.read(pairs & LOW))

    def read(self, rows_P: Words) -> NDArray[np.uint8]:
        """(P, 128)."""
        rows, back = np.unique(rows_P.astype(np.int64), return_inverse=True)
        found = np.empty((rows.size, PERMUTATIONS), np.uint8)
        chunks = np.searchsorted(self._starts, rows, side="right") - 1
        for chunk in np.unique(chunks).tolist():
            begin, end = (int(np.searchsorted(chunks, chunk + side)) for side in (0, 1))
            start, size = int(self._starts[chunk]), int(self._starts[chunk + 1] - self._starts[chunk])
            if (end - begin) * 16 > size:  # reading all of it is quicker
                whole = np.load(chunk_files(self._scratch, chunk)["sketch"])
                found[begin:end] = whole[rows[begin:end] - start]
                continue
            file, first = self._files.get(chunk)
            for n in range(begin, end):
                file.seek(first + (int(rows[n]) - start) * PERMUTATIONS)
                file.readinto(found[n].data)  # type: ignore[attr-defined]
        return found[back]

    def close(self) -> None:
        self._files.close()


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
    texts.close()
    return result


class _Texts:
    """Texts of rows by their number, read one by one; the last ones are kept."""

    def __init__(self, scratch: Path, starts: tuple[int, ...]) -> None:
        self._starts = np.array(starts)
        self._offsets, self._files = _Files(scratch, "offsets"), _Files(scratch, "text")
        self._kept: OrderedDict[int, tuple[NDArray[np.uint64], str, bytes]] = OrderedDict()
        self._bytes = 0

    def get(self, row: int) -> tuple[NDArray[np.uint64], str, bytes]:
        """The shingles of what is measured, what follows it, and all bytes."""
        held = self._kept.get(row)
        if held is not None:
            self._kept.move_to_end(row)
            return held
        chunk = int(np.searchsorted(self._starts, row, side="right")) - 1
        file, first = self._offsets.get(chunk)
        file.seek(first + 8 * (row - int(self._starts[chunk])))
        begin, end = np.frombuffer(file.read(16), np.int64).tolist()
        file, _first = self._files.get(chunk)
        file.seek(begin)
        raw = file.read(end - begin)
        measured, _zero, rest = raw.decode().partition("\0")
        self._kept[row] = held = (shingles(measured), rest, raw)
        self._bytes += _size(held)
        while self._bytes > KEPT_BYTES and len(self._kept) > 2:
            self._bytes -= _size(self._kept.popitem(last=False)[1])
        return held

    def close(self) -> None:
        self._offsets.close()
        self._files.close()


def _size(held: tuple[NDArray[np.uint64], str, bytes]) -> int:
    return held[0].nbytes + 4 * len(held[1]) + len(held[2]) + 512
