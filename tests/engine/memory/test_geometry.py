"""Model geometry from config.json, the download cache and the table of known models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from so8t_engine.errors import ModelError
from so8t_engine.memory import geometry as module
from so8t_engine.memory.families import FAMILIES
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


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_parameter_count_equals_that_of_the_real_model_exactly(model_type: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    values = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "vocab_size": 104,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 1,
    }
    if model_type not in {"phi3", "cwm"}:
        values["head_dim"] = 24  # not hidden / heads, where the architecture allows it
    for tied in (True, False):
        config = AutoConfig.for_model(model_type, **values, tie_word_embeddings=tied)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        config.save_pretrained(tmp_path)  # a file leaves out what equals a default
        geometry = model_geometry(str(tmp_path))
        assert geometry.known_architecture
        assert geometry.parameters == model.num_parameters()
        assert geometry.tied is tied
        linears = {
            name.split(".")[-2]: parameter.numel()
            for name, parameter in model.named_parameters()
            if "layers.0." in name and parameter.ndim == 2
        }
        assert {linear.name: linear.parameters for linear in geometry.linears} == linears


def test_sparse_files_of_the_gemma_family_are_filled_with_its_defaults() -> None:
    # google/gemma-3-1b-it's and gemma-2-2b's sizes; keys that published files leave out are left out.
    three = {
        "model_type": "gemma3_text", "hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 26,
        "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262144,
    }  # fmt: skip
    assert geometry_from_config(three).parameters == 999_885_952
    two = {
        "model_type": "gemma2", "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
    }  # fmt: skip
    assert geometry_from_config(two).parameters == 2_614_341_888


@pytest.mark.parametrize(
    ("values", "published"),
    [
        (  # Qwen/Qwen2.5-1.5B
            {
                "model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960,
                "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2,
                "vocab_size": 151936, "tie_word_embeddings": True,
            },
            1_543_714_304,
        ),
        (  # Qwen/Qwen3-4B
            {
                "model_type": "qwen3", "hidden_size": 2560, "intermediate_size": 9728,
                "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8,
                "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": True,
            },
            4_022_468_096,
        ),
        (  # meta-llama/Llama-3.2-1B
            {
                "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192,
                "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
                "head_dim": 64, "vocab_size": 128256, "tie_word_embeddings": True,
            },
            1_235_814_400,
        ),
        (  # mistralai/Mistral-7B-v0.1
            {
                "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336,
                "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
                "vocab_size": 32000,
            },
            7_241_732_096,
        ),
    ],
)  # fmt: skip
def test_other_families_have_the_published_parameter_count(values: dict[str, object], published: int) -> None:
    assert geometry_from_config(values).parameters == published


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
        {"text_config": {"num_local_experts": 16}},
        {"num_attention_heads": 4, "num_key_value_heads": 3},
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


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"model_type": "gemma3", "text_config": {"hidden_size": 64}}, "text and more (gemma3)"),
        ({"model_type": "qwen2_vl", "vision_config": {}}, "text and more"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "encoder with a decoder"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised by gptq"),
        ({"quantization_config": {"load_in_4bit": True}}, "quantised by fp4"),
    ],
)
def test_what_a_run_would_refuse_is_not_estimated_to_fit(
    write_model: WriteModel, tmp_path: Path, changes: dict[str, object], word: str
) -> None:
    with pytest.raises(ModelError) as caught:
        model_geometry(str(write_model(tmp_path, **changes)))
    assert word in caught.value.sentence


@pytest.mark.parametrize(
    ("own", "method"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "nf4"),
        ({"load_in_8bit": True}, "int8"),
        ({}, None),
        (None, None),
    ],
)
def test_weights_that_bitsandbytes_has_quantised_are_told_apart(own: object, method: str | None) -> None:
    assert module.stored_quantisation({"quantization_config": own}) == method
