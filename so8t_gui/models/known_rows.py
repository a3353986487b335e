"""How many training rows a configuration has, where that is known before they are read. No Qt."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from so8t_engine.config import Config
from so8t_engine.data.reader import EMBEDDED, embedded_path, split_file
from so8t_engine.errors import SO8TError

Key = tuple[object, ...]


class KnownRows:
    """Counts that runs have reported, by everything that decides which rows are trained on."""

    def __init__(self) -> None:
        self._counts: dict[Key, int] = {}

    def learn(self, config: Config, facts: dict[str, Any]) -> bool:
        """Take in a run's facts; True when they say something new."""
        rows = facts.get("rows_train")
        if not isinstance(rows, int) or isinstance(rows, bool) or rows < 1:
            return False
        key = _key(config)
        if self._counts.get(key) == rows:
            return False
        self._counts[key] = rows
        return True

    def rows(self, config: Config) -> int | None:
        """Training rows; None where nobody has counted them. Files of one's own are not read for it."""
        return self._counts.get(_key(config)) or _embedded_rows(config)


def _key(config: Config) -> Key:
    data = config.data
    held_out = (data.validation, data.validation_fraction, config.training.seed)
    return (data.train, data.format, data.max_rows, *held_out)


def _embedded_rows(config: Config) -> int | None:
    """The embedded rows never change and bring their own held-out split: their lines are the rows."""
    data = config.data
    if not data.train.startswith(EMBEDDED):
        return None
    try:
        folder = embedded_path(data.train.removeprefix(EMBEDDED))
        file = split_file(folder, "train")
        own = data.validation is not None or split_file(folder, "validation") is not None
    except (SO8TError, OSError):
        return None  # preflight and the run say what is wrong with it
    if file is None or file.suffix != ".jsonl" or not own:
        return None
    count = _lines(file)
    return count if data.max_rows is None else min(count, data.max_rows)


@lru_cache(maxsize=8)
def _lines(file: Path) -> int:
    with file.open("rb") as opened:
        return sum(1 for line in opened if line.strip())
