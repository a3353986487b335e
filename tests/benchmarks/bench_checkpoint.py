"""What checkpoints cost the training: a copy to the CPU that training waits for, and writing beside it.

    python tests/benchmarks/bench_checkpoint.py [--steps 60] [--repeats 3] [--json]

Three parts. ``demo``: the demonstration's model and rows trained with a checkpoint every 5 steps and without
any, in alternation; the difference of the medians, divided by the checkpoints, is what one costs. ``sizes``:
the trainable part of Phi-3.5-mini at r 16 (25.2 M LoRA parameters in float32, their 8-bit moments) copied,
written, hashed and synced on this disk. ``contention``: how much slower a computing thread is meanwhile.
From these follows the share of training time with one checkpoint every 3 minutes. On a busy machine clock
times mean little; the processor time of copying and writing still bounds what they take from a training that
would use every core.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

from so8t_engine.config import load_config
from so8t_engine.training.checkpoint import publish_folder
from so8t_engine.training.checkpoint_state import OPTIMIZER, WEIGHTS, Snapshot, capture_weights
from so8t_engine.training.events import CheckpointEvent, StepEvent
from so8t_engine.training.run import run_training
from so8t_engine.training.run_directory import RunDirectory

EVERY_S = 180.0
#: Phi-3.5-mini: 32 layers of qkv_proj, o_proj, gate_up_proj, down_proj; (in, out).
LINEARS = ((3072, 9216), (3072, 3072), (3072, 16384), (8192, 3072))
RANK, LAYERS, BLOCKSIZE = 16, 32, 256


def demo(steps: int, repeats: int, folder: Path) -> dict[str, Any]:
    """Seconds that one checkpoint adds to the demonstration."""
    seconds: dict[str, list[float]] = {"with": [], "without": []}
    saved = 0
    size = 0
    for number in range(repeats):
        for kind in ("with", "without") if number % 2 else ("without", "with"):
            every = "5" if kind == "with" else "null"
            overrides = [
                f"training.max_steps={steps}",
                f"checkpoints.every_steps={every}",
                "checkpoints.every_minutes=null",
                "training.evaluate_every=null",
                "data.max_rows=400",
            ]
            run = RunDirectory.create(load_config("demo", overrides), folder / f"{kind}{number}")
            assert run_training(run, handle_signals=False) == 0
            events = run.read_events()
            times = [event.time for event in events if isinstance(event, StepEvent)]
            seconds[kind].append(times[-1] - times[0])
            if kind == "with":
                told = [event for event in events if isinstance(event, CheckpointEvent)]
                saved, size = len(told) - 1, told[-1].bytes  # the last one comes after the last step
    medians = {kind: statistics.median(values) for kind, values in seconds.items()}
    cost = (medians["with"] - medians["without"]) / saved
    return {
        "seconds": seconds,
        "checkpoints": saved,
        "megabytes": size / 1e6,
        "seconds_per_checkpoint": cost,
        "percent_at_3_minutes": 100 * max(cost, 0.0) / EVERY_S,
    }


def phi_tensors() -> dict[str, dict[str, torch.Tensor]]:
    """Tensors of the sizes that a run on Phi-3.5-mini saves."""
    weights: dict[str, torch.Tensor] = {}
    moments: dict[str, torch.Tensor] = {}
    for layer in range(LAYERS):
        for number, (inner, outer) in enumerate(LINEARS):
            for name, shape in (("A", (RANK, inner)), ("B", (outer, RANK))):
                key = f"layers.{layer}.{number}.lora_{name}"
                weights[key] = torch.randn(shape)
                for which in (1, 2):
                    count = weights[key].numel()
                    moments[f"{key}/state{which}"] = torch.randint(0, 255, shape, dtype=torch.uint8)
                    moments[f"{key}/absmax{which}"] = torch.rand(-(-count // BLOCKSIZE))
    return {WEIGHTS: weights, OPTIMIZER: moments}


def sizes(repeats: int, folder: Path) -> dict[str, Any]:
    """Copying and publishing what Phi-3.5-mini's run saves, and a computing thread meanwhile."""
    live = phi_tensors()
    copying, writing, slower = [], [], []
    cpu: list[float] = []  # of copying and writing: what they take from others however busy the machine is
    alpha = torch.zeros(())
    for number in range(repeats):
        began, used = time.perf_counter(), time.thread_time()
        tensors = {name: capture_weights(named, alpha) for name, named in live.items()}
        copying.append(time.perf_counter() - began)
        cpu.append(time.thread_time() - used)
        snapshot = Snapshot(number, tensors, {"state.json": "{}"})
        alone = _computing(lambda: time.sleep(1.0))

        def publish(snapshot: Snapshot = snapshot, number: int = number) -> None:
            began, used = time.perf_counter(), time.thread_time()
            publish_folder(folder / f"phi{number}", snapshot.write, needed_bytes=snapshot.nbytes)
            writing.append(time.perf_counter() - began)
            cpu[-1] += time.thread_time() - used

        beside = _computing(publish)
        slower.append(max(0.0, 1 - beside / alone))
        megabytes = snapshot.nbytes / 1e6
    copy_s, write_s = statistics.median(copying), statistics.median(writing)
    share = statistics.median(slower)
    cost = copy_s + share * write_s
    return {
        "parameters": sum(t.numel() for t in live[WEIGHTS].values()),
        "megabytes": megabytes,
        "copy_s": copy_s,
        "publish_s": write_s,
        "publish_mb_per_s": megabytes / write_s,
        "cpu_s": statistics.median(cpu),
        "percent_at_3_minutes_by_cpu_time": 100 * statistics.median(cpu) / EVERY_S,
        "computing_slower_meanwhile": share,
        "seconds_per_checkpoint": cost,
        "percent_at_3_minutes": 100 * cost / EVERY_S,
        "percent_if_training_waited": 100 * (copy_s + write_s) / EVERY_S,
    }


def _computing(beside: Any) -> float:  # noqa: ANN401  (any callable)
    """Products per second of a computing thread while ``beside`` runs."""
    matrix = torch.randn(256, 256)
    thread = threading.Thread(target=beside)
    done, began = 0, time.perf_counter()
    thread.start()
    while thread.is_alive():
        matrix = (matrix @ matrix).tanh()
        done += 1
    return done / (time.perf_counter() - began)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="so8t-bench-"))
    try:
        found = {
            "phi35_mini": sizes(max(3, options.repeats), folder),
            "demo": demo(options.steps, options.repeats, folder),
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(found, indent=None if options.json else 1))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
