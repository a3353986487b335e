"""Stratified choices: every phase in proportion, whatever order the records come in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def largest_remainder(total: int, weights: Sequence[float]) -> list[int]:
    """``total`` divided in proportion to ``weights``: each share is within 1 of its exact part."""
    whole = sum(weights)
    exact = [total * weight / whole for weight in weights]
    shares = [int(np.floor(part + 1e-9)) for part in exact]
    by_rest = sorted(range(len(weights)), key=lambda i: (shares[i] - exact[i], i))
    for index in by_rest[: total - sum(shares)]:
        shares[index] += 1
    return shares


def stratified_split(
    strata_N: Indices, fractions: Sequence[float], generator: np.random.Generator
) -> list[Indices]:
    """Row numbers of each split, shuffled; each split holds every stratum in proportion, within one row.

    The rows are shuffled within their stratum before they are divided: records that come in the order of
    a schedule would otherwise leave only its end to validation and test.
    """
    parts: list[list[Indices]] = [[] for _fraction in fractions]
    for stratum in np.unique(strata_N):
        rows = generator.permutation(np.flatnonzero(strata_N == stratum))
        start = 0
        for part, share in zip(parts, largest_remainder(len(rows), fractions), strict=True):
            part.append(rows[start : start + share])
            start += share
    return [generator.permutation(np.concatenate(part)) for part in parts]


def proportional(strata_N: Indices, count: int, generator: np.random.Generator) -> Indices:
    """``count`` distinct row numbers, every stratum in proportion."""
    strata, sizes = np.unique(strata_N, return_counts=True)
    shares = largest_remainder(count, sizes.tolist())
    chosen = [
        generator.permutation(np.flatnonzero(strata_N == stratum))[:share]
        for stratum, share in zip(strata, shares, strict=True)
    ]
    return np.concatenate(chosen)
