"""PET over rows that lie end to end in one sequence; no second difference crosses a border."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Tokens at a time, as in `pet`: the float32 copies of a chunk are recomputed in the backward pass.
_CHUNK = 512


def _row_sums(values_T: Tensor, row_T: Tensor, rows: int) -> Tensor:
    """Σ of each row's values, (rows,), in a fixed order: adding at indices on a card has none."""
    belongs_RT = row_T == torch.arange(rows, device=row_T.device).unsqueeze(1)
    return torch.where(belongs_RT, values_T, 0.0).sum(1)


def _energy(hidden_TH: Tensor, row_T: Tensor, rows: int) -> Tensor:
    return _row_sums(hidden_TH.to(_work_dtype(hidden_TH)).square().sum(1), row_T, rows)


def _roughness(
    hidden_TH: Tensor, row_T: Tensor, scale_R: Tensor, huber_delta: float | None, rows: int
) -> Tensor:
    """Σ ρ(second difference · scale) over each row's triples, (rows,); a chunk has two tokens more."""
    work = hidden_TH.to(_work_dtype(hidden_TH))
    keep_T = row_T >= 0
    difference = (work[2:] - 2.0 * work[1:-1] + work[:-2]).masked_fill(~keep_T.unsqueeze(1), 0.0)
    scaled = difference * scale_R[row_T.clamp(min=0)].unsqueeze(1)
    if huber_delta is None:
        cost = scaled.square()
    else:
        size = scaled.abs()
        cost = torch.where(size <= huber_delta, scaled.square(), huber_delta * (2.0 * size - huber_delta))
    return _row_sums(cost.sum(1), row_T, rows)


def _work_dtype(hidden: Tensor) -> torch.dtype:
    return torch.float64 if hidden.dtype == torch.float64 else torch.float32


class _Squares(torch.autograd.Function):
    """The loss without Huber's bound on the CPU, where memory allows to do it in one piece.

    Row r's share is (S_r / n_r) / (E_r / m_r), with the sums S of squared second differences d and E of
    squared h, over so many elements; its gradient is 2 d / (n_r e_r) at d, and −2 h · share / E_r at h.
    """

    @staticmethod
    def forward(ctx: Any, hidden_TH: Tensor, row_T: Tensor, rows: int) -> Tensor:  # noqa: ANN401
        size = hidden_TH.shape[1]
        # A row's tokens are consecutive: first and last of a triple in one row means all three.
        triple_T = torch.where(row_T[2:] == row_T[:-2], row_T[2:], -1)
        difference_TH = torch.sub(hidden_TH[2:], hidden_TH[1:-1], alpha=2.0).add_(hidden_TH[:-2])
        norm_T = torch.linalg.vector_norm(difference_TH, dim=1)
        sum_R = _row_sums(norm_T.square_(), triple_T, rows)
        energy_R = _row_sums(torch.linalg.vector_norm(hidden_TH, dim=1).square_(), row_T, rows)
        count_R = _row_sums(torch.ones_like(row_T, dtype=hidden_TH.dtype), row_T, rows)
        mean_square_R = energy_R / (count_R * size).clamp(min=1)
        least = torch.finfo(hidden_TH.dtype).tiny
        scale_R = 1.0 / (mean_square_R.clamp(min=least) * ((count_R - 2.0) * size).clamp(min=1))
        share_R = sum_R * scale_R
        # Below the least mean square the scale is constant.
        falling_R = torch.where(mean_square_R > least, share_R / energy_R.clamp(min=least), 0.0)
        ctx.save_for_backward(hidden_TH, difference_TH, row_T, triple_T, scale_R, falling_R)
        return share_R.mean()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        hidden_TH, difference_TH, row_T, triple_T, scale_R, falling_R = ctx.saved_tensors
        factor = 2.0 * grads[0] / len(scale_R)

        def spread(values_R: Tensor, index_T: Tensor) -> Tensor:
            at_T = values_R[index_T.clamp(min=0)].masked_fill_(index_T < 0, 0.0)
            return at_T.mul_(factor).unsqueeze(1)

        grad_TH = hidden_TH * -spread(falling_R, row_T)
        part_TH = difference_TH * spread(scale_R, triple_T)
        grad_TH[2:] += part_TH
        grad_TH[:-2] += part_TH
        grad_TH[1:-1].sub_(part_TH, alpha=2.0)
        return grad_TH, None, None


def packed_pet_loss(
    hidden_NTH: Tensor, row_index_NT: Tensor, rows: int, huber_delta: float | None = None
) -> Tensor:
    """`so8t.pet.pet_loss` of rows that are packed into one sequence.

    Args:
        hidden_NTH: shape (1, T, H).
        row_index_NT: shape (1, T), the row of each token, −1 where there is none; a row's tokens are
            consecutive.
        rows: how many there are.
        huber_delta: see `pet_loss`.

    Returns:
        The mean over the rows, 0-dim; a row with fewer than three tokens counts as 0.
    """
    hidden_TH, row_T = hidden_NTH[0], row_index_NT[0]
    tokens, size = hidden_TH.shape
    work = _work_dtype(hidden_TH)
    with torch.autocast(hidden_TH.device.type, enabled=False):
        if tokens < 3:
            return hidden_TH.to(work).sum() * 0.0
        if hidden_TH.device.type == "cpu" and hidden_TH.dtype == work and huber_delta is None:
            loss: Tensor = _Squares.apply(hidden_TH, row_T, rows)  # type: ignore[no-untyped-call]
            return loss
        one_T = torch.ones_like(row_T, dtype=work)
        count_R = torch.stack(
            [
                _row_sums(one, row, rows)
                for one, row in zip(torch.split(one_T, _CHUNK), torch.split(row_T, _CHUNK), strict=True)
            ]
        ).sum(0)
        energy_R = torch.stack(
            [
                checkpoint(_energy, part, row, rows, use_reentrant=False, preserve_rng_state=False)
                for part, row in zip(torch.split(hidden_TH, _CHUNK), torch.split(row_T, _CHUNK), strict=True)
            ]
        ).sum(0)
        mean_square_R = energy_R / (count_R * size).clamp(min=1)
        # All-zero hidden states have no attitude to keep: 0 / tiny is 0.
        scale_R = torch.rsqrt(mean_square_R.clamp(min=torch.finfo(work).tiny))
        # A row's tokens are consecutive: first and last of a triple in one row means all three.
        triple_T = torch.where(row_T[2:] == row_T[:-2], row_T[2:], -1)
        parts = [
            checkpoint(
                _roughness,
                hidden_TH[start : start + _CHUNK + 2],
                triple_T[start : start + _CHUNK],
                scale_R,
                huber_delta,
                rows,
                use_reentrant=False,
                preserve_rng_state=False,
            )
            for start in range(0, tokens - 2, _CHUNK)
        ]
        row_R = torch.stack(parts).sum(0) / ((count_R - 2.0) * size).clamp(min=1)
        return row_R.mean()
