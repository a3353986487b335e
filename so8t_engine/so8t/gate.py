"""The gate: how far the rotation M acts on hidden states, with g = σ(α) in [0, 1].

Each form is one 8×8 matrix K per block, so the gate is one pass over the hidden states:

- ``residual``: h + g (M h − h), K = (1 − g) I + g M, singular values at most 1;
- ``additive``: h + g M h, K = I + g M, the historical form, singular values up to 1 + g;
- ``geodesic``: K = exp(g log M), a rotation for every g.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from so8t_engine.errors import SO8TError
from so8t_engine.i18n import _
from so8t_engine.so8t.blocks import BLOCK, apply_blocks, check_blocks, check_cover
from so8t_engine.so8t.exponential import skew_exponential
from so8t_engine.so8t.fused import can_fuse, fused_gate
from so8t_engine.so8t.logarithm import rotation_logarithm
from so8t_engine.so8t.schedule import PHI, GateSchedule

__all__ = [
    "GATE_FORMS",
    "PHI",
    "GateForm",
    "GateSchedule",
    "apply_gate",
    "apply_gate_matrix",
    "gate_matrix",
    "gate_norm_change",
]

GateForm = Literal["residual", "additive", "geodesic"]
GATE_FORMS: tuple[GateForm, ...] = get_args(GateForm)


def gate_matrix(total_B88: Tensor, g: Tensor | float, form: GateForm = "residual") -> Tensor:
    """K per block for M of shape (B, 8, 8) and a scalar g; shape and dtype of M, differentiable in both.

    Raises:
        SO8TError: unknown form, or ``geodesic`` with matrices that are no rotations.
    """
    check_blocks(total_B88)
    identity_88 = torch.eye(BLOCK, dtype=total_B88.dtype, device=total_B88.device)
    if form == "residual":
        return (1.0 - g) * identity_88 + g * total_B88
    if form == "additive":
        return identity_88 + g * total_B88
    if form == "geodesic":
        return skew_exponential(g * rotation_logarithm(total_B88))
    raise SO8TError(
        _("There is no gate form %(form)s.") % {"form": repr(form)},
        _("Choose one of %(forms)s.") % {"forms": ", ".join(GATE_FORMS)},
    )


def apply_gate(
    hidden_NTH: Tensor, total_B88: Tensor, g: Tensor | float, form: GateForm = "residual"
) -> Tensor:
    """The gated hidden states. At g = 0 every form is the identity, bit for bit.

    Args:
        hidden_NTH: shape (…, H), float32, bfloat16, float16 or float64.
        total_B88: M = R_cmd R_safe, shape (H/8, 8, 8), float32 (safety acts first).
        g: a float or a 0-dim tensor.
        form: see the module.

    Returns:
        Shape and dtype of ``hidden_NTH``; the product is taken in float32 and rounded once.

    Raises:
        SO8TError: unknown form or shapes that do not fit.
    """
    if can_fuse(hidden_NTH, total_B88, form):
        check_cover(hidden_NTH, total_B88)
        strength = g if isinstance(g, Tensor) else total_B88.new_tensor(g)
        return fused_gate(hidden_NTH, total_B88, strength, form)
    return apply_gate_matrix(hidden_NTH, gate_matrix(total_B88, g, form), g)


def apply_gate_matrix(hidden_NTH: Tensor, matrix_B88: Tensor, g: Tensor | float) -> Tensor:
    """`apply_gate` with the K that `gate_matrix` made of this ``g``, for a gate that acts in several places.

    ``g`` decides only whether the gate is shut; its gradient goes through ``matrix_B88``.
    """
    if can_fuse(hidden_NTH, matrix_B88, "given"):
        check_cover(hidden_NTH, matrix_B88)
        strength = g.detach() if isinstance(g, Tensor) else matrix_B88.new_tensor(g)
        return fused_gate(hidden_NTH, matrix_B88, strength, "given")
    closed = g.detach() == 0 if isinstance(g, Tensor) else torch.tensor(g == 0.0)
    if closed.device.type == "cpu":
        # Read without a wait, so that an open gate spares the pass over the hidden states.
        return apply_blocks(hidden_NTH, matrix_B88, closed if bool(closed) else None)
    return apply_blocks(hidden_NTH, matrix_B88, closed)


def gate_norm_change(total_B88: Tensor, g: Tensor | float, form: GateForm = "residual") -> Tensor:
    """The singular values (B, 8) of K: by what factors the gate changes the norm of a block.

    An instrument without gradient, computed in float64.
    """
    with torch.no_grad():
        scale = g.detach().double() if isinstance(g, Tensor) else g
        singular_B8: Tensor = torch.linalg.svdvals(gate_matrix(total_B88.detach().double(), scale, form))
        return singular_B8.to(total_B88.dtype)
