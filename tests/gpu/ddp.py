"""Two cards against one: the same losses at the same effective batch, and how much faster.

``PYTHONPATH=. python tests/gpu/ddp.py --out DIR`` trains a Phi-3.5-mini shape with random nf4 weights (the
same on every card) on one card and then, started by ``accelerate launch``, on two; by the engine's own
trainer, without dropout. Prints losses side by side and the scaling efficiency: tokens a second of two cards
over twice those of one. ``--packed`` trains rows of 70 to 181 tokens (the demonstration's range) end to end
in passes of ``--length``. ``--shape tiny --cpu`` tries it with two processes on the CPU, by ``torchrun``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

WARM = 2  # steps that compile kernels and fill caches, left out of the times


def worker(options: argparse.Namespace) -> int:
    """One process of a run; the first one writes the result."""
    from so8t_engine.memory.allocator import prefer_expandable_segments

    prefer_expandable_segments()
    from so8t_engine.training.world import World

    world = World.join()
    import torch
    import transformers

    from so8t_engine.benchmark.random_base import random_base
    from so8t_engine.config import Config
    from so8t_engine.model.so8t_model import SO8TModel
    from so8t_engine.training.follower import FollowerControl, join_training
    from so8t_engine.training.trainer import seed_everything
    from tests.gpu.grid_measure import prepared

    transformers.utils.logging.disable_progress_bar()
    device = torch.device("cpu" if options.cpu else "cuda")
    if options.cpu:
        torch.set_num_threads(1)
    config = Config.model_validate(
        {
            "name": "ddp",
            "model": {"quantization": "none" if options.cpu else "nf4", "device": device.type},
            "data": {"train": "embedded:four_class", "max_length": options.length},
            "lora": {"r": 16, "alpha": 32, "dropout": 0.0},
            "so8t": {"alpha_schedule": "learned"},
            "training": {
                "batch_size": 1, "accumulation": options.accumulation, "max_steps": options.steps,
                "optimizer": "paged_adamw_8bit", "learning_rate": 2e-4,
                "recorded_passes": "on" if options.recorded else "off", "packing": options.packed,
            },
            "memory": {"offload_activations": options.offload},
            "checkpoints": {"every_minutes": None},
        }
    )  # fmt: skip
    seed_everything(config.training.seed)
    base = random_base(
        options.shape, config.model.quantization, double_quant=True, attention="sdpa",
        dtype=torch.float32 if options.cpu else torch.bfloat16, device=device,
    )  # fmt: skip
    made = prepared(config, SO8TModel(base, config), None, options.shape, False, options.steps)
    made.held_out = {"validation": []}
    if options.packed:
        made.train = mixed_rows(options.shape, options.length * options.accumulation * options.steps)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        if not world.first:
            join_training(world, made, FollowerControl(), Path(folder))
            return 0
        options.result.write_text(json.dumps(_lead(config, made, world, Path(folder))))
    return 0


def mixed_rows(shape: str, tokens: int) -> list[Any]:
    """Rows of 70 to 181 tokens, about ``tokens`` together, all but a short prompt with loss."""
    from so8t_engine.benchmark.random_base import SHAPES
    from tests.gpu.grid_measure import full_rows

    choose, rows = random.Random(3), []
    while sum(len(row.input_ids) for row in rows) < tokens:
        rows += full_rows(choose.randint(70, 181), SHAPES[shape]["vocab_size"], 1, len(rows))
    return rows


def _lead(config: Any, made: Any, world: Any, folder: Path) -> dict[str, Any]:  # noqa: ANN401
    import torch

    from so8t_engine.training import run as run_module
    from so8t_engine.training.control import RunControl
    from so8t_engine.training.events import Event, MemoryEvent, StepEvent
    from so8t_engine.training.run_directory import RunDirectory
    from so8t_engine.training.sampling import MemorySampler
    from so8t_engine.training.states import State

    run = RunDirectory.create(config, folder / "run")
    steps: list[StepEvent] = []
    memory: list[MemoryEvent] = []

    def take(event: Event) -> None:
        if isinstance(event, StepEvent):
            steps.append(event)
        elif isinstance(event, MemoryEvent):
            memory.append(event)

    control = RunControl(run, take)
    sampler = MemorySampler(control.emit, made.device.type == "cuda", world.cards)
    try:
        control.move(State.LOADING)
        run_module._train_prepared(run, control, made, None, run_module._Outcome(), folder, world)
    finally:
        sampler.close()
        control.close()
    timed = steps[WARM:] or steps
    return {
        "processes": world.size,
        "card": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "losses": [step.loss for step in steps],
        "grad_norms": [step.grad_norm for step in steps],
        "step_s": [round(step.step_s, 4) for step in steps],
        "tokens_per_s": statistics.median(step.tokens / step.step_s for step in timed),
        "memory": memory[-1].model_dump(exclude={"seq", "run", "type", "time"}) if memory else None,
    }


def measure(options: argparse.Namespace, processes: int, result: Path) -> dict[str, Any]:
    """Start a run of so many processes and wait for its result."""
    own = [
        str(Path(__file__)), "--worker", "--result", str(result), "--shape", options.shape,
        "--length", str(options.length), "--steps", str(options.steps),
        "--accumulation", str(options.accumulation),
        *(["--cpu"] if options.cpu else []), *(["--offload"] if options.offload else []),
        *(["--recorded"] if options.recorded else []), *(["--packed"] if options.packed else []),
    ]  # fmt: skip
    launcher: list[str] = []
    if processes > 1 and options.cpu:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    elif processes > 1:
        launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1",
                    "--mixed_precision", "no", "--dynamo_backend", "no",
                    "--num_processes", str(processes)]  # fmt: skip
    environment = dict(os.environ)
    if processes == 1 and not options.cpu:
        environment["CUDA_VISIBLE_DEVICES"] = (environment.get("CUDA_VISIBLE_DEVICES") or "0").split(",")[0]
    subprocess.run([sys.executable, *launcher, *own], env=environment, check=True, timeout=options.limit)
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def report(one: dict[str, Any], two: dict[str, Any]) -> str:
    lines = ["step   one process   several       difference"]
    for step, (alone, together) in enumerate(zip(one["losses"], two["losses"], strict=True), 1):
        lines.append(f"{step:4d}   {alone:11.6f}   {together:11.6f}   {abs(alone - together) / alone:.2e}")
    worst = max(abs(a - b) / a for a, b in zip(one["losses"], two["losses"], strict=True))
    speeds = one["tokens_per_s"], two["tokens_per_s"]
    cards = (two["memory"] or {}).get("cards") or {}
    lines += [
        f"largest relative difference of a loss: {worst:.2e}",
        f"tokens/s: {speeds[0]:.0f} on one {one['card']}, {speeds[1]:.0f} on {two['processes']}",
        f"scaling efficiency: {speeds[1] / (two['processes'] * speeds[0]):.3f}",
        f"cards in the last reading of memory: {1 + len({name.split('.')[0] for name in cards})}",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--shape", default="phi35")
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--accumulation", type=int, default=8, help="rows of an optimizer step")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--recorded", action="store_true", help="passes are recorded as CUDA graphs")
    parser.add_argument("--packed", action="store_true", help="rows of mixed length, packed")
    parser.add_argument("--offload", action="store_true", help="layers' inputs wait in system memory")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds of one run")
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return worker(options)
    options.out.mkdir(parents=True, exist_ok=True)
    one, two = (
        measure(options, processes, options.out / f"ddp_{processes}.json")
        for processes in (1, options.processes)
    )
    text = report(one, two)
    sys.stdout.write(text + "\n")
    (options.out / "ddp.txt").write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
