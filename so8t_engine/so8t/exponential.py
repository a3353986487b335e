"""The exponential of skew 8×8 matrices, with a backward pass of two products for each of the forward's.

Scaling, a Taylor polynomial of degree 12 in four products (Bader, Blanes and Casas 2019, "Computing the
matrix exponential with an optimized Taylor polynomial approximation", Mathematics 7, 1174), and squaring.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

# Row k gives B_k = Σ_j c_kj A^j; with X = B_2 + B_3², Σ_{k ≤ 12} A^k/k! = B_0 + (B_1 + X) X up to a
# relative 2e-16 in each coefficient.
_COEFFICIENTS = (
    (9.0198e-16, 0.46932117595418237389, -0.20099424927047284052, -0.04623946134063071740),
    (5.31597895759871264183, 1.19926790417132231573, 0.01179296240992997031, 0.01108844528519167989),
    (0.18188869982170434744, 0.05502798439925399070, 0.09351590770535414968, 0.00610700528898058230),
    (-2.0861320e-13, -0.13181061013830184015, -0.02027855540589259079, -0.00675951846863086359),
)
# The remainder of degree 12 at this norm is 0.3^13/13! = 3e-17.
_RADIUS = 0.3


def skew_exponential(skew_B88: Tensor) -> Tensor:
    """exp(A) of skew matrices (…, 8, 8), differentiable once.

    Computed in float64 and returned in the dtype of the input. A skew A has ‖A‖₂ ≤ ‖A‖_F/√2, which bounds
    the scaling. Reads one number back from the device to choose the number of squarings.
    """
    flat_B88 = skew_B88.double().flatten(0, -3)
    rotation_B88: Tensor = _SkewExponential.apply(flat_B88)  # type: ignore[no-untyped-call]
    return rotation_B88.to(skew_B88.dtype).view_as(skew_B88)


def _squarings(skew_B88: Tensor) -> int:
    """An s ≥ 0 with ‖A‖₂ / 2^s < 0.3 for every block; 0 where a value is not finite."""
    if skew_B88.numel() == 0:
        return 0
    bound = math.sqrt(float(skew_B88.square().sum((-2, -1)).amax()) / 2.0)
    return max(0, math.frexp(bound / _RADIUS)[1]) if math.isfinite(bound) else 0


def _coefficients(like: Tensor) -> Tensor:
    return torch.tensor(_COEFFICIENTS, dtype=like.dtype, device=like.device)


class _SkewExponential(torch.autograd.Function):
    """Keeps the polynomial's powers, sums and factors and each square's root: 10 + s matrices a block."""

    @staticmethod
    def forward(ctx: Any, skew_B88: Tensor) -> Tensor:  # noqa: ANN401
        squarings = _squarings(skew_B88)
        powers_4B88 = skew_B88.new_empty((4, *skew_B88.shape))
        one_B88, a1_B88, a2_B88, a3_B88 = powers_4B88
        one_B88.copy_(torch.eye(one_B88.shape[-1], dtype=one_B88.dtype, device=one_B88.device))
        torch.mul(skew_B88, 2.0**-squarings, out=a1_B88)
        torch.bmm(a1_B88, a1_B88, out=a2_B88)
        torch.bmm(a2_B88, a1_B88, out=a3_B88)
        sums_4B88 = (_coefficients(skew_B88) @ powers_4B88.view(4, -1)).view_as(powers_4B88)
        inner_B88 = torch.baddbmm(sums_4B88[2], sums_4B88[3], sums_4B88[3])
        outer_B88 = sums_4B88[1] + inner_B88
        result_B88 = torch.baddbmm(sums_4B88[0], outer_B88, inner_B88)
        roots_B88 = []
        for _square in range(squarings):
            roots_B88.append(result_B88)
            result_B88 = torch.bmm(result_B88, result_B88)
        ctx.save_for_backward(powers_4B88, sums_4B88, inner_B88, outer_B88, *roots_B88)
        return result_B88

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ANN401
        powers_4B88, sums_4B88, inner_B88, outer_B88, *roots_B88 = ctx.saved_tensors
        (grad_B88,) = grads
        for root_B88 in reversed(roots_B88):
            grad_B88 = _square_gradient(grad_B88, root_B88)
        grad_sums_4B88 = torch.empty_like(sums_4B88)
        grad_sums_4B88[0] = grad_B88
        torch.bmm(grad_B88, inner_B88.mT, out=grad_sums_4B88[1])
        torch.baddbmm(grad_sums_4B88[1], outer_B88.mT, grad_B88, out=grad_sums_4B88[2])
        grad_sums_4B88[3] = _square_gradient(grad_sums_4B88[2], sums_4B88[3])
        grad_powers_4B88 = (_coefficients(grad_B88).T @ grad_sums_4B88.view(4, -1)).view_as(powers_4B88)
        _one, grad_a1_B88, grad_a2_B88, grad_a3_B88 = grad_powers_4B88
        _one_B88, a1_B88, a2_B88, _a3_B88 = powers_4B88
        grad_a2_B88.baddbmm_(grad_a3_B88, a1_B88.mT)
        grad_a1_B88.baddbmm_(a2_B88.mT, grad_a3_B88).add_(_square_gradient(grad_a2_B88, a1_B88))
        grad_skew_B88: Tensor = grad_a1_B88 * 2.0 ** -len(roots_B88)
        return grad_skew_B88


def _square_gradient(grad_B88: Tensor, root_B88: Tensor) -> Tensor:
    """The gradient of Q for that of Q Q."""
    return torch.bmm(grad_B88, root_B88.mT).baddbmm_(root_B88.mT, grad_B88)
