"""Training, validation and test rows: groups whole, strata in proportion."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

NAMES = ("train", "validation", "test")


def assign(
    groups_N: NDArray[np.integer[Any]],
    strata_N: NDArray[np.integer[Any]],
    keep_N: NDArray[np.bool_],
    fractions: tuple[float, float, float],
    seed: int,
) -> NDArray[np.int8]:
    """The split (index into `NAMES`) of each row, -1 for rows not kept.

    Groups of several rows go first, the largest first, each to the split that lacks most of its strata; the
    single rows then fill every stratum's quota, in a seeded order.

    Args:
        groups_N: rows with the same value share a split; values are below the number of rows.
        strata_N: small non-negative numbers.
        fractions: of train, validation and test; they sum to 1.
    """
    rng = np.random.default_rng(seed)
    result = np.full(groups_N.size, -1, np.int8)
    kept = np.flatnonzero(keep_N).astype(np.uint32)
    if not kept.size:
        return result
    roots = groups_N[kept]
    sharing = np.bincount(roots, minlength=1)[roots] > 1
    del roots
    strata = strata_N[kept]
    count = int(strata.max()) + 1
    totals = np.bincount(strata, minlength=count)
    share = np.array(fractions)
    quotas = np.outer(share, totals)
    held = np.zeros((3, count))
    together = np.flatnonzero(sharing)
    _names, inverse, sizes = np.unique(groups_N[kept[together]], return_inverse=True, return_counts=True)
    order = together[np.argsort(inverse, kind="stable")]
    starts = np.cumsum(np.r_[0, sizes])
    several = rng.permutation(sizes.size)
    several = several[np.argsort(-sizes[several], kind="stable")]
    for group in several.tolist():
        members = order[starts[group] : starts[group + 1]]
        weights = np.bincount(strata[members], minlength=count)
        # Dividing by the share lets a small split fill at the same relative pace as a large one.
        lack = np.where(
            share > 0,
            (weights * (quotas - held - weights / 2)).sum(axis=1) / np.maximum(share, 1e-9),
            -np.inf,
        )
        split = int(np.argmax(lack))
        held[split] += weights
        result[kept[members]] = split
    single = np.flatnonzero(~sharing)
    for stratum in range(count):
        mine = single[strata[single] == stratum]
        mine = mine[rng.permutation(mine.size)]
        wanted = np.maximum(quotas[:, stratum] - held[:, stratum], 0)
        scale = wanted / wanted.sum() if wanted.sum() > 0 else share
        cuts = np.rint(np.cumsum(scale) * mine.size).astype(int)
        for split, (begin, end) in enumerate(zip([0, *cuts[:-1]], cuts, strict=True)):
            result[kept[mine[begin:end]]] = split
    return result
