"""The attention half of a decoder layer, h + Wo · attention(norm(h)), as autograd functions that keep little.

Kept for the backward pass: h, rotated queries, keys, values, the attention's output and its log-sums, and
LoRA's s A x.
"""

# ruff: noqa: N815  (fields of the dataclasses are tensors and carry their shapes)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from so8t_engine.model.lean.dropout import Seed, fork
from so8t_engine.model.lean.linear import LoraLinear, Lows
from so8t_engine.model.lean.ops import has_room, rms_norm, rms_norm_gradient, rotary, rotary_of_pairs
from so8t_engine.model.packed import PackedRows, attend, side_by_side


@dataclass(frozen=True, slots=True)
class Norm:
    """An RMS norm's frozen weight (H,) and ε."""

    weight_H: Tensor
    eps: float


@dataclass(frozen=True, slots=True)
class Attention:
    """Sizes and layers of one attention block.

    Attributes:
        projections: q, k and v in this order, or one layer that holds all three.
        heads, kv_heads, size: numbers of heads and the units of one.
    """

    norm: Norm
    projections: tuple[LoraLinear, ...]
    output: LoraLinear
    heads: int
    kv_heads: int
    size: int
    scaling: float

    def projected(
        self,
        hidden_NTH: Tensor,
        cos_NTR: Tensor,
        sin_NTR: Tensor,
        seed: Seed | None,
        *,
        skip: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Turned queries, turned keys and values, shape (N, heads, T, D) each, differentiable.

        Args:
            cos_NTR, sin_NTR: of the rotary embedding, (N or 1, T, R).
            seed: of LoRA's dropout; None is evaluation.
            skip: compute nothing: the results have no values but the right gradients.
        """
        parameters = [p for linear in self.projections for p in linear.parameters]
        query, key, value = _Projections.apply(  # type: ignore[no-untyped-call]
            hidden_NTH, cos_NTR, sin_NTR, self, seed, skip, *parameters
        )
        return query, key, value

    def parts(self, outs_NTF: Sequence[Tensor]) -> Sequence[Tensor]:
        """Outputs for queries, keys and values, (N, T, F) each, of three projections or of one."""
        queries, keys = self.heads * self.size, self.kv_heads * self.size
        return torch.split(outs_NTF[0], [queries, keys, keys], -1) if len(outs_NTF) == 1 else outs_NTF

    def by_heads(self, parts_NTF: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, shape (N, heads, T, D) each."""
        query, key, value = (part.view(*part.shape[:2], -1, self.size).transpose(1, 2) for part in parts_NTF)
        return query, key, value

    def mixed(self, query: Tensor, key: Tensor, value: Tensor, packed: PackedRows | None) -> Tensor:
        """What the heads make of the values, side by side: (N, T, heads · D), differentiable.

        Args:
            packed: where rows lie end to end, each of which sees itself alone; None is causal attention,
                which is right with padding on the right: no real token looks at a later one.
        """
        if packed is None:
            mixed_NhTD = functional.scaled_dot_product_attention(
                query, key, value, is_causal=True, scale=self.scaling, enable_gqa=self.heads != self.kv_heads
            )
        else:
            mixed_NhTD = attend(query, key, value, packed.cumulative_S, packed.longest, self.scaling)
        count, _heads, tokens, _size = query.shape
        return mixed_NhTD.transpose(1, 2).reshape(count, tokens, self.heads * self.size)

    def added(self, mixed_NTF: Tensor, seed: Seed | None, *, skip: bool = False) -> Tensor:
        """What the attention adds to the residual stream, shape (N, T, H), differentiable.

        Args:
            seed: the same as of `projected`.
            skip: compute nothing: the result has no values but the right gradient.
        """
        out_NTH: Tensor = _Linear.apply(  # type: ignore[no-untyped-call]
            mixed_NTF, self.output, fork(seed, 8), skip, *self.output.parameters
        )
        return out_NTH

    def pairs_order(self, cos_NTR: Tensor) -> Tensor | None:
        """The order of a fused projection's outputs in which `rotary_of_pairs` turns queries and keys.

        Scores are the same in any order of a head's units that queries and keys share.
        """
        fused = len(self.projections) == 1
        return (
            _pairs(self.heads, self.kv_heads, self.size) if fused and cos_NTR.shape[-1] == self.size else None
        )

    def turned_back(
        self, grads_NhTD: tuple[Tensor, ...], cos_NTR: Tensor, sin_NTR: Tensor, in_pairs: bool
    ) -> list[Tensor]:
        """Gradients of the projections' outputs, (N, T, F) each, from those of turned queries, keys, values.

        Args:
            in_pairs: the outputs are in the order of `pairs_order`. Then, where gradients lie side by side
                as one projection's output does, they are turned in place.
        """
        count, _heads, tokens, _size = grads_NhTD[0].shape
        widths = [grad.shape[1] * self.size for grad in grads_NhTD]
        fused = len(self.projections) == 1
        if in_pairs:
            whole_NTF = side_by_side(grads_NhTD)
            if whole_NTF is None:
                whole_NTF = torch.cat([grad.transpose(1, 2).flatten(2) for grad in grads_NhTD], -1)
            rotary_of_pairs(whole_NTF[..., : sum(widths[:2])], cos_NTR, sin_NTR, transposed=True)
            return [whole_NTF]
        grads_NTF = [grads_NhTD[0].new_empty((count, tokens, sum(widths)))]
        parts = list(torch.split(grads_NTF[0], widths, -1))
        if not fused:
            grads_NTF = parts = [grads_NhTD[0].new_empty((count, tokens, width)) for width in widths]
        for number, (grad, part) in enumerate(zip(grads_NhTD, parts, strict=True)):
            if number < 2:
                rotary(grad.transpose(1, 2), part, cos_NTR, sin_NTR, transposed=True)
            else:
                part.copy_(grad.transpose(1, 2).flatten(2))
        return grads_NTF


@cache
def _pairs(heads: int, kv_heads: int, size: int) -> Tensor:
    """Rows of q, k and v, one below the other, with the halves of each head of q and k interleaved."""
    turned, rest = (heads + kv_heads) * size, kv_heads * size
    paired = torch.arange(turned).view(-1, 2, size // 2).transpose(1, 2).reshape(-1)
    return torch.cat((paired, torch.arange(turned, turned + rest)))


class _Linear(torch.autograd.Function):
    """y = W x + s B A x; keeps x."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        input_NTI: Tensor,
        linear: LoraLinear,
        seed: Seed | None,
        skip: bool,
        *_lora: Tensor,
    ) -> Tensor:
        if skip:
            ctx.save_for_backward(input_NTI)
            ctx.linear, ctx.seed, ctx.lows, ctx.weight = linear, seed, [None], None
            return input_NTI.new_empty(()).expand(*input_NTI.shape[:-1], linear.outputs)
        flat_tI = input_NTI.reshape(-1, input_NTI.shape[-1])
        lows: Lows = []
        weight = linear.prepare(flat_tI.dtype, len(flat_tI), seed)
        out_tO = linear.forward(flat_tI, weight, seed, lows)
        ctx.save_for_backward(input_NTI)
        ctx.linear, ctx.seed, ctx.lows, ctx.weight = linear, seed, lows, weight if weight.merged else None
        return out_tO.view(*input_NTI.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        (input_NTI,) = ctx.saved_tensors
        linear: LoraLinear = ctx.linear
        flat_tI, grad_tO = input_NTI.flatten(0, 1), grads[0].reshape(-1, grads[0].shape[-1])
        weight = ctx.weight or linear.prepare(flat_tI.dtype, len(flat_tI), ctx.seed)
        grad_tI, *grad_lora = linear.backward(grad_tO, flat_tI, weight, ctx.seed, ctx.lows[0])
        assert grad_tI is not None
        return (grad_tI.view(input_NTI.shape), None, None, None, *_in(linear, grad_lora))


def _in(linear: LoraLinear, grads: list[Tensor | None]) -> list[Tensor]:
    """Gradients of A and B in the parameters' own dtype; nothing without LoRA."""
    return [
        grad.to(parameter.dtype)
        for parameter, grad in zip(linear.parameters, grads, strict=False)
        if grad is not None
    ]


class _Projections(torch.autograd.Function):
    """Norm, q/k/v and rotary embedding in one: keeps h alone, and the norm is computed again.

    On the CPU the normed input stays, and the sums of weights and LoRA, which are no larger than activations.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        hidden_NTH: Tensor,
        cos_NTR: Tensor,
        sin_NTR: Tensor,
        block: Attention,
        seed: Seed | None,
        skip: bool,
        *_lora: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        count, tokens, size = hidden_NTH.shape
        ctx.block, ctx.seed = block, seed
        if skip:
            ctx.save_for_backward(hidden_NTH, cos_NTR, sin_NTR)
            ctx.lows = ctx.weights = [None] * len(block.projections)
            ctx.normed_tH, ctx.ordered = None, has_room(hidden_NTH)
            query, key, value = (
                hidden_NTH.new_empty(()).expand(count, heads, tokens, block.size)
                for heads in (block.heads, block.kv_heads, block.kv_heads)
            )
            return query, key, value
        normed_tH = rms_norm(hidden_NTH, block.norm.weight_H, block.norm.eps).view(-1, size)
        lows: Lows = []
        order_O = block.pairs_order(cos_NTR) if has_room(normed_tH) else None
        weights = [
            linear.prepare(normed_tH.dtype, len(normed_tH), seed, order_O) for linear in block.projections
        ]
        outs = [
            linear.forward(normed_tH, weight, fork(seed, number), lows).view(count, tokens, -1)
            for number, (linear, weight) in enumerate(zip(block.projections, weights, strict=True))
        ]
        parts = block.parts(outs)
        if weights[0].order_O is not None:
            turned = (block.heads + block.kv_heads) * block.size
            rotary_of_pairs(outs[0][..., :turned], cos_NTR, sin_NTR)
        else:
            for part in parts[:2]:
                rotary(part.view(count, tokens, -1, block.size), part, cos_NTR, sin_NTR)
        ctx.save_for_backward(hidden_NTH, cos_NTR, sin_NTR)
        ctx.lows, ctx.ordered = lows, False
        ctx.normed_tH = normed_tH if has_room(normed_tH) else None
        ctx.weights = [weight if weight.merged else None for weight in weights]
        return block.by_heads(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        hidden_NTH, cos_NTR, sin_NTR = ctx.saved_tensors
        block: Attention = ctx.block
        count, tokens, size = hidden_NTH.shape
        normed_tH, merged = ctx.normed_tH, ctx.weights
        if normed_tH is None:
            normed_tH = rms_norm(hidden_NTH, block.norm.weight_H, block.norm.eps).view(-1, size)
        if ctx.ordered:  # in the order in which the values were made
            order_O = block.pairs_order(cos_NTR)
            merged = [
                linear.prepare(normed_tH.dtype, len(normed_tH), ctx.seed, order_O)
                for linear in block.projections
            ]
        in_pairs = merged[0] is not None and merged[0].order_O is not None
        grads_NTF = block.turned_back(grads, cos_NTR, sin_NTR, in_pairs)
        del grads
        grad_normed_tH: Tensor | None = None
        lora: list[Tensor] = []
        for number, linear in enumerate(block.projections):
            grad_tF = grads_NTF[number].view(count * tokens, -1)
            weight = merged[number] or linear.prepare(normed_tH.dtype, len(normed_tH), ctx.seed)
            found, *pair = linear.backward(
                grad_tF, normed_tH, weight, fork(ctx.seed, number), ctx.lows[number],
                want_input=ctx.needs_input_grad[0],
            )  # fmt: skip
            del weight
            if found is not None:
                grad_normed_tH = found if grad_normed_tH is None else grad_normed_tH.add_(found)
            lora += _in(linear, pair)
        del grads_NTF, normed_tH
        if grad_normed_tH is None:
            return (None, None, None, None, None, None, *lora)
        grad_hidden = rms_norm_gradient(
            grad_normed_tH.view(count, tokens, size), hidden_NTH, block.norm.weight_H, block.norm.eps
        )
        return (grad_hidden, None, None, None, None, None, *lora)
