"""Block-diagonal products on x86 processors as grouped 1 × 1 convolutions, by oneDNN.

Hidden states of t tokens are images of t pixels and H channels, channels last, and a block is a group of
eight channels: oneDNN keeps a group's matrix in registers and reads and writes the hidden states where they
are, which is two to three times as fast as batched products of matrices this small. With 512-bit registers
a group is two blocks, one diagonal 16 × 16 matrix.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

_BLOCK = 8
# Tokens in a row of an image; with more of them oneDNN's loop leaves the first-level cache.
_ROW = 8
# Tokens at a time where rows are copied, in another dtype or to fill the last image, and what that is filled
# to. Fewer than 16 images PyTorch does not hand to oneDNN with one thread.
_CHUNK, _FILL = 512, 16 * _ROW
_FEWEST = _FILL


@cache
def _width() -> int:
    """Channels of a group: a register's float32 values; 0 where oneDNN has no such kernels."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not available or platform.machine().lower() not in ("x86_64", "amd64"):
        return 0
    return {"AVX2": 8, "AVX512": 16}.get(torch.backends.cpu.get_cpu_capability(), 0)


def takes(hidden_TH: Tensor, matrix_B88: Tensor) -> bool:
    """Whether these products are made here: on the CPU, in float32, of enough tokens."""
    return (
        hidden_TH.device.type == "cpu"
        and torch.float64 not in (hidden_TH.dtype, matrix_B88.dtype)
        and hidden_TH.shape[0] >= _FEWEST
        and _width() > 0
    )


def _blocks_in_group(blocks: int) -> int:
    return 2 if _width() == 2 * _BLOCK and blocks % 2 == 0 else 1


def _weight(matrix_B88: Tensor) -> Tensor:
    """(H, n, 1, 1) float32 for groups of n = 8 or 16 channels."""
    blocks = matrix_B88.shape[0]
    if _blocks_in_group(blocks) == 1:
        return matrix_B88.float().reshape(blocks * _BLOCK, _BLOCK, 1, 1)
    wide_Gnn = matrix_B88.new_zeros((blocks // 2, 2 * _BLOCK, 2 * _BLOCK), dtype=torch.float32)
    wide_Gnn[:, :_BLOCK, :_BLOCK] = matrix_B88[0::2]
    wide_Gnn[:, _BLOCK:, _BLOCK:] = matrix_B88[1::2]
    return wide_Gnn.view(-1, 2 * _BLOCK, 1, 1)


def _images(rows_tH: Tensor) -> Tensor:
    """(t, H) as (t / 8, H, 1, 8), channels last, without a copy."""
    return rows_tH.view(-1, 1, _ROW, rows_tH.shape[1]).permute(0, 3, 1, 2)


def _convolved(rows_tH: Tensor, weight_Hn11: Tensor) -> Tensor:
    groups = weight_Hn11.shape[0] // weight_Hn11.shape[1]
    out = torch.mkldnn_convolution(_images(rows_tH), weight_Hn11, None, [0, 0], [1, 1], [1, 1], groups)
    return out.permute(0, 2, 3, 1).reshape(rows_tH.shape)


def _whole(rows_TH: Tensor) -> bool:
    return rows_TH.dtype == torch.float32 and rows_TH.is_contiguous() and rows_TH.shape[0] % _ROW == 0


def _chunks(tokens: int) -> Iterator[slice]:
    return (slice(start, min(start + _CHUNK, tokens)) for start in range(0, tokens, _CHUNK))


def _filled(rows_tH: Tensor) -> Tensor:
    """float32 and contiguous, with rows of zeros up to a multiple of 128 tokens."""
    tokens, size = rows_tH.shape
    if tokens % _FILL == 0:
        return rows_tH.float().contiguous()
    filled_tH = rows_tH.new_zeros((-(-tokens // _FILL) * _FILL, size), dtype=torch.float32)
    filled_tH[:tokens] = rows_tH
    return filled_tH


def multiply(hidden_TH: Tensor, matrix_B88: Tensor) -> Tensor:
    """y_b = K_b x_b for every block and token, in the dtype of ``hidden_TH``; `takes` must hold."""
    weight_Hn11 = _weight(matrix_B88)
    if _whole(hidden_TH):
        return _convolved(hidden_TH, weight_Hn11)
    out_TH = torch.empty_like(hidden_TH, memory_format=torch.contiguous_format)
    for rows in _chunks(hidden_TH.shape[0]):
        out_TH[rows] = _convolved(_filled(hidden_TH[rows]), weight_Hn11)[: rows.stop - rows.start]
    return out_TH


def matrix_gradient(grad_TH: Tensor, hidden_TH: Tensor, matrix_B88: Tensor) -> Tensor:
    """Σ_t grad_t x_tᵀ per block, (B, 8, 8), summed in float32, in the dtype of ``matrix_B88``."""
    weight_Hn11 = _weight(matrix_B88)
    if _whole(grad_TH) and _whole(hidden_TH):
        total_Hn11 = _weight_gradient(grad_TH, hidden_TH, weight_Hn11)
    else:
        total_Hn11 = torch.zeros_like(weight_Hn11)
        for rows in _chunks(grad_TH.shape[0]):
            total_Hn11 += _weight_gradient(_filled(grad_TH[rows]), _filled(hidden_TH[rows]), weight_Hn11)
    if weight_Hn11.shape[1] == _BLOCK:
        return total_Hn11.reshape(matrix_B88.shape).to(matrix_B88.dtype)
    total_Gnn = total_Hn11.view(-1, 2 * _BLOCK, 2 * _BLOCK)
    result_B88 = torch.empty_like(matrix_B88, memory_format=torch.contiguous_format)
    result_B88[0::2] = total_Gnn[:, :_BLOCK, :_BLOCK]
    result_B88[1::2] = total_Gnn[:, _BLOCK:, _BLOCK:]
    return result_B88


def _weight_gradient(grad_tH: Tensor, rows_tH: Tensor, weight_Hn11: Tensor) -> Tensor:
    groups = weight_Hn11.shape[0] // weight_Hn11.shape[1]
    _none, total_Hn11, _bias = torch.ops.aten.convolution_backward(
        _images(grad_tH), _images(rows_tH), weight_Hn11, None, [1, 1], [0, 0], [1, 1], False, [0, 0], groups,
        [False, True, False],
    )  # fmt: skip
    assert isinstance(total_Hn11, Tensor)
    return total_Hn11
