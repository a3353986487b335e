"""LoRA targets on fused and unfused architectures, dequantised layers, the exact cut of a step."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from so8t_engine.config import Config
from so8t_engine.config.sections import ModelConfig
from so8t_engine.errors import ModelError
from so8t_engine.model.dequantised import dequantise
from so8t_engine.model.loading import load_base, load_tokenizer
from so8t_engine.model.so8t_model import SO8TModel
from so8t_engine.model.targets import resolve_targets
from so8t_engine.so8t.losses import IGNORE, chunked_cross_entropy
from so8t_engine.training.batches import EpochBatches
from so8t_engine.training.optimizer import parameter_groups

USUAL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}


def _last(names: list[str]) -> list[str]:
    return sorted({name.rpartition(".")[2] for name in names})


def test_the_usual_names_reach_all_four_fused_modules_of_phi3() -> None:
    model = Phi3ForCausalLM(Phi3Config(**SIZES))
    found = resolve_targets(model, USUAL)
    assert _last(found) == ["down_proj", "gate_up_proj", "o_proj", "qkv_proj"]
    assert len(found) == 4 * 2
    assert resolve_targets(model, ["all-linear"]) == found


def test_unfused_names_stay_as_they_are() -> None:
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    assert _last(resolve_targets(model, USUAL)) == sorted(USUAL)
    assert _last(resolve_targets(model, ["q_proj"])) == ["q_proj"]


def test_a_full_name_reaches_one_module_and_the_head_none() -> None:
    model = Phi3ForCausalLM(Phi3Config(**SIZES))
    assert resolve_targets(model, ["model.layers.1.mlp.down_proj"]) == ["model.layers.1.mlp.down_proj"]
    for name in ("lm_head", "wibble"):
        with pytest.raises(ModelError, match=name) as caught:
            resolve_targets(model, ["q_proj", name])
        assert "qkv_proj" in caught.value.mend


def test_dequantised_layers_compute_what_bitsandbytes_computes() -> None:
    import bitsandbytes as bnb

    torch.manual_seed(0)
    plain = nn.Linear(128, 64, bias=False)
    quantised = bnb.nn.Linear4bit(128, 64, bias=False, quant_type="nf4", compute_dtype=torch.float32)
    quantised.weight = bnb.nn.Params4bit(
        plain.weight.data.clone(), requires_grad=False, quant_type="nf4", compress_statistics=True
    )
    model = nn.Sequential(quantised.to("cpu"))
    x_TH = torch.randn(5, 128)
    expected_TO = model(x_TH)
    assert dequantise(model, torch.float32) == 1
    assert type(model[0]) is nn.Linear
    torch.testing.assert_close(model(x_TH), expected_TO, rtol=1e-5, atol=1e-5)
    # nf4 did change the weights: what is compared is not the unquantised layer.
    assert (model(x_TH) - plain(x_TH)).abs().max() > 1e-3


def test_only_labelled_positions_reach_the_head_and_the_loss_is_the_same(
    tiny_config: Callable[..., Config],
) -> None:
    config = tiny_config(model={"quantization": "none"})
    model = SO8TModel(load_base(config.model), config).eval()
    torch.manual_seed(1)
    hidden_NTH = torch.randn(3, 17, 64)
    labels_NT = torch.randint(0, 4096, (3, 17))
    labels_NT[:, :9] = IGNORE
    labels_NT[1] = IGNORE
    total, count = model.lm_loss(hidden_NTH, labels_NT)
    expected, expected_count = chunked_cross_entropy(hidden_NTH, model.logits, labels_NT, 7)
    assert int(count) == int(expected_count) == 16
    torch.testing.assert_close(total, expected)
    nothing, zero = model.lm_loss(hidden_NTH, torch.full_like(labels_NT, IGNORE))
    assert (float(nothing), int(zero)) == (0.0, 0)


def test_every_trainable_parameter_is_in_one_group_and_decay_spares_rotations_alpha_and_biases(
    tiny_config: Callable[..., Config],
) -> None:
    config = tiny_config(model={"quantization": "none"}, so8t={"alpha_schedule": "learned"})
    model = SO8TModel(load_base(config.model), config)
    groups = {group["name"]: group for group in parameter_groups(model, config)}
    assert set(groups) == {"lora", "heads", "rotations", "head_biases", "alpha"}
    assert [name for name, g in groups.items() if g["weight_decay"] > 0] == ["lora", "heads"]
    assert {id(p) for p in groups["rotations"]["params"]} == {
        id(model.so8t.theta_safe),
        id(model.so8t.theta_cmd),
    }
    assert all(
        name.rpartition(".")[2] == "weight" for name, p in model.trainable().items() if "lora_" in name
    )


def test_loading_errors_are_sentences(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(ModelError, match="no model folder"):
        load_base(ModelConfig(path=str(tmp_path / "none")))
    with pytest.raises(ModelError, match=r"config\.json"):
        load_tokenizer(ModelConfig(path=str(tmp_path)))
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tiny_model.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"claims .* bytes and is a file of 1,000"):
        load_base(ModelConfig(path=str(broken), device="cpu"))
    with pytest.raises(ModelError, match="nor to be had from the Hub"):
        load_base(ModelConfig(path="nobody/nothing-of-this-name", device="cpu"))


@pytest.mark.parametrize("group", [True, False])
def test_batches_are_a_function_of_seed_and_epoch_and_cover_every_row_once(group: bool) -> None:
    lengths = [(i * 37) % 101 + 1 for i in range(523)]

    def order(seed: int, epoch: int) -> list[list[int]]:
        batches = EpochBatches(lengths, 8, seed, group)
        batches.set_epoch(epoch)
        found = list(batches)
        assert len(found) == len(batches)
        return found

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)
    assert sorted(row for batch in order(1, 3) for row in batch) == list(range(523))


def test_a_4_bit_layer_that_its_use_has_repacked_is_not_dequantised_to_other_values() -> None:
    import bitsandbytes as bnb

    layer = bnb.nn.Linear4bit(128, 64, bias=False, quant_type="nf4", compute_dtype=torch.float32).to("cpu")
    layer.eval()
    with torch.no_grad():
        layer(torch.randn(2, 128))
    # Only some processors repack; the mark is what counts.
    layer.weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(ModelError, match="exact values"):
        dequantise(nn.Sequential(layer), torch.float32)


def test_weights_stored_otherwise_than_asked_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    """transformers keeps to what is stored and only warns: a run would call itself what it is not."""
    shutil.copytree(tiny_model, tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    own = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": own}))
    with pytest.raises(ModelError, match=r"stored as nf4; model\.quantization is int8"):
        load_base(ModelConfig(path=str(file.parent), quantization="int8", device="cpu"))
