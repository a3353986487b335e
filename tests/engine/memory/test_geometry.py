"""Model geometry from config.json, the download cache and the table of known models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from so8t_engine.errors import ModelError
from so8t_engine.memory import geometry as module
from so8t_engine.memory.geometry import KNOWN_MODELS, UnknownModelError, geometry_from_config, model_geometry

WriteModel = Callable[..., Path]


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("microsoft/Phi-3.5-mini-instruct", 3_821_079_552),
        ("microsoft/Phi-3-medium-4k-instruct", 13_960_238_080),
        ("microsoft/Phi-4-mini-instruct", 3_836_021_760),
    ],
)
def test_known_models_have_the_published_parameter_count(name: str, published: int) -> None:
    assert KNOWN_MODELS[name].parameters == published


@pytest.mark.parametrize("model_type", ["phi3", "llama", "qwen3", "gemma2"])
@pytest.mark.parametrize("tied", [True, False])
def test_parameter_count_equals_that_of_the_real_model(model_type: str, tied: bool) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    values = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 100,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "tie_word_embeddings": tied,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }
    config = AutoConfig.for_model(model_type, **values)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    linear = sum(
        p.numel() for n, p in model.named_parameters() if n.endswith("_proj.weight") and "layers." in n
    )
    geometry = geometry_from_config(config.to_dict())
    assert geometry.linear_parameters == linear
    assert geometry.tied is tied
    extra = model.num_parameters() - geometry.parameters
    assert 0 <= extra <= 4 * geometry.layers * geometry.hidden  # further norms and biases of some families
    names = {n.split(".")[-2] for n, _ in model.named_parameters() if n.endswith("_proj.weight")}
    assert {linear.name for linear in geometry.linears} == names


def test_a_folder_is_read_again_after_it_changed(write_model: WriteModel, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    assert model_geometry(str(folder)).layers == 2
    write_model(folder, num_hidden_layers=12)
    assert model_geometry(str(folder)).layers == 12


def test_the_download_cache_is_preferred_to_the_table(
    write_model: WriteModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    name = "microsoft/Phi-3.5-mini-instruct"
    assert model_geometry(name) == KNOWN_MODELS[name]
    folder = tmp_path / "models--microsoft--Phi-3.5-mini-instruct"
    write_model(folder / "snapshots" / "abc123")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc123", encoding="utf-8")
    assert model_geometry(name).hidden == 64
    assert model_geometry(name, revision="abc123").hidden == 64


def test_an_unknown_hub_model_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UnknownModelError) as caught:
        model_geometry("someone/some-model")
    assert "someone/some-model" in caught.value.sentence
    assert "hf download" in caught.value.mend


@pytest.mark.parametrize("path", ["./missing", "/nowhere/at/all", "a b/c", "C:\\models\\phi"])
def test_a_missing_folder_is_an_error_with_a_mend(path: str) -> None:
    with pytest.raises(ModelError) as caught:
        model_geometry(path)
    assert path in caught.value.sentence
    assert caught.value.mend


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": None},
        {"hidden_size": "big"},
        {"hidden_size": 60},
        {"vocab_size": 0},
        {"num_experts": 8},
    ],
)
def test_a_config_that_cannot_be_used_is_an_error_naming_the_file(
    write_model: WriteModel, tmp_path: Path, changes: dict[str, object]
) -> None:
    folder = write_model(tmp_path, **changes)
    with pytest.raises(ModelError) as caught:
        model_geometry(str(folder))
    assert "config.json" in caught.value.sentence


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_a_torn_config_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError):
        model_geometry(str(tmp_path))


def test_lora_names_resolve_to_fused_layers_and_an_unmatched_one_lists_what_exists() -> None:
    geometry = KNOWN_MODELS["microsoft/Phi-3.5-mini-instruct"]
    seven = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    names = [linear.name for linear in geometry.lora_targets(seven)]
    assert names == ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
    with pytest.raises(ModelError) as caught:
        geometry.lora_targets(["q_proj", "c_attn"])
    assert "c_attn" in caught.value.sentence
    assert "gate_up_proj" in caught.value.mend


def test_embedded_lives_in_the_resources(
    write_model: WriteModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "resources_dir", lambda: tmp_path)
    with pytest.raises(ModelError):
        model_geometry("embedded")
    write_model(tmp_path / "base_model")
    assert model_geometry("embedded").hidden == 64
