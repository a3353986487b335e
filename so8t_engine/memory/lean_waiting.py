"""Which lean layers wait as a whole on the host, and the mirror of `Selected` for such a layer. No torch.

What is on its way lies on the card beside what is in use: `Offload` lets three tensors leave at a time, and
fetches two beside the one that is taken.
"""

from __future__ import annotations

from collections.abc import Iterator

from so8t_engine.memory.lean_layers import (
    ATTENTION,
    F32,
    WORK,
    LayerShape,
    linear_forward,
    mlp_backward,
    mlp_forward,
    output_backward,
    projections_backward,
    projections_forward,
    scores_backward,
    scores_forward,
    tiles,
    weight,
)
from so8t_engine.memory.lean_whole import giving, second_backward, second_forward
from so8t_engine.memory.tape import Held, Tape

#: Tensors of such layers that leave at a time, and that are fetched beside the one in use.
LEAVING, AHEAD = 3, 2


def evenly(index: int, share: float, of: int) -> bool:
    """Whether number ``index`` is one of a ``share`` of so many, spread evenly over them."""
    count = round(share * of)
    return (index + 1) * count // of > index * count // of


class _Leaving:
    """Tensors on their way out: they are there until others have followed, though nobody uses them."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._there: list[list[Held]] = []

    def push(self, *held: Held) -> None:
        """Send ``held``, which the tape is not told to drop any more."""
        while len(self._there) >= LEAVING:
            self._tape.drop(*self._there.pop(0))
        self._there.append(list(held))


def waiting_forward(tape: Tape, shape: LayerShape, site: str | None) -> None:
    """Forward, with what the layer before left on its way out."""
    leaving = _Leaving(tape)
    last_tile = tiles(shape, every=True)[-1]
    if site != "mlp":
        leaving.push(*(tape.add(WORK, last_tile * one.outputs * shape.width) for one in shape.expand))
    leaving.push(tape.add(WORK, shape.states))
    tape.add(WORK, shape.states)  # the layer's input, which its caller holds
    leaving.push()
    outs = projections_forward(tape, shape, train=True, lows=None)
    mixed, sums = scores_forward(tape, shape)
    leaving.push(sums)
    leaving.push(*outs)
    leaving.push(mixed)
    stored = weight(tape, shape, shape.output)
    added = linear_forward(tape, shape, shape.output, shape.count, train=True)
    tape.drop(stored)
    middle = tape.add(WORK, shape.states)
    tape.drop(added)
    if site == "mlp":
        second_forward(tape, shape, site, middle, train=True, keep=False, again=False)
        return
    mlp_forward(tape, shape, train=True, leave=leaving.push)


class _Coming:
    """Tensors on their way back: so many are there before they are asked for."""

    def __init__(self, tape: Tape, order: Iterator[tuple[str, int]]) -> None:
        self._tape, self._order = tape, order
        self._there: list[Held] = []
        self._fetch(AHEAD)

    def _fetch(self, count: int) -> None:
        while len(self._there) < count and (after := next(self._order, None)) is not None:
            self._there.append(self._tape.add(*after))

    def take(self) -> Held:
        """The next one, which the caller drops."""
        self._fetch(1 + AHEAD)
        return self._there.pop(0)


def _order(shape: LayerShape, site: str | None) -> Iterator[tuple[str, int]]:
    """Term and bytes of each tensor as it is taken: a layer's, and the first of the layer before."""
    width = shape.width
    again = tiles(shape, every=True) if site != "mlp" else []
    made = [(WORK, tokens * one.outputs * width) for tokens in again for one in reversed(shape.expand)]
    yield WORK, shape.states
    yield from made
    yield WORK, shape.count * shape.output.inputs * width
    for linear in reversed(shape.projections):
        yield WORK, shape.count * linear.outputs * width
    yield ATTENTION, shape.rows * shape.heads * shape.tokens * F32
    yield WORK, shape.states
    yield WORK, shape.states
    yield from made[:1]


def waiting_backward(tape: Tape, shape: LayerShape, site: str | None, *, accumulated: bool) -> None:
    """Backward; the caller holds the gradient of the output."""
    give = giving(tape, accumulated)
    coming = _Coming(tape, _order(shape, site))
    middle = coming.take()
    grad_matrix: Held | None = None
    if site == "mlp":
        _out, second = second_forward(tape, shape, site, None, train=True, keep=True, again=True)
        assert second is not None
        _grad_middle, grad_matrix = second_backward(tape, shape, site, second, give)
        tape.drop(second.unread)
    else:
        _through, made = mlp_backward(tape, shape, take=lambda: [coming.take() for _linear in shape.expand])
        give(made)
    tape.drop(middle)
    mixed = coming.take()
    grad_mixed, made = output_backward(tape, shape)
    give(made)
    parts = [coming.take() for _linear in shape.projections]
    sums, hidden = coming.take(), coming.take()
    incoming = scores_backward(tape, shape)
    tape.drop(sums, *parts, mixed, grad_mixed)
    grad_hidden, made = projections_backward(tape, shape, incoming)
    give(made)
    tape.drop(grad_hidden, grad_matrix, hidden)
