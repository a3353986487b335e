"""Quantised layers as plain ones that hold the values the quantised ones stand for.

nf4 on the CPU: bitsandbytes' CPU path dequantises a layer each time it is used, forward and backward, and
its OpenMP threads compete with PyTorch's: measured here 3.0 s instead of 0.17 s for a step of the embedded
model. The numbers are the same, because the values are those that nf4 can represent. The price is memory,
which a CPU run has.

For baking: a gate is folded into plain weights, and those a quantised run trained on are the dequantised
ones, not the ones of the file.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from so8t_engine.errors import ModelError
from so8t_engine.i18n import _


def _weight_4bit(module: Any) -> Tensor:  # noqa: ANN401  (bitsandbytes has no types)
    import bitsandbytes as bnb

    if getattr(module.weight.quant_state, "packing_format_for_cpu", False):
        # A pass in eval mode on a CPU with AVX-512 repacks the layer and rounds its scales to bf16.
        raise ModelError(
            _("A 4-bit layer was repacked for this CPU and no longer holds its exact values."),
            _("Dequantise the model as it was loaded, before its first pass."),
        )
    weight_OI: Tensor = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
    return weight_OI


def _weight_8bit(module: Any) -> Tensor:  # noqa: ANN401
    """float32: W = CB · SCB / 127 per output row (Dettmers et al. 2022, LLM.int8(), section 3)."""
    import bitsandbytes as bnb

    # The scales move from the weight to the state with the first forward pass.
    scales_O = module.weight.SCB if module.weight.SCB is not None else module.state.SCB
    weight_OI: Tensor = bnb.functional.int8_vectorwise_dequant(module.weight.data, scales_O)
    return weight_OI


def _plain(module: nn.Module, weight_OI: Tensor) -> nn.Linear:
    bias = getattr(module, "bias", None)
    dtype = weight_OI.dtype
    plain = nn.Linear(
        weight_OI.shape[1], weight_OI.shape[0], bias=bias is not None, device="meta", dtype=dtype
    )
    plain.weight = nn.Parameter(weight_OI, requires_grad=False)
    if bias is not None:
        plain.bias = nn.Parameter(bias.data.to(weight_OI.device, dtype), requires_grad=False)
    return plain


def _make_ordinary(model: nn.Module) -> None:
    """What is left is an ordinary model: transformers must not treat, move or save it as a quantised one."""
    for attribute in ("is_loaded_in_4bit", "is_loaded_in_8bit", "is_quantized"):
        if hasattr(model, attribute):
            setattr(model, attribute, False)
    if hasattr(model, "hf_quantizer"):
        model.hf_quantizer = None  # type: ignore[assignment]
    for owner, attribute in (
        (model, "quantization_method"),
        (getattr(model, "config", None), "quantization_config"),
    ):
        if owner is not None and hasattr(owner, attribute):
            delattr(owner, attribute)


def dequantise(model: nn.Module, dtype: torch.dtype, device: torch.device | None = None) -> int:
    """Replace each bitsandbytes layer, ``Linear4bit`` or ``Linear8bitLt``, in place by a plain one.

    Args:
        model: loaded with bitsandbytes.
        dtype: of the dequantised weights; 8-bit ones are computed in float32 and then rounded.
        device: where the plain layers go, one after the other; None leaves each where it was.

    Returns:
        How many layers were replaced.

    Raises:
        ModelError: a 4-bit layer has been used on the CPU, which may have changed it.
    """
    import bitsandbytes as bnb

    count = 0
    for name, module in list(model.named_modules()):
        if isinstance(module, bnb.nn.Linear4bit):
            weight_OI = _weight_4bit(module)
        elif isinstance(module, bnb.nn.Linear8bitLt):
            weight_OI = _weight_8bit(module)
        else:
            continue
        parent, _dot, last = name.rpartition(".")
        plain = _plain(module, weight_OI.to(device or weight_OI.device, dtype))
        setattr(model.get_submodule(parent), last, plain)
        count += 1
    if count:
        _make_ordinary(model)
    return count
