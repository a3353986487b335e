"""Rotations in SO(8), one per block of eight hidden units, and how they act on hidden states.

Column convention: y = R x per block; row-major hidden states therefore take ``x @ R.T``. Matrices are
built in float64 and rounded once, so that float32 rotations are orthogonal to float32 rounding.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from so8t_engine.errors import SO8TError
from so8t_engine.i18n import _
from so8t_engine.so8t.blocks import BLOCK, apply_blocks, check_blocks, check_cover
from so8t_engine.so8t.fused import can_fuse, fused_gate

GENERATORS = BLOCK * (BLOCK - 1) // 2

RotationMap = Literal["exp", "cayley", "free"]
ROTATION_MAPS: tuple[RotationMap, ...] = get_args(RotationMap)

_ROWS, _COLUMNS = torch.triu_indices(BLOCK, BLOCK, offset=1).tolist()
# 1/k! for the Taylor polynomial of degree 16: its remainder at norm 1 is 2.8e-15.
_TAYLOR = [1.0]
for _k in range(1, 17):
    _TAYLOR.append(_TAYLOR[-1] / _k)


def skew_from_generators(theta_B28: Tensor) -> Tensor:
    """The skew matrices of generator vectors.

    θ fills the strict upper triangle in the order (0,1), (0,2) … (6,7): A[i,j] = θ_k, A[j,i] = −θ_k.

    Args:
        theta_B28: shape (…, 28).

    Returns:
        Shape (…, 8, 8), the dtype of the input.

    Raises:
        SO8TError: the last dimension is not 28.
    """
    if theta_B28.ndim < 1 or theta_B28.shape[-1] != GENERATORS:
        raise SO8TError(
            _("Generators have the shape %(shape)s.") % {"shape": tuple(theta_B28.shape)},
            _("The last dimension must be 28, the dimension of so(8)."),
        )
    upper_B88 = theta_B28.new_zeros((*theta_B28.shape[:-1], BLOCK, BLOCK))
    upper_B88[..., _ROWS, _COLUMNS] = theta_B28
    return upper_B88 - upper_B88.mT


def generators_from_skew(skew_B88: Tensor) -> Tensor:
    """The generator vectors (…, 28) of skew matrices (…, 8, 8), inverse of `skew_from_generators`.

    Raises:
        SO8TError: the last two dimensions are not 8 × 8.
    """
    check_blocks(skew_B88)
    return skew_B88[..., _ROWS, _COLUMNS]


def skew_exponential(skew_B88: Tensor) -> Tensor:
    """exp(A) of skew matrices (B, 8, 8) by scaling, a Taylor polynomial of degree 16, and squaring.

    Computed in float64 and returned in the dtype of the input; differentiable through every product.
    A skew A has ‖A‖₂ ≤ ‖A‖_F/√2, which bounds the scaling. Polynomial after Paterson and Stockmeyer
    (1973), in six products. Reads one number back from the device to choose the number of squarings.
    """
    work_B88 = skew_B88.double()
    squarings = _squarings(work_B88.detach())
    a1_B88 = work_B88 * 2.0**-squarings
    a2_B88 = a1_B88 @ a1_B88
    a3_B88 = a2_B88 @ a1_B88
    a4_B88 = a2_B88 @ a2_B88
    identity_88 = torch.eye(BLOCK, dtype=work_B88.dtype, device=work_B88.device)
    power_B88 = _TAYLOR[16] * a4_B88
    for low in (12, 8, 4, 0):
        c0, c1, c2, c3 = _TAYLOR[low : low + 4]
        power_B88 = power_B88 + (c0 * identity_88 + c1 * a1_B88 + c2 * a2_B88 + c3 * a3_B88)
        if low:
            power_B88 = power_B88 @ a4_B88
    for _square in range(squarings):
        power_B88 = power_B88 @ power_B88
    return power_B88.to(skew_B88.dtype)


def _squarings(skew_B88: Tensor) -> int:
    """The smallest s ≥ 0 with ‖A‖₂ / 2^s < 1 for every block; 0 where a value is not finite."""
    if skew_B88.numel() == 0:
        return 0
    bound = math.sqrt(float(skew_B88.square().sum((-2, -1)).amax()) / 2.0)
    return max(0, math.frexp(bound)[1]) if math.isfinite(bound) else 0


def skew_cayley(skew_B88: Tensor) -> Tensor:
    """The exact Cayley map (I − A/2)⁻¹ (I + A/2) of skew matrices (B, 8, 8), solved in float64.

    It agrees with exp(A) to second order and reaches every rotation without the eigenvalue −1.
    """
    half_B88 = skew_B88.double() / 2
    identity_88 = torch.eye(BLOCK, dtype=half_B88.dtype, device=half_B88.device)
    rotation_B88: Tensor = torch.linalg.solve(identity_88 - half_B88, identity_88 + half_B88)
    return rotation_B88.to(skew_B88.dtype)


def generators_to_matrices(theta_B28: Tensor, map: RotationMap = "exp") -> Tensor:
    """The matrices of generators, in the dtype of the input.

    Args:
        theta_B28: shape (B, 28); for ``free`` the unconstrained matrices (B, 8, 8) themselves.
        map: ``exp`` or ``cayley``, both exact rotations; ``free`` is the parameter itself and no
            rotation, offered for comparison.

    Returns:
        Shape (B, 8, 8).

    Raises:
        SO8TError: unknown map, or a shape that does not fit it.
    """
    if map == "free":
        check_blocks(theta_B28)
        return theta_B28
    if map == "exp":
        return skew_exponential(skew_from_generators(theta_B28))
    if map == "cayley":
        return skew_cayley(skew_from_generators(theta_B28))
    raise SO8TError(
        _("There is no rotation map %(name)s.") % {"name": repr(map)},
        _("Choose one of %(names)s.") % {"names": ", ".join(ROTATION_MAPS)},
    )


def commutator_norm(cmd_B88: Tensor, safe_B88: Tensor) -> Tensor:
    """c = ‖R_cmd R_safe − R_safe R_cmd‖_F / (2√8) per block, shape (B,), in [0, 1] for rotations.

    0 where the blocks commute; there its gradient is defined as 0. Computed in float64.
    """
    cmd64_B88, safe64_B88 = cmd_B88.double(), safe_B88.double()
    difference_B88 = cmd64_B88 @ safe64_B88 - safe64_B88 @ cmd64_B88
    norm_B: Tensor = torch.linalg.vector_norm(difference_B88.flatten(-2), dim=-1)
    return (norm_B / (2.0 * math.sqrt(BLOCK))).to(cmd_B88.dtype)


def orthogonality_error(rotation_B88: Tensor) -> Tensor:
    """max|RᵀR − I| per block, shape (B,). An instrument: for an exact map it carries no gradient."""
    work_B88 = rotation_B88.detach().double()
    identity_88 = torch.eye(BLOCK, dtype=work_B88.dtype, device=work_B88.device)
    return (work_B88.mT @ work_B88 - identity_88).abs().amax((-2, -1)).to(rotation_B88.dtype)


def determinant(rotation_B88: Tensor) -> Tensor:
    """det R per block, shape (B,); +1 for a rotation. An instrument without gradient."""
    determinant_B: Tensor = torch.linalg.det(rotation_B88.detach().double())
    return determinant_B.to(rotation_B88.dtype)


def apply_rotation(hidden: Tensor, rotation_B88: Tensor) -> Tensor:
    """y = R x per block, that is ``x @ R.T`` for row-major hidden states.

    The product is taken in float32 (float64 where either operand is float64), never in bf16 or fp16 and
    also under autocast, and rounded once to the dtype of ``hidden``.

    Args:
        hidden: shape (…, H), float32, bfloat16, float16 or float64.
        rotation_B88: shape (H/8, 8, 8), float32.

    Returns:
        Shape and dtype of ``hidden``.

    Raises:
        SO8TError: the hidden size is not eight times the number of rotations.
    """
    if can_fuse(hidden, rotation_B88):
        check_cover(hidden, rotation_B88)
        return fused_gate(hidden, rotation_B88, None, "plain")
    return apply_blocks(hidden, rotation_B88)
