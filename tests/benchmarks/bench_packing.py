"""Real tokens a second, forward and backward, of packed rows against padded ones, in alternation.

On the CPU the demonstration's model, on a card Phi-3.5-mini's shape in nf4 with random weights; both on the
first of the demonstration's rows. The loss of each way over all rows is printed beside it: they must agree.
``--recorded`` replays passes as CUDA graphs, as ``training.recorded_passes`` does.

    python tests/benchmarks/bench_packing.py --rows 96 --rounds 5
    python tests/benchmarks/bench_packing.py --device cuda --rows 152 --rounds 3 --recorded --out packing.json
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from so8t_engine.config import Config, load_config
from so8t_engine.data.dataset import load_splits
from so8t_engine.data.packed import PackedCollator
from so8t_engine.data.tokenize import Collator, Encoded, encode_row
from so8t_engine.model.gradients import FlatGradients
from so8t_engine.model.loading import load_base, load_tokenizer
from so8t_engine.model.so8t_model import Batch, SO8TModel, StepTotals
from so8t_engine.training.batches import EpochBatches
from so8t_engine.training.packing import PackedBatches
from so8t_engine.training.recorded import RecordedPasses


def encoded_rows(config: Config, count: int) -> list[Encoded]:
    data = config.data
    rows = load_splits(
        data.train, data.validation, fmt=data.format, validation_fraction=data.validation_fraction,
        seed=config.training.seed, max_rows=None,
    ).train[:count]  # fmt: skip
    tokenizer = load_tokenizer(config.model)
    return [encode_row(tokenizer, row, data.max_length) for row in rows]


def ways(rows: list[Encoded], pass_tokens: int, longest: int) -> dict[str, list[Batch]]:
    """The same rows in forward passes of about ``pass_tokens`` real tokens, and one at a time."""
    lengths = [len(row.input_ids) for row in rows]
    size = max(1, round(pass_tokens * len(rows) / sum(lengths)))

    def batches(order: Iterable[list[int]], collate: Any) -> list[Batch]:  # noqa: ANN401
        return [collate([rows[index] for index in one]) for one in order]

    small = [1 << power for power in range(1, 6) if 1 << power < size]
    return {
        "packed": batches(PackedBatches(lengths, pass_tokens, 1), PackedCollator(0)),
        **{
            f"{few} rows, padded to the longest": batches(EpochBatches(lengths, few, 1, False), Collator(0))
            for few in small
        },
        f"{size} rows, padded to the longest": batches(EpochBatches(lengths, size, 1, False), Collator(0)),
        f"{size} rows of like length": batches(EpochBatches(lengths, size, 1, True), Collator(0)),
        f"{size} rows, padded to {longest}": batches(
            EpochBatches(lengths, size, 1, False), Collator(0, longest)
        ),
        "one row at a time": batches(EpochBatches(lengths, 1, 1, False), Collator(0)),
    }


def run_once(
    model: SO8TModel, batches: list[Batch], device: torch.device, recorded: RecordedPasses | None
) -> tuple[float, float]:
    """Seconds of all passes forward and backward, and their loss together."""
    totals = StepTotals.of(batches)
    moved = batches
    if recorded is None:
        moved = [{name: value.to(device) for name, value in batch.items()} for batch in batches]
    model.zero_grad()
    losses = []
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    for batch in moved:
        if recorded is not None:
            report = recorded.replay(batch, totals, 0.0, 0.05, gradients_are_zero=not losses)
            if report is None:
                raise SystemExit("passes cannot be recorded here")
            losses.append(report.loss)
            continue
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            loss = model(batch, totals, alpha_target=0.0, pet_weight=0.05).loss
        loss.backward()
        losses.append(loss.detach())
    total = float(torch.stack(losses).sum())
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began, total


def make_model(config: Config, device: torch.device) -> SO8TModel:
    base: nn.Module
    if device.type == "cuda":
        from so8t_engine.benchmark.random_base import random_base

        torch.manual_seed(0)
        base = random_base(
            "phi35", "nf4", double_quant=True, attention="sdpa", dtype=torch.bfloat16, device=device
        )
    else:
        base = load_base(config.model)
    return SO8TModel(base, config).train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pass-tokens", type=int, default=2048)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--recorded", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    checkpointing = "true" if device.type == "cuda" else "false"
    config = load_config(
        Path(__file__).resolve().parents[2] / "configs" / "demo.yaml",
        [
            "lora.dropout=0",
            "training.packing=true",
            f"training.gradient_checkpointing={checkpointing}",
            f"memory.mlp_tile={max(1024, options.pass_tokens)}",
        ],
    )
    longest = config.data.max_length
    rows = encoded_rows(config, options.rows)
    real = sum(len(row.input_ids) for row in rows)
    model = make_model(config, device)
    made = ways(rows, options.pass_tokens, longest)
    replayed: dict[str, RecordedPasses | None] = dict.fromkeys(made)
    if options.recorded:
        model.gradients = FlatGradients.for_training(list(model.trainable().values()))
        for name, batches in made.items():
            most = max(len(batch["task_N"]) for batch in batches)
            width = max(batch["input_ids_NT"].shape[1] for batch in batches)
            replayed[name] = RecordedPasses(model, width, 0, limit=2.0**40, always=True, most_rows=most)
    taken: dict[str, list[float]] = {name: [] for name in made}
    losses: dict[str, float] = {}
    for turn in range(options.rounds + 1):
        for name, batches in made.items():
            seconds, losses[name] = run_once(model, batches, device, replayed[name])
            if turn:  # the first warms up
                taken[name].append(seconds)
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__, "threads": torch.get_num_threads(), "rows": len(rows),
        "real_tokens": real, "rounds": options.rounds, "recorded": options.recorded, "ways": {},
    }  # fmt: skip
    print(f"{len(rows)} rows, {real} real tokens, {result['device']}")
    for name, batches in made.items():
        computed = sum(batch["input_ids_NT"].numel() for batch in batches)
        ratios = [other / ours for ours, other in zip(taken["packed"], taken[name], strict=True)]
        result["ways"][name] = one = {
            "passes": len(batches),
            "real share": round(real / computed, 3),
            "real tokens/s": round(real / statistics.median(taken[name])),
            "packed is faster by": round(statistics.median(ratios), 2),
            "loss": losses[name],
        }
        print(f"  {name:34} " + ", ".join(f"{key} {value}" for key, value in one.items()))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
