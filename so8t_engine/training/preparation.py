"""Loading: rows, tokenizer, base model, adapters; each stage tells its progress and can be stopped."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from so8t_engine.config import Config
from so8t_engine.data.dataset import Splits, load_splits
from so8t_engine.data.rows import Row
from so8t_engine.data.tokenize import Collator, Encoded, encode_row
from so8t_engine.errors import DataError
from so8t_engine.i18n import _
from so8t_engine.memory.budget import runs_on_cpu, spare_for
from so8t_engine.memory.geometry import model_geometry
from so8t_engine.memory.lean_terms import may_record
from so8t_engine.memory.machine import free_system_memory, other_programs
from so8t_engine.memory.needed import RECORDING_BYTES
from so8t_engine.memory.spare import Spare, with_kept
from so8t_engine.model.lean.body import LeanBody
from so8t_engine.model.loading import load_base, load_tokenizer
from so8t_engine.model.so8t_model import SO8TModel
from so8t_engine.training.control import RunControl
from so8t_engine.training.events import ProgressEvent, WarningEvent
from so8t_engine.training.packing import pack_lengths
from so8t_engine.training.recorded import LIMIT as RECORDINGS
from so8t_engine.training.recorded import padded_length
from so8t_engine.training.waiting import choose_waiting


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
    #: What memory that is left keeps; None where it is not used. And the settings that this comes to.
    spare: Spare | None = None
    as_chosen: Config | None = None

    @property
    def device(self) -> torch.device:
        return self.model.so8t.theta_safe.device

    @property
    def max_evaluation_tokens(self) -> int:
        """Tokens of an evaluation batch: a training batch's, or a little more, since no gradients exist."""
        config = self.as_chosen or self.config
        return max(2048, config.training.batch_size * config.data.max_length)

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """As training computes: bf16 or fp16 autocast on a card, none on the CPU."""
        dtype: torch.dtype = self.model.causal_lm.lm_head.weight.dtype
        return dtype if self.device.type == "cuda" and dtype != torch.float32 else None


#: So many rows of average length in the place of one full row make packing worth a word.
MANY_IN_A_PASS = 4


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
    # Before this process has a context on the card: what is used now is others'.
    spare, chosen = _spare(config, encoded, held_out)
    base = load_base(config.model)
    stage(3, _("attaching LoRA and SO8T"))
    model = SO8TModel(base, chosen)
    if spare is not None and model.lean is not None:
        model.lean.kept_shorter = spare.shorter
    stage(4, _("ready"))
    truncated = sum(row.truncated for row in encoded)
    if model.lean is not None:
        crowded, chosen = _waiting(model.lean, chosen)
        if crowded is not None:
            control.emit(crowded)
    for notice in notices(config, encoded, on_card=not runs_on_cpu(config)):
        control.emit(notice)
    if model.lean is None and (why := model.not_lean):
        control.emit(
            WarningEvent(
                kind="layers",
                sentence=_("The layers run as transformers wrote them: %(reason)s.") % {"reason": why},
                mend=_("They need more memory and time than the lean ones; the estimate reckons with that."),
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
        spare=spare,
        as_chosen=chosen,
    )
    prepared.facts = _facts(prepared, time.perf_counter() - began, truncated)
    return prepared


def _waiting(lean: LeanBody, config: Config) -> tuple[WarningEvent | None, Config]:
    """Choose what waits in system memory: what to say about it, and the settings that this comes to."""
    geometry = model_geometry(config.model.path, config.model.revision)
    # Processes that train one run together have one system memory, if on one computer.
    several = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    notice = choose_waiting(lean, config, geometry, free_system_memory() // several)
    own = {
        "offload_everything": "on" if lean.everything else "off",
        "keep_attention": config.memory.keep_attention and lean.keep_attention,
    }
    return notice, config.model_copy(update={"memory": config.memory.model_copy(update=own)})


def notices(config: Config, rows: Sequence[Encoded], *, on_card: bool) -> list[WarningEvent]:
    """What a person should know of these rows before they are trained on."""
    found = []
    limit, count = config.data.max_length, len(rows)
    if truncated := sum(row.truncated for row in rows):
        found.append(
            WarningEvent(
                kind="truncated",
                sentence=_(
                    "%(count)d of %(all)d training rows are longer than %(limit)d tokens and were cut."
                )
                % {"count": truncated, "all": count, "limit": limit},
                mend=_("Raise the sequence length if memory allows."),
            )
        )
    lengths = [len(row.input_ids) for row in rows]
    if on_card and not config.training.packing and limit * count >= MANY_IN_A_PASS * sum(lengths):
        packs = len(pack_lengths(lengths, config.training.batch_size * limit))
        found.append(
            WarningEvent(
                kind="short_rows",
                sentence=_(
                    "Rows have %(mean)d tokens on average and a pass has room for %(room)d: much of its time "
                    "goes into weights and launches, not into rows."
                )
                % {"mean": sum(lengths) // count, "room": config.training.batch_size * limit},
                mend=_(
                    "Pack rows (training.packing: true): %(packs)d passes an epoch instead of %(passes)d. A "
                    "pass then holds about %(rows)d rows: lower the accumulation to take as many a step."
                )
                % {
                    "packs": packs,
                    "passes": -(-count // config.training.batch_size),
                    "rows": round(count / packs),
                },
            )
        )
    return found


def _spare(
    config: Config, rows: Sequence[Encoded], held_out: dict[str, list[Encoded]]
) -> tuple[Spare | None, Config]:
    """What memory that is left keeps, and the settings that this comes to, for the rows that there are."""
    if not config.memory.use_spare:
        return None, config
    # Recorded passes have lengths that come round; of others these are as good as any.
    lengths = {padded_length(len(row.input_ids), config.data.max_length) for row in rows}
    recordings = 1
    if may_record(config) and not runs_on_cpu(config):
        recordings = min(len(_pack_lengths(config, rows) if config.training.packing else lengths), RECORDINGS)
    every = max(*lengths, *(len(row.input_ids) for part in held_out.values() for row in part))
    spare = spare_for(
        config, every, sorted(lengths), beside=other_programs(config),
        less=(recordings - 1) * RECORDING_BYTES,
    )  # fmt: skip
    chosen = with_kept(config, spare.layers, spare.weights)
    if not config.training.packing:
        data = config.data.model_copy(update={"max_length": min(config.data.max_length, every)})
        chosen = chosen.model_copy(update={"data": data})
    return spare, chosen


def _pack_lengths(config: Config, rows: Sequence[Encoded]) -> set[int]:
    """The lengths of packs, filled up to what comes round."""
    capacity = config.training.batch_size * config.data.max_length
    packs = pack_lengths([len(row.input_ids) for row in rows], capacity)
    return {padded_length(sum(pack), capacity) for pack in packs}


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
    kept: dict[str, Any] = {}
    if prepared.spare is not None and model.lean is not None:
        kept = {
            "kept_layers": f"{model.lean.kept_layers} / {len(model.lean.layers)}",
            "kept_weights": f"{model.lean.kept_weights} / {len(model.lean.layers)}",
            "kept_shorter": [f"≤ {length}: {layers}" for length, layers in model.lean.kept_shorter],
        }
    if model.lean is not None and model.lean.offloads and prepared.config.memory.offload_everything != "off":
        all_layers = len(model.lean.layers)
        kept["kept_waiting"] = f"{round(model.lean.everything * all_layers)} / {all_layers}"
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
        **kept,
        "threads": torch.get_num_threads(),
        "loading_seconds": seconds,
    }
