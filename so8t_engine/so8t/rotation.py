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
from so8t_engine.so8t.exponential import skew_exponential
from so8t_engine.so8t.fused import can_fuse, fused_gate

GENERATORS = BLOCK * (BLOCK - 1) // 2

RotationMap = Literal["exp", "cayley", "free"]
ROTATION_MAPS: tuple[RotationMap, ...] = get_args(RotationMap)

_ROWS, _COLUMNS = torch.triu_indices(BLOCK, BLOCK, offset=1).tolist()
# Where A[i,j] comes from, read row by row, with its sign, 0 on the diagonal; and where θ_k and −θ_k stand.
_SOURCE, _SIGN = [0] * BLOCK**2, [0.0] * BLOCK**2
_ABOVE = [row * BLOCK + column for row, column in zip(_ROWS, _COLUMNS, strict=True)]
_BELOW = [column * BLOCK + row for row, column in zip(_ROWS, _COLUMNS, strict=True)]
for _k in range(GENERATORS):
    _SOURCE[_ABOVE[_k]] = _SOURCE[_BELOW[_k]] = _k
    _SIGN[_ABOVE[_k]], _SIGN[_BELOW[_k]] = 1.0, -1.0


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
    skew_B88: Tensor = _Skew.apply(theta_B28)  # type: ignore[no-untyped-call]
    return skew_B88


class _Skew(torch.autograd.Function):
    """One gather in each direction."""

    @staticmethod
    def forward(ctx: object, theta_B28: Tensor) -> Tensor:
        device = theta_B28.device
        sign_64 = torch.tensor(_SIGN, dtype=theta_B28.dtype, device=device)
        skew_B64 = theta_B28.index_select(-1, torch.tensor(_SOURCE, device=device)).mul_(sign_64)
        return skew_B64.view(*theta_B28.shape[:-1], BLOCK, BLOCK)

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        grad_B64 = grads[0].flatten(-2)
        above, below = (torch.tensor(places, device=grad_B64.device) for places in (_ABOVE, _BELOW))
        return grad_B64.index_select(-1, above).sub_(grad_B64.index_select(-1, below))


def generators_from_skew(skew_B88: Tensor) -> Tensor:
    """The generator vectors (…, 28) of skew matrices (…, 8, 8), inverse of `skew_from_generators`.

    Raises:
        SO8TError: the last two dimensions are not 8 × 8.
    """
    check_blocks(skew_B88)
    return skew_B88[..., _ROWS, _COLUMNS]


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
