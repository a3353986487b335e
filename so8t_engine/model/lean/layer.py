"""A decoder layer, and how it is run again in the backward pass so that only its input is kept."""

# ruff: noqa: N815  (fields of the dataclasses are tensors and carry their shapes)

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from so8t_engine.model.lean.attention import Attention
from so8t_engine.model.lean.dropout import Seed, other
from so8t_engine.model.lean.mlp import GatedMLP, Waiting
from so8t_engine.model.lean.offload import Offload, Ticket
from so8t_engine.model.packed import PackedRows
from so8t_engine.so8t.gate import apply_gate_matrix


@dataclass(frozen=True, slots=True)
class Scene:
    """What all layers of one pass share.

    Attributes:
        cos_NTR, sin_NTR: of the rotary embedding.
        packed: where rows lie end to end; None where none do.
        g: the gate's strength, 0-dim; None where no layer is gated.
    """

    cos_NTR: Tensor
    sin_NTR: Tensor
    packed: PackedRows | None
    g: Tensor | None


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """Attention and MLP of one layer, and where the gate acts in it.

    Attributes:
        site: ``attention`` or ``mlp``, whose output the gate acts on; None where the layer is not gated.
    """

    attention: Attention
    mlp: GatedMLP
    site: str | None = None

    def forward(
        self,
        hidden_NTH: Tensor,
        matrix_B88: Tensor | None,
        scene: Scene,
        seed: Seed | None,
        *,
        keep: bool = False,
        for_gradient: bool = False,
    ) -> Tensor:
        """The layer's output, shape (N, T, H), differentiable.

        Args:
            matrix_B88: the gate's K; read by a gated layer alone.
            seed: of LoRA's dropout; None is evaluation.
            keep: keep what the backward pass would compute again.
            for_gradient: the values of the result are not needed, only its gradient.
        """
        attention = self.attention
        projected = attention.projected(hidden_NTH, scene.cos_NTR, scene.sin_NTR, seed)
        added_NTH = attention.added(attention.mixed(*projected, scene.packed), seed)
        del projected
        if self.site == "attention":
            added_NTH = self._gated(added_NTH, matrix_B88, scene)
        middle_NTH = hidden_NTH + added_NTH
        del added_NTH
        return self.second_half(middle_NTH, matrix_B88, scene, seed, keep=keep, for_gradient=for_gradient)

    def second_half(
        self,
        middle_NTH: Tensor,
        matrix_B88: Tensor | None,
        scene: Scene,
        seed: Seed | None,
        *,
        keep: bool = False,
        for_gradient: bool = False,
        waiting: Waiting | None = None,
    ) -> Tensor:
        """The output from the residual stream between attention and MLP; arguments as of `forward`.

        Args:
            waiting: takes what gate and up made, and gives it back ``for_gradient``; not of a gated MLP.
        """
        own = other(seed)
        if self.site != "mlp":
            return self.mlp.forward(middle_NTH, own, keep=keep, skip=for_gradient, waiting=waiting)
        return middle_NTH + self._gated(
            self.mlp.forward(middle_NTH, own, residual=False, keep=keep), matrix_B88, scene
        )

    def keeping_weights(self, dtype: torch.dtype | None) -> DecoderLayer:
        """This layer with quantised weights dequantised for good; None takes that back."""
        attention, mlp = self.attention, self.mlp
        return replace(
            self,
            attention=replace(
                attention, projections=tuple(linear.keeping(dtype) for linear in attention.projections),
                output=attention.output.keeping(dtype),
            ),
            mlp=replace(
                mlp, expand=tuple(linear.keeping(dtype) for linear in mlp.expand),
                contract=mlp.contract.keeping(dtype),
            ),
        )  # fmt: skip

    def _gated(self, hidden_NTH: Tensor, matrix_B88: Tensor | None, scene: Scene) -> Tensor:
        assert matrix_B88 is not None
        assert scene.g is not None
        return apply_gate_matrix(hidden_NTH, matrix_B88, scene.g)


class Recomputed(torch.autograd.Function):
    """A layer of which only the input is kept, on the card or on the host.

    The layer's own parameters get their gradients in the inner backward pass, as with PyTorch's reentrant
    checkpointing; the gate's K, shared by several layers, gets its as an input.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        hidden_NTH: Tensor,
        matrix_B88: Tensor | None,
        layer: DecoderLayer,
        scene: Scene,
        seed: Seed | None,
        offload: Offload | None,
    ) -> Tensor:
        ctx.layer, ctx.scene, ctx.seed, ctx.offload = layer, scene, seed, offload
        ctx.ticket = None
        if offload is not None:
            offload.begin_layer()
            ctx.ticket = offload.push(hidden_NTH, "hidden")
        ctx.save_for_backward(None if offload is not None else hidden_NTH, matrix_B88)
        return layer.forward(hidden_NTH, matrix_B88, scene, seed)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        saved_NTH, matrix_B88 = ctx.saved_tensors
        ticket: Ticket | None = ctx.ticket
        source_NTH = saved_NTH if ticket is None else ctx.offload.take(ticket)
        device = source_NTH.device.type
        with torch.enable_grad(), torch.autocast(device, enabled=False):
            hidden_NTH = source_NTH.detach().requires_grad_()
            matrix = None if matrix_B88 is None else matrix_B88.detach().requires_grad_()
            out_NTH = ctx.layer.forward(hidden_NTH, matrix, ctx.scene, ctx.seed, for_gradient=True)
        torch.autograd.backward(out_NTH, grads[0])
        return (hidden_NTH.grad, None if matrix is None else matrix.grad, None, None, None, None)
