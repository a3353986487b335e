"""The heads that read the rotated hidden states: safety, task, and the dual pair that must agree.

All are float32, also under autocast, and read one pooled vector per row. Before a head the vector is
divided by its root mean square (no parameters): the scale of a model's final hidden states differs
between models by an order of magnitude, and with it the size of the first logits and of each step.
Rotations keep the norm, so this does not depend on them.
"""

# ruff: noqa: N815  (fields of the dataclasses are tensors and carry their shapes)

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from so8t_engine.so8t.rotation import apply_rotation

SAFETY_LABELS = ("safe", "dangerous")
TASK_LABELS = ("ALLOW", "ESCALATION", "DENY", "REFUSE")


@dataclass(frozen=True)
class HeadLogits:
    """Logits in float32: ``safety_N2``, ``task_N4`` and ``dual_N22`` (row, head, safe/dangerous)."""

    safety_N2: Tensor
    task_N4: Tensor
    dual_N22: Tensor


def pool(hidden_NTH: Tensor, pool_index_N: Tensor) -> Tensor:
    """The hidden vector of one token per row, (N, H): the last token of the prompt or of the sequence.

    Args:
        hidden_NTH: shape (N, T, H).
        pool_index_N: shape (N,), integer token positions.
    """
    rows_N = torch.arange(hidden_NTH.shape[0], device=hidden_NTH.device)
    return hidden_NTH[rows_N, pool_index_N.to(hidden_NTH.device)]


def last_token_index(mask_NT: Tensor) -> Tensor:
    """The position (N,) of the last token whose mask is not 0, on either side of padding; 0 if none."""
    positions_T = torch.arange(mask_NT.shape[1], device=mask_NT.device)
    return (positions_T * (mask_NT != 0)).amax(dim=1)


def rms_normalise(hidden_NH: Tensor, eps: float = 1e-6) -> Tensor:
    """x / sqrt(mean(x²) + eps) over the last dimension."""
    return hidden_NH * torch.rsqrt(hidden_NH.square().mean(dim=-1, keepdim=True) + eps)


class SO8THeads(nn.Module):
    """safety_head reads R_safe h, task_head M h, dual head 1 R_safe h, dual head 2 M h.

    Only so does R_safe get a signal of its own; from M alone the two factors cannot be told apart.

    Args:
        hidden_size: H, a multiple of 8.
        init_std: standard deviation of the weights, N(0, init_std²); biases begin at 0.
        generator: the seeded source of the weights.
    """

    def __init__(
        self, hidden_size: int, *, init_std: float = 0.02, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.safety_head = nn.Linear(hidden_size, len(SAFETY_LABELS), dtype=torch.float32)
        self.task_head = nn.Linear(hidden_size, len(TASK_LABELS), dtype=torch.float32)
        self.dual_heads = nn.ModuleList(
            nn.Linear(hidden_size, len(SAFETY_LABELS), dtype=torch.float32) for _head in range(2)
        )
        for linear in (self.safety_head, self.task_head, *self.dual_heads):
            assert isinstance(linear, nn.Linear)
            nn.init.normal_(linear.weight, std=init_std, generator=generator)
            nn.init.zeros_(linear.bias)

    def forward(self, pooled_NH: Tensor, safe_B88: Tensor, total_B88: Tensor) -> HeadLogits:
        """The logits of pooled vectors (N, H) of any floating dtype; only these N vectors are rotated."""
        with torch.autocast(pooled_NH.device.type, enabled=False):
            wide_NH = pooled_NH if pooled_NH.dtype == torch.float64 else pooled_NH.float()
            normal_NH = rms_normalise(wide_NH)
            safe_NH = apply_rotation(normal_NH, safe_B88)
            total_NH = apply_rotation(normal_NH, total_B88)
            dual_N22 = torch.stack((self.dual_heads[0](safe_NH), self.dual_heads[1](total_NH)), dim=1)
            return HeadLogits(self.safety_head(safe_NH), self.task_head(total_NH), dual_N22)
