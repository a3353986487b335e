"""Duplicates and splits by whole arrays in memory: the plain way that the bounded one must equal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from so8t_engine.data.similarity import THRESHOLD
from so8t_engine.pipeline.preprocess.alike import ESTIMATE, VerifyTask, verify_pairs
from so8t_engine.pipeline.preprocess.chunks import chunk_files
from so8t_engine.pipeline.preprocess.signatures import estimated

Pair = tuple[int, int]


def bucket_pairs(keys: list[int]) -> set[Pair]:
    """Pairs of places with equal keys; in a bucket of more than 32 each with its neighbour and the first."""
    buckets: dict[int, list[int]] = {}
    for place, key in enumerate(keys):
        buckets.setdefault(key, []).append(place)
    found: set[Pair] = set()
    for members in buckets.values():
        for n, later in enumerate(members):
            earlier = members[:n] if len(members) <= 32 else {members[0], members[max(0, n - 1)]} - {later}
            found.update((one, later) for one in earlier)
    return found


def duplicates(
    scratch: Path, starts: tuple[int, ...], tasks: list[int], threshold: float
) -> tuple[list[bool], int, int, int, list[int]]:
    """Dropped, exact, near, contradicting, groups."""
    chunks = range(len(starts) - 1)
    keys = np.concatenate([np.load(chunk_files(scratch, n)["keys"]) for n in chunks], axis=1)
    sketches = np.concatenate([np.load(chunk_files(scratch, n)["sketch"]) for n in chunks])
    documents = np.concatenate([np.load(chunk_files(scratch, n)["meta"])["document"] for n in chunks])
    found: set[Pair] = set()
    for band in keys:
        found |= bucket_pairs(band.tolist())
    pairs = sorted(found)
    likely = [
        (i, j) for i, j in pairs if float(estimated(sketches[i : i + 1], sketches[j : j + 1])[0]) >= ESTIMATE
    ]
    words = np.array([i << 32 | j for i, j in likely], np.uint64)
    values = verify_pairs(VerifyTask(scratch, starts, words))
    parent = list(range(starts[-1]))

    def root(node: int) -> int:
        return node if parent[node] == node else root(parent[node])

    def join(a: int, b: int) -> None:
        low, high = sorted((root(a), root(b)))
        parent[high] = low

    contradicting = 0
    repeats: list[tuple[int, int, bool]] = []
    for (i, j), (first, rest, equal) in zip(likely, values, strict=True):
        if first >= THRESHOLD:
            join(i, j)
        if first >= threshold and rest >= threshold:
            if tasks[i] == tasks[j] or min(tasks[i], tasks[j]) < 0:
                repeats.append((j, i, bool(equal)))
            else:
                contradicting += 1
    for i, j in bucket_pairs(documents.tolist()):
        join(i, j)
    dropped = [False] * starts[-1]
    exact = near = 0
    for j, i, equal in sorted(repeats):
        if not dropped[i] and not dropped[j]:
            dropped[j] = True
            exact, near = exact + equal, near + (not equal)
    return dropped, exact, near, contradicting, [root(node) for node in range(starts[-1])]


def splits(
    groups: NDArray[np.int64],
    strata: NDArray[np.int64],
    keep: NDArray[np.bool_],
    fractions: tuple[float, float, float],
    seed: int,
) -> NDArray[np.int8]:
    """The split of each row as the step made it with whole arrays."""
    rng = np.random.default_rng(seed)
    result = np.full(groups.size, -1, np.int8)
    kept = np.flatnonzero(keep)
    if not kept.size:
        return result
    _names, inverse, sizes = np.unique(groups[kept], return_inverse=True, return_counts=True)
    own = strata[kept]
    totals = np.bincount(own)
    share = np.array(fractions)
    quotas, held = np.outer(share, totals), np.zeros((3, totals.size))
    several = np.flatnonzero(sizes > 1)
    several = several[rng.permutation(several.size)]
    for group in several[np.argsort(-sizes[several], kind="stable")]:
        members = np.flatnonzero(inverse == group)
        weights = np.bincount(own[members], minlength=totals.size)
        lack = (weights * (quotas - held - weights / 2)).sum(axis=1) / np.maximum(share, 1e-9)
        split = int(np.argmax(np.where(share > 0, lack, -np.inf)))
        held[split] += weights
        result[kept[members]] = split
    single = sizes[inverse] == 1
    for stratum in range(totals.size):
        mine = np.flatnonzero(single & (own == stratum))
        mine = mine[rng.permutation(mine.size)]
        wanted = np.maximum(quotas[:, stratum] - held[:, stratum], 0)
        cuts = np.rint(np.cumsum(wanted / wanted.sum() if wanted.sum() > 0 else share) * mine.size).astype(
            int
        )
        for split, (begin, end) in enumerate(zip([0, *cuts[:-1]], cuts, strict=True)):
            result[kept[mine[begin:end]]] = split
    return result
