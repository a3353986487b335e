"""Training, validation and test rows: groups whole, strata in proportion."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

NAMES = ("train", "validation", "test")
#: Rows looked at together: what is made of them needs several times their memory.
PART_ROWS = 2**18


def assign(
    groups_N: NDArray[np.integer[Any]],
    strata_N: NDArray[np.integer[Any]],
    keep_N: NDArray[np.bool_],
    fractions: tuple[float, float, float],
    seed: int,
) -> NDArray[np.int8]:
    """The split (index into `NAMES`) of each row, -1 for rows not kept.

    Groups of several rows go first, the largest first, each to the split that lacks most of its strata; the
    single rows then fill every stratum's quota, in a seeded order. Some 20 bytes a row are held meanwhile.

    Args:
        groups_N: rows with the same value share a split; values are not negative and not much larger than
            the number of rows.
        strata_N: small non-negative numbers.
        fractions: of train, validation and test; they sum to 1.
    """
    rng = np.random.default_rng(seed)
    result = np.full(groups_N.size, -1, np.int8)
    if not keep_N.any():
        return result
    totals = np.zeros(1, np.int64)
    for part in _parts(keep_N.size):
        counted = np.bincount(strata_N[part][keep_N[part]])
        totals = np.pad(totals, (0, max(0, counted.size - totals.size)))
        totals[: counted.size] += counted
    share = np.array(fractions)
    quotas = np.outer(share, totals)
    held = np.zeros((3, totals.size))
    sharing_N = _sharing(groups_N, keep_N)
    together = _where(sharing_N)
    roots = groups_N[together]
    order = np.argsort(roots, kind="stable")
    together, roots = together[order], roots[order]
    del order
    starts = np.flatnonzero(np.r_[True, roots[1:] != roots[:-1]]) if roots.size else np.zeros(0, np.int64)
    del roots
    starts = np.r_[starts, together.size]
    sizes = np.diff(starts)
    several = rng.permutation(sizes.size)
    several = several[np.argsort(-sizes[several], kind="stable")]
    for group in several.tolist():
        members = together[starts[group] : starts[group + 1]]
        weights = np.bincount(strata_N[members], minlength=totals.size)
        # Dividing by the share lets a small split fill at the same relative pace as a large one.
        lack = np.where(
            share > 0,
            (weights * (quotas - held - weights / 2)).sum(axis=1) / np.maximum(share, 1e-9),
            -np.inf,
        )
        split = int(np.argmax(lack))
        held[split] += weights
        result[members] = split
    del together
    single_N = keep_N & ~sharing_N
    del sharing_N
    for stratum in range(totals.size):
        mine = _where(single_N, strata_N, stratum)
        rng.shuffle(mine)
        wanted = np.maximum(quotas[:, stratum] - held[:, stratum], 0)
        scale = wanted / wanted.sum() if wanted.sum() > 0 else share
        cuts = np.rint(np.cumsum(scale) * mine.size).astype(int)
        for split, (begin, end) in enumerate(zip([0, *cuts[:-1]], cuts, strict=True)):
            result[mine[begin:end]] = split
    return result


def _parts(count: int) -> list[slice]:
    return [slice(at, at + PART_ROWS) for at in range(0, count, PART_ROWS)]


def _where(
    chosen_N: NDArray[np.bool_], strata_N: NDArray[np.integer[Any]] | None = None, stratum: int = 0
) -> NDArray[np.uint32]:
    """The rows that are chosen, of one stratum if ``strata_N`` is given, in 4 bytes each."""
    found = [np.zeros(0, np.uint32)]
    for part in _parts(chosen_N.size):
        mask = chosen_N[part] if strata_N is None else chosen_N[part] & (strata_N[part] == stratum)
        found.append((np.flatnonzero(mask) + part.start).astype(np.uint32))
    return np.concatenate(found)


def _sharing(groups_N: NDArray[np.integer[Any]], keep_N: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether each row is kept and another kept row has its group; 3 bytes a row."""
    once, twice = np.zeros((2, int(groups_N.max()) + 1), np.bool_)
    for part in _parts(groups_N.size):
        roots, counts = np.unique(groups_N[part][keep_N[part]], return_counts=True)
        twice[roots[(counts > 1) | once[roots]]] = True
        once[roots] = True
    del once
    result = np.empty(groups_N.size, np.bool_)
    for part in _parts(groups_N.size):
        result[part] = twice[groups_N[part]] & keep_N[part]
    return result
