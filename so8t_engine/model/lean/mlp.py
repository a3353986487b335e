"""The MLP half of a decoder layer, h + Wd (up · act(gate)) of norm(h), tile by tile over the tokens.

Kept for the backward pass: h, and with ``keep`` the outputs of gate and up and LoRA's s A x. Without, these
are computed again tile by tile; the product with Wd is never computed a second time: no gradient needs it.
"""

# ruff: noqa: N815  (fields of the dataclasses are tensors and carry their shapes)

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from so8t_engine.model.lean.attention import Norm
from so8t_engine.model.lean.dropout import Seed, fork
from so8t_engine.model.lean.linear import LoraLinear, Lows, Weight
from so8t_engine.model.lean.ops import (
    Activation,
    activation,
    gated_activation,
    gated_activation_gradient,
    has_room,
    rms_norm,
    rms_norm_gradient,
)


class Waiting(Protocol):
    """Where outputs of gate and up wait for the backward pass, tile by tile."""

    def put(self, number: int, outs: list[Tensor]) -> None:
        """Keep those of tile ``number``; the last tile comes first."""

    def take(self, number: int) -> list[Tensor]:
        """Those of tile ``number``, to be written over; the first tile is asked for first."""


@dataclass(frozen=True, slots=True)
class GatedMLP:
    """Layers of one MLP.

    Attributes:
        expand: gate and up in this order, or one layer that holds both.
        contract: the layer back to the hidden size.
        tile: tokens at a time.
    """

    norm: Norm
    expand: tuple[LoraLinear, ...]
    contract: LoraLinear
    activation: Activation
    tile: int

    @property
    def linears(self) -> tuple[LoraLinear, ...]:
        return (*self.expand, self.contract)

    def forward(
        self,
        hidden_NTH: Tensor,
        seed: Seed | None,
        *,
        residual: bool = True,
        keep: bool = False,
        skip: bool = False,
        waiting: Waiting | None = None,
    ) -> Tensor:
        """h + mlp(norm(h)), shape (N, T, H), differentiable.

        Args:
            seed: of LoRA's dropout; None is evaluation.
            residual: False leaves out h.
            keep: keep the outputs of gate and up for the backward pass.
            skip: compute nothing: the result has no values but the right gradient. For a layer that is run
                again only for its backward pass.
            waiting: is given the outputs of gate and up, and with ``skip`` asked for them; not with ``keep``.
        """
        parameters = [p for linear in self.linears for p in linear.parameters]
        out_NTH: Tensor = _MLP.apply(  # type: ignore[no-untyped-call]
            hidden_NTH, self, seed, residual, keep, skip, waiting, *parameters
        )
        return out_NTH

    def expanded(
        self, normed_tH: Tensor, weights: list[Weight], seed: Seed | None, lows: Lows
    ) -> list[Tensor]:
        """Outputs of gate and up, each (t, I), or of both in one row, (t, 2 I)."""
        return [
            linear.forward(normed_tH, weight, fork(seed, number), lows)
            for number, (linear, weight) in enumerate(zip(self.expand, weights, strict=False))
        ]


def _halves(outs: list[Tensor]) -> tuple[Tensor, Tensor]:
    gate_tI, up_tI = outs[0].chunk(2, -1) if len(outs) == 1 else outs
    return gate_tI, up_tI


def _tile(mlp: GatedMLP, hidden_tH: Tensor) -> int:
    """Tokens at a time where all tiles' results are kept: with room as even as can be, up to half larger.

    A few tokens left over would cost all the calls of a tile.
    """
    if not has_room(hidden_tH):
        return mlp.tile
    return -(-len(hidden_tH) // max(1, round(len(hidden_tH) / mlp.tile)))


@dataclass(slots=True)
class _Kept:
    """Of a tile: what `GatedMLP.expanded` made, and where there is room act(gate), up · act(gate) and the
    normed input."""

    outs: list[Tensor] = field(default_factory=list)
    lows: Lows = field(default_factory=list)
    gate_active_tI: Tensor | None = None
    active_tI: Tensor | None = None
    normed_tH: Tensor | None = None


class _MLP(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        hidden_NTH: Tensor,
        mlp: GatedMLP,
        seed: Seed | None,
        residual: bool,
        keep: bool,
        skip: bool,
        waiting: Waiting | None,
        *_lora: Tensor,
    ) -> Tensor:
        ctx.mlp, ctx.seed, ctx.residual, ctx.kept = mlp, seed, residual, None
        ctx.weights, ctx.lows, ctx.tile = None, [], mlp.tile
        ctx.save_for_backward(hidden_NTH)
        ctx.waiting = waiting if skip else None
        if skip:
            return hidden_NTH.new_empty(()).expand(hidden_NTH.shape)
        size = hidden_NTH.shape[-1]
        hidden_tH = hidden_NTH.view(-1, size)
        weights = [linear.prepare(hidden_tH.dtype, len(hidden_tH), seed) for linear in mlp.linears]
        out_tH = torch.empty_like(hidden_tH)
        kept: list[_Kept] = []
        ctx.tile = tile = _tile(mlp, hidden_tH) if keep else mlp.tile
        tiles = list(enumerate(range(0, len(hidden_tH), tile)))
        # What waits is given back the last first, and the backward pass begins with the first tile.
        for number, start in tiles if waiting is None else reversed(tiles):
            own, part_tH = fork(seed, 16 * number), hidden_tH[start : start + tile]
            normed_tH = rms_norm(part_tH, mlp.norm.weight_H, mlp.norm.eps)
            lows: Lows = []
            outs = mlp.expanded(normed_tH, weights, own, lows)
            if waiting is not None:
                waiting.put(number, outs)
            gate_tI, up_tI = _halves(outs)
            gate_active_tI = activation(gate_tI, mlp.activation) if keep else None
            active_tI = gated_activation(gate_tI, up_tI, mlp.activation, gate_active_tI)
            if keep:
                room = has_room(normed_tH)
                kept.append(
                    _Kept(
                        outs, lows, gate_active_tI, active_tI if room else None, normed_tH if room else None
                    )
                )
            del outs, normed_tH, gate_tI, up_tI, gate_active_tI
            result_tH = mlp.contract.forward(active_tI, weights[-1], fork(own, 2), lows)
            del active_tI
            if residual:
                torch.add(result_tH, part_tH, out=out_tH[start : start + tile])
            else:
                out_tH[start : start + tile] = result_tH
        if keep:
            # Only this function's backward pass reads them, once, and writes over them.
            ctx.kept = kept
            ctx.weights = [weight if weight.merged else None for weight in weights]
            ctx.lows = [one.lows[-1] for one in kept]
        return out_tH.view(hidden_NTH.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        (hidden_NTH,) = ctx.saved_tensors
        mlp: GatedMLP = ctx.mlp
        kept: list[_Kept | None] | None = ctx.kept
        merged: list[Weight | None] = ctx.weights or [None] * len(mlp.linears)
        ctx.kept = None
        size = hidden_NTH.shape[-1]
        hidden_tH, grad_tH = hidden_NTH.view(-1, size), grads[0].reshape(-1, size)
        weights = [
            weight or linear.prepare(hidden_tH.dtype, len(hidden_tH), ctx.seed)
            for linear, weight in zip(mlp.linears, merged, strict=True)
        ]
        sums: list[list[Tensor | None]] = [[None, None] for _linear in mlp.linears]
        tile: int = ctx.tile
        waiting: Waiting | None = ctx.waiting
        out_tH = torch.empty_like(hidden_tH)
        for number, start in enumerate(range(0, len(hidden_tH), tile)):
            own, place = fork(ctx.seed, 16 * number), slice(start, start + tile)
            part_tH, part_grad_tH = hidden_tH[place], grad_tH[place]
            before = (kept[number] if kept else None) or _Kept()
            normed_tH = before.normed_tH
            if normed_tH is None:
                normed_tH = rms_norm(part_tH, mlp.norm.weight_H, mlp.norm.eps)
            outs, lows, gate_active_tI = before.outs, before.lows, before.gate_active_tI
            if waiting is not None:
                outs, lows = waiting.take(number), [None] * len(mlp.linears)
            elif not outs:
                lows = []
                outs = mlp.expanded(normed_tH, weights, own, lows)
                lows.append(ctx.lows[number] if ctx.lows else None)
            active_tI = before.active_tI
            if kept:
                kept[number] = None
            del before
            if active_tI is None:
                active_tI = gated_activation(*_halves(outs), mlp.activation, gate_active_tI)
            grad_tI, *pair = mlp.contract.backward(
                part_grad_tH, active_tI, weights[-1], fork(own, 2), lows[-1]
            )
            _add(sums[-1], pair)
            del active_tI
            assert grad_tI is not None
            # From here on ``outs`` holds the gradients.
            gated_activation_gradient(grad_tI, *_halves(outs), mlp.activation, gate_active_tI)
            del grad_tI, gate_active_tI
            grad_normed_tH: Tensor | None = None
            for index, linear in enumerate(mlp.expand):
                found, *pair = linear.backward(
                    outs[index], normed_tH, weights[index], fork(own, index), lows[index]
                )
                _add(sums[index], pair)
                assert found is not None
                grad_normed_tH = found if grad_normed_tH is None else grad_normed_tH.add_(found)
            del outs
            assert grad_normed_tH is not None
            out_tH[place] = rms_norm_gradient(
                grad_normed_tH, part_tH, mlp.norm.weight_H, mlp.norm.eps,
                part_grad_tH if ctx.residual else None,
            )  # fmt: skip
        lora = [
            total.to(parameter.dtype)
            for linear, pair in zip(mlp.linears, sums, strict=True)
            for parameter, total in zip(linear.parameters, pair, strict=False)
            if total is not None
        ]
        return (out_tH.view(hidden_NTH.shape), None, None, None, None, None, None, *lora)


def _add(sums: list[Tensor | None], found: list[Tensor | None]) -> None:
    """Add a tile's gradients of A and B to those before, in float32 from the second on."""
    for place, grad in enumerate(found):
        if grad is not None:
            before = sums[place]
            sums[place] = grad if before is None else before.float().add_(grad)
