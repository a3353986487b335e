"""What a whole lean layer allocates, in its order: the mirror of `so8t_engine.model.lean.layer`. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from so8t_engine.memory.lean_layers import (
    WORK,
    LayerShape,
    attention_forward,
    gate_backward,
    gate_forward,
    linear_forward,
    mlp_backward,
    mlp_forward,
    output_backward,
    projections_backward,
    projections_forward,
    scores_backward,
    scores_forward,
    weight,
)
from so8t_engine.memory.tape import Held, Tape


@dataclass(frozen=True, slots=True)
class SecondHalf:
    """What the MLP's half keeps for its backward pass.

    Attributes:
        middle: the residual stream between the halves. expanded: outputs of gate and up.
        result: the MLP's output before a gate. unread: a result whose values nobody reads.
    """

    middle: Held | None
    expanded: list[Held] | None
    result: Held | None
    unread: Held | None


@dataclass(frozen=True, slots=True)
class Kept:
    """What a layer keeps for its backward pass beside its input.

    Attributes:
        scores: q, k, v, the attention's result and its sums. ungated: the input of a gate after o_proj.
    """

    scores: list[Held]
    ungated: Held | None
    second: SecondHalf


def second_forward(
    tape: Tape,
    shape: LayerShape,
    site: str | None,
    middle: Held | None,
    *,
    train: bool,
    keep: bool,
    again: bool,
) -> tuple[Held | None, SecondHalf | None]:
    """The layer's output from the residual stream between the halves; arguments as of `layer_forward`."""
    if again and site != "mlp":
        return None, SecondHalf(middle, None, None, tape.add(WORK, 1))
    result, expanded = mlp_forward(tape, shape, train=train, keep=keep and not again)
    out = result
    if site == "mlp":
        gated = gate_forward(tape, shape)
        if not keep:
            tape.drop(result)
        out = tape.add(WORK, shape.states)
        tape.drop(gated)
    if not keep:
        tape.drop(middle)
        return out, None
    own = result if site == "mlp" else None
    if again:
        return None, SecondHalf(middle, None, own, out)
    return out, SecondHalf(middle, expanded, own, None)


def layer_forward(
    tape: Tape, shape: LayerShape, site: str | None, *, train: bool, keep: bool, again: bool = False
) -> tuple[Held | None, Kept | None]:
    """A layer's output, and with ``keep`` what its backward pass reads beside the input.

    Args:
        again: it is run a second time, for its backward pass alone: where no gate follows, the MLP's result
            is not computed, and what it would keep neither.
    """
    added, scores = attention_forward(tape, shape, train=train, keep=keep)
    ungated: Held | None = None
    if site == "attention":
        ungated, added = added, gate_forward(tape, shape)
        if not keep:
            tape.drop(ungated)
    middle = tape.add(WORK, shape.states)
    tape.drop(added)
    out, second = second_forward(tape, shape, site, middle, train=train, keep=keep, again=again)
    return out, None if second is None else Kept(scores, ungated, second)


Give = Callable[[list[Held]], None]


def giving(tape: Tape, accumulated: bool) -> Give:
    """LoRA's gradients are added to those of an earlier pass; otherwise they stay."""
    return (lambda grads: tape.drop(*grads)) if accumulated else (lambda grads: None)


def second_backward(
    tape: Tape, shape: LayerShape, site: str | None, second: SecondHalf, give: Give
) -> tuple[Held, Held | None]:
    """The gradients of the residual stream between the halves and of the gate's matrix."""
    grad_matrix: Held | None = None
    if site == "mlp":
        grad_result, grad_matrix = gate_backward(tape, shape)
        tape.drop(second.result)
        through, made = mlp_backward(tape, shape, second.expanded)
        give(made)
        tape.drop(grad_result)
        grad_middle = tape.add(WORK, shape.states)
        tape.drop(through)
    else:
        grad_middle, made = mlp_backward(tape, shape, second.expanded)
        give(made)
    return grad_middle, grad_matrix


def layer_backward(tape: Tape, shape: LayerShape, site: str | None, kept: Kept, *, accumulated: bool) -> Held:
    """The gradient of a layer's input; the caller holds the input and the gradient of the output.

    Args:
        accumulated: LoRA's gradients are added to those of an earlier pass; otherwise they stay.
    """
    give = giving(tape, accumulated)
    grad_middle, grad_matrix = second_backward(tape, shape, site, kept.second, give)
    tape.drop(kept.second.middle)
    grad_added: Held | None = None
    if kept.ungated is not None:
        grad_added, grad_matrix = gate_backward(tape, shape)
        tape.drop(kept.ungated)
    grad_mixed, made = output_backward(tape, shape)
    give(made)
    tape.drop(grad_added)
    incoming = scores_backward(tape, shape)
    tape.drop(grad_mixed, *kept.scores)
    grad_hidden, made = projections_backward(tape, shape, incoming)
    give(made)
    total = tape.add(WORK, shape.states)
    tape.drop(grad_hidden, grad_middle, grad_matrix, kept.second.unread)
    return total


def selected_forward(tape: Tape, shape: LayerShape, site: str | None) -> tuple[Held | None, list[Held]]:
    """The output of a layer that keeps its attention's results, and these: result, sums, middle."""
    outs = projections_forward(tape, shape, train=True, lows=None)
    mixed, sums = scores_forward(tape, shape)
    tape.drop(*outs)
    stored = weight(tape, shape, shape.output)
    added = linear_forward(tape, shape, shape.output, shape.count, train=True)
    tape.drop(stored)
    middle = tape.add(WORK, shape.states)
    tape.drop(added)
    # The caller's tensor is what stays.
    out, _second = second_forward(tape, shape, site, None, train=True, keep=False, again=False)
    return out, [mixed, sums, middle]


def selected_backward(
    tape: Tape, shape: LayerShape, site: str | None, kept: list[Held], *, accumulated: bool, offload: bool
) -> Held:
    """The gradient of the input of a layer that kept ``kept``; the caller holds that of the output.

    Args:
        offload: the input is fetched with ``kept``; otherwise the caller holds it.
    """
    give = giving(tape, accumulated)
    mixed, sums, middle = kept
    hidden = tape.add(WORK, shape.states) if offload else None
    _out, second = second_forward(tape, shape, site, None, train=True, keep=True, again=True)
    assert second is not None
    grad_middle, grad_matrix = second_backward(tape, shape, site, second, give)
    tape.drop(middle, second.unread)
    grad_mixed, made = output_backward(tape, shape)
    give(made)
    # The layer before sends the first of its own.
    nearer = tape.add(WORK, shape.states) if offload else None
    lows: list[Held] = []
    outs = projections_forward(tape, shape, train=True, lows=lows)
    incoming = scores_backward(tape, shape)
    tape.drop(sums, *outs, mixed, grad_mixed)
    grad_hidden, made = projections_backward(tape, shape, incoming)
    give(made)
    tape.drop(grad_hidden, grad_matrix, hidden, nearer, *lows)
    return grad_middle
