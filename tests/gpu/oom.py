"""Real failures of a card's allocator in the middle of a run, and what the engine makes of them.

``PYTHONPATH=. python tests/gpu/oom.py`` trains a Phi-3.5-mini-shaped model (random weights, nf4) undisturbed,
then ten times with the allocator capped a little above that run's peak and a ballast that is laid on the card
at a random forward pass, so that what is left is too little. Each run must finish with every step done once,
losses and weights as the undisturbed run's up to bf16 rounding, and every change told. A line per case and
one JSON object; exit status 1 if a case failed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from so8t_engine.benchmark.random_base import SharedBase, release
from so8t_engine.config import Config
from so8t_engine.memory.allocator import prefer_expandable_segments
from so8t_engine.model.so8t_model import LossReport, SO8TModel
from so8t_engine.paths import resources_dir
from so8t_engine.training import run as run_module
from so8t_engine.training.control import RunControl
from so8t_engine.training.events import Event, StepEvent, WarningEvent
from so8t_engine.training.run_directory import RunDirectory
from so8t_engine.training.states import State
from so8t_engine.training.trainer import seed_everything
from tests.gpu.grid import configuration
from tests.gpu.grid_measure import FAST, capped, fresh_optimizer_manager, prepared

STEPS, ROWS, PASSES, LENGTH = 4, 8, 2, 1024
#: Loss terms may differ by so much of the undisturbed run's, and weights by so much of the way travelled:
#: sums are taken in another order, in bf16, and AdamW's first steps are as long for a gradient of rounding.
LOSS_TOLERANCE, WEIGHT_TOLERANCE = 5e-3, 0.15


def settings() -> dict[str, Any]:
    """Four steps of two micro-batches of eight rows, without dropout."""
    return {
        "shape": "phi35", "model.quantization": "nf4", "data.max_length": LENGTH, "lora.dropout": 0.0,
        "training.batch_size": ROWS, "training.accumulation": PASSES, "training.max_steps": STEPS,
        "memory.offload_activations": False,
    }  # fmt: skip


class Ballast:
    """Lays bytes on the card when forward pass number ``at`` begins; they stay until `clear`."""

    def __init__(self, at: int, size: int) -> None:
        self._at, self._size, self._count = at, size, 0
        self._held: list[Tensor] = []
        self._real = SO8TModel.forward

    def __enter__(self) -> Ballast:
        real = self._real

        def forward(model: SO8TModel, *rest: Any, **named: Any) -> LossReport:  # noqa: ANN401
            self._count += 1
            if self._count == self._at:
                torch.cuda.empty_cache()
                self._held.append(torch.empty(self._size, dtype=torch.uint8, device="cuda"))
            return real(model, *rest, **named)

        SO8TModel.forward = forward  # type: ignore[method-assign, assignment]
        return self

    def __exit__(self, *_error: object) -> None:
        SO8TModel.forward = self._real  # type: ignore[method-assign]
        self._held.clear()


def train(config: Config, bases: SharedBase, tokenizer: Any) -> dict[str, Any]:  # noqa: ANN401
    """One run by the engine's own trainer: its losses, warnings, weights, and status."""
    base = bases.get("phi35", config.model.quantization, config.model.double_quant, config.model.attention)
    fresh_optimizer_manager()
    seed_everything(config.training.seed)
    torch.cuda.reset_peak_memory_stats()
    events: list[Event] = []
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        run = RunDirectory.create(config, Path(folder) / "run")
        control = RunControl(run, events.append)
        failed = ""
        try:
            control.move(State.LOADING)
            model = SO8TModel(base, config)
            start = {name: p.detach().float().cpu().clone() for name, p in model.trainable().items()}
            resident = torch.cuda.memory_allocated()
            made = prepared(config, model, tokenizer, "phi35", evaluation=False, steps=STEPS)
            run_module._train_prepared(run, control, made, None, run_module._Outcome(), Path(folder))
            weights = {name: p.detach().float().cpu().clone() for name, p in model.trainable().items()}
        except run_module.MemoryLimitError as error:
            failed, weights, start, resident = str(error), {}, {}, 0
        finally:
            control.close()
    steps = [event for event in events if isinstance(event, StepEvent)]
    warnings = [event for event in events if isinstance(event, WarningEvent) and event.kind == "oom"]
    result = {
        "steps": [event.step for event in steps], "losses": [event.raw for event in steps],
        "changes": [event.mend for event in warnings], "weights": weights, "start": start,
        "peak": torch.cuda.max_memory_reserved(), "resident": resident, "failed": failed,
    }  # fmt: skip
    release()
    return result


def compare(found: dict[str, Any], wanted: dict[str, Any]) -> tuple[float, float]:
    """The largest relative difference of a loss term, and of the weights' way from their start."""
    loss = max(
        abs(one[name] - other[name]) / max(abs(other[name]), 1e-3)
        for one, other in zip(found["losses"], wanted["losses"], strict=True)
        for name in other
    )
    off = way = 0.0
    for name, end in wanted["weights"].items():
        off += float((found["weights"][name] - end).square().sum())
        way += float((end - wanted["start"][name]).square().sum())
    return loss, (off / way) ** 0.5


def judge(found: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """One case's verdict."""
    verdict: dict[str, Any] = {"changes": found["changes"], "failed": found["failed"]}
    if found["failed"] or found["steps"] != wanted["steps"]:
        return verdict | {"right": False, "steps": found["steps"]}
    loss, weights = compare(found, wanted)
    right = bool(found["changes"]) and loss <= LOSS_TOLERANCE and weights <= WEIGHT_TOLERANCE
    return verdict | {"right": right, "loss_difference": loss, "weight_difference": weights}


def main(say: Callable[[str], object] = sys.stderr.write) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10)
    arguments = parser.parse_args()
    prefer_expandable_segments()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resources_dir() / "base_model")
    bases = SharedBase(torch.device("cuda"), torch.bfloat16)
    config = configuration(settings(), Path(tempfile.gettempdir()) / "so8t-grid")
    wanted = train(config, bases, tokenizer)
    again = train(config, bases, tokenizer)
    noise = compare(again, wanted)
    say(f"undisturbed: peak {wanted['peak'] / 1e9:.2f} GB; repeated {noise[0]:.1e}, {noise[1]:.1e} off\n")
    cap = wanted["peak"] / 2**30 * 1.02
    verdicts = []
    for case in range(arguments.cases):
        choose, began = random.Random(case), time.monotonic()
        at = choose.randint(2, STEPS * PASSES)
        size = int((wanted["peak"] - wanted["resident"]) * choose.uniform(0.3, 0.7))
        with capped(cap), Ballast(at, size):
            found = train(config, bases, tokenizer)
        verdict = {"case": case, "pass": at, "ballast": size} | judge(found, wanted)
        verdicts.append(verdict)
        say(f"{time.monotonic() - began:5.1f} s  {json.dumps(verdict)}\n")
    right = sum(verdict["right"] for verdict in verdicts)
    card = torch.cuda.get_device_name()
    sys.stdout.write(json.dumps({"right": right, "of": len(verdicts), "noise": noise, "card": card}) + "\n")
    return 0 if right == len(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
