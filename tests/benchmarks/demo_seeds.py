"""The demonstration with several seeds and recipes, on the CPU, one thread a run: what is luck, what is not.

``PYTHONPATH=. python tests/benchmarks/demo_seeds.py --jobs 30 --out DIR`` trains every recipe of `RECIPES`
with each of its seeds, whole runs, and prints a table of the held-out test rows after each has ended. Runs
that are not done after ``--limit`` seconds are ended and not in the table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LEAN = ["memory.layers=lean"]
PACKED = [*LEAN, "training.length_grouping=false", "training.packing=true", "training.batch_size=8"]
#: Name → (seeds, changes of configs/demo.yaml). The most wanted first.
RECIPES: dict[str, tuple[int, list[str]]] = {
    "packed, 3 epochs": (8, [*PACKED, "training.epochs=3"]),
    "packed, 2 epochs": (6, [*PACKED, "training.epochs=2"]),
    "packed, 2 epochs, 3e-3": (6, [*PACKED, "training.epochs=2", "training.learning_rate=3e-3"]),
    "lean, 2 epochs": (5, [*LEAN, "training.length_grouping=true", "training.epochs=2"]),
    "plain, 2 epochs": (5, ["memory.layers=plain", "training.length_grouping=true", "training.epochs=2"]),
}


def worker(folder: Path, changes: list[str]) -> int:
    """One run in this process; its result lies in ``final/results.json``."""
    import torch

    from so8t_engine.config import load_config
    from so8t_engine.paths import configs_dir
    from so8t_engine.training.heldout import HeldOut
    from so8t_engine.training.run import run_training
    from so8t_engine.training.run_directory import RunDirectory

    torch.set_num_threads(1)
    HeldOut._fit_baseline = lambda self: None  # type: ignore[method-assign]  # the same for all of them
    own = [*changes, "model.device=cpu", "run.cpu_threads=1", "checkpoints.every_minutes=null"]
    return run_training(RunDirectory.create(load_config(configs_dir() / "demo.yaml", own), folder))


def measured(folder: Path) -> dict[str, Any] | None:
    """Accuracies on the test rows of a run that has finished."""
    try:
        found = json.loads((folder / "final" / "results.json").read_text())
    except (OSError, ValueError):
        return None
    after = found["evaluation"]["test"]["after"]
    names = ("task_accuracy", "safety_accuracy", "danger_to_allow", "loss")
    return {name: after[name] for name in names} | {
        "steps": found["steps"], "trained_s": found["trained_seconds"],
        "alpha": found["alpha"], "converged_at": found["alpha_converged_at"],
    }  # fmt: skip


def _line(seed: int, found: dict[str, Any]) -> str:
    return (
        f"  seed {seed}: task {found['task_accuracy']:.3f}, safety {found['safety_accuracy']:.3f}, "
        f"danger → ALLOW {found['danger_to_allow']:.3f}, loss {found['loss']:.3f}, {found['steps']} steps in "
        f"{found['trained_s']:.0f} s, α {found['alpha']:.3f} (within 0.01 at {found['converged_at']})"
    )


def table(results: list[dict[str, Any]]) -> str:
    """One line a run, and the worst of each recipe."""
    lines = []
    for recipe in dict.fromkeys(one["recipe"] for one in results):
        own = [one for one in results if one["recipe"] == recipe]
        done = [one["found"] for one in own if one["found"]]
        lines.append(f"{recipe}: {len(done)} of {len(own)} runs finished")
        lines += [_line(one["seed"], one["found"]) for one in own if one["found"]]
        if done:
            worst = [min(f[name] for f in done) for name in ("task_accuracy", "safety_accuracy")]
            lines.append(f"  worst: task {worst[0]:.3f}, safety {worst[1]:.3f}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=42)
    parser.add_argument("--limit", type=float, default=1e9, help="seconds for everything")
    parser.add_argument("--only", action="append", help="a recipe's name; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("demo_seeds"))
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--set", action="append", default=[], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return worker(options.worker, options.set)
    began, waiting, running = time.monotonic(), [], []
    for recipe, (seeds, changes) in RECIPES.items():
        if options.only is None or recipe in options.only:
            waiting += [(recipe, options.first_seed + k, changes) for k in range(seeds)]
    options.out.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    runs = Path(os.environ.get("TMPDIR", "/tmp")) / f"demo-seeds-{os.getpid()}"
    runs.mkdir()
    while waiting or running:
        late = time.monotonic() - began > options.limit
        while waiting and len(running) < options.jobs and not late:
            recipe, seed, changes = waiting.pop(0)
            folder = runs / f"{len(results) + len(running)}-{seed}"
            sets = [word for change in (*changes, f"training.seed={seed}") for word in ("--set", change)]
            log = folder.with_suffix(".log").open("w")
            process = subprocess.Popen(
                [sys.executable, __file__, "--worker", str(folder), *sets],
                env=environment, stdout=log, stderr=log,
            )  # fmt: skip
            running.append((process, recipe, seed, folder))
        for entry in list(running):
            process, recipe, seed, folder = entry
            if process.poll() is None and not late:
                continue
            if process.poll() is None:
                process.kill()
            process.wait()
            running.remove(entry)
            found = measured(folder)
            results.append({"recipe": recipe, "seed": seed, "found": found})
            if found is None and not late:
                sys.stdout.write(folder.with_suffix(".log").read_text()[-1500:] + "\n")
            (options.out / "demo_seeds.json").write_text(json.dumps(results, indent=1))
            (options.out / "demo_seeds.txt").write_text(table(results) + "\n")
        if late:
            waiting.clear()
        time.sleep(0.5)
    results.sort(key=lambda one: (list(RECIPES).index(one["recipe"]), one["seed"]))
    text = table(results)
    (options.out / "demo_seeds.txt").write_text(text + "\n")
    sys.stdout.write(text + f"\n{time.monotonic() - began:.0f} s in all\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
