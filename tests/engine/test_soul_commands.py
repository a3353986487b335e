"""``so8t soul``: what is shown, written and refused."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.linalg import expm

from so8t_engine.cli import app
from so8t_engine.commands import soul as commands
from so8t_engine.errors import SO8TError
from so8t_engine.i18n import set_language
from so8t_engine.plain_text import visible
from so8t_engine.so8t.adapter import SO8TAdapter
from so8t_engine.so8t.rotation import generators_to_matrices
from so8t_engine.so8t.soul_file import Soul, load_soul, save_soul, soul_of
from so8t_engine.so8t.soul_pt import export_soul_pt, import_soul_pt
from tests.engine.command_line import so8t_forked, so8t_here

HIDDEN = 32


@pytest.fixture(autouse=True)
def _english() -> None:
    set_language("en")


def so8t(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "so8t_engine.cli", "soul", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=os.environ | {"SO8T_LANG": "en"},
        timeout=120,
    )


def make_soul(**options: Any) -> Soul:  # noqa: ANN401
    adapter = SO8TAdapter(HIDDEN, init_std=0.2, alpha_start=-1.25, seed=0, **options)
    return soul_of(adapter, step=120, pet={"weight": 0.05}, base_model="owner/model", config_digest="d1")


def rotation(blocks: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return generators_to_matrices(torch.randn(blocks, 28, generator=generator) * 0.3)


@pytest.fixture
def soul_file(tmp_path: Path) -> Path:
    path = tmp_path / "soul.safetensors"
    save_soul(path, make_soul())
    return path


def forged(path: Path, tensors: dict[str, torch.Tensor], **metadata: str) -> Path:
    """A soul file with a right checksum around any contents."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    save_file(tensors, path, {"schema_version": "1", "tensors_sha256": digest.hexdigest()} | metadata)
    return path


def skew(theta_28: np.ndarray) -> np.ndarray:
    matrix = np.zeros((8, 8))
    matrix[np.triu_indices(8, 1)] = theta_28
    return matrix - matrix.T


# Showing


def test_show_prints_what_scipy_computes(soul_file: Path) -> None:
    text, result = commands.show(soul_file)
    held = load_file(soul_file)
    safe = [expm(skew(row.double().numpy())) for row in held["theta_safe"]]
    cmd = [expm(skew(row.double().numpy())) for row in held["theta_cmd"]]
    norms = [np.linalg.norm(c @ s - s @ c) / (2 * math.sqrt(8)) for s, c in zip(safe, cmd, strict=True)]
    assert result["commutator_mean"] == pytest.approx(np.mean(norms), rel=1e-5)
    assert result["commutator_max"] == pytest.approx(np.max(norms), rel=1e-5)
    assert f"mean {np.mean(norms):.4g}, maximum {np.max(norms):.4g}" in text
    share = 100 / (1 + math.exp(1.25))
    assert f"{share:.2f} %" in text
    assert "-1.25 (scheduled)" in text
    lines = {" ".join(line.split()) for line in text.splitlines()}
    assert "Step 120" in lines
    assert f"safety_head.weight 2 × {HIDDEN}" in lines
    assert "base model owner/model" in lines
    assert "revision of the base model —" in lines
    assert "weight 0.05" in lines
    assert sum("4 blocks, max|RᵀR − I|" in line and "det 1.000000 to 1.000000" in line for line in lines) == 3


def test_a_learned_gate_is_called_so(tmp_path: Path) -> None:
    save_soul(tmp_path / "soul.safetensors", make_soul(gate_learned=True))
    assert "-1.25 (learned)" in commands.show(tmp_path / "soul.safetensors")[0]


def test_missing_values_are_dashes_and_null(tmp_path: Path) -> None:
    torch.save({"so8_rotation": rotation(1, 0)[0]}, tmp_path / "soul.pt")
    text, result = commands.show(tmp_path / "soul.pt")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for line in (
        "Step —",
        "α — (the file does not say whether learned or scheduled)",
        "g = σ(α) —",
        "Commutator (0 to 1) —",
        "R_safe —",
        "R_cmd —",
        "schema version —",
        "gate form —",
        "alpha: missing.",
        "so8_rotation: read, (8, 8) as 1 blocks.",
    ):
        assert line in lines
    assert lines[lines.index("Heads") + 1] == lines[lines.index("PET") + 1] == "—"
    assert result["alpha"] is result["gate"] is result["step"] is None
    assert "0.00" not in text


@pytest.mark.parametrize("shape", [(8, 8), (64,), (4, 8, 8)])
def test_each_known_layout_is_shown(shape: tuple[int, ...], tmp_path: Path) -> None:
    blocks = 4 if len(shape) == 3 else 1
    safe, cmd = rotation(blocks, 1), rotation(blocks, 2)
    parts = {"r_safe": safe, "r_cmd": cmd, "so8_rotation": cmd @ safe}
    content: dict[str, Any] = {name: matrix.reshape(shape) for name, matrix in parts.items()}
    heads = {"safety_head": torch.zeros(2, HIDDEN), "task_head": {"weight": torch.zeros(4, HIDDEN)}}
    torch.save(content | heads | {"alpha": 1.5, "step": 9, "pet": 0.3}, tmp_path / "any_name")
    text, result = commands.show(tmp_path / "any_name")
    assert result["rotations"]["r_total"]["blocks"] == blocks
    assert result["heads"] == {"safety_head.weight": [2, HIDDEN], "task_head.weight": [4, HIDDEN]}
    assert result["pet"] == {"value": 0.3}
    assert "r_safe, r_cmd: kept as generators of the rotation map exp." in text


def test_a_run_folder_means_its_final_soul(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "final").mkdir(parents=True)
    with pytest.raises(SO8TError) as caught:
        commands.show(run)
    assert str(run / "final" / "soul.safetensors") in caught.value.sentence
    assert caught.value.mend
    save_soul(run / "final" / "soul.safetensors", make_soul())
    assert commands.show(run)[1]["step"] == 120


def test_text_of_the_file_is_neither_markup_nor_control(tmp_path: Path) -> None:
    nasty = "[bold red]x[/] \x1b[2J\x07\u202eevil\nα  1.618 (learned)"
    path = forged(tmp_path / "soul.safetensors", {f"pet.{nasty}": torch.tensor(1.0)}, base_model=nasty)
    text, result = commands.show(path)
    assert result["metadata"]["base_model"] == nasty
    assert "[bold red]x[/]" in text
    assert "\\x1b[2J\\x07\\u202eevil\\n" in text
    assert not set("\x1b\x07\u202e") & set(text)
    assert all(not line.startswith("α  1.618") for line in text.splitlines())
    forged(path, {"alpha": torch.tensor(1.6)}, gate_source="converged!")
    assert "the file says 'converged!', which is neither learned nor scheduled" in commands.show(path)[0]


def test_visible_keeps_japanese_and_cuts() -> None:
    assert visible("重み α → φ") == "重み α → φ"
    assert visible("a\u2028b\ud800\x9b") == "a\\u2028b\\ud800\\x9b"
    assert visible("x" * 600) == "x" * 500 + "…"


# Export and import


def test_export_and_import_are_inverse_and_reported(soul_file: Path, tmp_path: Path) -> None:
    text, result = commands.export(soul_file, tmp_path / "soul.pt", force=False)
    assert "alpha: written." in result["report"]
    assert any("base model owner/model: soul.pt has no place" in line for line in result["report"])
    assert "alpha: written." in text
    text, result = commands.import_(tmp_path / "soul.pt", tmp_path / "back.safetensors", force=False)
    assert "alpha: read." in result["report"]
    before, after = load_soul(soul_file), load_soul(tmp_path / "back.safetensors")
    assert (after.alpha, after.step, after.pet) == (before.alpha, before.step, before.pet)
    assert after.theta_safe is not None
    assert before.theta_safe is not None
    assert float((after.theta_safe - before.theta_safe).abs().max()) <= 1e-5
    assert after.metadata.gate_source == ""
    assert after.metadata.schema_version == "2"


def test_export_says_what_was_missing(tmp_path: Path) -> None:
    save_soul(tmp_path / "soul.safetensors", Soul(alpha=0.5))
    report = commands.export(tmp_path / "soul.safetensors", tmp_path / "o.pt", force=False)[1]["report"]
    assert "r_safe: missing, written as None." in report
    assert torch.load(tmp_path / "o.pt", weights_only=True)["r_safe"] is None


def test_nothing_is_replaced_without_force(soul_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "soul.pt"
    out.write_bytes(b"precious")
    with pytest.raises(SO8TError, match="exists already") as caught:
        commands.export(soul_file, out, force=False)
    assert "--force" in caught.value.mend
    assert out.read_bytes() == b"precious"
    commands.export(soul_file, out, force=True)
    assert import_soul_pt(out).step == 120
    before = soul_file.read_bytes()
    with pytest.raises(SO8TError, match="exists already"):
        commands.import_(out, soul_file, force=False)
    assert soul_file.read_bytes() == before
    commands.import_(out, soul_file, force=True)
    assert load_soul(soul_file).step == 120


def test_a_source_that_cannot_be_read_leaves_the_target_even_with_force(tmp_path: Path) -> None:
    source, out = tmp_path / "soul.pt", tmp_path / "soul.safetensors"
    source.write_bytes(b"torn")
    out.write_bytes(b"precious")
    with pytest.raises(SO8TError):
        commands.import_(source, out, force=True)
    assert out.read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["soul.pt", "soul.safetensors"]


def test_targets_of_another_kind_are_refused(soul_file: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.pt").mkdir()
    for target, words in (("out.safetensors", "end in"), ("folder.pt", "is a folder")):
        with pytest.raises(SO8TError, match=words):
            commands.export(soul_file, tmp_path / target, force=True)
    blocked = tmp_path / "a_file"
    blocked.write_text("")
    with pytest.raises(SO8TError, match="cannot be written"):
        commands.export(soul_file, blocked / "soul.pt", force=False)


# What is refused

WRONG: dict[str, tuple[dict[str, torch.Tensor], dict[str, str], str]] = {
    "alpha of three": ({"alpha": torch.zeros(3)}, {}, "alpha"),
    "alpha not finite": ({"alpha": torch.tensor(math.nan)}, {}, "alpha"),
    "step negative": ({"step": torch.tensor(-1)}, {}, "step"),
    "step of two": ({"step": torch.tensor([1, 2])}, {}, "step"),
    "generators of 27": ({"theta_safe": torch.zeros(4, 27)}, {}, "theta_safe"),
    "no blocks": ({"theta_cmd": torch.zeros(0, 28)}, {}, "theta_cmd"),
    "whole numbers": ({"theta_cmd": torch.zeros(4, 28, dtype=torch.int64)}, {}, "theta_cmd"),
    "far too large": ({"theta_safe": torch.full((1, 28), 1e30)}, {}, "theta_safe"),
    "a product of 7": ({"total": torch.zeros(4, 7, 7)}, {}, "total"),
    "blocks differ": ({"theta_safe": torch.zeros(4, 28), "theta_cmd": torch.zeros(3, 28)}, {}, "theta_cmd"),
    "head of 3": ({"heads.safety_head.weight": torch.zeros(3, 32)}, {}, "heads.safety_head.weight"),
    "strange head": ({"heads.extra.weight": torch.zeros(2, 32)}, {}, "heads.extra.weight"),
    "pet of two": ({"pet.loss": torch.zeros(2)}, {}, "pet.loss"),
    "strange map": ({"theta_safe": torch.zeros(4, 28)}, {"rotation_map": "neumann"}, "neumann"),
    "strange version": ({}, {"schema_version": "²"}, "schema version"),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_wrong_contents_name_file_and_field(name: str, tmp_path: Path) -> None:
    tensors, metadata, field = WRONG[name]
    path = forged(tmp_path / "soul.safetensors", tensors or {"alpha": torch.zeros(1)}, **metadata)
    for attempt in (
        lambda: commands.show(path),
        lambda: commands.export(path, tmp_path / "soul.pt", force=False),
    ):
        with pytest.raises(SO8TError) as caught:
            attempt()
        assert str(path) in caught.value.sentence
        assert field in caught.value.sentence
        assert caught.value.mend
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("step", 1.5),
        ("step", -1),
        ("step", 10**400),
        ("pet", {"loss": "high"}),
        ("pet", math.inf),
        ("so8_rotation", torch.eye(8).to_sparse()),
        ("so8_rotation", torch.eye(8).expand(2**20, 8, 8)),
        ("safety_head", {"weight": torch.zeros(2, 32, dtype=torch.int64)}),
    ],
)
def test_wrong_contents_of_a_soul_pt_name_file_and_field(key: str, value: object, tmp_path: Path) -> None:
    path = tmp_path / "soul.pt"
    torch.save({"alpha": 0.0, key: value}, path)
    with pytest.raises(SO8TError) as caught:
        commands.import_(path, tmp_path / "soul.safetensors", force=False)
    assert str(path) in caught.value.sentence
    assert key in caught.value.sentence
    assert caught.value.mend
    assert list(tmp_path.iterdir()) == [path]


def _new(path: Path) -> None:
    export_soul_pt(path, make_soul())


def _legacy(path: Path) -> None:
    content = torch.load(path.with_name("new.pt"), weights_only=True)
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("x.pt", _new),
        ("legacy.pt", _legacy),
        ("x.safetensors", lambda path: save_soul(path, make_soul())),
    ],
)
def test_damaged_files_are_read_or_refused_and_never_break(
    name: str, make: Callable[[Path], object], tmp_path: Path
) -> None:
    _new(tmp_path / "new.pt")
    whole = tmp_path / name
    make(whole)
    data = whole.read_bytes()
    chance = random.Random(1)
    refused: list[SO8TError] = []
    for number in range(300):
        damaged = bytearray(data)
        if number % 3 == 0:
            del damaged[chance.randrange(len(data)) :]
        else:
            # Most of the bytes that mean something stand at the beginning.
            damaged[chance.randrange(min(2500, len(data)))] = chance.randrange(256)
        whole.write_bytes(damaged)
        try:
            json.dumps(commands.show(whole)[1], allow_nan=False)
        except SO8TError as error:
            refused.append(error)
    assert len(refused) >= 100
    assert all(str(whole) in error.sentence and error.mend for error in refused)


# Real processes


class _MakesAFile:
    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return (os.open, ("RAN", os.O_CREAT | os.O_WRONLY))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_is_not_run(zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"alpha": _MakesAFile()}, tmp_path / "soul.pt", _use_new_zipfile_serialization=zipped)
    for arguments in (["show", "soul.pt", "--json"], ["import", "soul.pt", "out.safetensors", "--json"]):
        done = (so8t_forked if zipped else so8t_here)("soul", *arguments, cwd=tmp_path)
        assert done.returncode == 1, done.stderr
        assert f"soul.pt cannot be read safely: it asks for {os.name}.open" in done.stderr
        assert "Traceback" not in done.stderr
        error = json.loads(done.stdout)["error"]
        assert error["sentence"].count("\n") == 0
        assert error["mend"]
        assert [path.name for path in tmp_path.iterdir()] == ["soul.pt"]
    # The proof that the file would have done it.
    monkeypatch.chdir(tmp_path)
    torch.load(tmp_path / "soul.pt", weights_only=False)
    assert (tmp_path / "RAN").exists()


def test_bad_arguments_are_a_sentence_and_exit_1(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn.safetensors").write_bytes(b"\x10")
    for file, words in (("gone.pt", "no file gone.pt"), ("empty", "final"), ("torn.safetensors", "torn")):
        done = so8t_here("soul", "show", file, cwd=tmp_path)
        assert done.returncode == 1
        assert done.stdout == ""
        assert words in done.stderr
        assert "Traceback" not in done.stderr
    assert so8t_here("soul", "show", cwd=tmp_path).returncode == 2


def test_show_prints_one_json_object(soul_file: Path, tmp_path: Path) -> None:
    done = so8t("show", soul_file.name, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["step"], result["alpha"], result["alpha_source"]) == (120, -1.25, "scheduled")


def test_help_needs_no_torch(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from so8t_engine.cli import app\n"
        "import so8t_engine.commands.soul, so8t_engine.commands.soul_text\n"
        "try: app(['soul', '--help'])\n"
        "except SystemExit as e: assert not e.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in ("show", "export", "import"))


def test_the_commands_are_registered() -> None:
    groups = {group.name: group.typer_instance for group in app.registered_groups}
    soul = groups["soul"]
    assert soul is not None
    assert {command.name for command in soul.registered_commands} == {"show", "export", "import"}
