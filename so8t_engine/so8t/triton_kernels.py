"""Triton kernels for CUDA: the rotations of all blocks in one launch, and the gate in one pass.

Nothing but `so8t_engine.so8t.fused` imports this module; it needs triton. The gate is bound by memory: each
hidden value is read once and written once, the 8×8 matrices stay in registers, products are float32.
"""

# ruff: noqa: ANN001, ANN201, ANN202  (a kernel's arguments are Triton's)
# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl

PLAIN = tl.constexpr(0)
RESIDUAL = tl.constexpr(1)
ADDITIVE = tl.constexpr(2)


@triton.jit
def _gate_blocks(matrix, gate, FORM: tl.constexpr):
    """K of shape (C, 8, 8): what is given, or from M (1 − g) I + g M, or I + g M."""
    row = tl.arange(0, 8)[None, :, None]
    column = tl.arange(0, 8)[None, None, :]
    identity = tl.where(row == column, 1.0, 0.0)
    if FORM == RESIDUAL:
        return (1.0 - gate) * identity + gate * matrix
    if FORM == ADDITIVE:
        return identity + gate * matrix
    return matrix


@triton.jit
def _load_blocks(matrix_ptr, gate_ptr, block, blocks, FORM: tl.constexpr):
    row = tl.arange(0, 8)[None, :, None]
    column = tl.arange(0, 8)[None, None, :]
    at = block[:, None, None] * 64 + row * 8 + column
    matrix = tl.load(matrix_ptr + at, mask=block[:, None, None] < blocks, other=0.0)
    gate = 1.0
    if FORM != PLAIN:
        gate = tl.load(gate_ptr).to(tl.float32)
    return _gate_blocks(matrix, gate, FORM), gate


@triton.jit
def gate_forward(
    hidden_ptr, matrix_ptr, gate_ptr, out_ptr, tokens, blocks,
    FORM: tl.constexpr, TOKENS: tl.constexpr, BLOCKS: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    """out = K x for a tile of TOKENS × ROUNDS tokens and BLOCKS blocks."""
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    kernel, gate = _load_blocks(matrix_ptr, gate_ptr, block, blocks, FORM)
    unit = tl.program_id(0) * (BLOCKS * 8) + tl.arange(0, BLOCKS * 8)
    for turn in range(ROUNDS):
        token = (tl.program_id(1) * ROUNDS + turn) * TOKENS + tl.arange(0, TOKENS)
        at = token[:, None].to(tl.int64) * (blocks * 8) + unit[None, :]
        inside = (token[:, None] < tokens) & (unit[None, :] < blocks * 8)
        value = tl.load(hidden_ptr + at, mask=inside, other=0.0)
        parts = tl.reshape(value.to(tl.float32), (TOKENS, BLOCKS, 1, 8))
        product = tl.sum(kernel[None, :, :, :] * parts, axis=3)
        result = tl.reshape(product, (TOKENS, BLOCKS * 8)).to(value.dtype)
        if FORM != PLAIN:
            # A closed gate is the identity bit for bit, for −0.0 and what is not finite too.
            result = tl.where(gate == 0.0, value, result)
        tl.store(out_ptr + at, result, mask=inside)


@triton.jit
def gate_backward(
    grad_ptr, hidden_ptr, matrix_ptr, gate_ptr, grad_hidden_ptr, partial_ptr, tokens, blocks,
    FORM: tl.constexpr, WANT_HIDDEN: tl.constexpr, WANT_MATRIX: tl.constexpr,
    TOKENS: tl.constexpr, BLOCKS: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    """Kᵀ g per token, and Σ g xᵀ over this program's tokens into ``partial`` (programs, B, 8, 8)."""
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    kernel, _gate = _load_blocks(matrix_ptr, gate_ptr, block, blocks, FORM)
    transposed = tl.trans(kernel, 0, 2, 1)
    unit = tl.program_id(0) * (BLOCKS * 8) + tl.arange(0, BLOCKS * 8)
    total = tl.zeros((TOKENS, BLOCKS, 8, 8), dtype=tl.float32)
    for turn in range(ROUNDS):
        token = (tl.program_id(1) * ROUNDS + turn) * TOKENS + tl.arange(0, TOKENS)
        at = token[:, None].to(tl.int64) * (blocks * 8) + unit[None, :]
        inside = (token[:, None] < tokens) & (unit[None, :] < blocks * 8)
        value = tl.load(grad_ptr + at, mask=inside, other=0.0)
        grad = value.to(tl.float32)
        if WANT_HIDDEN:
            parts = tl.reshape(grad, (TOKENS, BLOCKS, 1, 8))
            product = tl.sum(transposed[None, :, :, :] * parts, axis=3)
            result = tl.reshape(product, (TOKENS, BLOCKS * 8)).to(value.dtype)
            tl.store(grad_hidden_ptr + at, result, mask=inside)
        if WANT_MATRIX:
            hidden = tl.load(hidden_ptr + at, mask=inside, other=0.0).to(tl.float32)
            total += tl.reshape(grad, (TOKENS, BLOCKS, 8, 1)) * tl.reshape(hidden, (TOKENS, BLOCKS, 1, 8))
    if WANT_MATRIX:
        row = tl.arange(0, 8)[None, :, None]
        column = tl.arange(0, 8)[None, None, :]
        at = (tl.program_id(1).to(tl.int64) * blocks + block[:, None, None]) * 64 + row * 8 + column
        tl.store(partial_ptr + at, tl.sum(total, axis=0), mask=block[:, None, None] < blocks)


@triton.jit
def _product(a, b):
    """Products of matrices (N, 8, 8): tl.dot has no 8×8 and no float64."""
    return tl.sum(a[:, :, :, None] * b[:, None, :, :], axis=2)


@triton.jit
def _skew(theta_ptr, block, blocks):
    """A of shape (1, 8, 8) in float64 from 28 generators in the order (0,1), (0,2) … (6,7)."""
    row = tl.arange(0, 8)[:, None]
    column = tl.arange(0, 8)[None, :]
    low, high = tl.minimum(row, column), tl.maximum(row, column)
    at = low * (15 - low) // 2 + high - low - 1
    value = tl.load(theta_ptr + block * 28 + at, mask=(row != column) & (block < blocks), other=0.0)
    value = value.to(tl.float64)
    return tl.where(row < column, value, -value)[None, :, :]


@triton.jit
def _scaling(skew):
    """The largest 2^−s, s ≥ 0, with ‖A‖₂ 2^−s < 1, by ‖A‖₂ ≤ ‖A‖_F/√2; 1 for NaN, above 2^−64."""
    bound = tl.sqrt(tl.sum(skew * skew) / 2.0)
    scale = 1.0
    while (bound * scale >= 1.0) & (scale > 1e-19):
        scale = scale * 0.5
    return scale


@triton.jit
def _exponential(skew):
    """exp(A) in float64: Taylor to degree 16 after Paterson and Stockmeyer, then squarings."""
    row = tl.arange(0, 8)[None, :, None]
    column = tl.arange(0, 8)[None, None, :]
    identity = tl.where(row == column, 1.0, 0.0).to(tl.float64)
    scale = _scaling(skew)
    a1 = skew * scale
    a2 = _product(a1, a1)
    a3 = _product(a2, a1)
    a4 = _product(a2, a2)
    power = a4 * 4.779477332387385e-14
    power += 2.08767569878681e-09 * identity + 1.6059043836821613e-10 * a1
    power += 1.1470745597729725e-11 * a2 + 7.647163731819816e-13 * a3
    power = _product(power, a4)
    power += 2.48015873015873e-05 * identity + 2.7557319223985893e-06 * a1
    power += 2.755731922398589e-07 * a2 + 2.505210838544172e-08 * a3
    power = _product(power, a4)
    power += 0.041666666666666664 * identity + 0.008333333333333333 * a1
    power += 0.001388888888888889 * a2 + 0.0001984126984126984 * a3
    power = _product(power, a4)
    power += identity + a1 + 0.5 * a2 + 0.16666666666666666 * a3
    while scale < 1.0:
        power = _product(power, power)
        scale = scale * 2.0
    return power


@triton.jit
def _pair(a, da, b, db):
    """Product and its derivative in one direction."""
    return _product(a, b), _product(a, db) + _product(da, b)


@triton.jit
def _adjoint_exponential(skew, grad):
    """The gradient by A of ⟨grad, exp(A)⟩: the derivative of exp at Aᵀ = −A in the direction ``grad``.

    Al-Mohy and Higham (2009): differentiate each step of the scaling and squaring.
    """
    row = tl.arange(0, 8)[None, :, None]
    column = tl.arange(0, 8)[None, None, :]
    identity = tl.where(row == column, 1.0, 0.0).to(tl.float64)
    scale = _scaling(skew)
    a1, d1 = -skew * scale, grad * scale
    a2, d2 = _pair(a1, d1, a1, d1)
    a3, d3 = _pair(a2, d2, a1, d1)
    a4, d4 = _pair(a2, d2, a2, d2)
    power, slope = a4 * 4.779477332387385e-14, d4 * 4.779477332387385e-14
    power += 2.08767569878681e-09 * identity + 1.6059043836821613e-10 * a1
    power += 1.1470745597729725e-11 * a2 + 7.647163731819816e-13 * a3
    slope += 1.6059043836821613e-10 * d1 + 1.1470745597729725e-11 * d2 + 7.647163731819816e-13 * d3
    power, slope = _pair(power, slope, a4, d4)
    power += 2.48015873015873e-05 * identity + 2.7557319223985893e-06 * a1
    power += 2.755731922398589e-07 * a2 + 2.505210838544172e-08 * a3
    slope += 2.7557319223985893e-06 * d1 + 2.755731922398589e-07 * d2 + 2.505210838544172e-08 * d3
    power, slope = _pair(power, slope, a4, d4)
    power += 0.041666666666666664 * identity + 0.008333333333333333 * a1
    power += 0.001388888888888889 * a2 + 0.0001984126984126984 * a3
    slope += 0.008333333333333333 * d1 + 0.001388888888888889 * d2 + 0.0001984126984126984 * d3
    power, slope = _pair(power, slope, a4, d4)
    power += identity + a1 + 0.5 * a2 + 0.16666666666666666 * a3
    slope += d1 + 0.5 * d2 + 0.16666666666666666 * d3
    while scale < 1.0:
        power, slope = _pair(power, slope, power, slope)
        scale = scale * 2.0
    return slope


@triton.jit
def build_forward(safe_ptr, cmd_ptr, out_ptr, blocks):
    """R_safe, R_cmd and M = R_cmd R_safe of one block, into ``out`` (3, B, 8, 8) float32."""
    block = tl.program_id(0)
    safe = _exponential(_skew(safe_ptr, block, blocks))
    cmd = _exponential(_skew(cmd_ptr, block, blocks))
    total = _product(cmd, safe)  # safety acts first
    row = tl.arange(0, 8)[None, :, None]
    column = tl.arange(0, 8)[None, None, :]
    at = block * 64 + row * 8 + column
    tl.store(out_ptr + at, safe.to(tl.float32))
    tl.store(out_ptr + blocks * 64 + at, cmd.to(tl.float32))
    tl.store(out_ptr + 2 * blocks * 64 + at, total.to(tl.float32))


@triton.jit
def build_backward(
    safe_ptr, cmd_ptr, grad_safe_ptr, grad_cmd_ptr, grad_total_ptr, out_safe_ptr, out_cmd_ptr, blocks
):
    """The generators' gradients (B, 28) of one block from those of R_safe, R_cmd and M."""
    block = tl.program_id(0)
    row = tl.arange(0, 8)[None, :, None]
    column = tl.arange(0, 8)[None, None, :]
    at = block * 64 + row * 8 + column
    skew_safe, skew_cmd = _skew(safe_ptr, block, blocks), _skew(cmd_ptr, block, blocks)
    safe, cmd = _exponential(skew_safe), _exponential(skew_cmd)
    grad_total = tl.load(grad_total_ptr + at).to(tl.float64)
    grad_safe = tl.load(grad_safe_ptr + at).to(tl.float64) + _product(tl.trans(cmd, 0, 2, 1), grad_total)
    grad_cmd = tl.load(grad_cmd_ptr + at).to(tl.float64) + _product(grad_total, tl.trans(safe, 0, 2, 1))
    _store_generators(out_safe_ptr, _adjoint_exponential(skew_safe, grad_safe), block)
    _store_generators(out_cmd_ptr, _adjoint_exponential(skew_cmd, grad_cmd), block)


@triton.jit
def _store_generators(out_ptr, grad, block):
    """dθ_k = G[i,j] − G[j,i] for i < j."""
    row = tl.arange(0, 8)[None, :, None]
    column = tl.arange(0, 8)[None, None, :]
    value = grad - tl.trans(grad, 0, 2, 1)
    at = row * (15 - row) // 2 + column - row - 1
    tl.store(out_ptr + block * 28 + at, value.to(tl.float32), mask=row < column)
