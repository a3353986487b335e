"""What a finished run's model says of each row, tuned and as its frozen base: the figures' raw material."""

# ruff: noqa: N815  (fields of the dataclass carry their shapes)

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from so8t_engine.config import Config
from so8t_engine.data.tokenize import IGNORED, Collator, Encoded
from so8t_engine.errors import ModelError
from so8t_engine.evaluation.evaluate import _by_tokens
from so8t_engine.i18n import _
from so8t_engine.model.loading import load_base
from so8t_engine.so8t.adapter import SO8TAdapter
from so8t_engine.so8t.attach import attach_site_gates, lm_head_of
from so8t_engine.so8t.heads import pool
from so8t_engine.so8t.placement import Placement
from so8t_engine.so8t.soul_file import Soul, adapter_of, load_soul

Floats = NDArray[np.float64]
#: Labelled tokens whose logits exist at once.
CHUNK = 256


@dataclass
class TunedModel:
    """A run's model as it was trained: quantised where it was, LoRA unmerged, the gate by hooks."""

    peft: Any
    so8t: SO8TAdapter
    soul: Soul
    placement: Placement

    @property
    def causal_lm(self) -> Any:  # noqa: ANN401
        """transformers' model with LoRA layers in it."""
        return self.peft.base_model.model


def load_tuned(final: Path, config: Config) -> TunedModel:
    """Load base, LoRA and soul onto the run's device. ``final`` was verified by the caller.

    Raises:
        SO8TError: a part cannot be loaded or does not fit the others.
    """
    from peft import PeftModel

    soul = load_soul(final / "soul.safetensors")
    base = load_base(config.model)
    try:
        peft = PeftModel.from_pretrained(base, str(final / "adapter"))
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(
            _("The LoRA adapter in %(path)s cannot be loaded: %(reason)s")
            % {"path": str(final / "adapter"), "reason": str(error).strip().splitlines()[0]},
            _("Use the base model that the run was trained on."),
        ) from error
    so8t = adapter_of(soul, getattr(lm_head_of(base), "in_features", 0)).eval()
    device = next(base.parameters()).device
    return TunedModel(peft.eval(), so8t.to(device), soul, Placement.parse(soul.metadata.placement))


@dataclass
class RowOutputs:
    """Per row, in the order given. NaN where there is nothing to say.

    Attributes:
        nll, tokens: summed cross-entropy of the response in nats, and its number of tokens.
        task, safety, dual: the heads' probabilities (N, 4), (N, 2) and (N, 2, 2); None for the base, which
            has no heads.
        pooled: the final hidden state at the prompt's end (N, H), where asked for.
    """

    nll_N: Floats
    tokens_N: NDArray[np.int64]
    task_N4: Floats | None = None
    safety_N2: Floats | None = None
    dual_N22: Floats | None = None
    pooled_NH: NDArray[np.float32] | None = field(default=None, repr=False)


@torch.no_grad()
def row_outputs(
    tuned: TunedModel,
    rows: Sequence[Encoded],
    collate: Collator,
    *,
    base: bool,
    losses: bool = True,
    pooled: bool = False,
    max_tokens: int = 2048,
    proceed: Callable[[int], None] = lambda done: None,
) -> RowOutputs:
    """Run every row.

    Args:
        base: the frozen base alone, LoRA and gate off.
        losses: also the LM's loss of each row.
        pooled: also the base's or the tuned model's hidden state that heads read.
        max_tokens: of a batch, padding included.
        proceed: called with the number of rows done; it may raise to stop.
    """
    model = tuned.causal_lm
    head = lm_head_of(model)
    device = tuned.so8t.theta_safe.device
    weight = head.weight if isinstance(head, nn.Linear) else next(head.parameters())
    found: dict[int, tuple[float, int, Any, Any, Any, Any]] = {}
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].input_ids))
    batches = _by_tokens(order, [len(row.input_ids) for row in rows], max_tokens)
    loader: DataLoader[Encoded] = DataLoader(list(rows), batch_sampler=batches, collate_fn=collate)  # type: ignore[arg-type]
    place = tuned.placement
    mixed = device.type == "cuda" and weight.dtype != torch.float32
    gates = nullcontext() if base else attach_site_gates(model, tuned.so8t, place.layers, place.site)
    off = tuned.peft.disable_adapter() if base else nullcontext()
    with gates, off, torch.autocast(device.type, dtype=weight.dtype if mixed else None, enabled=mixed):
        for indices, cpu_batch in zip(batches, loader, strict=True):
            batch = {name: value.to(device) for name, value in cpu_batch.items()}
            hidden_NTH = model.model(
                input_ids=batch["input_ids_NT"], attention_mask=batch["attention_mask_NT"], use_cache=False
            ).last_hidden_state
            task = safety = dual = None
            pooled_NH = pool(hidden_NTH, batch["pool_index_N"]).float().cpu().numpy() if pooled else None
            if not base:
                out = tuned.so8t(hidden_NTH, batch["pool_index_N"], gate_hidden=place.final)
                hidden_NTH = out.hidden_NTH
                task = out.task_logits_N4.double().softmax(-1).cpu().numpy()
                safety = out.safety_logits_N2.double().softmax(-1).cpu().numpy()
                dual = out.dual_logits_N22.double().softmax(-1).cpu().numpy()
            nll, count = _row_losses(head, weight.dtype, hidden_NTH, batch["labels_NT"], losses)
            for place_in_batch, row in enumerate(indices):
                found[row] = (
                    nll[place_in_batch],
                    count[place_in_batch],
                    None if task is None else task[place_in_batch],
                    None if safety is None else safety[place_in_batch],
                    None if dual is None else dual[place_in_batch],
                    None if pooled_NH is None else pooled_NH[place_in_batch],
                )
            proceed(len(found))
    ordered = [found[i] for i in range(len(rows))]
    return RowOutputs(
        nll_N=np.array([f[0] for f in ordered], dtype=np.float64),
        tokens_N=np.array([f[1] for f in ordered], dtype=np.int64),
        task_N4=None if base else np.array([f[2] for f in ordered]).reshape(-1, 4),
        safety_N2=None if base else np.array([f[3] for f in ordered]).reshape(-1, 2),
        dual_N22=None if base else np.array([f[4] for f in ordered]).reshape(-1, 2, 2),
        pooled_NH=np.array([f[5] for f in ordered], dtype=np.float32) if pooled else None,
    )


def _row_losses(
    head: nn.Module, dtype: torch.dtype, hidden_NTH: Tensor, labels_NT: Tensor, wanted: bool
) -> tuple[list[float], list[int]]:
    """Summed loss and number of labelled tokens of each row; only labelled positions reach the head."""
    next_NT = labels_NT[:, 1:]
    labelled_NT = next_NT != IGNORED
    counts: list[int] = labelled_NT.sum(1).tolist()
    if not wanted:
        return [float("nan")] * len(counts), counts
    rows_t = labelled_NT.nonzero()[:, 0]
    states_tH, target_t = hidden_NTH[:, :-1][labelled_NT], next_NT[labelled_NT]
    sums_N = torch.zeros(len(counts), dtype=torch.float64, device=hidden_NTH.device)
    for start in range(0, len(target_t), CHUNK):
        part = slice(start, start + CHUNK)
        logits_tV = head(states_tH[part].to(dtype)).float()
        losses_t = nn.functional.cross_entropy(logits_tV, target_t[part], reduction="none")
        sums_N.index_add_(0, rows_t[part], losses_t.double())
    return [
        value if count else float("nan") for value, count in zip(sums_N.tolist(), counts, strict=True)
    ], counts
