"""Reading a soul dataset back, one record at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from so8t_engine.errors import DataError
from so8t_engine.i18n import _
from so8t_engine.soul_dataset.generate import INDEX

_TENSORS = ("r_safe", "r_cmd", "r_total", "safety_head", "task_head", "dual_heads")


def read_records(folder: Path, split: str | None = None) -> Iterator[dict[str, Any]]:
    """Records as plain values: the index's entries with ``r_safe``, ``r_cmd``, ``r_total`` (64 floats,
    row by row) and the heads' values (None where missing).

    Raises:
        DataError: a file is missing or damaged.
    """
    shards: dict[str, dict[str, Any]] = {}
    try:
        lines = (folder / INDEX).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(_("%(path)s is no soul dataset: it has no index.") % {"path": str(folder)}) from error
    for line in lines:
        entry = json.loads(line)
        if split is not None and entry["split"] != split:
            continue
        name = entry["shard"]
        if name not in shards:
            shards[name] = _load(folder / name)
        for tensor in _TENSORS:
            value = shards[name][tensor][entry["row"]]
            missing = tensor.endswith(("head", "heads")) and entry["heads_source"] == "missing"
            entry[tensor] = (
                None if missing else (value.ravel() if tensor.startswith("r_") else value).tolist()
            )
        yield entry


def _load(file: Path) -> dict[str, Any]:
    try:
        with safe_open(file, framework="np") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise DataError(
            _("%(path)s cannot be read: %(reason)s") % {"path": str(file), "reason": error},
            _("Make the soul dataset again."),
        ) from error
