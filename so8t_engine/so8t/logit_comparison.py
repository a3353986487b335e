"""Two models on the same text, token by token: how far apart their logits are, and how far they may be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


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


def _kl_sum(gated_tV: Tensor, baked_tV: Tensor, tokens: int = 128) -> float:
    """Σ_t KL(gated ‖ baked) in nats, in float64: in float32 rounding exceeds the differences sought."""
    total = 0.0
    for gated, baked in zip(torch.split(gated_tV, tokens), torch.split(baked_tV, tokens), strict=True):
        log_p, log_q = gated.double().log_softmax(-1), baked.double().log_softmax(-1)
        total += float((log_p.exp() * (log_p - log_q)).sum())
    return total


@torch.no_grad()
def compare_pairs(pairs: Iterable[tuple[Tensor, Tensor]]) -> LogitComparison:
    """The comparison over pairs of (gated, baked) logits, each of shape (N, T, V), without padding."""
    largest, same, divergence, tokens = 0.0, 0, 0.0, 0
    for gated_NTV, baked_NTV in pairs:
        # A maximum by Tensor, because max() of floats would pass over NaN.
        difference = (gated_NTV - baked_NTV).abs().amax()
        largest = float(torch.maximum(difference, difference.new_tensor(largest)))
        same += int((gated_NTV.argmax(-1) == baked_NTV.argmax(-1)).sum())
        divergence += _kl_sum(gated_NTV.flatten(0, -2), baked_NTV.flatten(0, -2))
        tokens += gated_NTV[..., 0].numel()
    return LogitComparison(largest, same / max(1, tokens), divergence / max(1, tokens), tokens)
