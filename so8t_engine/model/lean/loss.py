"""Cross-entropy straight from hidden states: the logits of a few tokens at a time, and of none twice.

The gradient is made in the forward pass, where a chunk's logits are at hand (as Liger's and Unsloth's fused
losses do): what stays is one tensor of the hidden states' size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from so8t_engine.model.lean.ops import cross_entropy_rows, has_room
from so8t_engine.so8t.losses import IGNORE

#: Logits at a time on the CPU at least, 16 MiB in float32.
_CPU_LOGITS = 1 << 22


def linear_cross_entropy(hidden_tH: Tensor, weight_VH: Tensor, labels_t: Tensor, chunk: int) -> Tensor:
    """Σ cross-entropy of softmax(h Wᵀ), float32 0-dim, differentiable in the hidden states once.

    Args:
        hidden_tH: shape (t, H). weight_VH: the frozen head, shape (V, H).
        labels_t: shape (t,), −100 where nothing is to be learned.
        chunk: tokens whose logits exist at a time.
    """
    total: Tensor = _LinearCrossEntropy.apply(hidden_tH, weight_VH, labels_t, chunk)  # type: ignore[no-untyped-call]
    return total


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_tH: Tensor, weight_VH: Tensor, labels_t: Tensor, chunk: int) -> Tensor:  # noqa: ANN401
        want_grad = ctx.needs_input_grad[0]
        total = torch.zeros((), dtype=torch.float32, device=hidden_tH.device)
        grad_tH = torch.empty_like(hidden_tH) if want_grad else None
        if has_room(hidden_tH):
            # A handful of tokens costs a pass over the whole head: more at a time while it is some megabytes.
            chunk = max(chunk, _CPU_LOGITS // len(weight_VH))
        with torch.autocast(hidden_tH.device.type, enabled=False):
            for start in range(0, len(hidden_tH), chunk):
                part = slice(start, start + chunk)
                logits_cV = hidden_tH[part].to(weight_VH.dtype) @ weight_VH.T
                total += cross_entropy_rows(logits_cV, labels_t[part], IGNORE, want_grad).sum()
                if grad_tH is not None:
                    grad_tH[part] = logits_cV @ weight_VH
                del logits_cV
        ctx.grad_tH = grad_tH
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        grad_tH, ctx.grad_tH = ctx.grad_tH, None
        # In place, and without asking the card what the factor is.
        return grad_tH.mul_(grads[0].to(grad_tH.dtype)), None, None, None
