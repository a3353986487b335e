"""Soul files: round trips, damage, historical layouts, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from so8t_engine.errors import SO8TError
from so8t_engine.so8t.adapter import SO8TAdapter
from so8t_engine.so8t.rotation import generators_to_matrices
from so8t_engine.so8t.soul_file import Soul, load_into, load_soul, save_soul, soul_of, write_atomically
from so8t_engine.so8t.soul_pt import KEYS, export_soul_pt, import_soul_pt
from so8t_engine.so8t.soul_summary import soul_summary

HIDDEN = 32


def _adapter(seed: int = 0, **options: Any) -> SO8TAdapter:  # noqa: ANN401
    return SO8TAdapter(HIDDEN, init_std=0.2, alpha_start=-1.25, seed=seed, **options)


def _soul() -> Soul:
    return soul_of(
        _adapter(),
        step=120,
        pet={"weight": 0.05, "loss": 0.31},
        base_model="microsoft/Phi-3.5-mini-instruct",
        base_revision="abc",
        config_digest="sha256:1",
    )


def _rotations(blocks: int = 4, seed: int = 0) -> Tensor:
    theta_B28 = torch.randn(blocks, 28, generator=torch.Generator().manual_seed(seed)) * 0.3
    return generators_to_matrices(theta_B28)


@pytest.mark.parametrize("rotation_map", ["exp", "cayley", "free"])
def test_a_round_trip_restores_the_adapter_bit_for_bit(rotation_map: str, tmp_path: Path) -> None:
    adapter = _adapter(rotation_map=rotation_map, gate_learned=True)
    path = tmp_path / "soul.safetensors"
    save_soul(path, soul_of(adapter, step=7, pet={"loss": 0.25}))
    other = _adapter(seed=5, rotation_map=rotation_map, gate_learned=True)
    soul = load_soul(path)
    load_into(other, soul)
    assert all(torch.equal(a, b) for a, b in zip(adapter.parameters(), other.parameters(), strict=True))
    assert (soul.step, soul.alpha, soul.pet, soul.report) == (7, -1.25, {"loss": 0.25}, [])


def test_the_same_soul_gives_the_same_bytes(tmp_path: Path) -> None:
    """The library writes metadata in an order of its own, another each time."""
    digests = {save_soul(tmp_path / f"{n}.safetensors", _soul()) for n in range(12)}
    assert len(digests) == 1
    with safe_open(tmp_path / "0.safetensors", framework="pt") as file:
        assert list(file.metadata())
        assert file.get_tensor("step").item() == 120


def test_the_file_names_what_it_belongs_to(tmp_path: Path) -> None:
    save_soul(tmp_path / "soul.safetensors", _soul())
    metadata = load_soul(tmp_path / "soul.safetensors").metadata
    assert metadata == _soul().metadata
    assert (metadata.schema_version, metadata.gate_form, metadata.gate_source) == (
        "2",
        "residual",
        "scheduled",
    )
    assert (metadata.placement, metadata.rotation_map) == ("final_hidden", "exp")


def test_saving_does_not_share_memory_with_the_adapter() -> None:
    adapter = _adapter()
    soul = soul_of(adapter, step=0)
    before = soul.theta_safe.clone() if soul.theta_safe is not None else None
    with torch.no_grad():
        adapter.theta_safe.add_(1.0)
    assert before is not None
    assert soul.theta_safe is not None
    assert torch.equal(soul.theta_safe, before)


def test_every_single_flipped_payload_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "soul.safetensors"
    save_soul(path, Soul(alpha=0.5, step=3, theta_safe=torch.randn(1, 28), theta_cmd=torch.randn(1, 28)))
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    for position in range(header, len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(SO8TError, match="damaged"):
            load_soul(path)
    path.write_bytes(data[:-1])
    with pytest.raises(SO8TError, match="cannot be read"):
        load_soul(path)


def test_files_of_other_programs_and_versions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "soul.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(SO8TError, match="schema version"):
        load_soul(path)
    save_file({"x": torch.zeros(1)}, path, metadata={"schema_version": "99"})
    with pytest.raises(SO8TError, match="schema version"):
        load_soul(path)
    with pytest.raises(SO8TError, match="cannot be read"):
        load_soul(tmp_path / "missing.safetensors")


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "soul.safetensors"
    save_soul(path, _soul())
    before = path.read_bytes()

    def interrupted(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        write_atomically(path, interrupted)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["soul.safetensors"]  # noqa: PTH208


def test_an_adapter_of_another_shape_or_form_is_refused_and_unchanged(tmp_path: Path) -> None:
    for other in (SO8TAdapter(64), _adapter(rotation_map="cayley"), _adapter(gate_form="additive")):
        before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
        with pytest.raises(SO8TError) as caught:
            load_into(other, _soul())
        assert caught.value.mend
        assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


def test_soul_pt_has_the_historical_keys_and_reads_back(tmp_path: Path) -> None:
    path, soul = tmp_path / "soul.pt", _soul()
    export_soul_pt(path, soul)
    content = torch.load(path, weights_only=True)
    assert tuple(content) == KEYS
    assert torch.allclose(content["so8_rotation"], content["r_cmd"] @ content["r_safe"], atol=1e-6)
    back = import_soul_pt(path)
    assert (back.alpha, back.step, back.pet) == (soul.alpha, soul.step, soul.pet)
    assert back.theta_safe is not None
    assert soul.theta_safe is not None
    assert float((back.theta_safe - soul.theta_safe).abs().max()) <= 1e-5
    assert back.heads.keys() == soul.heads.keys()
    assert all(torch.equal(back.heads[name], soul.heads[name]) for name in soul.heads)
    adapter = _adapter(seed=8)
    load_into(adapter, back)
    assert float((adapter.build_rotations().total_B88.detach() - content["so8_rotation"]).abs().max()) <= 1e-5


@pytest.mark.parametrize("shape", [(8, 8), (64,), (4, 8, 8)])
def test_the_oldest_layout_is_read_and_reported(shape: tuple[int, ...], tmp_path: Path) -> None:
    blocks = 4 if len(shape) == 3 else 1
    matrix = _rotations(blocks).reshape(shape)
    alpha = torch.nn.Parameter(torch.tensor(1.6))
    torch.save({"alpha": alpha, "so8_rotation": matrix, "step": 500, "epoch": 3}, tmp_path / "soul.pt")
    soul = import_soul_pt(tmp_path / "soul.pt")
    assert soul.alpha == pytest.approx(1.6)
    assert soul.step == 500
    assert soul.total_B88 is not None
    assert torch.equal(soul.total_B88.reshape(shape), matrix)
    assert soul.theta_safe is None
    assert soul.theta_cmd is None
    assert soul.heads == {}
    assert any(line.startswith("so8_rotation: read") for line in soul.report)
    assert "r_safe: missing." in soul.report
    assert "epoch: not known, not read." in soul.report
    with pytest.raises(SO8TError, match="not R_safe and R_cmd"):
        load_into(_adapter(), soul)


def test_one_rotation_for_the_whole_model_is_repeated_only_when_asked(tmp_path: Path) -> None:
    safe, cmd = _rotations(1, 1)[0], _rotations(1, 2)[0]
    torch.save({"alpha": 0.0, "r_safe": safe, "r_cmd": cmd, "step": 1}, tmp_path / "soul.pt")
    soul, adapter = import_soul_pt(tmp_path / "soul.pt"), _adapter()
    with pytest.raises(SO8TError, match="shape"):
        load_into(adapter, soul)
    load_into(adapter, soul, repeat=True)
    assert float((adapter.build_rotations().total_B88.detach() - cmd @ safe).abs().max()) <= 1e-5


def test_a_product_in_the_swapped_order_is_reported_and_not_used(tmp_path: Path) -> None:
    safe, cmd = _rotations(4, 1), _rotations(4, 2)
    content = {"alpha": 0.0, "so8_rotation": safe @ cmd, "r_safe": safe, "r_cmd": cmd, "step": 1}
    torch.save(content, tmp_path / "soul.pt")
    soul = import_soul_pt(tmp_path / "soul.pt")
    assert any("swapped order" in line for line in soul.report)
    total = soul.rotation("total")
    assert total is not None
    assert float((total - cmd @ safe).abs().max()) <= 1e-5
    torch.save(content | {"so8_rotation": cmd @ safe}, tmp_path / "soul.pt")
    assert not any(
        "product" in line or "swapped" in line for line in import_soul_pt(tmp_path / "soul.pt").report
    )


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("so8_rotation", torch.randn(8, 8), "not a rotation"),
        ("so8_rotation", torch.nn.functional.normalize(torch.randn(4, 8, 8), dim=-1), "not a rotation"),
        ("so8_rotation", torch.eye(8)[[1, 0, 2, 3, 4, 5, 6, 7]], "not a rotation"),
        ("so8_rotation", torch.full((8, 8), float("nan")), "not a rotation"),
        ("so8_rotation", torch.eye(4), "shape"),
        ("so8_rotation", "text", "shape"),
        ("alpha", "text", "not a finite number"),
        ("alpha", float("nan"), "not a finite number"),
        ("alpha", torch.zeros(3), "not a finite number"),
        ("safety_head", {"weight": torch.zeros(3, 32)}, "linear layer with 2 outputs"),
        ("task_head", torch.zeros(2, 32), "linear layer with 4 outputs"),
        ("dual_heads", 7, "linear layer"),
    ],
)
def test_wrong_contents_are_refused(key: str, value: object, words: str, tmp_path: Path) -> None:
    torch.save({"alpha": 0.0, "step": 1, key: value}, tmp_path / "soul.pt")
    with pytest.raises(SO8TError, match=words) as caught:
        import_soul_pt(tmp_path / "soul.pt")
    assert caught.value.mend


class _RunsCode:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, ("RAN",))


def test_a_file_that_would_run_code_is_refused_unrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"alpha": _RunsCode()}, tmp_path / "soul.pt")
    with pytest.raises(SO8TError, match="safely"):
        import_soul_pt(tmp_path / "soul.pt")
    assert not (tmp_path / "RAN").exists()


def test_other_files_are_refused_as_souls(tmp_path: Path) -> None:
    path = tmp_path / "soul.pt"
    for content, words in ((b"", "safely"), (b"not a zip", "safely")):
        path.write_bytes(content)
        with pytest.raises(SO8TError, match=words):
            import_soul_pt(path)
    torch.save([1, 2], path)
    with pytest.raises(SO8TError, match="holds a list"):
        import_soul_pt(path)
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(SO8TError, match="none of the keys"):
        import_soul_pt(path)
    with pytest.raises(SO8TError, match="safely"):
        import_soul_pt(tmp_path / "missing.pt")


def test_the_summary_is_plain_and_leaves_missing_values_missing(tmp_path: Path) -> None:
    soul = _soul()
    summary = json.loads(json.dumps(soul_summary(soul)))
    adapter = _adapter()
    instruments = adapter.instruments()
    assert summary["commutator_mean"] == pytest.approx(instruments["commutator_mean"], rel=1e-6)
    assert summary["gate"] == pytest.approx(float(adapter.gate), rel=1e-6)
    assert summary["alpha_source"] == "scheduled"
    assert summary["rotations"]["r_total"]["blocks"] == 4
    torch.save({"so8_rotation": _rotations(4)}, tmp_path / "soul.pt")
    old = soul_summary(import_soul_pt(tmp_path / "soul.pt"))
    assert old["alpha"] is old["gate"] is old["step"] is old["commutator_mean"] is old["alpha_source"] is None
    assert isinstance(old["rotations"], dict)
    assert old["rotations"]["r_safe"] is None
    assert old["rotations"]["r_total"]["orthogonality_max"] <= 2e-6
