"""Folding the gate into the LM head, so that the exported model needs no code of ours.

With the gate in front of the head, logits = W K h, hence W' = W K with the gate's block-diagonal K. The
fold is linear and exact up to rounding; it is accepted only after the logits on real text agree.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from so8t_engine.errors import ModelError
from so8t_engine.i18n import _
from so8t_engine.so8t.adapter import SO8TAdapter
from so8t_engine.so8t.attach import attach_gate, lm_head_of
from so8t_engine.so8t.blocks import apply_blocks
from so8t_engine.so8t.gate import gate_matrix


class _Causal(Protocol):
    """What is used of a transformers model."""

    config: Any

    def get_input_embeddings(self) -> nn.Module: ...
    def save_pretrained(self, folder: str | Path) -> object: ...


@dataclass(frozen=True)
class LogitComparison:
    """Gated against baked logits over all tokens compared.

    ``max_abs`` is max|Δ logit|, ``top1`` the share of tokens with the same largest logit in [0, 1], ``kl``
    the mean KL(gated ‖ baked) per token in nats.
    """

    max_abs: float
    top1: float
    kl: float
    tokens: int


@dataclass(frozen=True)
class BakeTolerance:
    """The largest accepted differences. The defaults are for float32 weights; bf16 rounding of W' alone
    moves logits by about 2⁻⁸ of their size."""

    max_abs: float = 1e-4
    top1: float = 1.0
    kl: float = 1e-6

    def accepts(self, comparison: LogitComparison) -> bool:
        """Whether every figure is within its limit; NaN and an empty comparison are not."""
        return (
            comparison.tokens > 0
            and comparison.max_abs <= self.max_abs
            and comparison.top1 >= self.top1
            and comparison.kl <= self.kl
        )


def fold_into_next(weight_VH: Tensor, matrix_B88: Tensor) -> Tensor:
    """W K for a linear that reads gated units: shape (V, H) and dtype of ``weight_VH``, in float32."""
    # Row by row: (W K)[v] = Kᵀ w_v per block. The product is float32 and rounded once to W's dtype.
    return apply_blocks(weight_VH, matrix_B88.mT)


def fold_into_previous(
    weight_HV: Tensor, bias_H: Tensor | None, matrix_B88: Tensor
) -> tuple[Tensor, Tensor | None]:
    """K W and K b for a linear whose whole output is gated; shapes and dtypes as given, in float32.

    It does not serve for a gate on the output of a decoder layer: there the residual stream, which no
    linear of the layer writes, is gated too.
    """
    weight_HV = apply_blocks(weight_HV.mT.contiguous(), matrix_B88).mT.contiguous()
    return weight_HV, None if bias_H is None else apply_blocks(bias_H, matrix_B88)


@torch.no_grad()
def baked_head_weight(model: nn.Module, adapter: SO8TAdapter) -> Tensor:
    """W' = W ((1 − g) I + g M) (or the K of the adapter's form): a new tensor of W's shape and dtype.

    Raises:
        ModelError: the head is quantised, adapted by PEFT, or of another hidden size.
    """
    head = lm_head_of(model)
    weight = getattr(head, "weight", None)
    if type(head) is not nn.Linear or weight is None or not weight.is_floating_point():
        raise ModelError(
            _("The LM head is a %(kind)s and not a plain linear layer.") % {"kind": type(head).__name__},
            _("Merge the adapters and dequantise the head before baking."),
        )
    if head.in_features != adapter.hidden_size:
        raise ModelError(
            _("The LM head reads %(width)d units and the adapter has %(size)d.")
            % {"width": head.in_features, "size": adapter.hidden_size},
            _("Bake into the model that the adapter was trained with."),
        )
    total_B88 = adapter.build_rotations().total_B88.double()
    matrix_B88 = gate_matrix(total_B88, adapter.gate.double(), adapter.gate_form)
    return fold_into_next(weight.detach(), matrix_B88.float().to(weight.device))


def tied(model: nn.Module) -> bool:
    """Whether the LM head and the input embedding are one tensor."""
    head, embedding = lm_head_of(model), cast(_Causal, model).get_input_embeddings()
    weight, other = getattr(head, "weight", None), getattr(embedding, "weight", None)
    return weight is other or (
        isinstance(weight, Tensor) and isinstance(other, Tensor) and weight.data_ptr() == other.data_ptr()
    )


@contextmanager
def baked_head(model: nn.Module, weight_VH: Tensor, *, untie: bool = False) -> Iterator[None]:
    """The model with another head weight, inside the block; afterwards its own again.

    Raises:
        ModelError: the embeddings are tied and ``untie`` is not set: the input embedding would be changed.
    """
    head = cast(nn.Linear, lm_head_of(model))
    was_tied = tied(model)
    if was_tied and not untie:
        raise ModelError(
            _("The LM head shares its weight with the input embedding."),
            _("Allow untying: the exported model then holds both, and grows by one of them."),
        )
    config = cast(_Causal, model).config
    own, said = head.weight, getattr(config, "tie_word_embeddings", False)
    head.weight = nn.Parameter(weight_VH, requires_grad=False)
    if was_tied:
        config.tie_word_embeddings = False
    try:
        yield
    finally:
        head.weight = own
        config.tie_word_embeddings = said


def _kl_sum(gated_tV: Tensor, baked_tV: Tensor, tokens: int = 128) -> float:
    """Σ_t KL(gated ‖ baked) in nats, in float64: in float32 rounding exceeds the differences sought."""
    total = 0.0
    for gated, baked in zip(torch.split(gated_tV, tokens), torch.split(baked_tV, tokens), strict=True):
        log_p, log_q = gated.double().log_softmax(-1), baked.double().log_softmax(-1)
        total += float((log_p.exp() * (log_p - log_q)).sum())
    return total


@torch.no_grad()
def compare_logits(
    model: nn.Module, adapter: SO8TAdapter, weight_VH: Tensor, texts: Iterable[Tensor], *, untie: bool = False
) -> LogitComparison:
    """The gated model against the model with the head weight ``weight_VH``, token by token.

    Args:
        model: without a gate attached; put into eval mode for the comparison.
        adapter: the gate.
        weight_VH: as `baked_head_weight` gives it.
        texts: real text as token ids, each of shape (N, T) without padding.
        untie: see `baked_head`.
    """
    training = model.training
    model.eval()
    largest, same, divergence, tokens = 0.0, 0, 0.0, 0
    try:
        for ids_NT in texts:
            with attach_gate(model, adapter):
                gated_NTV = model(input_ids=ids_NT).logits.float()
            with baked_head(model, weight_VH, untie=untie):
                baked_NTV = model(input_ids=ids_NT).logits.float()
            # A maximum by Tensor, because max() of floats would pass over NaN.
            difference = (gated_NTV - baked_NTV).abs().amax()
            largest = float(torch.maximum(difference, difference.new_tensor(largest)))
            same += int((gated_NTV.argmax(-1) == baked_NTV.argmax(-1)).sum())
            divergence += _kl_sum(gated_NTV.flatten(0, -2), baked_NTV.flatten(0, -2))
            tokens += ids_NT.numel()
    finally:
        model.train(training)
    return LogitComparison(largest, same / max(1, tokens), divergence / max(1, tokens), tokens)


def export_baked(
    model: nn.Module,
    adapter: SO8TAdapter,
    folder: Path,
    texts: Sequence[Tensor],
    *,
    tolerance: BakeTolerance | None = None,
    untie: bool = False,
    tokenizer: Any = None,  # noqa: ANN401
) -> LogitComparison:
    """Bake, compare on real text, and save a plain transformers model.

    The folder appears whole or not at all. The model in memory keeps its weights.

    Args:
        model: dense, with LoRA merged, without a gate attached.
        adapter: the gate in front of the LM head.
        folder: must not exist yet.
        texts: token ids of real text, each (N, T) without padding.
        tolerance: the limits of the comparison, by default those for float32.
        untie: allow a tied head to get a weight of its own.
        tokenizer: saved beside the model when given.

    Returns:
        The comparison that admitted the export.

    Raises:
        ModelError: the folder exists, the head cannot be baked, or the logits differ beyond the limits.
    """
    if folder.exists():
        raise ModelError(
            _("%(folder)s exists already.") % {"folder": folder}, _("Choose a folder that does not exist.")
        )
    limits = tolerance or BakeTolerance()
    weight_VH = baked_head_weight(model, adapter)
    comparison = compare_logits(model, adapter, weight_VH, texts, untie=untie)
    if not limits.accepts(comparison):
        raise ModelError(
            _(
                "The baked model differs from the gated one: max|Δ logit| %(max_abs).3g, same top token "
                "%(top1).2f %%, KL %(kl).3g over %(tokens)d tokens."
            )
            % {
                "max_abs": comparison.max_abs,
                "top1": 100.0 * comparison.top1,
                "kl": comparison.kl,
                "tokens": comparison.tokens,
            },
            _("Bake in float32, or accept a wider tolerance for half precision after reading the figures."),
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with baked_head(model, weight_VH, untie=untie):
            cast(_Causal, model).save_pretrained(unfinished)
        if tokenizer is not None:
            tokenizer.save_pretrained(unfinished)
        unfinished.chmod(0o755)  # mkdtemp makes it private
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return comparison
