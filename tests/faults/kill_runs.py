"""Whole training runs, killed at random times and continued until they are done.

    python -m tests.faults.kill_runs --kills 60

Half of the runs use AdamW, half its 8-bit kind. A run that needed no kill does not count as one. After each
kill every published checkpoint is verified; at the end, losses, weights and the final folder must equal those
of a run that nobody killed, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from so8t_engine.commands.verify import verify_run
from so8t_engine.config import Config
from so8t_engine.errors import RunError
from so8t_engine.training.checkpoint import checkpoints, verify_folder
from so8t_engine.training.events import CheckpointEvent, EndEvent
from tests.faults.harness import (
    events,
    final_tensors,
    fork,
    kill,
    last_weights,
    losses,
    same,
    tiny_run_config,
    train,
    wait_for,
    write_sources,
)

OPTIMIZERS = ("adamw", "adamw_8bit")


def campaign(kills: int, seed: int, folder: Path) -> Counter[str]:
    """Kill runs until ``kills`` kills were done. Returns counts; raises `AssertionError` at a loss."""
    choose = random.Random(seed)
    model, rows = write_sources(folder)
    counts: Counter[str] = Counter()
    configs = {
        name: tiny_run_config(model, rows, folder / "runs", training={"optimizer": name})
        for name in OPTIMIZERS
    }
    seconds: dict[str, float] = {}
    for name, config in configs.items():
        began = time.monotonic()
        path = folder / f"whole-{name}"
        assert wait_for(fork(lambda c=config, p=path: train(c, p), folder / "log.txt")) == 0  # type: ignore[misc]
        seconds[name] = time.monotonic() - began
    number = 0
    while counts["kills"] < kills:
        name = OPTIMIZERS[number % len(OPTIMIZERS)]
        path = folder / f"run-{number}"
        # A run that nobody came in the way of says how long one takes now.
        undisturbed = _until_done(path, folder, configs[name], seconds[name], choose, counts)
        seconds[name] = min(seconds[name], undisturbed or seconds[name])
        _compare(path, folder / f"whole-{name}")
        counts["runs"] += 1
        shutil.rmtree(path)
        number += 1
    return counts


def _until_done(
    path: Path, folder: Path, config: Config, seconds: float, choose: random.Random, counts: Counter[str]
) -> float | None:
    """Seconds that the run took where no kill disturbed it."""
    first = True
    while True:
        began = time.monotonic()
        pid = fork(lambda: train(config, path), folder / "log.txt")
        # Most of a tiny run's time is loading: two kills of three are meant for what comes after it.
        code = wait_for(pid, seconds * choose.uniform(*choose.choice([(0.0, 1.0), (0.5, 1.1), (0.5, 1.1)])))
        counts["starts"] += 1
        if code is None and kill(pid) < 0:
            counts["kills"] += 1
            first = False
            _check_after_kill(path, config.checkpoints.keep, counts)
            continue
        if code is None:
            code = 0 if isinstance(events(path)[-1], EndEvent) else 1
        assert code == 0, f"a resume failed: {[e for e in events(path) if e.type in {'error', 'warning'}]}"
        return time.monotonic() - began if first else None


def _check_after_kill(path: Path, keep: int, counts: Counter[str]) -> None:
    """Every checkpoint that was told of and not pruned stands, and every one that stands is whole."""
    if not (path / "events.jsonl").exists():
        shutil.rmtree(path, ignore_errors=True)
        counts["killed before the run existed"] += 1
        return
    told = {event.step for event in events(path) if isinstance(event, CheckpointEvent)}
    standing = {int(found.name[-8:]): found for found in checkpoints(path / "checkpoints")}
    for found in standing.values():
        verify_folder(found)
        counts["checkpoints verified"] += 1
    expected = set(sorted(told | set(standing))[-keep:]) & told
    lost = expected - set(standing)
    assert not lost, f"lost: {sorted(lost)} of {sorted(told)}"


def _compare(path: Path, whole: Path) -> None:
    assert losses(path) == losses(whole), "losses differ"
    assert same(last_weights(path), last_weights(whole)), "the last checkpoint's weights differ"
    assert same(final_tensors(path), final_tensors(whole)), "the final folder differs"
    results = [json.loads((folder / "final" / "results.json").read_text()) for folder in (path, whole)]
    one, other = ({k: r[k] for k in ("last_loss", "alpha", "alpha_converged_at")} for r in results)
    assert one == other
    evaluations = [_without_seconds(result["evaluation"]) for result in results]
    assert evaluations[0] == evaluations[1]
    verdict = verify_run(path)
    assert verdict["intact"], verdict


def _without_seconds(found: object) -> object:
    if isinstance(found, dict):
        return {key: _without_seconds(value) for key, value in found.items() if key != "seconds"}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="so8t-kills-"))
    began = time.monotonic()
    try:
        counts = campaign(options.kills, options.seed, folder)
    except (AssertionError, RunError) as error:
        print(f"FAILED with --seed {options.seed}; everything is in {folder}: {error}")  # noqa: T201
        return 1
    shutil.rmtree(folder)
    print(  # noqa: T201
        json.dumps({"harness": "kill_runs", "seed": options.seed, **counts, "lost": 0, "unequal": 0})
        + f"  {time.monotonic() - began:.0f} s"
    )
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
