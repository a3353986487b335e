"""NumPy's instruments of stored rotations against torch's and SciPy's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from safetensors.torch import save_file

from so8t_engine.errors import RunError
from so8t_engine.so8t import rotation
from so8t_engine.so8t.adapter import SO8TAdapter
from so8t_engine.so8t.inspection import (
    RotationSet,
    commutators,
    drift,
    eigen_angles,
    load_rotations,
    rotations_of,
    stored_rotations,
)
from so8t_engine.so8t.soul_file import save_soul, soul_of


def thetas(size: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(5, 28)) * size


@pytest.mark.parametrize("size", [1e-9, 0.02, 1.0, 5.0])
def test_the_exponential_is_scipys_and_the_cayley_map_is_torchs(size: float) -> None:
    theta = thetas(size)
    skew = rotation.skew_from_generators(torch.tensor(theta)).numpy()
    wanted = np.stack([scipy.linalg.expm(one) for one in skew])
    assert np.abs(rotations_of(theta) - wanted).max() < 1e-11
    cayley = rotation.skew_cayley(torch.tensor(skew)).numpy()
    assert np.abs(rotations_of(theta, "cayley") - cayley).max() < 1e-11


def test_commutator_and_angles() -> None:
    safe, cmd = rotations_of(thetas(0.5)), rotations_of(thetas(0.7, 1))
    wanted = rotation.commutator_norm(torch.tensor(cmd), torch.tensor(safe)).numpy()
    assert np.abs(commutators(RotationSet(safe, cmd)) - wanted).max() < 1e-12
    angles = np.array([[2.5, 1.0, 0.3, 0.0]])
    planes = np.zeros((1, 28))
    for index, angle in zip((0, 13, 22, 27), angles[0], strict=True):  # the planes (0,1), (2,3), (4,5), (6,7)
        planes[0, index] = angle
    assert np.abs(eigen_angles(rotations_of(planes)) - angles).max() < 1e-9
    assert drift(safe, safe).max() == 0
    assert np.allclose(drift(safe, -safe), 1.0)


def test_a_soul_file_and_a_snapshot_give_the_adapters_rotations(tmp_path: Path) -> None:
    adapter = SO8TAdapter(40, rotation_map="cayley", init_std=0.4)
    built = adapter.build_rotations()
    save_soul(
        tmp_path / "soul.safetensors",
        soul_of(
            adapter, step=7, base_model="x", base_revision="", config_digest="", placement="final_hidden"
        ),
    )
    snapshot = tmp_path / "rotations" / "step-00000012.safetensors"
    snapshot.parent.mkdir()
    pair = {"r_safe": built.safe_B88.detach(), "r_cmd": built.cmd_B88.detach()}
    save_file({name: value.contiguous() for name, value in pair.items()}, snapshot)
    for path, step in ((tmp_path / "soul.safetensors", 7), (snapshot, 12)):
        found = load_rotations(path)
        assert found.step == step
        assert np.abs(found.total_B88 - built.total_B88.detach().numpy()).max() < 1e-5
    assert stored_rotations(tmp_path) == [snapshot]
    (tmp_path / "no.safetensors").write_bytes(b"no")
    with pytest.raises(RunError):
        load_rotations(tmp_path / "no.safetensors")
    with pytest.raises(RunError):
        stored_rotations(tmp_path / "rotations")
