"""Duplicates among all rows. Beyond a few bytes a row, what is held does not grow with the rows."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from so8t_engine.data.similarity import THRESHOLD
from so8t_engine.pipeline.preprocess.alike import LOW, VerifyTask, candidates, verify_pairs
from so8t_engine.pipeline.preprocess.chunks import chunk_files
from so8t_engine.pipeline.preprocess.external import Rows, SortedWords, Words, equal_pairs
from so8t_engine.pipeline.preprocess.pool import spread

TASK_PAIRS = 20_000
_HIGH = np.uint64(32)
_FLATTENED_ROWS = 2**20


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
    threshold: float,
    workers: int,
    check: Callable[[], None],
    progress: Callable[[str, int, int], None],
    dask: str = "",
) -> Duplicates:
    """Which rows repeat an earlier one, and which must stay together: alike ones, and those of a document.

    Args:
        tasks_N: each row's class, -1 for none. Rows of different classes are never duplicates: a pair that
            differs in one word and in its label is what a learner needs.
        dask: as for `spread`.
        threshold: similarity from which a row repeats another, of what is measured and of what follows it.
    """
    folder = scratch / "alike"
    shutil.rmtree(folder, ignore_errors=True)  # of a call that was killed
    folder.mkdir()
    pairs = candidates(scratch, starts, folder, check, lambda done, of: progress("bands", done, of))
    groups = _Groups(starts[-1])
    # By the later row: it is left out for an earlier one that stays, so that each loss has its counterpart.
    repeats = SortedWords(folder / "repeats")
    contradicting = 0
    count = -(-pairs.count() // TASK_PAIRS)
    work = (VerifyTask(scratch, starts, block) for block in pairs.blocks(TASK_PAIRS))
    compared = spread(verify_pairs, work, workers, check, dask, count)
    for done, (task, values) in enumerate(compared, start=1):
        i, j = (task.pairs >> _HIGH).astype(np.int64), (task.pairs & LOW).astype(np.int64)
        same = (tasks_N[i] == tasks_N[j]) | (tasks_N[i] < 0) | (tasks_N[j] < 0)
        alike = (values[:, 0] >= threshold) & (values[:, 1] >= threshold)
        equal = (values[:, 2] > 0).astype(np.uint64)
        repeats.add(
            ((task.pairs & LOW) << _HIGH | (task.pairs >> _HIGH) << np.uint64(1) | equal)[alike & same]
        )
        contradicting += int((alike & ~same).sum())
        groups.join(task.pairs[values[:, 0] >= THRESHOLD])
        progress("pairs", done, count)
    for block in equal_pairs(partial(_documents, scratch, starts), starts[-1], folder, chain=True):
        check()
        groups.join(block)
    dropped = np.zeros(starts[-1], np.bool_)
    exact = near = 0
    for block in repeats.blocks(TASK_PAIRS):
        check()
        for word in block.tolist():
            later, earlier = word >> 32, (word & 0xFFFFFFFF) >> 1
            if not dropped[earlier] and not dropped[later]:
                dropped[later] = True
                exact, near = exact + (word & 1), near + 1 - (word & 1)
    shutil.rmtree(folder, ignore_errors=True)
    return Duplicates(dropped, exact, near, contradicting, groups.flat())


def _documents(scratch: Path, starts: tuple[int, ...]) -> Iterator[tuple[Words, Rows]]:
    for number, (start, end) in enumerate(pairwise(starts)):
        meta = np.load(chunk_files(scratch, number)["meta"])
        yield np.ascontiguousarray(meta["document"]), np.arange(start, end, dtype=np.uint32)


class _Groups:
    """Rows that were joined, by the first of them (Tarjan 1975, with path halving): 4 bytes a row."""

    def __init__(self, count: int) -> None:
        self._parent = np.arange(count, dtype=np.int32)

    def join(self, pairs: Words) -> None:
        """Pairs as i << 32 | j."""
        parent = self._parent
        for a, b in zip((pairs >> _HIGH).tolist(), (pairs & LOW).tolist(), strict=True):
            x, y = self._root(a), self._root(b)
            parent[max(x, y)] = min(x, y)

    def _root(self, node: int) -> int:
        parent = self._parent
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = int(parent[node])
        return int(node)

    def flat(self) -> NDArray[np.int32]:
        """The first row of each row's group."""
        parent = self._parent
        for at in range(0, parent.size, _FLATTENED_ROWS):  # all roots of earlier parts are known
            part = parent[at : at + _FLATTENED_ROWS]
            while not np.array_equal(above := parent[part], part):
                part[:] = above
        return parent
