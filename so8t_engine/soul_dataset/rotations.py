"""Rotations in SO(8) with NumPy, in float64, for data that needs no torch.

The same conventions as `so8t_engine.so8t.rotation`: y = R x, θ fills the strict upper triangle in the
order (0,1), (0,2) … (6,7).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

BLOCK = 8
GENERATORS = 28
Floats = NDArray[np.float64]
_ROWS, _COLUMNS = np.triu_indices(BLOCK, k=1)


def skew_from_generators(theta_N28: Floats) -> Floats:
    """A (N, 8, 8) with A[i,j] = θ_k and A[j,i] = −θ_k for i < j."""
    skew_N88 = np.zeros((len(theta_N28), BLOCK, BLOCK))
    skew_N88[:, _ROWS, _COLUMNS] = theta_N28
    skew_N88[:, _COLUMNS, _ROWS] = -theta_N28
    return skew_N88


def skew_exponential(skew_N88: Floats) -> Floats:
    """exp(A) of skew matrices (N, 8, 8): iA is Hermitian, iA = V Λ V*, hence exp(A) = V exp(−iΛ) V*.

    Exact up to rounding for every norm, because the eigenvectors of a Hermitian matrix are unitary.
    """
    angles_N8, vectors_N88 = np.linalg.eigh(1j * skew_N88)
    turned_N88 = vectors_N88 * np.exp(-1j * angles_N8)[:, None, :]
    rotation_N88: Floats = np.ascontiguousarray((turned_N88 @ vectors_N88.conj().swapaxes(-1, -2)).real)
    return rotation_N88


def haar_rotations(generator: np.random.Generator, count: int) -> Floats:
    """``count`` rotations uniform over SO(8): QR of Gaussian matrices with the signs of R's diagonal
    (Mezzadri 2007), one column turned where the determinant is −1."""
    q_N88, r_N88 = np.linalg.qr(generator.standard_normal((count, BLOCK, BLOCK)))
    q_N88 = q_N88 * np.sign(np.diagonal(r_N88, axis1=-2, axis2=-1))[:, None, :]
    q_N88[:, :, 0] *= np.linalg.det(q_N88)[:, None].round()
    rotation_N88: Floats = q_N88
    return rotation_N88


def commutator_norm(cmd_N88: Floats, safe_N88: Floats) -> Floats:
    """c = ‖R_cmd R_safe − R_safe R_cmd‖_F / (2√8) per record, (N,), in [0, 1] for rotations."""
    difference_N88 = cmd_N88 @ safe_N88 - safe_N88 @ cmd_N88
    norm_N: Floats = np.linalg.norm(difference_N88, axis=(-2, -1)) / (2.0 * math.sqrt(BLOCK))
    return norm_N


def orthogonality_error(rotation_N88: NDArray[np.floating]) -> Floats:
    """max|RᵀR − I| per record, (N,), of the matrices as they are stored, computed in float64."""
    wide_N88 = rotation_N88.astype(np.float64)
    error_N: Floats = np.abs(wide_N88.swapaxes(-1, -2) @ wide_N88 - np.eye(BLOCK)).max(axis=(-2, -1))
    return error_N
