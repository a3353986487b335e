"""Triton kernels of the lean layers: RMS norm, rotary embedding, gated activation.

Nothing but `so8t_engine.model.lean.ops` imports this module; it needs triton. Each is bound by memory: what
it needs is read once and what it makes is written once, in float32 between.
"""

# ruff: noqa: ANN001, ANN201, ANN202  (a kernel's arguments are Triton's)
# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def norm_forward(hidden_ptr, weight_ptr, out_ptr, size, eps, WIDTH: tl.constexpr):
    """out = weight · round(h / rms(h)); one program a token."""
    token = tl.program_id(0).to(tl.int64)
    unit = tl.arange(0, WIDTH)
    inside = unit < size
    value = tl.load(hidden_ptr + token * size + unit, mask=inside, other=0.0)
    wide = value.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide) / size + eps)
    weight = tl.load(weight_ptr + unit, mask=inside, other=0.0).to(tl.float32)
    # transformers rounds before it multiplies with the weight.
    normed = (wide * scale).to(value.dtype).to(tl.float32)
    tl.store(out_ptr + token * size + unit, (weight * normed).to(value.dtype), mask=inside)


@triton.jit
def norm_backward(
    hidden_ptr, weight_ptr, grad_ptr, residual_ptr, out_ptr, size, eps,
    RESIDUAL: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The gradient of h, plus the residual stream's own where there is one."""
    token = tl.program_id(0).to(tl.int64)
    unit = tl.arange(0, WIDTH)
    inside = unit < size
    at = token * size + unit
    value = tl.load(hidden_ptr + at, mask=inside, other=0.0)
    wide = value.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide) / size + eps)
    weight = tl.load(weight_ptr + unit, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(grad_ptr + at, mask=inside, other=0.0).to(tl.float32) * weight
    normed = wide * scale
    result = scale * (grad - normed * (tl.sum(grad * normed) / size))
    if RESIDUAL:
        result += tl.load(residual_ptr + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, result.to(value.dtype), mask=inside)


@triton.jit
def rotate(
    source_ptr, target_ptr, cos_ptr, sin_ptr,
    tokens, heads, source_token, source_head, source_batch, target_token, cos_batch,
    SIZE: tl.constexpr, HALF: tl.constexpr, WIDTH: tl.constexpr, REST: tl.constexpr, SIGN: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """Rotary embedding of GROUP heads of a token, source → target (perhaps the same), SIGN −1 transposes.

    ``heads`` counts what is rotated here; the target lays heads side by side, SIZE units each.
    """
    row = tl.program_id(0).to(tl.int64)
    batch, token = row // tokens, row % tokens
    head = tl.program_id(1) * GROUP + tl.arange(0, GROUP)[:, None]
    unit = tl.arange(0, WIDTH)[None, :]
    inside = (unit < HALF) & (head < heads)
    source = source_ptr + batch * source_batch + token * source_token + head * source_head
    target = target_ptr + row * target_token + head * SIZE
    first = tl.load(source + unit, mask=inside, other=0.0)
    second = tl.load(source + HALF + unit, mask=inside, other=0.0)
    angle = batch * cos_batch + token * (2 * HALF) + unit
    cos = tl.load(cos_ptr + angle, mask=unit < HALF, other=0.0).to(tl.float32)
    sin = SIGN * tl.load(sin_ptr + angle, mask=unit < HALF, other=0.0).to(tl.float32)
    one, two = first.to(tl.float32), second.to(tl.float32)
    tl.store(target + unit, (one * cos - two * sin).to(first.dtype), mask=inside)
    tl.store(target + HALF + unit, (two * cos + one * sin).to(first.dtype), mask=inside)
    if REST > 0:
        for start in range(0, REST, WIDTH):
            left = (start + unit < REST) & (head < heads)
            passed = tl.load(source + 2 * HALF + start + unit, mask=left, other=0.0)
            tl.store(target + 2 * HALF + start + unit, passed, mask=left)


@triton.jit
def _activate(gate, GELU: tl.constexpr):
    """The activation and its derivative, float32: SiLU, or GELU's tanh approximation."""
    if GELU:
        inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
        tanh = 2.0 * tl.sigmoid(2.0 * inner) - 1.0
        slope = 0.7978845608028654 * (1.0 + 0.134145 * gate * gate)
        return 0.5 * gate * (1.0 + tanh), 0.5 * (1.0 + tanh) + 0.5 * gate * (1.0 - tanh * tanh) * slope
    share = tl.sigmoid(gate)
    return gate * share, share * (1.0 + gate * (1.0 - share))


@triton.jit
def gated_forward(
    gate_ptr, up_ptr, out_ptr, size, gate_token, up_token, GELU: tl.constexpr, WIDTH: tl.constexpr
):
    """out = up · act(gate), a strip of one token."""
    token = tl.program_id(0).to(tl.int64)
    unit = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = unit < size
    gate = tl.load(gate_ptr + token * gate_token + unit, mask=inside, other=0.0)
    up = tl.load(up_ptr + token * up_token + unit, mask=inside, other=0.0)
    active, _slope = _activate(gate.to(tl.float32), GELU)
    # transformers rounds the activation before it multiplies.
    result = up.to(tl.float32) * active.to(gate.dtype).to(tl.float32)
    tl.store(out_ptr + token * size + unit, result.to(gate.dtype), mask=inside)


@triton.jit
def gated_backward(
    gate_ptr, up_ptr, grad_ptr, size, gate_token, up_token, GELU: tl.constexpr, WIDTH: tl.constexpr
):
    """The gradients of gate and up in their own places."""
    token = tl.program_id(0).to(tl.int64)
    unit = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = unit < size
    gate = tl.load(gate_ptr + token * gate_token + unit, mask=inside, other=0.0)
    up = tl.load(up_ptr + token * up_token + unit, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(grad_ptr + token * size + unit, mask=inside, other=0.0).to(tl.float32)
    active, slope = _activate(gate.to(tl.float32), GELU)
    tl.store(gate_ptr + token * gate_token + unit, (grad * up * slope).to(gate.dtype), mask=inside)
    tl.store(up_ptr + token * up_token + unit, (grad * active).to(gate.dtype), mask=inside)


@triton.jit
def dequantise_rows(code_ptr, scale_ptr, out_ptr, size, WIDTH: tl.constexpr):
    """out = code · scale / 127 of int8 rows, a strip of one row."""
    row = tl.program_id(0).to(tl.int64)
    unit = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = unit < size
    code = tl.load(code_ptr + row * size + unit, mask=inside, other=0).to(tl.float32)
    scale = tl.load(scale_ptr + row) / 127.0
    tl.store(out_ptr + row * size + unit, (code * scale).to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def loss_rows(
    logits_ptr, label_ptr, loss_ptr, ignore,
    VOCABULARY: tl.constexpr, WANT_GRAD: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Cross-entropy of one token's logits; the logits become softmax − one-hot in their own place."""
    token = tl.program_id(0).to(tl.int64)
    row = logits_ptr + token * VOCABULARY
    label = tl.load(label_ptr + token)
    unit = tl.arange(0, WIDTH)
    top = tl.full((WIDTH,), float("-inf"), tl.float32)
    total = tl.zeros((WIDTH,), tl.float32)
    for start in range(0, VOCABULARY, WIDTH):
        inside = start + unit < VOCABULARY
        value = tl.load(row + start + unit, mask=inside, other=float("-inf")).to(tl.float32)
        larger = tl.maximum(top, value)
        # A lane that has seen nothing but padding stays at 0.
        safe = tl.where(larger == float("-inf"), 0.0, larger)
        before = tl.where(top == float("-inf"), float("-inf"), top - safe)
        total = total * tl.exp(before) + tl.exp(value - safe)
        top = larger
    largest = tl.max(top)
    summed = tl.sum(total * tl.exp(top - largest))
    wanted = label != ignore
    at_label = tl.load(row + tl.where(wanted, label, 0)).to(tl.float32)
    loss = tl.log(summed) + largest - at_label
    tl.store(loss_ptr + token, tl.where(wanted, loss, 0.0))
    if WANT_GRAD:
        tl.debug_barrier()
        for start in range(0, VOCABULARY, WIDTH):
            inside = start + unit < VOCABULARY
            value = tl.load(row + start + unit, mask=inside, other=0.0)
            share = tl.exp(value.to(tl.float32) - largest) / summed
            share = share - tl.where(start + unit == label, 1.0, 0.0)
            tl.store(row + start + unit, tl.where(wanted, share, 0.0).to(value.dtype), mask=inside)


@triton.jit
def _keep_quarter(input_ptr, out_ptr, at, size, drawn, keep):
    inside = at < size
    value = tl.where(drawn < keep, tl.load(input_ptr + at, mask=inside, other=0.0), 0.0)
    tl.store(out_ptr + at, value, mask=inside)


@triton.jit(do_not_specialize=["index", "salt"])
def keep_elements(input_ptr, out_ptr, seed_ptr, index, salt, keep, size, WIDTH: tl.constexpr):
    """out = input where a draw is below ``keep``, else 0; both may be the same.

    Four numbers come from one counter of Philox (Salmon et al. 2011), a quarter of the strip each. The seed
    is read from the card, so that a recorded pass draws anew when it is replayed.
    """
    place = tl.arange(0, WIDTH)
    counter = tl.program_id(0).to(tl.int64) * WIDTH + place
    first = tl.program_id(0).to(tl.int64) * (4 * WIDTH) + place
    one, two, three, four = tl.rand4x(tl.load(seed_ptr + index) ^ salt, counter)
    _keep_quarter(input_ptr, out_ptr, first, size, one, keep)
    _keep_quarter(input_ptr, out_ptr, first + WIDTH, size, two, keep)
    _keep_quarter(input_ptr, out_ptr, first + 2 * WIDTH, size, three, keep)
    _keep_quarter(input_ptr, out_ptr, first + 3 * WIDTH, size, four, keep)


@triton.jit
def dequantise_4bit(
    packed_ptr, scale_ptr, table_ptr, scale_table_ptr, scale_scale_ptr, offset_ptr, out_ptr, blocks,
    NESTED: tl.constexpr, BLOCK: tl.constexpr, SCALE_BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """out = table[code] · scale, ROWS blocks of BLOCK values; two codes a byte, the first in its high half.

    With NESTED the scales are codes themselves: scale = scale_table[code] · scale_scale + offset.
    """
    block = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = block < blocks
    if NESTED:
        code = tl.load(scale_ptr + block, mask=inside, other=0).to(tl.int32)
        scale = tl.load(scale_table_ptr + code) * tl.load(
            scale_scale_ptr + block // SCALE_BLOCK, mask=inside, other=0.0
        )
        scale += tl.load(offset_ptr)
    else:
        scale = tl.load(scale_ptr + block, mask=inside, other=0.0)
    place = tl.arange(0, BLOCK // 2)
    at = block[:, None] * (BLOCK // 2) + place[None, :]
    byte = tl.load(packed_ptr + at, mask=inside[:, None], other=0).to(tl.int32)
    first = tl.load(table_ptr + (byte >> 4)) * scale[:, None]
    second = tl.load(table_ptr + (byte & 15)) * scale[:, None]
    values = tl.interleave(first, second).to(out_ptr.dtype.element_ty)
    unit = tl.arange(0, BLOCK)
    tl.store(out_ptr + block[:, None] * BLOCK + unit[None, :], values, mask=inside[:, None])
