"""``so8t bench``: the window measures itself in its own processes; training is measured here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from so8t_engine.errors import SO8TError
from so8t_engine.i18n import _


def bench_window(steps: int, seconds: float, hours: float) -> tuple[int, str, dict[str, Any]]:
    """Exit status, text and figures. Raises `SO8TError` where nothing could be measured."""
    options = ["--steps", str(steps), "--seconds", str(seconds), "--hours", str(hours)]
    command = [sys.executable, "-m", "so8t_gui.benchmark", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, encoding="utf-8", check=False)
    try:
        result: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        raise SO8TError(
            _("The window could not be measured."), _("Standard error says why; is the window installed?")
        ) from error
    lines = [f"{name}: {value}" for name, value in result.items()]
    return done.returncode, "\n".join(lines) + "\n", result


def bench_training(
    shape: str, lengths: list[int], quantization: str, stacks: list[str], rounds: int
) -> tuple[str, dict[str, Any]]:
    """Text and figures of `so8t bench train`.

    On a card a published model's shape with random weights; without one, or with the shape ``demo``, the
    embedded model on the CPU.

    Raises:
        SO8TError: an unknown shape or stack, or there is no card for a shape that needs one.
    """
    import torch

    if shape == "demo" or (shape == "auto" and not torch.cuda.is_available()):
        from so8t_engine.benchmark.demo import measure
        from so8t_engine.config import load_config

        result = measure(load_config(Path("demo")), rounds, rows=256)
        lines = [
            f"{name}: {speed:.0f} tokens/s, {result['over_transformers_peft'][name]:.2f}x, "
            f"{result['over_transformers_peft_by_processor_time'][name]:.2f}x by processor time"
            for name, speed in result["tokens_per_s"].items()
        ]
        return "\n".join(lines) + "\n", result
    return _on_a_card("phi35" if shape == "auto" else shape, lengths, quantization, stacks, rounds)


def _on_a_card(
    shape: str, lengths: list[int], quantization: str, stacks: list[str], rounds: int
) -> tuple[str, dict[str, Any]]:
    import torch

    from so8t_engine.benchmark.random_base import SHAPES
    from so8t_engine.benchmark.train import STACKS, Job, available, run_job

    for value, known in ((shape, SHAPES), *((stack, STACKS) for stack in stacks)):
        if value not in known:
            raise SO8TError(
                _("There is no %(value)s here.") % {"value": repr(value)},
                _("Choose one of %(known)s.") % {"known": ", ".join(known)},
            )
    if not torch.cuda.is_available():
        raise SO8TError(
            _("No NVIDIA card can be used (torch %(version)s).") % {"version": torch.__version__},
            _("Measure the embedded model on the CPU with --shape demo."),
        )
    wanted = [stack for stack in stacks if available(stack)]
    # Stacks alternate, so that what else the machine does meets all of them.
    offloaded = {
        "memory.offload_activations": True, "memory.keep_attention": True,
        "memory.offload_everything": "auto",
    }  # fmt: skip
    jobs = [
        Job(stack, shape, quantization, n, settings=offloaded if stack == "so8t" else {})
        for _r in range(rounds)
        for n in lengths
        for stack in wanted
    ]
    results = [run_job(job) for job in jobs]
    lines = [f"not installed: {', '.join(set(stacks) - set(wanted))}"] if set(stacks) - set(wanted) else []
    for one in results:
        name = f"{one['length']:6d} {one['stack']:8s}"
        lines.append(
            f"{name} {one['error']}"
            if "error" in one
            else f"{name} {one['tokens_per_s']:8.0f} tokens/s  allocated {one['peak_allocated'] / 1e9:.3f} GB"
            f"  reserved {one['peak_reserved'] / 1e9:.3f} GB  loss {one['losses'][-1]:.4f}"
        )
    return "\n".join(lines) + "\n", {"runs": results}
