"""The principal logarithm of rotations in SO(8) and its derivative.

Forward: one square root by the polar factor of I + R, whose error stays proportional to 1/δ when the
largest angle is π − δ (no worse than the logarithm itself), then log Q = f(S) K with S and K the
symmetric and skew parts of Q and f(cos ω) = ω / sin ω. Backward: the divided differences of the
logarithm on the eigenvectors (Daleckii and Krein 1965; Higham, Functions of Matrices, theorem 3.11).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from so8t_engine.errors import SO8TError
from so8t_engine.i18n import _
from so8t_engine.so8t.blocks import BLOCK, Context, check_blocks
from so8t_engine.so8t.rotation import generators_from_skew

# Cosines this close to −1 are a half-turn: 1 + cos ω < 1e-12 is an angle within 1.5e-6 of π.
_HALF_TURN = 1e-12
# What float32 or a careful float64 pipeline leaves of RᵀR = I; beyond it the matrix is no rotation.
ORTHOGONAL_TOLERANCE = 1e-3


def require_rotations(matrix_B88: Tensor, what: str, tolerance: float = ORTHOGONAL_TOLERANCE) -> None:
    """Raise SO8TError unless every block is orthogonal within ``tolerance`` and has determinant +1.

    Args:
        matrix_B88: shape (B, 8, 8).
        what: the name of the matrices in the error's sentence.
        tolerance: the largest accepted max|RᵀR − I|.
    """
    check_blocks(matrix_B88)
    work_B88 = matrix_B88.detach().double()
    identity_88 = torch.eye(BLOCK, dtype=work_B88.dtype, device=work_B88.device)
    error_B = (work_B88.mT @ work_B88 - identity_88).abs().amax((-2, -1))
    bad_B = ~(error_B <= tolerance) | ~(torch.linalg.det(work_B88) > 0)
    if bool(bad_B.any()):
        block = int(bad_B.nonzero()[0, 0])
        raise SO8TError(
            _("%(what)s: block %(block)d is not a rotation (max|RᵀR − I| = %(error).3g, det = %(det).3g).")
            % {
                "what": what,
                "block": block,
                "error": float(error_B[block]),
                "det": float(torch.linalg.det(work_B88[block])),
            },
            _("Use matrices built by the exp or Cayley map; a row-normalised matrix is not a rotation."),
        )


def _log_forward(rotation_B88: Tensor) -> Tensor:
    """The skew principal logarithms of rotations (B, 8, 8) in float64."""
    identity_88 = torch.eye(BLOCK, dtype=rotation_B88.dtype, device=rotation_B88.device)
    cosine_B8, vectors_B88 = torch.linalg.eigh((rotation_B88 + rotation_B88.mT) / 2)
    turned_B8 = cosine_B8 < -1.0 + _HALF_TURN
    half_turns_B88 = torch.zeros_like(rotation_B88)
    if bool(turned_B8.any()):
        # On the eigenspace of −1 every pairing into planes is a logarithm: pair in the order found.
        plane_B88 = vectors_B88 * turned_B8.unsqueeze(-2)
        rotation_B88 = rotation_B88 @ (identity_88 - 2.0 * plane_B88 @ plane_B88.mT)
        first_B84, second_B84 = plane_B88[..., 0::2], plane_B88[..., 1::2]
        half_turns_B88 = math.pi * (second_B84 @ first_B84.mT - first_B84 @ second_B84.mT)
    u_B88, _singular_B8, v_B88 = torch.linalg.svd(identity_88 + rotation_B88)
    root_B88 = u_B88 @ v_B88
    cosine_B8, vectors_B88 = torch.linalg.eigh((root_B88 + root_B88.mT) / 2)
    # 1 − cos ω = 2 sin²(ω/2); sinc keeps ω / sin ω exact at ω = 0.
    angle_B8 = 2.0 * torch.asin(((1.0 - cosine_B8).clamp(min=0.0) / 2.0).sqrt())
    ratio_B8 = 1.0 / torch.sinc(angle_B8 / math.pi)
    skew_B88 = (vectors_B88 * ratio_B8.unsqueeze(-2)) @ vectors_B88.mT @ (root_B88 - root_B88.mT)
    result_B88: Tensor = (skew_B88 - skew_B88.mT) / 2 + half_turns_B88
    return result_B88


class _SkewLog(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, rotation_B88: Tensor) -> Tensor:
        skew_B88 = _log_forward(rotation_B88.double())
        ctx.save_for_backward(skew_B88)
        return skew_B88.to(rotation_B88.dtype)

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> Tensor:
        (skew_B88,) = ctx.saved_tensors
        (grad_B88,) = grads
        # A = V diag(iω) Vᴴ, because −iA is Hermitian.
        omega_B8, v_B88 = torch.linalg.eigh(torch.complex(torch.zeros_like(skew_B88), -skew_B88))
        half_B88 = (omega_B8.unsqueeze(-1) - omega_B8.unsqueeze(-2)) / 2
        mean_B88 = (omega_B8.unsqueeze(-1) + omega_B8.unsqueeze(-2)) / 2
        # (log λ_i − log λ_j)/(λ_i − λ_j) for λ = exp(iω) is exp(−i mean) · half / sin(half).
        quotient_B88 = torch.polar(1.0 / torch.sinc(half_B88 / math.pi), -mean_B88)
        inner_B88 = v_B88.mH @ grad_B88.to(v_B88.dtype) @ v_B88
        result_B88: Tensor = (v_B88 @ (quotient_B88.conj() * inner_B88) @ v_B88.mH).real
        return result_B88.to(grad_B88.dtype)


def rotation_logarithm(rotation_B88: Tensor) -> Tensor:
    """log R as a skew matrix per block, every angle in [0, π]; computed in float64, differentiable.

    At the eigenvalue −1 the logarithm is not unique and one is chosen; its gradient is unbounded there.

    Args:
        rotation_B88: shape (B, 8, 8).

    Returns:
        Shape (B, 8, 8), the dtype of the input.

    Raises:
        SO8TError: a block is not orthogonal within 1e-3 or has determinant −1.
    """
    require_rotations(rotation_B88, _("The rotations"))
    skew_B88: Tensor = _SkewLog.apply(rotation_B88)  # type: ignore[no-untyped-call]
    return skew_B88


def matrices_to_generators(rotation_B88: Tensor) -> Tensor:
    """The generators (B, 28) of rotations (B, 8, 8) by the principal logarithm.

    Inverse of ``generators_to_matrices(theta, "exp")`` for angles below π.

    Raises:
        SO8TError: a block is not a rotation.
    """
    return generators_from_skew(rotation_logarithm(rotation_B88))
