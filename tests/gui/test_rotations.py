"""The block's readouts against scipy, and unreadable files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy.linalg import expm

from so8t_engine.errors import RunError
from so8t_gui.models.rotations import RotationBlocks


def so8(rng: np.random.Generator, scale: float) -> np.ndarray:
    upper = np.triu(rng.normal(0, scale, (8, 8)), 1)
    return expm(upper - upper.T)


def test_readouts_match_scipy_in_float64(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    safe = np.stack([so8(rng, 0.5) for _ in range(3)])
    cmd = np.stack([so8(rng, 0.5) for _ in range(3)])
    path = tmp_path / "r.safetensors"
    save_file({"r_safe": safe.astype(np.float32), "r_cmd": cmd.astype(np.float32)}, path)
    blocks = RotationBlocks.load(path)
    assert len(blocks) == 3
    read = blocks.read(2)
    np.testing.assert_allclose(read.total_88, cmd[2] @ safe[2], atol=1e-6)
    expected = np.linalg.norm(cmd[2] @ safe[2] - safe[2] @ cmd[2]) / (2 * np.sqrt(8))
    assert read.commutator == pytest.approx(expected, abs=1e-6)
    assert read.commutator > 0.05
    assert read.orthogonality < 1e-6
    assert read.determinant < 1e-5
    np.testing.assert_allclose(
        blocks.commutators_B(), [blocks.read(b).commutator for b in range(3)], rtol=1e-12
    )


def test_the_order_is_command_after_safety(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    safe, cmd = so8(rng, 1.0), so8(rng, 1.0)
    path = tmp_path / "r.safetensors"
    save_file({"r_safe": safe[None].astype(np.float32), "r_cmd": cmd[None].astype(np.float32)}, path)
    total = RotationBlocks.load(path).read(0).total_88
    assert np.abs(total - cmd @ safe).max() < 1e-5
    assert np.abs(total - safe @ cmd).max() > 0.1


def test_a_free_matrix_shows_its_orthogonality_error(tmp_path: Path) -> None:
    path = tmp_path / "r.safetensors"
    eye = np.eye(8, dtype=np.float32)[None]
    save_file({"r_safe": eye * np.float32(1.5), "r_cmd": eye.copy()}, path)
    assert RotationBlocks.load(path).read(0).orthogonality == pytest.approx(1.25)


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\xff" * 64])
def test_an_unreadable_file_is_an_error_with_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"broken\.safetensors"):
        RotationBlocks.load(path)


def test_a_missing_file_and_a_wrong_shape_are_errors(tmp_path: Path) -> None:
    with pytest.raises(RunError):
        RotationBlocks.load(tmp_path / "none.safetensors")
    path = tmp_path / "flat.safetensors"
    save_file({"r_safe": np.zeros((2, 8), np.float32), "r_cmd": np.zeros((2, 8), np.float32)}, path)
    with pytest.raises(RunError, match="shape"):
        RotationBlocks.load(path)
