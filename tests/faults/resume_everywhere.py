"""A run continued from every one of its step boundaries, each time in a process of its own.

    python -m tests.faults.resume_everywhere --variants 7

Each continued run must repeat the uninterrupted one bit for bit: losses, weights, the final folder.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from so8t_engine.training.checkpoint import checkpoints
from so8t_engine.training.run_directory import RunDirectory
from tests.faults.harness import (
    final_tensors,
    fork,
    last_weights,
    losses,
    same,
    tiny_run_config,
    train,
    wait_for,
    write_sources,
)

#: Dropout, shuffling, accumulation and evaluations are on in each.
VARIANTS: list[dict[str, dict[str, Any]]] = [
    {"training": {"optimizer": "paged_adamw_8bit"}},
    {"training": {"optimizer": "adamw", "packing": True, "batch_size": 1, "accumulation": 2}},
    {"training": {"optimizer": "adamw", "length_grouping": True}},
    {"training": {"optimizer": "adamw_8bit"}, "model": {"quantization": "int8"}},
    {
        "training": {"gradient_checkpointing": True},
        "so8t": {"gate_layers": [0, -1], "rotation_map": "cayley"},
    },
    {"training": {"accumulation": 4}, "so8t": {"alpha_schedule": "phases", "rotation_map": "free"}},
    {"training": {"batch_size": 3, "accumulation": 3}, "so8t": {"gate_form": "geodesic"}},
]


def check_variant(
    number: int, folder: Path, model: Path, rows: Path, counts: Counter[str], every: int = 1
) -> None:
    """One variant at every ``every``-th boundary. Raises `AssertionError` where a bit differs."""
    settings = {name: dict(section) for name, section in VARIANTS[number].items()}
    config = tiny_run_config(model, rows, folder / "runs", checkpoints={"keep": 1000}, **settings)
    whole, log = folder / f"whole-{number}", folder / "log.txt"
    assert wait_for(fork(lambda: train(config, whole), log)) == 0
    events = (whole / "events.jsonl").read_bytes().splitlines(keepends=True)
    for checkpoint in checkpoints(whole / "checkpoints")[::every]:
        path = folder / f"from-{number}-{checkpoint.name}"
        run = RunDirectory.create(config, path)
        shutil.copytree(checkpoint, run.checkpoints / checkpoint.name)
        told = next(
            i for i, line in enumerate(events) if checkpoint.name.encode() in line and b"sha256" in line
        )
        # As a power failure leaves it: the rest of the log is gone, and a line is torn.
        run.events.write_bytes(b"".join(events[: told + 1]) + b'{"seq": 99, "type": "st')
        assert wait_for(fork(lambda path=path: train(config, path), log)) == 0, checkpoint.name  # type: ignore[misc]
        assert losses(path) == losses(whole), checkpoint.name
        assert same(last_weights(path), last_weights(whole)), checkpoint.name
        assert same(final_tensors(path), final_tensors(whole)), checkpoint.name
        shutil.rmtree(path)
        counts["boundaries"] += 1
    counts["variants"] += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", type=int, default=len(VARIANTS))
    parser.add_argument("--every", type=int, default=1, help="boundaries of a run: each, or each n-th")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="so8t-resume-"))
    began = time.monotonic()
    model, rows = write_sources(folder)
    counts: Counter[str] = Counter()
    try:
        for number in range(options.variants):
            check_variant(number, folder, model, rows, counts, options.every)
    except AssertionError as error:
        print(f"FAILED; everything is in {folder}: {error!r}")  # noqa: T201
        return 1
    shutil.rmtree(folder)
    print(  # noqa: T201
        json.dumps({"harness": "resume_everywhere", **counts, "unequal": 0})
        + f"  {time.monotonic() - began:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
