"""The rotation blocks of a snapshot, and the readouts of one block.

Float64 for display: M's own product must not add to the error that is being shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from so8t_engine.errors import RunError
from so8t_engine.i18n import _

Block = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BlockReadout:
    """One block of 8 channels.

    Attributes:
        safe_88, cmd_88, total_88: R_safe, R_cmd and M = R_cmd R_safe (safety acts first).
        commutator: ‖R_cmd R_safe − R_safe R_cmd‖_F / (2√8), in [0, 1].
        orthogonality: largest |RᵀR − I| over the three. determinant: largest |det − 1| over the three.
    """

    safe_88: Block
    cmd_88: Block
    total_88: Block
    commutator: float
    orthogonality: float
    determinant: float


@dataclass(frozen=True, slots=True)
class RotationBlocks:
    """All blocks of one snapshot: ``safe_B88`` and ``cmd_B88``, float32 as stored."""

    safe_B88: npt.NDArray[np.float32]  # noqa: N815  (the shape)
    cmd_B88: npt.NDArray[np.float32]  # noqa: N815

    @classmethod
    def load(cls, path: Path) -> RotationBlocks:
        """Read a snapshot. Raises `RunError` where it is missing or no pair of (B, 8, 8) tensors."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            tensors = load_file(path)
            safe, cmd = tensors["r_safe"], tensors["r_cmd"]
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise RunError(
                _("The rotations in %(path)s cannot be read.") % {"path": str(path)},
                _("Choose another snapshot."),
            ) from error
        if safe.shape != cmd.shape or safe.ndim != 3 or safe.shape[1:] != (8, 8) or not len(safe):
            raise RunError(
                _("The rotations in %(path)s have the shape %(shape)s instead of (blocks, 8, 8).")
                % {"path": str(path), "shape": str(safe.shape)}
            )
        return cls(safe, cmd)

    def __len__(self) -> int:
        return int(self.safe_B88.shape[0])

    def read(self, block: int) -> BlockReadout:
        """The block's matrices and readouts."""
        safe = self.safe_B88[block].astype(np.float64)
        cmd = self.cmd_B88[block].astype(np.float64)
        total = cmd @ safe
        commutator = float(np.linalg.norm(total - safe @ cmd) / (2 * np.sqrt(8)))
        error = max(float(np.abs(r.T @ r - np.eye(8)).max()) for r in (safe, cmd, total))
        volume = max(abs(float(np.linalg.det(r)) - 1.0) for r in (safe, cmd, total))
        return BlockReadout(safe, cmd, total, commutator, error, volume)

    def commutators_B(self) -> npt.NDArray[np.float64]:
        """Every block's commutator, shape (B,)."""
        safe = self.safe_B88.astype(np.float64)
        cmd = self.cmd_B88.astype(np.float64)
        difference = cmd @ safe - safe @ cmd
        norms: npt.NDArray[np.float64] = np.linalg.norm(difference, axis=(1, 2)) / (2 * np.sqrt(8))
        return norms
