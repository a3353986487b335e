"""The embedded model on the CPU: this program's training step against plain transformers and peft.

The same rows, adapters and batch size in one process, in alternation. Tokens are real ones: padding is not
counted. The peer's loss is transformers' own, without heads, gate and PET; ours has them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from so8t_engine.config import Config
from so8t_engine.data.dataset import load_splits
from so8t_engine.data.packed import PackedCollator
from so8t_engine.data.tokenize import Collator, Encoded, encode_row
from so8t_engine.memory.fit import with_changes
from so8t_engine.model.loading import load_base, load_tokenizer
from so8t_engine.model.so8t_model import SO8TModel, StepTotals
from so8t_engine.training.environment import physical_cores
from so8t_engine.training.optimizer import make_optimizer

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Stack:
    """One way to train: a step on a batch, and the batches it takes."""

    step: Callable[[Batch], float]
    batches: list[Batch]


def _ours(config: Config, batches: list[Batch], layers: str, packing: bool) -> Stack:
    changed = with_changes(config, {"memory.layers": layers, "training.packing": packing})
    model = SO8TModel(load_base(changed.model), changed).train()
    optimizer = make_optimizer(model, changed)

    def step(batch: Batch) -> float:
        report = model(batch, StepTotals.of([batch]), alpha_target=0.0, pet_weight=0.05)
        report.loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(report.terms["lm"][0])

    return Stack(step, batches)


def _peer(config: Config, batches: list[Batch]) -> Stack:
    from peft import LoraConfig, get_peft_model

    base: Any = load_base(config.model)
    torch.manual_seed(config.training.seed)
    lora = LoraConfig(
        r=config.lora.r, lora_alpha=config.lora.alpha, lora_dropout=config.lora.dropout,
        target_modules=["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
    )  # fmt: skip
    model: Any = get_peft_model(base, lora).train()
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=config.training.learning_rate
    )

    def step(batch: Batch) -> float:
        loss = model(
            input_ids=batch["input_ids_NT"],
            attention_mask=batch["attention_mask_NT"],
            labels=batch["labels_NT"],
        ).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return Stack(step, batches)


def _packed(rows: list[Encoded], limit: int, pad: int) -> list[Batch]:
    """Rows in the given order, as many to a sequence as fit, as training packs them."""
    batches: list[list[Encoded]] = [[]]
    for row in rows:
        if batches[-1] and sum(len(one.input_ids) for one in batches[-1]) + len(row.input_ids) > limit:
            batches.append([])
        batches[-1].append(row)
    return [PackedCollator(pad)(batch) for batch in batches]


def measure(config: Config, rounds: int, rows: int) -> dict[str, Any]:
    """Real tokens per second of each stack, over ``rounds`` passes through ``rows`` rows after a warm-up.

    Besides the clock's seconds the process's own, which other work on the machine changes less.
    """
    torch.set_num_threads(config.run.cpu_threads or physical_cores())
    data, size = config.data, config.training.batch_size
    tokenizer = load_tokenizer(config.model)
    read = load_splits(
        data.train, data.validation, fmt=data.format, validation_fraction=data.validation_fraction,
        seed=config.training.seed, max_rows=data.max_rows,
    ).train[:rows]  # fmt: skip
    encoded = [encode_row(tokenizer, row, data.max_length) for row in read]
    collate = Collator(tokenizer.pad_token_id)
    padded = [collate(encoded[start : start + size]) for start in range(0, len(encoded), size)]
    packed = _packed(encoded, size * max(len(row.input_ids) for row in encoded), tokenizer.pad_token_id)
    stacks = {
        "transformers+peft": _peer(config, padded),
        "so8t, plain layers": _ours(config, padded, "plain", False),
        "so8t, lean layers": _ours(config, padded, "lean", False),
        "so8t, lean layers, packed rows": _ours(config, packed, "lean", True),
    }
    tokens = sum(len(row.input_ids) for row in encoded)
    seconds: dict[str, list[float]] = {name: [] for name in stacks}
    processor: dict[str, list[float]] = {name: [] for name in stacks}
    for turn in range(rounds + 1):
        for name, stack in stacks.items():
            began, began_processor = time.perf_counter(), time.process_time()
            for batch in stack.batches:
                stack.step(batch)
            if turn:  # the first one warms up
                seconds[name].append(time.perf_counter() - began)
                processor[name].append(time.process_time() - began_processor)
    own = {name: tokens / statistics.median(times) for name, times in processor.items()}
    speeds = {name: tokens / statistics.median(times) for name, times in seconds.items()}
    slowest = speeds["transformers+peft"]
    return {
        "device": "cpu", "threads": torch.get_num_threads(), "rows": len(encoded), "rounds": rounds,
        "real_tokens": tokens, "padded_tokens": sum(batch["input_ids_NT"].numel() for batch in padded),
        "tokens_per_s": speeds, "over_transformers_peft": {n: v / slowest for n, v in speeds.items()},
        "tokens_per_processor_s": own,
        "over_transformers_peft_by_processor_time": {n: v / own["transformers+peft"] for n, v in own.items()},
    }  # fmt: skip
