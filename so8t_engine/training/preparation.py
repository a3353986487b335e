"""Loading: rows, tokenizer, base model, adapters; each stage tells its progress and can be stopped."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from so8t_engine.config import Config
from so8t_engine.data.dataset import Splits, load_splits
from so8t_engine.data.rows import Row
from so8t_engine.data.tokenize import Collator, Encoded, encode_row
from so8t_engine.errors import DataError
from so8t_engine.i18n import _
from so8t_engine.model.loading import load_base, load_tokenizer
from so8t_engine.model.so8t_model import SO8TModel
from so8t_engine.training.control import RunControl
from so8t_engine.training.events import ProgressEvent, WarningEvent


@dataclass
class Prepared:
    """Everything a run needs before its first step."""

    config: Config
    tokenizer: Any
    model: SO8TModel
    rows: Splits
    train: list[Encoded]
    held_out: dict[str, list[Encoded]]
    collate: Collator
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return self.model.so8t.theta_safe.device

    @property
    def max_evaluation_tokens(self) -> int:
        """Tokens of an evaluation batch: a training batch's, or a little more, since no gradients exist."""
        return max(2048, self.config.training.batch_size * self.config.data.max_length)

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """As training computes: bf16 or fp16 autocast on a card, none on the CPU."""
        dtype: torch.dtype = self.model.causal_lm.lm_head.weight.dtype
        return dtype if self.device.type == "cuda" and dtype != torch.float32 else None


def prepare(config: Config, control: RunControl) -> Prepared:
    """Load everything. Raises `SO8TError` with file, line and field where something is wrong."""
    stages = 4

    def stage(number: int, what: str) -> None:
        control.check_loading()
        control.emit(ProgressEvent(what=what, done=number, of=stages))

    began = time.perf_counter()
    stage(0, _("reading rows"))
    data = config.data
    rows = load_splits(
        data.train,
        data.validation,
        fmt=data.format,
        validation_fraction=data.validation_fraction,
        seed=config.training.seed,
        max_rows=data.max_rows,
    )
    stage(1, _("reading tokens"))
    tokenizer = load_tokenizer(config.model)
    encoded = _encode(tokenizer, rows.train, data.max_length, control)
    held_out = {"validation": _encode(tokenizer, rows.validation, data.max_length, control)}
    if rows.test:
        held_out["test"] = _encode(tokenizer, rows.test, data.max_length, control)
    if not encoded:
        raise DataError(_("There are no training rows in %(path)s.") % {"path": data.train})
    stage(2, _("loading the base model"))
    base = load_base(config.model)
    stage(3, _("attaching LoRA and SO8T"))
    model = SO8TModel(base, config)
    stage(4, _("ready"))
    truncated = sum(row.truncated for row in encoded)
    if truncated:
        control.emit(
            WarningEvent(
                kind="truncated",
                sentence=_(
                    "%(count)d of %(all)d training rows are longer than %(limit)d tokens and were cut."
                )
                % {"count": truncated, "all": len(encoded), "limit": data.max_length},
                mend=_("Raise the sequence length if memory allows."),
            )
        )
    prepared = Prepared(
        config=config,
        tokenizer=tokenizer,
        model=model,
        rows=rows,
        train=encoded,
        held_out=held_out,
        collate=Collator(tokenizer.pad_token_id),
    )
    prepared.facts = _facts(prepared, time.perf_counter() - began, truncated)
    return prepared


def _encode(tokenizer: Any, rows: Sequence[Row], limit: int, control: RunControl) -> list[Encoded]:  # noqa: ANN401
    encoded = []
    for number, row in enumerate(rows):
        if number % 50 == 0:
            control.check_loading()
        encoded.append(encode_row(tokenizer, row, limit))
    return encoded


def _facts(prepared: Prepared, seconds: float, truncated: int) -> dict[str, Any]:
    model = prepared.model
    trainable = model.trainable()
    own = sum(p.numel() for p in model.so8t.parameters())
    every = sum(p.numel() for p in trainable.values())
    lengths = [len(row.input_ids) for row in prepared.train]
    names = sorted({target.rpartition(".")[2] for target in model.targets})
    return {
        "device": str(prepared.device),
        "compute_dtype": str(model.causal_lm.lm_head.weight.dtype).removeprefix("torch."),
        "quantization": prepared.config.model.quantization,
        "parameters_total": sum(p.numel() for p in model.parameters()),
        "parameters_lora": every - own,
        "parameters_so8t": own,
        "lora_modules": len(model.targets),
        "lora_names": names,
        "gate_placement": str(model.placement),
        "rows_train": len(prepared.train),
        **{f"rows_{name}": len(rows) for name, rows in prepared.held_out.items()},
        "rows_truncated": truncated,
        "rows_thinking": sum(row.response.startswith("<think-task>") for row in prepared.rows.train),
        "tokens_longest": max(lengths),
        "tokens_mean": sum(lengths) / len(lengths),
        "threads": torch.get_num_threads(),
        "loading_seconds": seconds,
    }
