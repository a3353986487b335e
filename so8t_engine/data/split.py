"""Splitting rows so that no near-duplicate of a training row is held out."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from so8t_engine.data.rows import Row
from so8t_engine.data.similarity import THRESHOLD, components, near_duplicate_pairs, shingles
from so8t_engine.errors import DataError
from so8t_engine.i18n import _


def assign_components(
    parts: Sequence[Sequence[int]], strata: Sequence[str], fractions: Sequence[float], seed: int
) -> list[list[int]]:
    """Distribute components over ``len(fractions)`` splits; each component goes wholly into one.

    Largest components first, otherwise in seeded random order, each to the split that lacks most of
    the component's strata (quota minus what it holds, summed over the component's rows).

    Args:
        parts: row indices, every row in exactly one component.
        strata: the stratum of each row, for example task and language.
        fractions: the wanted share of each split; they sum to 1.
        seed: of the order among components of one size, and of ties.

    Returns:
        The row indices of each split, in the order in which they were assigned.
    """
    rng = random.Random(seed)
    shuffled = [list(part) for part in parts]
    rng.shuffle(shuffled)
    shuffled.sort(key=len, reverse=True)
    totals = Counter(strata)
    rows_total = len(strata)
    held: list[Counter[str]] = [Counter() for _fraction in fractions]
    splits: list[list[int]] = [[] for _fraction in fractions]

    for part in shuffled:
        weights = Counter(strata[index] for index in part)

        def lack(split: int, weights: Counter[str] = weights, size: int = len(part)) -> float:
            by_stratum = sum(
                weight * (fractions[split] - (held[split][stratum] + weight / 2) / totals[stratum])
                for stratum, weight in weights.items()
            )
            overall = size * (fractions[split] - (len(splits[split]) + size / 2) / rows_total)
            # Dividing by the share lets a small split fill at the same relative pace as a large one.
            return (by_stratum + overall) / fractions[split]

        candidates = [index for index, fraction in enumerate(fractions) if fraction > 0]
        best = max(candidates, key=lambda split: (lack(split), -split))
        splits[best].extend(part)
        held[best].update(weights)
    return splits


def measured_text(row: Row) -> str:
    """The text whose likeness counts: the prompt, or the response of a row without one."""
    return row.prompt or row.response


def split_rows(rows: list[Row], validation_fraction: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Hold out about ``validation_fraction`` of ``rows``, stratified by task and language.

    Near-duplicates (see `so8t_engine.data.similarity`) of one another stay together. Row order is kept
    within both parts.

    Raises:
        DataError: the fraction is outside [0, 1), or all rows are near-duplicates of one another.
    """
    if not 0.0 <= validation_fraction < 1.0:
        raise DataError(
            _("The validation fraction %(value)g is not at least 0 and below 1.")
            % {"value": validation_fraction},
            _("Set data.validation_fraction to a value such as 0.1."),
        )
    if validation_fraction == 0.0 or not rows:
        return list(rows), []
    pairs = near_duplicate_pairs([shingles(measured_text(row)) for row in rows], THRESHOLD, seed=seed)
    parts = components(len(rows), pairs)
    if len(parts) < 2:
        raise DataError(
            _("All %(count)d rows are near-duplicates of one another, so none can be held out.")
            % {"count": len(rows)},
            _("Give a validation file of its own, or set data.validation_fraction to 0."),
        )
    strata = [f"{row.task}/{row.language}" for row in rows]
    train, validation = assign_components(parts, strata, [1 - validation_fraction, validation_fraction], seed)
    if not validation or not train:  # few components: one of them is held out rather than none
        smallest = min(parts, key=lambda part: (len(part), part[0]))
        validation = list(smallest)
        train = [index for part in parts if part is not smallest for index in part]
    return [rows[i] for i in sorted(train)], [rows[i] for i in sorted(validation)]
