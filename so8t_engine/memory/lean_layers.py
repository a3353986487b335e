"""What a lean decoder layer allocates, in its order: the mirror of `so8t_engine.model.lean`. No torch.

Each function here goes through the tensors of the function of the same purpose there: what the card's kernels
allocate is included, what PyTorch's operators on the CPU need besides is not. A test runs the real layers and
compares the highest moments to the byte.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from so8t_engine.memory.tape import Held, Tape

F32 = 4
WORK, WEIGHT, ATTENTION = "working_set", "dequantised", "attention"
#: LoRA's matrices or gradients in the compute type, and its gradients in float32.
NARROW, WIDE = "lora", "gradients"


@dataclass(frozen=True, slots=True)
class LinearShape:
    """A linear layer: sizes, rank of its LoRA (0 without), and how its weight is stored."""

    name: str
    inputs: int
    outputs: int
    rank: int
    kind: str


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One decoder layer and the batch that passes through it.

    Attributes:
        rows, tokens: of the batch. tile: tokens of the MLP at a time.
        width: bytes of a value of the compute type.
        dropout: LoRA's is above 0.
        flash: the card's flash attention, whose backward pass needs more than its results.
    """

    rows: int
    tokens: int
    tile: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    projections: tuple[LinearShape, ...]
    output: LinearShape
    expand: tuple[LinearShape, ...]
    contract: LinearShape
    width: int
    dropout: bool
    flash: bool = True

    @property
    def count(self) -> int:
        return self.rows * self.tokens

    @property
    def states(self) -> int:
        """Bytes of one tensor of hidden states."""
        return self.count * self.hidden * self.width


def weight(tape: Tape, shape: LayerShape, linear: LinearShape) -> Held | None:
    """The weight in the compute type; a new tensor where it is stored quantised."""
    if linear.kind == "none":
        return None
    return tape.add(WEIGHT, linear.inputs * linear.outputs * shape.width)


def linear_forward(
    tape: Tape,
    shape: LayerShape,
    linear: LinearShape,
    tokens: int,
    *,
    train: bool,
    lows: list[Held] | None = None,
) -> Held:
    """y = s B A x + W x of so many tokens; the caller holds W, and s A x where it gives a list for it."""
    width = shape.width
    if not linear.rank:
        return tape.add(WORK, tokens * linear.outputs * width)
    dropped = tape.add(WORK, tokens * linear.inputs * width) if train and shape.dropout else None
    copy = _copy(tape, shape, linear.rank * linear.inputs)
    low = tape.add(WORK, tokens * linear.rank * width)
    tape.drop(copy, dropped)
    copy = _copy(tape, shape, linear.rank * linear.outputs)
    out = tape.add(WORK, tokens * linear.outputs * width)
    tape.drop(copy)
    if lows is None:
        tape.drop(low)
    else:
        lows.append(low)
    return out


def _copy(tape: Tape, shape: LayerShape, size: int) -> Held | None:
    """LoRA's float32 matrix in the compute type."""
    return None if shape.width == F32 else tape.add(NARROW, size * shape.width)


def linear_backward(
    tape: Tape, shape: LayerShape, linear: LinearShape, tokens: int
) -> tuple[Held, list[Held]]:
    """The input's gradient, and those of A and B in the compute type."""
    width, rank = shape.width, linear.rank
    if not rank:
        return tape.add(WORK, tokens * linear.inputs * width), []
    copies = [_copy(tape, shape, rank * linear.inputs), _copy(tape, shape, rank * linear.outputs)]
    dropped = tape.add(WORK, tokens * linear.inputs * width) if shape.dropout else None
    low = tape.add(WORK, tokens * rank * width)
    term = WIDE if width == F32 else NARROW
    grad_b = tape.add(term, rank * linear.outputs * width)
    grad_low = tape.add(WORK, tokens * rank * width)
    grad_a = tape.add(term, rank * linear.inputs * width)
    tape.drop(dropped, low)
    grad_input = tape.add(WORK, tokens * linear.inputs * width)
    if shape.dropout:
        tape.drop(tape.add(WORK, tokens * linear.inputs * width))
    tape.drop(*copies, grad_low)
    return grad_input, [grad_a, grad_b]


def projections_forward(tape: Tape, shape: LayerShape, *, train: bool, lows: list[Held] | None) -> list[Held]:
    """Queries, keys and values."""
    normed = tape.add(WORK, shape.states)
    outs = []
    for linear in shape.projections:
        stored = weight(tape, shape, linear)
        outs.append(linear_forward(tape, shape, linear, shape.count, train=train, lows=lows))
        tape.drop(stored)
    tape.drop(normed)
    return outs


def scores_forward(tape: Tape, shape: LayerShape) -> tuple[Held, Held]:
    """What the heads make of the values, and the scores' logarithmic sums."""
    mixed = tape.add(WORK, shape.count * shape.output.inputs * shape.width)
    return mixed, tape.add(ATTENTION, shape.rows * shape.heads * shape.tokens * F32)


def attention_forward(tape: Tape, shape: LayerShape, *, train: bool, keep: bool) -> tuple[Held, list[Held]]:
    """What the attention adds, and what is kept for its backward pass (with ``keep``)."""
    lows: list[Held] | None = [] if keep else None
    outs = projections_forward(tape, shape, train=train, lows=lows)
    mixed, sums = scores_forward(tape, shape)
    if not keep:
        tape.drop(sums)
    stored = weight(tape, shape, shape.output)
    added = linear_forward(tape, shape, shape.output, shape.count, train=train, lows=lows)
    tape.drop(stored)
    if not keep:
        tape.drop(*outs, mixed)
        return added, []
    return added, [*outs, mixed, sums, *(lows or ())]


def tiles(shape: LayerShape, *, every: bool = False) -> list[int]:
    """Tokens of the MLP's tiles; of many whole ones three unless all count, as the rest is like the third."""
    whole, rest = divmod(shape.count, shape.tile)
    return [shape.tile] * (whole if every else min(whole, 3)) + ([rest] if rest else [])


def mlp_forward(
    tape: Tape,
    shape: LayerShape,
    *,
    train: bool,
    keep: bool = False,
    leave: Callable[[Held], None] | None = None,
) -> tuple[Held, list[Held]]:
    """h + mlp(norm(h)), tile by tile; and with ``keep`` what stays: outputs of gate and up, s A x.

    Args:
        leave: is given the outputs of gate and up, one by one, and frees them.
    """
    weights = [weight(tape, shape, linear) for linear in (*shape.expand, shape.contract)]
    out = tape.add(WORK, shape.states)
    kept: list[Held] = []
    before: Held | None = None
    for tokens in tiles(shape, every=keep or leave is not None):
        normed = tape.add(WORK, tokens * shape.hidden * shape.width)
        lows: list[Held] | None = [] if keep else None
        outs = [
            linear_forward(tape, shape, linear, tokens, train=train, lows=lows) for linear in shape.expand
        ]
        tape.drop(normed)
        if leave is not None:
            for one in outs:
                leave(one)
        active = tape.add(WORK, tokens * shape.contract.inputs * shape.width)
        if not keep and leave is None:
            tape.drop(*outs)
        result = linear_forward(tape, shape, shape.contract, tokens, train=train, lows=lows)
        if lows is not None:
            kept += [*outs, *lows]
        tape.drop(active, before)
        before = result
    tape.drop(before, *weights)
    return out, kept


class _Sums:
    """LoRA's gradients over the tiles: in the compute type, from the second tile on in float32.

    The last pair that was made lives until the next one is there.
    """

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._sums: dict[str, list[Held]] = {}
        self._last: list[Held] = []

    def take(self, name: str, pair: list[Held]) -> None:
        tape = self._tape
        tape.drop(*self._last)
        before = self._sums.get(name)
        if before is None:
            self._sums[name], self._last = pair, []
            return
        if before and before[0][0] == NARROW:
            wide = [tape.add(WIDE, held[1] * 2) for held in before]
            tape.drop(*before)
            self._sums[name] = wide
        self._last = pair

    def hand_over(self) -> list[Held]:
        """float32 gradients for autograd; a single tile's are copied."""
        tape = self._tape
        held = [one for pair in self._sums.values() for one in pair]
        fresh = [tape.add(WIDE, one[1] * 2) if one[0] == NARROW else one for one in held]
        tape.drop(*self._last, *(one for one in held if one[0] == NARROW))
        return fresh


def mlp_backward(
    tape: Tape,
    shape: LayerShape,
    kept: list[Held] | None = None,
    take: Callable[[], list[Held]] | None = None,
) -> tuple[Held, list[Held]]:
    """The gradient of h, and those of LoRA; ``kept`` of the forward pass is freed tile by tile.

    Args:
        take: gives the outputs of gate and up of the next tile, which are fetched from elsewhere.
    """
    weights = [weight(tape, shape, linear) for linear in (*shape.expand, shape.contract)]
    out = tape.add(WORK, shape.states)
    sums = _Sums(tape)
    # What Python's names hold until a tile binds them anew: the norm's output, its gradient, and the
    # gradient of the last layer that read it.
    normed: Held | None = None
    summed: Held | None = None
    last: Held | None = None
    parts = tiles(shape, every=kept is not None or take is not None)
    each = 0 if kept is None else len(kept) // len(parts)
    for number, tokens in enumerate(parts):
        part = tokens * shape.hidden * shape.width
        fresh = tape.add(WORK, part)
        tape.drop(normed)
        normed = fresh
        if take is not None:
            outs = take()
        elif kept is None:
            outs = [linear_forward(tape, shape, linear, tokens, train=True) for linear in shape.expand]
        else:
            outs = kept[number * each : (number + 1) * each]
        active = tape.add(WORK, tokens * shape.contract.inputs * shape.width)
        grad, pair = linear_backward(tape, shape, shape.contract, tokens)
        sums.take(shape.contract.name, pair)
        tape.drop(active, grad, None if summed is last else summed)
        summed = None
        for linear in shape.expand:
            found, pair = linear_backward(tape, shape, linear, tokens)
            tape.drop(None if last is summed else last)
            sums.take(linear.name, pair)
            summed, last = summed or found, found
        tape.drop(*outs)
        tape.drop(tape.add(WORK, part))
    tape.drop(normed, summed, None if last is summed else last)
    grads = sums.hand_over()
    tape.drop(*weights)
    return out, grads


def projections_backward(tape: Tape, shape: LayerShape, incoming: list[Held]) -> tuple[Held, list[Held]]:
    """The gradient of h through norm, q, k and v; ``incoming``, theirs, live until it is done."""
    count, width = shape.count, shape.width
    normed = tape.add(WORK, shape.states)
    parts = [tape.add(WORK, count * linear.outputs * width) for linear in shape.projections]
    first: Held | None = None
    last: Held | None = None
    narrow: list[Held] = []
    grads: list[Held] = []
    for linear in shape.projections:
        stored = weight(tape, shape, linear)
        found, pair = linear_backward(tape, shape, linear, count)
        tape.drop(stored, *narrow, None if last is first else last)
        first, last = first or found, found
        grads += _wide(tape, pair)
        narrow = [one for one in pair if one[0] == NARROW]
    tape.drop(*parts, normed)
    out = tape.add(WORK, shape.states)
    tape.drop(first, None if last is first else last, *narrow, *incoming)
    return out, grads


def _wide(tape: Tape, pair: list[Held]) -> list[Held]:
    """Gradients in float32, as the parameters are; those in the compute type are still there."""
    return [tape.add(WIDE, held[1] * 2) if held[0] == NARROW else held for held in pair]


def output_backward(tape: Tape, shape: LayerShape) -> tuple[Held, list[Held]]:
    """The gradient of the attention's result through o_proj."""
    stored = weight(tape, shape, shape.output)
    out, pair = linear_backward(tape, shape, shape.output, shape.count)
    tape.drop(stored)
    grads = _wide(tape, pair)
    tape.drop(*(one for one in pair if one[0] == NARROW))
    return out, grads


def scores_backward(tape: Tape, shape: LayerShape) -> list[Held]:
    """Gradients of q, k and v.

    Flash attention sums dq in float32 and keeps one float32 number a query, rows rounded up to 128 and a
    head's units to 32 (aten/native/transformers/cuda/flash_attn/flash_api.cpp, mha_bwd); with fewer heads
    for keys it makes dk and dv for all heads first.
    """
    count, width, size = shape.count, shape.width, shape.head_dim
    rows = -(-shape.tokens // 128) * 128
    units = -(-size // 32) * 32 if size <= 192 else 256
    kept = [
        tape.add(WORK, count * heads * size * width)
        for heads in (shape.heads, shape.kv_heads, shape.kv_heads)
    ]
    if shape.flash:
        inner = [tape.add(ATTENTION, shape.rows * shape.heads * rows * F32)]
        inner.append(tape.add(ATTENTION, shape.rows * shape.heads * rows * units * F32))
        if shape.kv_heads != shape.heads:
            inner += [tape.add(ATTENTION, count * shape.heads * size * width) for _i in range(2)]
        tape.drop(*inner)
    return kept


def gate_forward(tape: Tape, shape: LayerShape) -> Held:
    """K x per block: one new tensor of hidden states."""
    return tape.add(WORK, shape.states)


def gate_backward(tape: Tape, shape: LayerShape) -> tuple[Held, Held]:
    """The gradients of x and of K; that of K is summed from one partial sum per 128 tokens (`so8t.fused`)."""
    out = tape.add(WORK, shape.states)
    matrix = shape.hidden // 8 * 64 * F32
    partial = tape.add(WORK, -(-shape.count // 128) * matrix)
    summed = tape.add(WORK, matrix)
    tape.drop(partial)
    return out, summed
