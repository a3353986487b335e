"""Runs beside each other: what differs in their settings, and what came out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from so8t_engine.config import Config, load_config
from so8t_engine.training.run_directory import RunDirectory


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting by its dotted name, with its value in each run."""

    path: str
    values: tuple[Any, ...]


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """A nested mapping by dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{before}{name}.")
        else:
            found[before + name] = value
    return found


def differences(configs: Sequence[Config]) -> list[Difference]:
    """Settings that are not the same in all of ``configs``."""
    tables = [flat(config.model_dump(mode="json")) for config in configs]
    names = dict.fromkeys(name for table in tables for name in table)
    rows = [Difference(name, tuple(table.get(name) for table in tables)) for name in names]
    return [row for row in rows if any(value != row.values[0] for value in row.values[1:])]


def results(run: RunDirectory) -> dict[str, Any]:
    """Figures of ``final/results.json``; empty where a run has none."""
    try:
        held = json.loads((run.final / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return held if isinstance(held, dict) else {}


def compare(paths: Sequence[Path], against: Config | None = None) -> dict[str, Any]:
    """Settings that differ and final figures of several runs. Raises `RunError` or `ConfigError`.

    Args:
        against: compared with as well, as the first; such as the defaults.
    """
    runs = [RunDirectory.open(path) for path in paths]
    configs = [load_config(run.config_file) for run in runs]
    rows = differences([against, *configs] if against is not None else configs)
    return {
        "runs": [run.id for run in runs],
        "settings": {row.path: list(row.values) for row in rows},
        "results": {run.id: results(run) for run in runs},
    }
