"""A person's corrections of labels: an append-only file in the pipeline's folder, read by the next call."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from so8t_engine.data.labels import Task

NAME = "reviews.jsonl"


def reviews_path(work: Path) -> Path:
    """Where the corrections of the pipeline in ``work`` are."""
    return work / NAME


def append_review(work: Path, row_id: str, task: int | None) -> None:
    """Record that a person gave row ``row_id`` the class ``task``, or took that back with None."""
    record = {"time": time.time(), "id": row_id, "task": None if task is None else Task(task).name}
    with reviews_path(work).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_reviews(work: Path) -> dict[str, int]:
    """Row id → class, as they stand: the last word about a row counts. Unreadable lines are passed over."""
    found: dict[str, int] = {}
    try:
        lines = reviews_path(work).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return found
    for line in lines:
        try:
            record = json.loads(line)
            row_id, name = str(record["id"]), record["task"]
        except (ValueError, KeyError, TypeError):
            continue
        if name is None:
            found.pop(row_id, None)
        elif name in Task.__members__:
            found[row_id] = int(Task[name])
    return found
