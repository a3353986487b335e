"""Instruments of stored rotations in NumPy float64, for readers that load no torch.

The definitions are those of `so8t_engine.so8t.rotation`; a test holds both against each other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from so8t_engine.errors import RunError
from so8t_engine.i18n import _

Blocks = npt.NDArray[np.float64]
_STEP = re.compile(r"step-(\d{8})\.safetensors\Z")
_ROWS, _COLUMNS = np.triu_indices(8, 1)


@dataclass(frozen=True, slots=True)
class RotationSet:
    """R_safe and R_cmd of every block, float64, each (B, 8, 8), and the step they are from if it is known."""

    safe_B88: Blocks  # noqa: N815  (the shape)
    cmd_B88: Blocks  # noqa: N815
    step: int | None = None

    @property
    def total_B88(self) -> Blocks:  # noqa: N802
        """M = R_cmd R_safe: safety acts first."""
        return self.cmd_B88 @ self.safe_B88

    def __len__(self) -> int:
        return len(self.safe_B88)


def rotations_of(theta_B28: Blocks, rotation_map: str = "exp") -> Blocks:
    """R = exp(A), or the Cayley map (I − A/2)⁻¹ (I + A/2), of generators (B, 28) in lexicographic order.

    The exponential is taken through the eigenvectors of the Hermitian iA: exact, and orthogonal to rounding.
    """
    skew_B88 = np.zeros((len(theta_B28), 8, 8))
    skew_B88[:, _ROWS, _COLUMNS] = theta_B28
    skew_B88[:, _COLUMNS, _ROWS] = -theta_B28
    if rotation_map == "cayley":
        identity_88 = np.eye(8)
        return np.asarray(np.linalg.solve(identity_88 - skew_B88 / 2, identity_88 + skew_B88 / 2), np.float64)
    values_B8, vectors_B88 = np.linalg.eigh(1j * skew_B88)
    phases_B18 = np.exp(-1j * values_B8)[:, None, :]
    return np.real((vectors_B88 * phases_B18) @ np.conj(np.swapaxes(vectors_B88, 1, 2)))


def commutators(rotations: RotationSet) -> npt.NDArray[np.float64]:
    """‖R_cmd R_safe − R_safe R_cmd‖_F / (2√8) of each block, shape (B,), in [0, 1]."""
    difference_B88 = rotations.total_B88 - rotations.safe_B88 @ rotations.cmd_B88
    norms_B: npt.NDArray[np.float64] = np.linalg.norm(difference_B88, axis=(1, 2)) / (2 * np.sqrt(8))
    return norms_B


def eigen_angles(rotation_B88: Blocks) -> npt.NDArray[np.float64]:
    """The four planes' angles of each block, shape (B, 4), radians in [0, π], descending.

    The eigenvalues of a rotation in SO(8) are e^{±iφ} in four pairs.
    """
    angles_B8 = np.sort(np.abs(np.angle(np.linalg.eigvals(rotation_B88))), axis=1)[:, ::-1]
    pairs_B4: npt.NDArray[np.float64] = angles_B8[:, ::2]
    return pairs_B4


def drift(rotation_B88: Blocks, start_B88: Blocks) -> npt.NDArray[np.float64]:
    """‖R − R₀‖_F / (2√8) of each block, shape (B,): 0 where nothing moved, 1 for R = −R₀."""
    norms_B: npt.NDArray[np.float64] = np.linalg.norm(rotation_B88 - start_B88, axis=(1, 2)) / (
        2 * np.sqrt(8)
    )
    return norms_B


def load_rotations(path: Path) -> RotationSet:
    """A snapshot of a run (``r_safe``, ``r_cmd``) or a soul file (``theta_safe``, ``theta_cmd``).

    Raises:
        RunError: it is neither, or not readable.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            names = set(file.keys())
            metadata = file.metadata() or {}
            kind = "r" if {"r_safe", "r_cmd"} <= names else "theta"
            safe, cmd = (
                np.asarray(file.get_tensor(f"{kind}_{part}"), np.float64) for part in ("safe", "cmd")
            )
            step = int(file.get_tensor("step")) if "step" in names else None
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise RunError(
            _("%(path)s holds no rotations.") % {"path": str(path)},
            _("Choose a run folder, a snapshot of its rotations, or a soul.safetensors."),
        ) from error
    if safe.shape == cmd.shape and safe.ndim == 2 and safe.shape[1] == 28:
        form = metadata.get("rotation_map", "exp")
        safe, cmd = rotations_of(safe, form), rotations_of(cmd, form)
    if safe.shape != cmd.shape or safe.ndim != 3 or safe.shape[1:] != (8, 8) or not len(safe):
        raise RunError(
            _("The rotations in %(path)s have the shape %(shape)s instead of (blocks, 8, 8).")
            % {"path": str(path), "shape": str(safe.shape)}
        )
    if not (np.isfinite(safe).all() and np.isfinite(cmd).all()):
        raise RunError(_("The rotations in %(path)s are not all numbers.") % {"path": str(path)})
    match = _STEP.search(path.name)
    return RotationSet(safe, cmd, int(match[1]) if match else step)


def stored_rotations(path: Path) -> list[Path]:
    """The files to look through: a run's snapshots in the order of their steps, or the one file.

    Raises:
        RunError: there are none.
    """
    if path.is_file():
        return [path]
    found = sorted(
        file for file in (path / "rotations").glob("step-*.safetensors") if _STEP.search(file.name)
    )
    if not found and (path / "final" / "soul.safetensors").is_file():
        found = [path / "final" / "soul.safetensors"]
    if not found:
        raise RunError(
            _("%(path)s holds no rotations.") % {"path": str(path)},
            _("Choose a run folder, a snapshot of its rotations, or a soul.safetensors."),
        )
    return found
