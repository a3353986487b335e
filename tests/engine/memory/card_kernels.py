"""Stand-ins that allocate what the card's kernels allocate, and compute nothing.

On the CPU PyTorch's operators do the kernels' work and need temporaries that a card never sees; the estimate
is about the card. What is compared is memory alone.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_TH: Tensor, matrix_B88: Tensor, gate: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(hidden_TH, matrix_B88, gate)
        return torch.empty_like(hidden_TH)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401
        hidden_TH, matrix_B88, gate = ctx.saved_tensors
        _grad = grads[0].contiguous()
        out_TH = torch.empty_like(hidden_TH)
        partial = matrix_B88.new_empty((-(-len(hidden_TH) // 128), *matrix_B88.shape))
        del partial
        return out_TH, torch.zeros_like(matrix_B88), torch.zeros_like(gate)


def _gate(hidden: Tensor, matrix_B88: Tensor, gate: Tensor, _form: str = "") -> Tensor:
    flat_TH = hidden.reshape(-1, hidden.shape[-1]).contiguous()
    out: Tensor = _Gate.apply(flat_TH, matrix_B88, gate.float())  # type: ignore[no-untyped-call]
    return out.view(hidden.shape)


def _weight(self: Any, dtype: torch.dtype) -> Tensor:  # noqa: ANN401
    """As a dequantised nf4 weight."""
    if self.whole_OI is not None:
        return self.whole_OI
    return torch.empty(self.base.weight.shape, dtype=dtype)


def install(patch: pytest.MonkeyPatch) -> None:
    """Put the stand-ins in the places of the kernels, until ``patch`` is undone."""
    from so8t_engine.model.lean import attention, body, layer, linear, loss, mlp
    from so8t_engine.so8t import adapter, rotation

    made: dict[str, Any] = {
        "rms_norm": lambda hidden, _weight, _eps: torch.empty_like(hidden),
        "rms_norm_gradient": lambda _grad, hidden, _weight, _eps, _residual=None: torch.empty_like(hidden),
        "rotary": lambda *_tensors, **_options: None,
        "gated_activation": lambda gate, _up, _kind, _active=None: torch.empty(gate.shape, dtype=gate.dtype),
        "gated_activation_gradient": lambda *_tensors: None,
        "cross_entropy_rows": lambda _logits, labels, _ignore, _want: torch.zeros(len(labels)),
        "apply_gate": _gate,
        "apply_gate_matrix": _gate,
    }
    for module in (attention, body, layer, linear, loss, mlp, adapter):
        for name, stand_in in made.items():
            if hasattr(module, name):
                patch.setattr(module, name, stand_in)
    patch.setattr(linear.LoraLinear, "weight", _weight)
    patch.setattr(linear.LoraLinear, "quantised", True)
    # The card's kernel keeps the generators alone.
    patch.setattr(rotation, "skew_exponential", lambda skew_B88: skew_B88 * 1.0)
