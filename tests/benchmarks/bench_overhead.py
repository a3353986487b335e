"""What instruments, events and checkpoints take of a training step, inside the engine's own trainer.

Counted are the seconds that the training thread spends in the observer (figures, gate, rotations, their
files, the copy for a checkpoint, commands) once the card has finished the step, and the processor time of
the threads that read memory, listen for commands and write checkpoints. The window is a process of its own
(``bench_chat_while_training.py`` tells what share of a core it takes).

    python tests/benchmarks/bench_overhead.py --steps 60
    PYTHONPATH=. python tests/benchmarks/bench_overhead.py --device cuda --length 512 --steps 60
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from so8t_engine.config import load_config
from so8t_engine.memory.allocator import prefer_expandable_segments
from so8t_engine.model.loading import load_base, load_tokenizer
from so8t_engine.model.so8t_model import SO8TModel
from so8t_engine.training import run as run_module
from so8t_engine.training.control import RunControl
from so8t_engine.training.events import Event, StepEvent
from so8t_engine.training.observer import StepObserver
from so8t_engine.training.run_directory import RunDirectory
from so8t_engine.training.saver import CheckpointSaver
from so8t_engine.training.states import State
from so8t_engine.training.trainer import SO8TTrainer

#: Steps at the beginning that do not count: kernels are compiled and passes recorded in them.
WARM = 5


class Counted:
    """Seconds in the observer's methods, and the processor time of the engine's threads."""

    def __init__(self, device: str) -> None:
        self._device = device
        self.seconds: dict[str, float] = {}
        #: Of each single call, in order.
        self.calls: dict[str, list[float]] = {}
        #: The same when the last step was told; samples and the end come after it.
        self.until_last: dict[str, float] = {}
        self.steps: list[float] = []
        self._threads: dict[int, tuple[str, float]] = {}
        self._before: dict[int, float] = {}

    def wrap(self, owner: type, name: str) -> None:
        method: Callable[..., Any] = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            if self._device == "cuda":
                torch.cuda.synchronize()  # what the card still does is the step's own
            began = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                if len(self.steps) > WARM:
                    took = time.perf_counter() - began
                    self.seconds[name] = self.seconds.get(name, 0.0) + took
                    self.calls.setdefault(name, []).append(took)

        setattr(owner, name, counted)

    def take(self, event: Event) -> None:
        if not isinstance(event, StepEvent):
            return
        self.steps.append(time.perf_counter())
        self.until_last = dict(self.seconds)
        ticks = os.sysconf("SC_CLK_TCK")
        for thread in threading.enumerate():
            stat = Path(f"/proc/self/task/{thread.native_id}/stat")
            if thread.name.startswith("so8t-") and thread.native_id and stat.exists():
                fields = stat.read_text().rpartition(")")[2].split()
                used = (int(fields[11]) + int(fields[12])) / ticks
                if len(self.steps) <= WARM + 1:
                    self._before[thread.native_id] = used
                self._threads[thread.native_id] = thread.name, used

    def threads(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for key, (name, used) in self._threads.items():
            found[name] = found.get(name, 0.0) + used - self._before.get(key, 0.0)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    if options.device == "cuda":
        prefer_expandable_segments()
    from tests.gpu.grid_measure import prepared

    common = [
        f"training.max_steps={options.steps}",
        "checkpoints.every_steps=30",
        "training.evaluate_every=null",
    ]
    if options.device == "cuda":
        own = [f"data.max_length={options.length}", "training.recorded_passes=on", "lora.dropout=0"]
        config = load_config("phi35_8gb", common + own)
        from so8t_engine.benchmark.random_base import random_base

        base = random_base(
            "phi35", "nf4", double_quant=True, attention=config.model.attention, dtype=torch.bfloat16,
            device=torch.device("cuda"),
        )  # fmt: skip
    else:
        config = load_config("demo", [*common, "training.packing=false"])
        base = load_base(config.model)
    counted = Counted(options.device)
    for name in ("step", "boundary", "begin_step"):
        counted.wrap(StepObserver, name)
    parts = Counted(options.device)  # what a boundary spends its time with; not counted twice
    parts.steps = counted.steps
    for owner, name in (
        (StepObserver, "save"), (SO8TTrainer, "snapshot"), (CheckpointSaver, "wait"),
        (CheckpointSaver, "start"), (RunControl, "check"), (RunControl, "wait_while_paused"),
    ):  # fmt: skip
        parts.wrap(owner, name)
    demo = load_config("demo", [])
    tokenizer = load_tokenizer(demo.model)
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory.create(config, Path(folder) / "run")
        control = RunControl(run, counted.take)
        control.move(State.LOADING)
        model = SO8TModel(base, config)
        shape = "phi35" if options.device == "cuda" else "tiny"  # its words are among the demonstration's
        made = prepared(config, model, tokenizer, shape, False, options.steps)
        run_module._train_prepared(run, control, made, None, run_module._Outcome(), Path(folder))
        control.close()
    whole = counted.steps[-1] - counted.steps[WARM]
    result = {
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "steps": len(counted.steps) - 1 - WARM, "step_ms": 1000 * whole / (len(counted.steps) - 1 - WARM),
        "training thread, share": {name: round(s / whole, 5) for name, s in counted.until_last.items()},
        "training thread, together": round(sum(counted.until_last.values()) / whole, 5),
        "largest calls, ms": {
            name: [round(1000 * one, 1) for one in sorted(calls[:-1], reverse=True)[:4]]
            for name, calls in (counted.calls | parts.calls).items()
        },
        "other threads, processor time": {n: round(s / whole, 5) for n, s in counted.threads().items()},
        "load": os.getloadavg()[0],
    }  # fmt: skip
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
