"""Fifty steps by the lean layers beside fifty by transformers' and peft's own, on a card, from one start.

``PYTHONPATH=. python tests/gpu/agreement.py`` trains a Phi-3.5-mini shape (random weights, nf4, rank 16, no
dropout) on the same rows by ``memory.layers`` lean and plain, and plain once more with eager attention,
whose rounding differs as kernels' do: how far that one drifts is what rounding alone does. Every step has a
new row of words of unequal frequency, so that there is something to learn and nothing to learn by heart
(``--rows 8`` lets eight rows come round). Prints the language model's loss of each step side by side, and
the largest distances, over the first 50 steps and over all. Each stack's losses are kept in ``--out`` as soon
as it is done, and not measured again; ``--stack`` takes one alone, so that several can run side by side.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from so8t_engine.memory.allocator import prefer_expandable_segments

STACKS: dict[str, dict[str, Any]] = {
    "plain": {"memory.layers": "plain"},
    "lean": {
        "memory.layers": "lean",
        "memory.offload_activations": True,
        "memory.keep_attention": True,
    },
    "lean, recorded": {
        "memory.layers": "lean",
        "memory.offload_activations": True,
        "memory.keep_attention": True,
        "training.recorded_passes": "on",
    },
    "plain, eager attention": {"memory.layers": "plain", "model.attention": "eager"},
}


def draw_rows(count: int, length: int) -> list[torch.Tensor]:
    """Rows of token ids, the n-th most frequent of 2,000 words with a probability like 1/n."""
    random = torch.Generator().manual_seed(1)
    frequency = 1.0 / torch.arange(1, 2001, dtype=torch.float64)
    return [torch.multinomial(frequency, length, True, generator=random)[None] + 3 for _row in range(count)]


def losses(
    settings: dict[str, Any], length: int, steps: int, quantization: str, row_count: int, rate: float
) -> list[float]:
    """The LM loss of each step."""
    from so8t_engine.benchmark.random_base import random_base
    from so8t_engine.benchmark.train import Job, _config, _optimizer, _so8t

    device = torch.device("cuda")
    job = Job("so8t", "phi35", quantization, length, settings=settings | {"training.learning_rate": rate})
    config = _config(job)
    torch.manual_seed(7)
    base = random_base(
        "phi35", quantization, double_quant=True, attention=config.model.attention, dtype=torch.bfloat16,
        device=device,
    )  # fmt: skip
    model, one_pass = _so8t(job, base, config)
    optimizer = _optimizer(model, config, job)
    rows = [row.to(device) for row in draw_rows(row_count, length)]
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = []
    for step in range(steps):
        one_pass(rows[step % len(rows)])
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        model.zero_grad(set_to_none=True)
        found.append(float(model.last_terms["lm"][0]))
    return found


def kept(path: Path, key: list[Any]) -> dict[str, list[float]]:
    """What was measured before with the same arguments."""
    if not path.exists():
        return {}
    records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {record["stack"]: record["losses"] for record in records if record["of"] == key}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--quantization", default="nf4")
    parser.add_argument("--rows", type=int, help="as many as steps unless given")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--stack", action="append", choices=list(STACKS))
    parser.add_argument("--out", type=Path, default=Path("agreement.jsonl"))
    arguments = parser.parse_args()
    prefer_expandable_segments()
    key = [arguments.length, arguments.steps, arguments.quantization, arguments.rows, arguments.learning_rate]
    for name in arguments.stack or STACKS:
        if name in kept(arguments.out, key):
            continue
        settings = STACKS[name]
        values = losses(
            settings, arguments.length, arguments.steps, arguments.quantization,
            arguments.rows or arguments.steps, arguments.learning_rate,
        )  # fmt: skip
        with arguments.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"stack": name, "of": key, "losses": values}) + "\n")
        torch.cuda.empty_cache()
    found = kept(arguments.out, key)
    if set(found) != set(STACKS):
        return
    found = {name: found[name] for name in STACKS}
    for step, row in enumerate(zip(*found.values(), strict=True)):
        sys.stdout.write(f"{step:3d} " + " ".join(f"{value:9.5f}" for value in row) + "\n")
    apart = {}
    for steps in sorted({50, arguments.steps}):
        plain = found["plain"][:steps]
        apart[f"{steps} steps"] = {
            name: max(abs(one - other) / one for one, other in zip(plain, values, strict=False))
            for name, values in found.items()
        }
    sys.stdout.write(json.dumps({"largest_relative_difference_from_plain": apart}) + "\n")


if __name__ == "__main__":
    main()
