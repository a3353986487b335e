"""Files made to do harm: each is refused with a sentence, and what it wants to run is not run."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from so8t_engine.config import Config, load_config
from so8t_engine.config.sections import ModelConfig
from so8t_engine.data.reader import has_split, read_rows
from so8t_engine.errors import ConfigError, DataError, ModelError, RunError, SO8TError
from so8t_engine.model.finished import load_finished
from so8t_engine.model.inspection import check_safetensors
from so8t_engine.model.loading import load_base, load_tokenizer
from so8t_engine.model.source import model_source
from so8t_engine.safe_paths import inside, is_hub_id
from so8t_engine.so8t.soul_file import load_soul
from so8t_engine.so8t.soul_pt import import_soul_pt
from so8t_engine.training.checkpoint import publish_folder, verify_folder
from so8t_engine.training.preflight import preflight

Make = Callable[..., Config]
CLIMBING = ["../x", "a/../../x", "/etc/passwd", "..\\x", "C:\\x", "C:x", "\\\\host\\share\\x", "", "a\x00b"]


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Any, ...]]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "the payload ran"


def _pickles(marker: Path) -> list[bytes]:
    """A payload as a bare pickle of several protocols, and inside torch's own formats."""
    found = [pickle.dumps(Payload(marker), protocol) for protocol in (0, 2, 4)]
    for zipped in (True, False):
        buffer = io.BytesIO()
        content = {"alpha": 1.0, "step": 1, "so8_rotation": torch.eye(8), "pet": Payload(marker)}
        torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
        found.append(buffer.getvalue())
    return found


def test_the_payload_works_where_nothing_stops_it(marker: Path) -> None:
    pickle.loads(_pickles(marker)[0])  # noqa: S301  (the proof that the other tests test something)
    assert marker.is_dir()


@pytest.mark.parametrize("number", range(5))
def test_a_soul_with_a_payload_is_refused(tmp_path: Path, marker: Path, number: int) -> None:
    file = tmp_path / "soul.pt"
    file.write_bytes(_pickles(marker)[number])
    with pytest.raises(SO8TError, match="cannot be read safely"):
        import_soul_pt(file)
    renamed = tmp_path / "soul.safetensors"
    shutil.copy(file, renamed)
    with pytest.raises(SO8TError):
        load_soul(renamed)
    assert not marker.exists()


def _model_folder(tiny_model: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    return folder


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "model.ckpt"])
def test_pickled_weights_are_refused_before_a_run_begins(
    tiny_config: Make, tiny_model: Path, tmp_path: Path, marker: Path, name: str
) -> None:
    folder = _model_folder(tiny_model, tmp_path)
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(_pickles(marker)[3])
    with pytest.raises(ModelError, match="is a pickle"):
        preflight(tiny_config(model={"path": str(folder)}))
    with pytest.raises(ModelError, match="is a pickle"):
        load_base(ModelConfig(path=str(folder), device="cpu"))
    assert not marker.exists()


def test_a_models_own_code_is_not_run(tiny_model: Path, tmp_path: Path, marker: Path) -> None:
    folder = _model_folder(tiny_model, tmp_path)
    code = f"import os\nos.mkdir({str(marker)!r})\n"
    for name in ("modeling_evil.py", "configuration_evil.py", "tokenization_evil.py"):
        (folder / name).write_text(code, encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["model_type"] = "evil"
    config["auto_map"] = {
        "AutoConfig": "configuration_evil.EvilConfig",
        "AutoModelForCausalLM": "modeling_evil.EvilModel",
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokenizer["auto_map"] = {"AutoTokenizer": ["tokenization_evil.Evil", None]}
    tokenizer["tokenizer_class"] = "Evil"
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    settings = ModelConfig(path=str(folder), device="cpu", quantization="none")
    with pytest.raises(ModelError):
        load_base(settings)
    with contextlib.suppress(ModelError):  # refusing it is as good as reading its plain part
        load_tokenizer(settings)
    assert not marker.exists()


def test_known_architectures_load_without_their_own_code(
    tiny_model: Path, tmp_path: Path, marker: Path
) -> None:
    folder = _model_folder(tiny_model, tmp_path)
    (folder / "modeling_phi3.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n", encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}  # as Microsoft's have it
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    load_base(ModelConfig(path=str(folder), device="cpu", quantization="none"))
    assert not marker.exists()


def test_a_pickled_adapter_is_refused(tiny_config: Make, tmp_path: Path, marker: Path) -> None:
    from so8t_engine.so8t.adapter import SO8TAdapter
    from so8t_engine.so8t.soul_file import save_soul, soul_of

    final = tmp_path / "final"
    (final / "adapter").mkdir(parents=True)
    save_soul(final / "soul.safetensors", soul_of(SO8TAdapter(64), step=1))
    (final / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    (final / "adapter" / "adapter_model.bin").write_bytes(_pickles(marker)[3])
    with pytest.raises(ModelError, match=r"holds no adapter_model\.safetensors"):
        load_finished(final, tiny_config(), compute_dtype="float32", on_card=False)
    assert not marker.exists()


@pytest.mark.parametrize("name", [*CLIMBING, "weights.bin"])
def test_an_index_that_names_other_files_is_refused(tiny_model: Path, tmp_path: Path, name: str) -> None:
    folder = _model_folder(tiny_model, tmp_path)
    index = {"metadata": {}, "weight_map": {"lm_head.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(ModelError):
        model_source(ModelConfig(path=str(folder)))


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "[" * 9999]
)
def test_an_index_that_is_none_is_a_sentence(tiny_model: Path, tmp_path: Path, text: str) -> None:
    folder = _model_folder(tiny_model, tmp_path)
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match="is no index of weights"):
        model_source(ModelConfig(path=str(folder)))


def test_links_out_of_a_folder_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = _model_folder(tiny_model, tmp_path)
    secret = tmp_path / "secret.json"
    secret.write_text("{}", encoding="utf-8")
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "generation_config.json").symlink_to(secret)
    with pytest.raises(ModelError, match="link that leads out"):
        model_source(ModelConfig(path=str(folder)))
    rows = tmp_path / "rows"
    rows.mkdir()
    key = tmp_path / "id_rsa"
    key.write_text('{"text": "PRIVATE KEY"}\n', encoding="utf-8")
    (rows / "train.jsonl").symlink_to(key)
    with pytest.raises(DataError, match="link that leads out"):
        read_rows(str(rows))
    (rows / "train.jsonl").unlink()
    (rows / "a.txt").symlink_to(key)
    with pytest.raises(DataError, match="link that leads out"):
        read_rows(str(rows))
    (rows / "a.txt").unlink()
    (rows / "b.txt").write_text("plain", encoding="utf-8")
    (rows / "a.txt").symlink_to(rows / "b.txt")
    assert len(read_rows(str(rows))) == 2, "a link that stays is a file like others"
    with pytest.raises(DataError):
        read_rows(str(tmp_path / "loop"))


def test_the_hubs_cache_of_links_is_a_model_folder(tiny_model: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(tiny_model.iterdir())):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(Path("../../blobs") / str(number))
    assert model_source(ModelConfig(path=str(snapshot))) == str(snapshot)


def _claiming(path: Path, length: int, header: bytes) -> Path:
    path.write_bytes(struct.pack("<Q", length) + header)
    return path


def test_a_header_that_claims_gigabytes_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    huge = json.dumps({"w": {"dtype": "F32", "shape": [2**31], "data_offsets": [0, 10 * 2**30]}}).encode()
    with pytest.raises(ModelError, match=r"claims 10,737,418,240 bytes and is a file of"):
        check_safetensors(_claiming(tmp_path / "a.safetensors", len(huge), huge))
    with pytest.raises(ModelError, match="claims"):
        check_safetensors(_claiming(tmp_path / "b.safetensors", 10 * 2**30, b"{}"))
    for header in (
        b"[]",
        b"{ ",
        b'{"w": 1}',
        b'{"w": {"data_offsets": [5, 1]}}',
        b'{"w": {"data_offsets": [0.5, 1]}}',
    ):
        with pytest.raises(ModelError, match="no safetensors file"):
            check_safetensors(_claiming(tmp_path / "c.safetensors", len(header), header))
    (tmp_path / "d.safetensors").write_bytes(b"\x01")
    with pytest.raises(ModelError):
        check_safetensors(tmp_path / "d.safetensors")
    folder = _model_folder(tiny_model, tmp_path)
    _claiming(folder / "model.safetensors", len(huge), huge)
    with pytest.raises(ModelError, match="claims"):
        model_source(ModelConfig(path=str(folder)))
    soul = _claiming(tmp_path / "soul.safetensors", len(huge), huge)
    with pytest.raises(SO8TError):
        load_soul(soul)
    save_file({"w": torch.zeros(4)}, tmp_path / "good.safetensors")
    check_safetensors(tmp_path / "good.safetensors")


@pytest.mark.parametrize(
    "text",
    [
        "name: !!python/object/apply:os.mkdir ['MARKER']",
        "name: !!python/object/new:os.mkdir ['MARKER']",
        "!!python/object/apply:os.mkdir ['MARKER']",
        "name: !!python/name:os.mkdir ''",
        "name: !evil x",
    ],
)
def test_yaml_tags_are_refused(tmp_path: Path, marker: Path, text: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text.replace("MARKER", str(marker)), encoding="utf-8")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(file)
    with pytest.raises(ConfigError):
        load_config("demo", [text.replace("MARKER", str(marker)).replace(": ", "=", 1)])
    assert not marker.exists()


def test_yaml_that_unfolds_without_end_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{p: *a{n - 1}, q: *a{n - 1}, r: *a{n - 1}}}" for n in range(1, 40)]
    file = tmp_path / "config.yaml"
    for text in ("\n".join(lines), "model: &m\n  path: *m\n", "name: &n x\ndata: *n\n"):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match="uses an alias"):
            load_config(file)


@pytest.mark.parametrize("name", CLIMBING)
def test_names_that_climb_are_refused_everywhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(SO8TError):
        inside(tmp_path, name)
    assert not is_hub_id(name)
    with pytest.raises(DataError):
        read_rows(f"hub:{name}")
    with pytest.raises(DataError):
        has_split(f"hub:{name}", "train")
    with pytest.raises(DataError):
        read_rows(f"embedded:{name}")


def test_names_that_stay_are_taken(tmp_path: Path) -> None:
    assert inside(tmp_path, "rotations/step-1.safetensors") == tmp_path / "rotations" / "step-1.safetensors"
    (tmp_path / "out").symlink_to(tmp_path.parent)
    with pytest.raises(SO8TError):
        inside(tmp_path, "out/x")
    for name in ("microsoft/Phi-3.5-mini-instruct", "a/b", "o_w/n.a-m_e"):
        assert is_hub_id(name)
    for name in ("a", "a/b/c", "a/.b", "-a/b", "a/b.", "a//b", "a/b c", "a/..", "a/b--c", "あ/い"):
        assert not is_hub_id(name)


@pytest.mark.parametrize("suffix", [".pkl", ".pt", ".npy", ".zip", ".tar.gz", ".jsonl"])
def test_archives_and_pickles_are_no_rows(tmp_path: Path, marker: Path, suffix: str) -> None:
    file = tmp_path / f"rows{suffix}"
    file.write_bytes(b"PK\x03\x04" + pickle.dumps(Payload(marker)))
    with pytest.raises(DataError):
        read_rows(str(file))
    assert not marker.exists()


@pytest.mark.parametrize("name", CLIMBING)
def test_a_checkpoints_manifest_names_only_its_own_files(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "checkpoints" / "step-00000001"

    def write(target: Path) -> None:
        (target / "a.json").write_text("{}", encoding="utf-8")

    publish_folder(folder, write)
    verify_folder(folder)
    manifest = folder / "MANIFEST.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    content["files"][name] = {"bytes": 0, "sha256": ""}
    manifest.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(RunError):
        verify_folder(folder)
