"""Block-diagonal 8×8 products with hidden states: one output, no intermediate per token.

The 8×8 blocks are multiplied in pairs, as 16×16 diagonal matrices: 16 float32 values are one cache line
of 64 bytes, and the product runs several times faster than 8×8 ones although half of it is zeros.
(A value that is not finite therefore spreads to the neighbouring block.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from so8t_engine.errors import SO8TError
from so8t_engine.i18n import _
from so8t_engine.so8t import grouped

BLOCK = 8
# Elements of hidden states multiplied at a time: the operands and the product, 0.6 MiB each, stay in the
# second-level cache on the CPU, and the extra memory is bounded everywhere.
_CPU_ELEMENTS, _CARD_ELEMENTS = 48 * 3072, 1 << 20


def check_blocks(matrix_B88: Tensor) -> None:
    """Raise SO8TError unless the last two dimensions are 8 × 8."""
    if matrix_B88.ndim < 2 or tuple(matrix_B88.shape[-2:]) != (BLOCK, BLOCK):
        raise SO8TError(
            _("Block matrices have the shape %(shape)s.") % {"shape": tuple(matrix_B88.shape)},
            _("The last two dimensions must be 8 × 8."),
        )


def _pair(blocks: int) -> int:
    return 2 if blocks % 2 == 0 else 1


def _diagonal_pairs(matrix_B88: Tensor) -> Tensor:
    """(B, 8, 8) to (B/2, 16, 16), two blocks on each diagonal; unchanged where B is odd."""
    pair = _pair(matrix_B88.shape[0])
    if pair == 1:
        return matrix_B88
    wide = matrix_B88.new_zeros((matrix_B88.shape[0] // 2, 2 * BLOCK, 2 * BLOCK))
    wide[:, :BLOCK, :BLOCK] = matrix_B88[0::2]
    wide[:, BLOCK:, BLOCK:] = matrix_B88[1::2]
    return wide


def _work_dtype(hidden: Tensor, matrix_B88: Tensor) -> torch.dtype:
    return torch.float64 if torch.float64 in (hidden.dtype, matrix_B88.dtype) else torch.float32


def _chunk_tokens(hidden_TH: Tensor) -> int:
    """How many tokens to multiply at a time; the products do not depend on it."""
    elements = _CPU_ELEMENTS if hidden_TH.device.type == "cpu" else _CARD_ELEMENTS
    return max(1, elements // hidden_TH.shape[1])


def _chunks(hidden_TH: Tensor) -> Iterator[slice]:
    step = _chunk_tokens(hidden_TH)
    return (slice(start, start + step) for start in range(0, hidden_TH.shape[0], step))


def _grouped(rows_tH: Tensor, groups: int, work: torch.dtype) -> Tensor:
    """(t, H) as (G, t, n) in the dtype of the sums; no copy where it has that dtype already."""
    return rows_tH.to(work).reshape(rows_tH.shape[0], groups, -1).transpose(0, 1)


def _multiply(
    hidden_TH: Tensor, matrix_B88: Tensor, visit: Callable[[slice, Tensor], object] | None = None
) -> Tensor:
    """y_b = K_b x_b for every block and token, in the dtype of ``hidden_TH``.

    ``visit`` is given each chunk of ``hidden_TH``, as (G, t, n), while it is in the cache.
    """
    work = _work_dtype(hidden_TH, matrix_B88)
    turned_Gnn = _diagonal_pairs(matrix_B88.to(work)).mT.contiguous()
    groups, width = turned_Gnn.shape[:2]
    out_TH = torch.empty_like(hidden_TH, memory_format=torch.contiguous_format)
    # A dense product that stays in the cache and is then put in place: written to its strided place directly
    # it takes two to fifteen times as long, one small product per block instead of a batch.
    product_Gtn = turned_Gnn.new_empty(0)
    for rows in _chunks(hidden_TH):
        part_Gtn = _grouped(hidden_TH[rows], groups, work)
        tokens = part_Gtn.shape[1]
        if product_Gtn.numel() != part_Gtn.numel():
            product_Gtn = turned_Gnn.new_empty((groups, tokens, width))
        torch.bmm(part_Gtn, turned_Gnn, out=product_Gtn)
        if visit is not None:
            visit(rows, part_Gtn)
        out_TH[rows].view(tokens, groups, width).copy_(product_Gtn.transpose(0, 1))
        del part_Gtn  # before the next one is made
    return out_TH


class _MatrixGradient:
    """Σ_t grad_t x_tᵀ per block, summed in float32 (float64 for float64) chunk by chunk."""

    def __init__(self, hidden_TH: Tensor, matrix_B88: Tensor) -> None:
        self._hidden_TH, self._matrix_B88 = hidden_TH, matrix_B88
        self._pair = _pair(matrix_B88.shape[0])
        self._work = _work_dtype(hidden_TH, matrix_B88)
        groups, width = matrix_B88.shape[0] // self._pair, self._pair * BLOCK
        self._total_Gnn = matrix_B88.new_zeros((groups, width, width), dtype=self._work)

    def add(self, rows: slice, grad_Gtn: Tensor) -> None:
        groups = self._total_Gnn.shape[0]
        self._total_Gnn.baddbmm_(grad_Gtn.mT, _grouped(self._hidden_TH[rows], groups, self._work))

    def add_all(self, grad_TH: Tensor) -> None:
        groups = self._total_Gnn.shape[0]
        for rows in _chunks(grad_TH):
            self.add(rows, _grouped(grad_TH[rows], groups, self._work))

    def result(self) -> Tensor:
        """In the dtype of the matrices, (B, 8, 8)."""
        if self._pair == 1:
            return self._total_Gnn.to(self._matrix_B88.dtype)
        result_B88 = torch.empty_like(self._matrix_B88, memory_format=torch.contiguous_format)
        result_B88[0::2] = self._total_Gnn[:, :BLOCK, :BLOCK]
        result_B88[1::2] = self._total_Gnn[:, BLOCK:, BLOCK:]
        return result_B88


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """float32 products in float32: no autocast, no TF32 on CUDA and no bf16 passes on the CPU.

    Those switches belong to the process and may be on for the model; they are put back afterwards. TF32
    keeps ten bits, no more than fp16: a rotation by it would be orthogonal to 1e-3 only.
    """
    switches: tuple[Any, ...] = (
        torch.backends.cuda.matmul,
        torch.backends.mkldnn.matmul,  # type: ignore[attr-defined]
        torch.backends.mkldnn.conv,  # type: ignore[attr-defined]
    )
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value


class Context(Protocol):
    """What an autograd function is given to keep its tensors."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _ApplyBlocks(torch.autograd.Function):
    """Saves the hidden states, which exist anyway, and B matrices; recomputes nothing per token."""

    @staticmethod
    def forward(ctx: Context, hidden_TH: Tensor, matrix_B88: Tensor, keep: Tensor | None) -> Tensor:
        ctx.save_for_backward(hidden_TH, matrix_B88)
        with exact_float32(hidden_TH.device):
            multiply = grouped.multiply if grouped.takes(hidden_TH, matrix_B88) else _multiply
            out_TH = multiply(hidden_TH, matrix_B88)
            if keep is not None:
                torch.where(keep, hidden_TH, out_TH, out=out_TH)
        return out_TH

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        hidden_TH, matrix_B88 = ctx.saved_tensors
        (grad_TH,) = grads
        grad_hidden_TH = None
        want_hidden, want_matrix = ctx.needs_input_grad[:2]
        if grouped.takes(hidden_TH, matrix_B88):
            with exact_float32(hidden_TH.device):
                return (
                    grouped.multiply(grad_TH, matrix_B88.mT) if want_hidden else None,
                    grouped.matrix_gradient(grad_TH, hidden_TH, matrix_B88) if want_matrix else None,
                    None,
                )
        matrix_gradient = _MatrixGradient(hidden_TH, matrix_B88) if want_matrix else None
        with exact_float32(hidden_TH.device):
            if want_hidden:
                visit = matrix_gradient.add if matrix_gradient is not None else None
                grad_hidden_TH = _multiply(grad_TH, matrix_B88.mT, visit)
            elif matrix_gradient is not None:
                matrix_gradient.add_all(grad_TH)
        return grad_hidden_TH, matrix_gradient.result() if matrix_gradient is not None else None, None


def apply_blocks(hidden: Tensor, matrix_B88: Tensor, keep: Tensor | None = None) -> Tensor:
    """y = K x for every block of eight hidden units, with K of shape (B, 8, 8).

    The product is taken in float32 (in float64 where either operand is float64) and rounded once to the
    dtype of ``hidden``, also under autocast. One backward pass; no double backward.

    Args:
        hidden: shape (…, H), any floating dtype.
        matrix_B88: shape (H/8, 8, 8), float32 or float64, on the same device.
        keep: a 0-dim bool tensor; where true the output is ``hidden`` bit for bit. It exists so that
            K = I is the exact identity for −0.0 too, without reading a number back from the device.

    Returns:
        Shape and dtype of ``hidden``.

    Raises:
        SO8TError: the hidden size is not eight times the number of blocks.
    """
    check_cover(hidden, matrix_B88)
    size = hidden.shape[-1]
    out: Tensor = _ApplyBlocks.apply(hidden.reshape(-1, size), matrix_B88, keep)  # type: ignore[no-untyped-call]
    return out.view(hidden.shape)


def check_cover(hidden: Tensor, matrix_B88: Tensor) -> None:
    """Raise SO8TError unless B blocks of 8 × 8 cover the hidden size."""
    check_blocks(matrix_B88)
    size = hidden.shape[-1]
    if matrix_B88.ndim != 3 or size != BLOCK * matrix_B88.shape[0]:
        raise SO8TError(
            _("%(blocks)s blocks of 8 do not cover a hidden size of %(size)d.")
            % {"blocks": matrix_B88.shape[0], "size": size},
            _("The hidden size must be eight times the number of rotations."),
        )
