"""Memory that really runs out on an NVIDIA card, at random steps: each run must finish with nothing lost.

``PYTHONPATH=. python tests/gpu/oom.py --runs 10`` trains a Phi-3.5-mini shape with random weights under a
cap of 7.2 GiB. In each run, before a forward pass chosen at random, another tensor takes so much of the
card that this pass or its backward pass fails in PyTorch's own allocator. Prints one line a run and a JSON
summary: losses beside those of the undisturbed run, and what the engine says it changed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from so8t_engine.memory.allocator import prefer_expandable_segments
from so8t_engine.model.so8t_model import SO8TModel
from so8t_engine.training.trainer import SO8TTrainer

CAP_GIB = 7.2
STEPS, ACCUMULATION = 6, 2


class Ballast:
    """Takes memory before the n-th training pass, and gives it back once the engine makes room."""

    def __init__(self, at: int, leave: float) -> None:
        self.at, self.leave, self.passes = at, leave, 0
        self.held: torch.Tensor | None = None
        self.taken = 0

    def take(self, working_bytes: int) -> None:
        self.passes += 1
        if self.passes != self.at:
            return
        torch.cuda.empty_cache()
        room = int(CAP_GIB * 2**30) - torch.cuda.memory_reserved()
        self.taken = room - int(self.leave * working_bytes)
        self.held = torch.empty(self.taken, dtype=torch.uint8, device="cuda")


def train(bases: Any, tokenizer: Any, cache: Path, ballast: Ballast | None, working: int) -> dict[str, Any]:  # noqa: ANN401
    """One run; with ``ballast`` one pass of it has only a part of the ``working`` bytes that it needs."""
    from tests.gpu.grid import configuration
    from tests.gpu.grid_measure import measure

    settings = {
        "shape": "phi35", "model.quantization": "nf4", "data.max_length": 512, "lora.dropout": 0.0,
        "training.batch_size": 4, "training.accumulation": ACCUMULATION, "training.max_steps": STEPS,
        "training.epochs": float(STEPS),
    }  # fmt: skip
    forward, make_room = SO8TModel.forward, SO8TTrainer._make_room

    def pressed(model: SO8TModel, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        if ballast is not None:
            ballast.take(working)
        return forward(model, *args, **kwargs)

    def relieved(trainer: SO8TTrainer, *args: Any) -> None:  # noqa: ANN401
        if ballast is not None:
            ballast.held = None
        make_room(trainer, *args)

    SO8TModel.forward, SO8TTrainer._make_room = pressed, relieved  # type: ignore[method-assign]
    try:
        config = configuration(settings, cache)
        return measure(config, "phi35", bases, tokenizer, evaluation=False, cap_gib=CAP_GIB)
    finally:
        SO8TModel.forward, SO8TTrainer._make_room = forward, make_room  # type: ignore[method-assign]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    prefer_expandable_segments()
    from transformers import AutoTokenizer

    from so8t_engine.benchmark.random_base import SharedBase
    from so8t_engine.paths import resources_dir

    choose = random.Random(arguments.seed)
    tokenizer = AutoTokenizer.from_pretrained(resources_dir() / "base_model")
    bases = SharedBase(torch.device("cuda"), torch.bfloat16)
    cache = Path(tempfile.mkdtemp())
    calm = train(bases, tokenizer, cache, None, 0)
    working = calm["phases"]["step"]["allocated"] - calm["before"]["allocated"]
    found = []
    for number in range(arguments.runs):
        ballast = Ballast(choose.randrange(1, STEPS * ACCUMULATION + 1), choose.uniform(0.1, 0.7))
        result = train(bases, tokenizer, cache, ballast, working)
        apart = [abs(one - other) for one, other in zip(result["losses"], calm["losses"], strict=True)]
        record = {
            "pass": ballast.at, "left": round(ballast.leave, 2), "ran_out": len(result["oom"]),
            "steps": len(result["losses"]), "failed": result["failed"], "changed": result["oom"],
            "largest_loss_difference": max(apart, default=None),
        }  # fmt: skip
        found.append(record)
        sys.stderr.write(f"run {number}: {json.dumps(record)}\n")
    good = [r for r in found if r["steps"] == STEPS and not r["failed"] and r["ran_out"]]
    summary = {
        "runs": len(found), "ran_out": sum(r["ran_out"] > 0 for r in found), "finished_and_told": len(good),
        "calm_losses": calm["losses"], "card": torch.cuda.get_device_name(),
        "largest_loss_difference": max(r["largest_loss_difference"] for r in found),
    }  # fmt: skip
    sys.stdout.write(json.dumps(summary) + "\n")
    return 0 if len(good) == len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
