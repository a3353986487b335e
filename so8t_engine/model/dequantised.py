"""nf4 layers on the CPU: the quantised values, dequantised once instead of in every pass.

bitsandbytes' CPU path dequantises a layer each time it is used, forward and backward, and its OpenMP
threads compete with PyTorch's: measured here 3.0 s instead of 0.17 s for a step of the embedded model.
The numbers are the same, because the values are those that nf4 can represent. The price is memory,
which a CPU run has.
"""

from __future__ import annotations

import torch
from torch import nn


def replace_nf4_by_dequantised(model: nn.Module, dtype: torch.dtype) -> int:
    """Replace each ``Linear4bit`` in place by a frozen `nn.Linear` that holds its dequantised weight.

    Args:
        model: loaded with bitsandbytes on the CPU.
        dtype: of the dequantised weights.

    Returns:
        How many layers were replaced.
    """
    import bitsandbytes as bnb

    found = [
        (name, module) for name, module in model.named_modules() if isinstance(module, bnb.nn.Linear4bit)
    ]
    for name, module in found:
        weight_OI = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state).to(dtype)
        plain = nn.Linear(
            module.in_features, module.out_features, bias=module.bias is not None, device="meta", dtype=dtype
        )
        plain.weight = nn.Parameter(weight_OI, requires_grad=False)
        if module.bias is not None:
            plain.bias = nn.Parameter(module.bias.data.to(dtype), requires_grad=False)
        parent, _dot, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, plain)
    # What is left is an ordinary model: transformers must not treat it as quantised.
    if found:
        for attribute in ("is_loaded_in_4bit", "is_quantized"):
            if hasattr(model, attribute):
                setattr(model, attribute, False)
        if hasattr(model, "hf_quantizer"):
            model.hf_quantizer = None  # type: ignore[assignment]
    return len(found)
