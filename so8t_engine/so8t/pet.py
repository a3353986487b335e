"""PET, the inertia of attitude: the second difference of hidden states over tokens.

Per row mean((h[t+2] − 2 h[t+1] + h[t])²) / mean(h²), over triples of real tokens, and the mean of that over
the rows. Linear motion costs nothing, and the value depends neither on the scale of the hidden states nor on
which rows share a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Triples at a time: the float32 copies of a chunk are recomputed in the backward pass, not kept.
_CHUNK = 512


def _energy(hidden_NTH: Tensor, mask_NT: Tensor) -> Tensor:
    """Σ h² over a row's real tokens, shape (N,), float32."""
    work = hidden_NTH.to(_work_dtype(hidden_NTH)).masked_fill(~mask_NT.unsqueeze(-1), 0.0)
    return work.square().sum((1, 2))


def _roughness(hidden_NTH: Tensor, triple_NT: Tensor, scale_N: Tensor, huber_delta: float | None) -> Tensor:
    """Σ ρ(second difference · scale) over each row's triples, (N,); a chunk has two tokens more."""
    work = hidden_NTH.to(_work_dtype(hidden_NTH))
    difference = (work[:, 2:] - 2.0 * work[:, 1:-1] + work[:, :-2]).masked_fill(~triple_NT.unsqueeze(-1), 0.0)
    scaled = difference * scale_N[:, None, None]
    if huber_delta is None:
        return scaled.square().sum((1, 2))
    size = scaled.abs()
    bounded = torch.where(size <= huber_delta, scaled.square(), huber_delta * (2.0 * size - huber_delta))
    return bounded.sum((1, 2))


def _work_dtype(hidden: Tensor) -> torch.dtype:
    return torch.float64 if hidden.dtype == torch.float64 else torch.float32


def pet_loss(hidden_NTH: Tensor, mask_NT: Tensor | None = None, huber_delta: float | None = None) -> Tensor:
    """PET as a 0-dim tensor in float32 (float64 for float64 input), differentiable.

    Args:
        hidden_NTH: shape (N, T, H).
        mask_NT: shape (N, T), nonzero at real tokens; None where there is no padding. A triple counts
            when all three of its tokens are real.
        huber_delta: with it, each element of the second difference, in units of the root mean square of
            h, is squared up to this size and grows linearly beyond (Huber 1964, twice his ρ).

    Returns:
        The mean over the rows; a row with fewer than three real tokens in a row counts as 0.
    """
    count_N, tokens, size = hidden_NTH.shape
    work = _work_dtype(hidden_NTH)
    with torch.autocast(hidden_NTH.device.type, enabled=False):
        if tokens < 3:
            return (
                hidden_NTH.to(work).sum() * 0.0
                if count_N and tokens
                else hidden_NTH.new_zeros((), dtype=work)
            )
        mask = (
            torch.ones(hidden_NTH.shape[:2], dtype=torch.bool, device=hidden_NTH.device)
            if mask_NT is None
            else mask_NT.to(hidden_NTH.device) != 0
        )
        triple_NT = mask[:, 2:] & mask[:, 1:-1] & mask[:, :-2]
        energy_N = torch.stack(
            [
                checkpoint(_energy, part, marks, use_reentrant=False, preserve_rng_state=False)
                for part, marks in zip(
                    torch.split(hidden_NTH, _CHUNK, 1), torch.split(mask, _CHUNK, 1), strict=True
                )
            ]
        ).sum(0)
        mean_square_N = energy_N / (mask.sum(1) * size).clamp(min=1)
        # All-zero hidden states have no attitude to keep: 0 / tiny is 0.
        scale_N = torch.rsqrt(mean_square_N.clamp(min=torch.finfo(work).tiny))
        parts = [
            checkpoint(
                _roughness,
                hidden_NTH[:, start : start + _CHUNK + 2],
                triple_NT[:, start : start + _CHUNK],
                scale_N,
                huber_delta,
                use_reentrant=False,
                preserve_rng_state=False,
            )
            for start in range(0, tokens - 2, _CHUNK)
        ]
        row_N = torch.stack(parts).sum(0) / (triple_NT.sum(1) * size).clamp(min=1)
        return row_N.mean()
