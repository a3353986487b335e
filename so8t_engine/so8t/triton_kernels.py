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
    unit = tl.program_id(0) * (BLOCKS * 8) + tl.arange(0, BLOCKS * 8)
    token = tl.program_id(1) * (ROUNDS * TOKENS) + tl.arange(0, TOKENS)
    at = token[:, None].to(tl.int64) * (blocks * 8) + unit[None, :]
    inside = (token[:, None] < tokens) & (unit[None, :] < blocks * 8)
    # Asked for before the matrices, and each round before the last one is worked on: memory never idles.
    following = tl.load(hidden_ptr + at, mask=inside, other=0.0)
    kernel, gate = _load_blocks(matrix_ptr, gate_ptr, block, blocks, FORM)
    for turn in range(ROUNDS):
        value, here, valid = following, at, inside
        if ROUNDS > 1:
            token += TOKENS
            at += TOKENS * 8 * blocks
            inside = (token[:, None] < tokens) & (unit[None, :] < blocks * 8)
            following = tl.load(hidden_ptr + at, mask=inside & (turn + 1 < ROUNDS), other=0.0)
        parts = tl.reshape(value.to(tl.float32), (TOKENS, BLOCKS, 1, 8))
        product = tl.sum(kernel[None, :, :, :] * parts, axis=3)
        result = tl.reshape(product, (TOKENS, BLOCKS * 8)).to(value.dtype)
        if FORM != PLAIN:
            # A closed gate is the identity bit for bit, for −0.0 and what is not finite too.
            result = tl.where(gate == 0.0, value, result)
        tl.store(out_ptr + here, result, mask=valid)


@triton.jit
def gate_backward(
    grad_ptr, hidden_ptr, matrix_ptr, gate_ptr, grad_hidden_ptr, partial_ptr, arrived_ptr, tokens, blocks,
    FORM: tl.constexpr, WANT_HIDDEN: tl.constexpr, WANT_MATRIX: tl.constexpr,
    TOKENS: tl.constexpr, BLOCKS: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    """Kᵀ g per token, and Σ g xᵀ over this program's tokens into ``partial`` (programs, B, 8, 8).

    Sets ``arrived`` to 0 for `gate_reduce`.
    """
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    unit = tl.program_id(0) * (BLOCKS * 8) + tl.arange(0, BLOCKS * 8)
    token = tl.program_id(1) * (ROUNDS * TOKENS) + tl.arange(0, TOKENS)
    at = token[:, None].to(tl.int64) * (blocks * 8) + unit[None, :]
    inside = (token[:, None] < tokens) & (unit[None, :] < blocks * 8)
    next_grad = tl.load(grad_ptr + at, mask=inside, other=0.0)
    next_hidden = next_grad
    if WANT_MATRIX:
        next_hidden = tl.load(hidden_ptr + at, mask=inside, other=0.0)
        if (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
            tl.store(arrived_ptr, 0)
    kernel, _gate = _load_blocks(matrix_ptr, gate_ptr, block, blocks, FORM)
    transposed = tl.trans(kernel, 0, 2, 1)
    total = tl.zeros((TOKENS, BLOCKS, 8, 8), dtype=tl.float32)
    for turn in range(ROUNDS):
        value, hidden, here, valid = next_grad, next_hidden, at, inside
        if ROUNDS > 1:
            token += TOKENS
            at += TOKENS * 8 * blocks
            inside = (token[:, None] < tokens) & (unit[None, :] < blocks * 8)
            wanted = inside & (turn + 1 < ROUNDS)
            next_grad = tl.load(grad_ptr + at, mask=wanted, other=0.0)
            if WANT_MATRIX:
                next_hidden = tl.load(hidden_ptr + at, mask=wanted, other=0.0)
        grad = value.to(tl.float32)
        if WANT_HIDDEN:
            parts = tl.reshape(grad, (TOKENS, BLOCKS, 1, 8))
            product = tl.sum(transposed[None, :, :, :] * parts, axis=3)
            result = tl.reshape(product, (TOKENS, BLOCKS * 8)).to(value.dtype)
            tl.store(grad_hidden_ptr + here, result, mask=valid)
        if WANT_MATRIX:
            state = hidden.to(tl.float32)
            total += tl.reshape(grad, (TOKENS, BLOCKS, 8, 1)) * tl.reshape(state, (TOKENS, BLOCKS, 1, 8))
    if WANT_MATRIX:
        row = tl.arange(0, 8)[None, :, None]
        column = tl.arange(0, 8)[None, None, :]
        to = (tl.program_id(1).to(tl.int64) * blocks + block[:, None, None]) * 64 + row * 8 + column
        tl.store(partial_ptr + to, tl.sum(total, axis=0), mask=block[:, None, None] < blocks)


@triton.jit
def gate_backward_half(
    grad_ptr, hidden_ptr, matrix_ptr, gate_ptr, grad_hidden_ptr, partial_ptr, arrived_ptr, tokens, blocks,
    FORM: tl.constexpr, WANT_HIDDEN: tl.constexpr, WANT_MATRIX: tl.constexpr,
    TOKENS: tl.constexpr, BLOCKS: tl.constexpr, ROUNDS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """`gate_backward` for half precision on tensor cores, where sums are float32.

    Products of two half-precision values are exact in float32. K goes in as the sum of three such values,
    which hold all of its bits. Blocks stand on the diagonal of a dense matrix: most of it is zeros, which
    costs less than the registers that the sums of single threads take.

    ``WIDE`` is for Triton's interpreter alone, which would multiply the bits of bfloat16 as integers.
    """
    UNITS: tl.constexpr = BLOCKS * 8
    half = hidden_ptr.dtype.element_ty
    unit = tl.program_id(0) * UNITS + tl.arange(0, UNITS)
    row, column = unit[:, None], unit[None, :]
    at_block = row // 8 * 64 + row % 8 * 8 + column % 8
    diagonal = (row // 8 == column // 8) & (row < blocks * 8) & (column < blocks * 8)
    kernel = tl.load(matrix_ptr + at_block, mask=diagonal, other=0.0)
    if FORM == RESIDUAL or FORM == ADDITIVE:  # noqa: SIM109
        gate = tl.load(gate_ptr).to(tl.float32)
        identity = tl.where(row == column, 1.0, 0.0)
        kernel = gate * kernel + ((1.0 - gate) * identity if FORM == RESIDUAL else identity)
    high = kernel.to(half)
    middle = (kernel - high.to(tl.float32)).to(half)
    low = (kernel - high.to(tl.float32) - middle.to(tl.float32)).to(half)
    if WIDE:
        high, middle, low = high.to(tl.float32), middle.to(tl.float32), low.to(tl.float32)
    if (tl.program_id(0) == 0) & (tl.program_id(1) == 0) & WANT_MATRIX:
        tl.store(arrived_ptr, 0)
    total = tl.zeros((UNITS, UNITS), dtype=tl.float32)
    for turn in range(ROUNDS):
        token = (tl.program_id(1) * ROUNDS + turn) * TOKENS + tl.arange(0, TOKENS)
        at = token[:, None].to(tl.int64) * (blocks * 8) + unit[None, :]
        inside = (token[:, None] < tokens) & (unit[None, :] < blocks * 8)
        grad = tl.load(grad_ptr + at, mask=inside, other=0.0)
        if WIDE:
            grad = grad.to(tl.float32)
        if WANT_MATRIX:
            hidden = tl.load(hidden_ptr + at, mask=inside, other=0.0)
            if WIDE:
                hidden = hidden.to(tl.float32)
            total = tl.dot(tl.trans(grad), hidden, total)
        if WANT_HIDDEN:
            result = tl.dot(grad, low)
            result = tl.dot(grad, middle, result)
            result = tl.dot(grad, high, result)
            tl.store(grad_hidden_ptr + at, result.to(half), mask=inside)
    if WANT_MATRIX:
        tl.store(partial_ptr + tl.program_id(1).to(tl.int64) * (blocks * 64) + at_block, total, mask=diagonal)


@triton.jit
def gate_reduce(
    partial_ptr, matrix_ptr, gate_ptr, grad_matrix_ptr, grad_gate_ptr, share_ptr, arrived_ptr,
    strips, blocks, programs,
    FORM: tl.constexpr, WANT_GATE: tl.constexpr, STRIPS: tl.constexpr, BLOCKS: tl.constexpr,
    PROGRAMS: tl.constexpr,
):  # fmt: skip
    """The gradients of M and g from the partial sums of that of K, in one fixed order.

    Each program writes its blocks' part of g's gradient to ``share``; whichever finishes last adds the
    parts up in the order of the programs, so that the result does not depend on which one that was.
    """
    entry = tl.program_id(0) * (BLOCKS * 64) + tl.arange(0, BLOCKS * 64)
    inside = entry < blocks * 64
    matrix = tl.load(matrix_ptr + entry, mask=inside, other=0.0)
    gate = 1.0
    if (FORM == RESIDUAL) | (FORM == ADDITIVE):
        gate = tl.load(gate_ptr).to(tl.float32)
    total = tl.zeros((BLOCKS * 64,), dtype=tl.float32)
    first = 0
    while first < strips:  # a range over what is no constant fails in Triton's interpreter
        strip = first + tl.arange(0, STRIPS)
        at = strip[:, None].to(tl.int64) * (blocks * 64) + entry[None, :]
        some = (strip < strips)[:, None] & inside[None, :]
        total += tl.sum(tl.load(partial_ptr + at, mask=some, other=0.0), axis=0)
        first += STRIPS
    tl.store(grad_matrix_ptr + entry, gate * total, mask=inside)
    if WANT_GATE:
        change = matrix
        if FORM == RESIDUAL:
            change = matrix - tl.where((entry % 64) % 9 == 0, 1.0, 0.0)
        tl.store(share_ptr + tl.program_id(0), tl.sum(total * change, axis=0))
        tl.debug_barrier()
        if tl.atomic_add(arrived_ptr, 1, sem="acq_rel") == programs - 1:
            index = tl.arange(0, PROGRAMS)
            part = tl.load(share_ptr + index, mask=index < programs, other=0.0, cache_modifier=".cg")
            tl.store(grad_gate_ptr, tl.sum(part, axis=0))


@triton.jit
def _product(a, b):
    """Products of matrices (N, 8, 8): tl.dot has no 8×8 and no float64.

    The summed index stands first: Triton then lays it into each thread's registers, and adds without
    exchange between threads.
    """
    left = tl.permute(a, 2, 0, 1)
    right = tl.permute(b, 1, 0, 2)
    return tl.sum(left[:, :, :, None] * right[:, :, None, :], axis=0)


@triton.jit
def _which():
    """0 for R_safe and 1 for R_cmd, with their rows and columns, to index (2, 8, 8)."""
    return tl.arange(0, 2)[:, None, None], tl.arange(0, 8)[None, :, None], tl.arange(0, 8)[None, None, :]


@triton.jit
def _skew(safe_ptr, cmd_ptr, block):
    """Both A (2, 8, 8) of a block in float64 from 28 generators in the order (0,1), (0,2) … (6,7)."""
    which, row, column = _which()
    low, high = tl.minimum(row, column), tl.maximum(row, column)
    at = block * 28 + low * (15 - low) // 2 + high - low - 1
    off = row != column
    value = tl.load(safe_ptr + at, mask=off & (which == 0), other=0.0)
    value += tl.load(cmd_ptr + at, mask=off & (which == 1), other=0.0)
    value = value.to(tl.float64)
    return tl.where(row < column, value, -value)


@triton.jit
def _scaling(skew):
    """The largest 2^−s, s ≥ 0, with ‖A‖₂ 2^−s < 1/4 for both, by ‖A‖₂ ≤ ‖A‖_F/√2; above 2^−64."""
    squares = tl.sum(tl.sum(skew * skew, axis=2), axis=1)
    bound = tl.sqrt(tl.max(squares, axis=0) / 2.0)
    scale = 1.0
    while (bound * scale >= 0.25) & (scale > 1e-19):
        scale = scale * 0.5
    return scale


@triton.jit
def _exponential(skew):
    """exp(A) in float64: Taylor to degree 8 after Paterson and Stockmeyer, then squarings.

    The remainder at norm 1/4 is 1e-11, far below what float32 keeps; three products follow on each other.
    """
    _which_one, row, column = _which()
    identity = tl.where(row == column, 1.0, 0.0).to(tl.float64)
    scale = _scaling(skew)
    a1 = skew * scale
    a2 = _product(a1, a1)
    a3 = _product(a2, a1)
    a4 = _product(a2, a2)
    power = 0.041666666666666664 * identity + 0.008333333333333333 * a1 + 0.001388888888888889 * a2
    power += 0.0001984126984126984 * a3 + 2.48015873015873e-05 * a4
    power = _product(power, a4)
    power += identity + a1 + 0.5 * a2 + 0.16666666666666666 * a3
    while scale < 1.0:
        power = _product(power, power)
        scale = scale * 2.0
    return power


@triton.jit
def _slope(a, da, b, db):
    """The derivative of a product in one direction."""
    return _product(a, db) + _product(da, b)


@triton.jit
def _adjoint_exponential(skew, grad):
    """The gradient by A of ⟨grad, exp(A)⟩: the derivative of exp at Aᵀ = −A in the direction ``grad``.

    Al-Mohy and Higham (2009): differentiate each step of the scaling and squaring.
    """
    _which_one, row, column = _which()
    identity = tl.where(row == column, 1.0, 0.0).to(tl.float64)
    scale = _scaling(skew)
    a1, d1 = -skew * scale, grad * scale
    a2, d2 = _product(a1, a1), _slope(a1, d1, a1, d1)
    a3, d3 = _product(a2, a1), _slope(a2, d2, a1, d1)
    a4, d4 = _product(a2, a2), _slope(a2, d2, a2, d2)
    power = 0.041666666666666664 * identity + 0.008333333333333333 * a1 + 0.001388888888888889 * a2
    power += 0.0001984126984126984 * a3 + 2.48015873015873e-05 * a4
    slope = 0.008333333333333333 * d1 + 0.001388888888888889 * d2
    slope += 0.0001984126984126984 * d3 + 2.48015873015873e-05 * d4
    slope = _slope(power, slope, a4, d4)
    slope += d1 + 0.5 * d2 + 0.16666666666666666 * d3
    if scale < 1.0:
        power = _product(power, a4)
        power += identity + a1 + 0.5 * a2 + 0.16666666666666666 * a3
        while scale < 1.0:
            slope = _slope(power, slope, power, slope)
            power = _product(power, power)
            scale = scale * 2.0
    return slope


@triton.jit
def build_forward(safe_ptr, cmd_ptr, out_safe_ptr, out_cmd_ptr, out_total_ptr):
    """R_safe, R_cmd and M = R_cmd R_safe of one block, each (B, 8, 8) float32."""
    block = tl.program_id(0)
    both = _exponential(_skew(safe_ptr, cmd_ptr, block))
    which, row, column = _which()
    at = block * 64 + row * 8 + column + 0 * which
    rounded = both.to(tl.float32)
    tl.store(out_safe_ptr + at, rounded, mask=which == 0)
    tl.store(out_cmd_ptr + at, rounded, mask=which == 1)
    safe = tl.sum(tl.where(which == 0, both, 0.0), axis=0)[None, :, :]
    cmd = tl.sum(tl.where(which == 1, both, 0.0), axis=0)[None, :, :]
    total = _product(cmd, safe)  # safety acts first
    tl.store(out_total_ptr + block * 64 + row * 8 + column, total.to(tl.float32))


@triton.jit
def build_backward(
    safe_ptr, cmd_ptr, rotation_safe_ptr, rotation_cmd_ptr,
    grad_safe_ptr, grad_cmd_ptr, grad_total_ptr, out_safe_ptr, out_cmd_ptr,
    HAS_SAFE: tl.constexpr, HAS_CMD: tl.constexpr, HAS_TOTAL: tl.constexpr,
):  # fmt: skip
    """The generators' gradients (B, 28) of one block from those of R_safe, R_cmd and M, where there are."""
    block = tl.program_id(0)
    which, row, column = _which()
    at = block * 64 + row * 8 + column + 0 * which
    turned = block * 64 + column * 8 + row + 0 * which
    grad = tl.zeros((2, 8, 8), dtype=tl.float64)
    if HAS_SAFE:
        grad += tl.load(grad_safe_ptr + at, mask=which == 0, other=0.0).to(tl.float64)
    if HAS_CMD:
        grad += tl.load(grad_cmd_ptr + at, mask=which == 1, other=0.0).to(tl.float64)
    if HAS_TOTAL:
        # R_cmdᵀ G for R_safe and G R_safeᵀ for R_cmd, side by side.
        total = tl.load(grad_total_ptr + at)
        cmd = tl.load(rotation_cmd_ptr + turned)
        safe = tl.load(rotation_safe_ptr + turned)
        left, right = tl.where(which == 0, cmd, total), tl.where(which == 0, total, safe)
        grad += _product(left.to(tl.float64), right.to(tl.float64))
    slope = _adjoint_exponential(_skew(safe_ptr, cmd_ptr, block), grad)
    # dθ_k = G[i,j] − G[j,i] for i < j.
    value = (slope - tl.trans(slope, 0, 2, 1)).to(tl.float32)
    entry = block * 28 + row * (15 - row) // 2 + column - row - 1 + 0 * which
    tl.store(out_safe_ptr + entry, value, mask=(row < column) & (which == 0))
    tl.store(out_cmd_ptr + entry, value, mask=(row < column) & (which == 1))
