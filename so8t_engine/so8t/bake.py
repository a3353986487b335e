"""Folding the gate into weights, so that the exported model needs no code of ours.

With the gate in front of the LM head, logits = W K h, hence W' = W K with the gate's block-diagonal K. A
gate on the last linear of an attention or MLP is K (W x + b), hence W' = K W and b' = K b. The folds are
linear and exact up to rounding; they are accepted only after the logits on real text agree.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from so8t_engine.errors import ModelError
from so8t_engine.files import move
from so8t_engine.i18n import _
from so8t_engine.so8t.adapter import SO8TAdapter
from so8t_engine.so8t.attach import attach_from_placement, lm_head_of, site_linears
from so8t_engine.so8t.blocks import apply_blocks
from so8t_engine.so8t.gate import gate_matrix
from so8t_engine.so8t.logit_comparison import BakeTolerance, LogitComparison, compare_pairs
from so8t_engine.so8t.placement import SITE_MODULES, Placement

__all__ = [
    "BakeTolerance",
    "LogitComparison",
    "baked",
    "baked_head_weight",
    "baked_weights",
    "check_tolerance",
    "compare_logits",
    "export_baked",
    "fold_into_next",
    "fold_into_previous",
    "gated_logits",
    "plain_logits",
    "tied",
]

#: Dotted name of a parameter → what it becomes.
Weights = Mapping[str, Tensor]
_HEAD_ONLY = Placement()


class _Causal(Protocol):
    """What is used of a transformers model."""

    config: Any

    def get_input_embeddings(self) -> nn.Module: ...
    def save_pretrained(self, folder: str | Path, state_dict: dict[str, Tensor]) -> object: ...


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


def _fold_matrix(adapter: SO8TAdapter, device: torch.device) -> Tensor:
    """The gate's K, made in float64 and rounded to float32 once."""
    total_B88 = adapter.build_rotations().total_B88.double()
    matrix_B88 = gate_matrix(total_B88, adapter.gate.double(), adapter.gate_form)
    return matrix_B88.detach().float().to(device)


def _plain(module: nn.Module, what: str) -> nn.Linear:
    weight = getattr(module, "weight", None)
    if type(module) is not nn.Linear or not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise ModelError(
            _("%(what)s is a %(kind)s and not a plain linear layer.")
            % {"what": what, "kind": type(module).__name__},
            _("Merge the adapters and dequantise the layers before baking."),
        )
    return module


@torch.no_grad()
def baked_head_weight(model: nn.Module, adapter: SO8TAdapter) -> Tensor:
    """W' = W ((1 − g) I + g M) (or the K of the adapter's form): a new tensor of W's shape and dtype.

    Raises:
        ModelError: the head is quantised, adapted by PEFT, or of another hidden size.
    """
    head = _plain(lm_head_of(model), _("The LM head"))
    if head.in_features != adapter.hidden_size:
        raise ModelError(
            _("The LM head reads %(width)d units and the adapter has %(size)d.")
            % {"width": head.in_features, "size": adapter.hidden_size},
            _("Bake into the model that the adapter was trained with."),
        )
    return fold_into_next(head.weight.detach(), _fold_matrix(adapter, head.weight.device))


@torch.no_grad()
def baked_weights(
    model: nn.Module, adapter: SO8TAdapter, placement: Placement = _HEAD_ONLY
) -> dict[str, Tensor]:
    """The new value of each parameter that a gate at ``placement`` is folded into, by its dotted name.

    Args:
        model: dense, with LoRA merged.
        adapter: the gate, the same at every place.
        placement: in front of the LM head, inside layers, or both.

    Raises:
        ModelError: a place does not exist, or its linear is quantised, adapted by PEFT or of another size.
    """
    names = {module: name for name, module in model.named_modules()}
    found: dict[str, Tensor] = {}
    for index, module in site_linears(model, placement.layers, placement.site).items():
        what = _("%(name)s of decoder layer %(index)d") % {
            "name": SITE_MODULES[placement.site],
            "index": index,
        }
        linear = _plain(module, what)
        if linear.out_features != adapter.hidden_size:
            raise ModelError(
                _("%(what)s gives %(width)d units and the adapter has %(size)d.")
                % {"what": what, "width": linear.out_features, "size": adapter.hidden_size},
                _("Bake into the model that the adapter was trained with."),
            )
        matrix_B88 = _fold_matrix(adapter, linear.weight.device)
        own_H = None if linear.bias is None else linear.bias.detach()
        weight_HV, bias_H = fold_into_previous(linear.weight.detach(), own_H, matrix_B88)
        found[f"{names[module]}.weight"] = weight_HV
        if bias_H is not None:
            found[f"{names[module]}.bias"] = bias_H
    if placement.final:
        found[f"{names[lm_head_of(model)]}.weight"] = baked_head_weight(model, adapter)
    return found


def tied(model: nn.Module) -> bool:
    """Whether the LM head and the input embedding are one tensor."""
    head, embedding = lm_head_of(model), cast(_Causal, model).get_input_embeddings()
    weight, other = getattr(head, "weight", None), getattr(embedding, "weight", None)
    return weight is other or (
        isinstance(weight, Tensor) and isinstance(other, Tensor) and weight.data_ptr() == other.data_ptr()
    )


@contextmanager
def baked(model: nn.Module, weights: Weights, *, untie: bool = False) -> Iterator[None]:
    """The model with other weights, as `baked_weights` gives them, inside the block; then its own again.

    Raises:
        ModelError: the embeddings are tied, the head is among the weights and ``untie`` is not set: the
            input embedding would be changed.
    """
    head = lm_head_of(model)
    places = {
        name: (model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in weights
    }
    unties = tied(model) and any(module is head for module, _leaf in places.values())
    if unties and not untie:
        raise ModelError(
            _("The LM head shares its weight with the input embedding."),
            _("Allow untying: the exported model then holds both, and grows by one of them."),
        )
    config = cast(_Causal, model).config
    said = getattr(config, "tie_word_embeddings", False)
    own = {name: getattr(module, leaf) for name, (module, leaf) in places.items()}
    for name, (module, leaf) in places.items():
        setattr(module, leaf, nn.Parameter(weights[name], requires_grad=False))
    if unties:
        config.tie_word_embeddings = False
    try:
        yield
    finally:
        for name, (module, leaf) in places.items():
            setattr(module, leaf, own[name])
        config.tie_word_embeddings = said


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def plain_logits(model: nn.Module, ids_NT: Tensor) -> Tensor:
    """float32 logits (N, T, V) of the model as it is, in eval mode."""
    with _evaluating(model):
        logits_NTV: Tensor = model(input_ids=ids_NT).logits.float()
        return logits_NTV


def gated_logits(
    model: nn.Module, adapter: SO8TAdapter, ids_NT: Tensor, placement: Placement = _HEAD_ONLY
) -> Tensor:
    """float32 logits (N, T, V) with the gate attached by hooks; the model may still be wrapped by PEFT."""
    with attach_from_placement(model, adapter, placement):
        return plain_logits(model, ids_NT)


def compare_logits(
    model: nn.Module,
    adapter: SO8TAdapter,
    weights: Weights,
    texts: Iterable[Tensor],
    *,
    placement: Placement = _HEAD_ONLY,
    untie: bool = False,
    gated: Sequence[Tensor] | None = None,
) -> LogitComparison:
    """The model with the gate's hooks against the model with baked weights, token by token.

    Args:
        model: without a gate attached; put into eval mode for the comparison.
        adapter: the gate.
        weights: as `baked_weights` gives them.
        texts: real text as token ids, each of shape (N, T) without padding.
        placement: where the gate acts.
        untie: see `baked`.
        gated: the gated model's logits on ``texts``, where they were taken before LoRA was merged.
    """

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        for number, ids_NT in enumerate(texts):
            gated_NTV = gated_logits(model, adapter, ids_NT, placement) if gated is None else gated[number]
            with baked(model, weights, untie=untie):
                yield gated_NTV, plain_logits(model, ids_NT)

    return compare_pairs(pairs())


def check_tolerance(comparison: LogitComparison, limits: BakeTolerance) -> None:
    """Raise `ModelError`, with the figures, unless the comparison is within the limits."""
    if limits.accepts(comparison):
        return
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


def _save(model: nn.Module, folder: Path, dtype: torch.dtype | None) -> None:
    """Save with floating tensors rounded to ``dtype``; tensors that share memory go on sharing it."""
    rounded: dict[int, Tensor] = {}

    def cast_once(tensor: Tensor) -> Tensor:
        if dtype is None or not tensor.is_floating_point() or tensor.dtype == dtype:
            return tensor
        return rounded.setdefault(tensor.data_ptr(), tensor.to(dtype))

    state = {name: cast_once(tensor) for name, tensor in model.state_dict().items()}
    cast(_Causal, model).save_pretrained(folder, state_dict=state)
    if dtype is not None:
        # transformers notes the type of the model in memory; plain loading goes by this note.
        file = folder / "config.json"
        content = json.loads(file.read_text(encoding="utf-8"))
        content["dtype"] = str(dtype).removeprefix("torch.")
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def export_baked(
    model: nn.Module,
    adapter: SO8TAdapter,
    folder: Path,
    texts: Sequence[Tensor],
    *,
    placement: Placement = _HEAD_ONLY,
    tolerance: BakeTolerance | None = None,
    untie: bool = False,
    tokenizer: Any = None,  # noqa: ANN401
    gated: Sequence[Tensor] | None = None,
    dtype: torch.dtype | None = None,
    describe: Callable[[Path, LogitComparison], None] | None = None,
) -> LogitComparison:
    """Bake, compare on real text, and save a plain transformers model.

    The folder appears whole or not at all. The model in memory keeps its weights.

    Args:
        model: dense, with LoRA merged, without a gate attached.
        adapter: the gate.
        folder: must not exist yet.
        texts: token ids of real text, each (N, T) without padding.
        placement: where the gate acts; every place is folded.
        tolerance: the limits of the comparison, by default those for float32.
        untie: allow a tied head to get a weight of its own.
        tokenizer: saved beside the model when given.
        gated: see `compare_logits`.
        dtype: what the saved weights are rounded to, after the comparison; None keeps the model's type.
        describe: called with the folder before it appears, to write into it or, by raising, to refuse it.

    Returns:
        The comparison that admitted the export.

    Raises:
        ModelError: the folder exists, a place cannot be baked, or the logits differ beyond the limits.
    """
    if folder.exists():
        raise ModelError(
            _("%(folder)s exists already.") % {"folder": folder}, _("Choose a folder that does not exist.")
        )
    weights = baked_weights(model, adapter, placement)
    comparison = compare_logits(model, adapter, weights, texts, placement=placement, untie=untie, gated=gated)
    check_tolerance(comparison, tolerance or BakeTolerance())
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with baked(model, weights, untie=untie):
            _save(model, unfinished, dtype)
        if tokenizer is not None:
            tokenizer.save_pretrained(unfinished)
        if describe is not None:
            describe(unfinished, comparison)
        unfinished.chmod(0o755)  # mkdtemp and safetensors make theirs private
        for file in unfinished.iterdir():
            if file.is_file():
                file.chmod(0o644)
        move(unfinished, folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return comparison
