"""Training, validation and test rows of a run, and a report of how they came about."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

from so8t_engine.data.reader import has_split, read_rows
from so8t_engine.data.rows import Row, Safety, Task
from so8t_engine.data.split import split_rows


@dataclass(frozen=True, slots=True)
class SplitReport:
    """What was read and how it was divided.

    Args:
        source: where the validation rows come from: ``given``, ``own split`` or ``held out``.
        read: rows read from the training source.
        counts: rows per split.
        labels: per split, rows per task and safety name; ``unlabelled`` where both are missing.
        languages: per split, rows per language code (``-`` where none is given).
    """

    source: str
    read: int
    counts: dict[str, int]
    labels: dict[str, dict[str, int]]
    languages: dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class Splits:
    """The rows of a run; ``test`` is empty unless the training source brings one."""

    train: list[Row]
    validation: list[Row]
    report: SplitReport
    test: list[Row] = field(default_factory=list)


def _labels(rows: list[Row]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for row in rows:
        if row.task is not None:
            counts[Task(row.task).name] += 1
        if row.safety is not None:
            counts[Safety(row.safety).name.lower()] += 1
        if row.task is None and row.safety is None:
            counts["unlabelled"] += 1
    return dict(counts)


def load_splits(
    train: str,
    validation: str | None,
    *,
    fmt: str,
    validation_fraction: float,
    seed: int,
    max_rows: int | None,
) -> Splits:
    """Read ``train`` and find the rows to validate on.

    Validation rows are, in this order, those of ``validation``, those of the source's own validation
    split, or rows held out without near-duplicates in training. ``max_rows`` limits the training
    source: the first rows of a seeded shuffle, before anything is held out; a validation or test split of
    its own stays whole.

    Raises:
        DataError: see `read_rows` and `split_rows`.
    """
    rows = read_rows(train, fmt=fmt)
    read = len(rows)
    if max_rows is not None and max_rows < read:
        rows = random.Random(seed).sample(rows, max_rows)
    if validation:
        kept, held, source = rows, read_rows(validation, fmt=fmt, split="validation"), "given"
    elif has_split(train, "validation"):
        kept, held, source = rows, read_rows(train, fmt=fmt, split="validation"), "own split"
    else:
        kept, held = split_rows(rows, validation_fraction, seed)
        source = "held out"
    test = read_rows(train, fmt=fmt, split="test") if has_split(train, "test") else []
    parts = {"train": kept, "validation": held, "test": test}
    report = SplitReport(
        source=source,
        read=read,
        counts={name: len(part) for name, part in parts.items()},
        labels={name: _labels(part) for name, part in parts.items()},
        languages={name: dict(Counter(row.language or "-" for row in part)) for name, part in parts.items()},
    )
    return Splits(train=kept, validation=held, report=report, test=test)
