"""Baking: the exported model equals the gated one, and a wrong one is not exported."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from so8t_engine.errors import ModelError
from so8t_engine.model.dequantised import dequantise
from so8t_engine.so8t.adapter import SO8TAdapter
from so8t_engine.so8t.attach import attach_from_placement, attach_gate
from so8t_engine.so8t.bake import (
    BakeTolerance,
    LogitComparison,
    baked_head_weight,
    baked_weights,
    compare_logits,
    export_baked,
    fold_into_next,
    fold_into_previous,
)
from so8t_engine.so8t.gate import GATE_FORMS, GateForm, gate_matrix
from so8t_engine.so8t.placement import Placement
from so8t_engine.so8t.rotation import generators_to_matrices

sys.path.insert(0, str(Path(__file__).parent))
from tiny_model import HIDDEN, real_text_ids, tiny_phi3


def _adapter(form: GateForm = "residual") -> SO8TAdapter:
    return SO8TAdapter(HIDDEN, init_std=0.4, alpha_start=0.5, gate_form=form)


def _swapped(adapter: SO8TAdapter) -> SO8TAdapter:
    other = _adapter(adapter.gate_form)
    other.load_state_dict(adapter.state_dict())
    with torch.no_grad():
        other.theta_safe.copy_(adapter.theta_cmd)
        other.theta_cmd.copy_(adapter.theta_safe)
    return other


def test_folding_is_the_dense_product() -> None:
    matrix_B88 = gate_matrix(generators_to_matrices(torch.randn(8, 28).double()), 0.4)
    dense = torch.block_diag(*matrix_B88)
    weight, bias = torch.randn(11, 64).double(), torch.randn(64).double()
    assert torch.allclose(fold_into_next(weight, matrix_B88), weight @ dense, atol=1e-14)
    previous, moved_bias = fold_into_previous(weight.mT.contiguous(), bias, matrix_B88)
    assert torch.allclose(previous, dense @ weight.mT, atol=1e-14)
    assert moved_bias is not None
    assert torch.allclose(moved_bias, dense @ bias, atol=1e-14)


@pytest.mark.parametrize("form", GATE_FORMS)
def test_the_exported_model_is_plain_and_speaks_the_same_text(form: GateForm, tmp_path: Path) -> None:
    model, adapter, texts = tiny_phi3(), _adapter(form), real_text_ids()
    own = model.lm_head.weight.detach().clone()
    comparison = export_baked(model, adapter, tmp_path / "baked", texts)
    assert comparison.max_abs <= 1e-4
    assert comparison.top1 == 1.0
    assert comparison.tokens == 4 * 96
    assert torch.equal(model.lm_head.weight, own)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "baked").eval()
    options = {"max_new_tokens": 24, "min_new_tokens": 24, "do_sample": False}
    with torch.no_grad(), attach_gate(model, adapter.eval()):
        for ids in texts:
            assert float((plain(input_ids=ids).logits - model(input_ids=ids).logits).abs().max()) <= 1e-4
        assert torch.equal(plain.generate(texts[0], **options), model.generate(texts[0], **options))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["baked"]


def test_the_swapped_order_is_caught() -> None:
    model, adapter, texts = tiny_phi3(), _adapter(), real_text_ids()
    for place in map(Placement.parse, ("final_hidden", "mlp:0", "final_hidden+attention:0,2")):
        wrong, right = (baked_weights(model, one, place) for one in (_swapped(adapter), adapter))
        comparison = compare_logits(model, adapter, wrong, texts, placement=place)
        assert comparison.max_abs > 1e-2
        assert not BakeTolerance().accepts(comparison)
        assert BakeTolerance().accepts(compare_logits(model, adapter, right, texts, placement=place))


def test_an_export_beyond_the_tolerance_writes_nothing(tmp_path: Path) -> None:
    model = tiny_phi3().bfloat16()
    with pytest.raises(ModelError, match="differs from the gated one"):
        export_baked(model, _adapter(), tmp_path / "baked", real_text_ids())
    assert list(tmp_path.iterdir()) == []
    # With the limits of half precision, read and accepted, it is exported in bf16.
    wide = BakeTolerance(max_abs=0.1, top1=0.9, kl=1e-3)
    comparison = export_baked(model, _adapter(), tmp_path / "baked", real_text_ids(), tolerance=wide)
    assert 0.0 < comparison.max_abs <= 0.1


def test_tied_embeddings_are_refused_or_untied(tmp_path: Path) -> None:
    model, adapter, texts = tiny_phi3(tied=True), _adapter(), real_text_ids(2)
    with pytest.raises(ModelError, match="shares its weight"):
        export_baked(model, adapter, tmp_path / "baked", texts)
    export_baked(model, adapter, tmp_path / "baked", texts, untie=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.tie_word_embeddings is True
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "baked").eval()
    assert torch.equal(plain.model.embed_tokens.weight, model.model.embed_tokens.weight)
    with torch.no_grad(), attach_gate(model, adapter):
        for ids in texts:
            assert float((plain(input_ids=ids).logits - model(input_ids=ids).logits).abs().max()) <= 1e-4


def test_what_cannot_be_baked_is_refused(tmp_path: Path) -> None:
    model = tiny_phi3()
    with pytest.raises(ModelError, match="64 units"):
        baked_head_weight(model, SO8TAdapter(32))
    with pytest.raises(ModelError, match="exists already"):
        export_baked(model, _adapter(), tmp_path, real_text_ids())
    with pytest.raises(ModelError, match="0 tokens"):
        export_baked(model, _adapter(), tmp_path / "baked", [])

    class Wrapped(nn.Linear):
        """Stands where a quantised or adapted head would."""

    model.lm_head = Wrapped(HIDDEN, 256, bias=False)
    with pytest.raises(ModelError, match="Wrapped"):
        baked_head_weight(model, _adapter())


def test_nan_is_never_accepted() -> None:
    nan = float("nan")
    assert not BakeTolerance().accepts(LogitComparison(nan, 1.0, 0.0, 5))
    model = tiny_phi3()
    weights = baked_weights(model, _adapter())
    weights["lm_head.weight"][3, 3] = nan
    assert not BakeTolerance().accepts(compare_logits(model, _adapter(), weights, real_text_ids(2)))


@pytest.mark.parametrize("form", GATE_FORMS)
@pytest.mark.parametrize("text", ["mlp:0,2", "attention:1", "final_hidden+mlp:0,1,2"])
def test_gates_in_layers_are_folded_into_the_linears_before_them(
    form: GateForm, text: str, tmp_path: Path
) -> None:
    model, adapter, texts = tiny_phi3(), _adapter(form), real_text_ids()
    place = Placement.parse(text)
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    comparison = export_baked(model, adapter, tmp_path / "baked", texts, placement=place)
    assert comparison.max_abs <= 1e-4
    assert (comparison.top1, comparison.tokens) == (1.0, 4 * 96)
    assert all(torch.equal(own[name], tensor) for name, tensor in model.state_dict().items())
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "baked").eval()
    moved = {name for name, tensor in plain.state_dict().items() if not torch.equal(tensor, own[name])}
    assert moved == set(baked_weights(model, adapter, place))
    options = {"max_new_tokens": 24, "min_new_tokens": 24, "do_sample": False}
    with torch.no_grad(), attach_from_placement(model, adapter.eval(), text):
        for ids in texts:
            assert float((plain(input_ids=ids).logits - model(input_ids=ids).logits).abs().max()) <= 1e-4
        for cache in (True, False):
            said = model.generate(texts[0], use_cache=cache, **options)
            assert torch.equal(plain.generate(texts[0], use_cache=cache, **options), said)
    assert not torch.equal(model.generate(texts[0], **options), said)


def test_a_bias_is_turned_with_its_weight(tmp_path: Path) -> None:
    model, adapter = tiny_phi3(), _adapter()
    biased = nn.Linear(96, HIDDEN)
    biased.weight.data.copy_(model.model.layers[1].mlp.down_proj.weight.data)
    biased.bias.data.normal_(std=0.1)
    model.model.layers[1].mlp.down_proj = biased
    place = Placement(final=False, layers=(1,))
    weights = baked_weights(model, adapter, place)
    assert set(weights) == {f"model.layers.1.mlp.down_proj.{name}" for name in ("weight", "bias")}
    assert BakeTolerance().accepts(compare_logits(model, adapter, weights, real_text_ids(), placement=place))
    del weights["model.layers.1.mlp.down_proj.bias"]
    comparison = compare_logits(model, adapter, weights, real_text_ids(), placement=place)
    assert not BakeTolerance().accepts(comparison)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_quantised_layers_are_dequantised_and_then_baked(kind: str, tmp_path: Path) -> None:
    from transformers import BitsAndBytesConfig

    # bitsandbytes packs nf4 in blocks of 64.
    original = tiny_phi3(intermediate=128)
    original.save_pretrained(tmp_path / "base")
    options = (
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
        if kind == "nf4"
        else {"load_in_8bit": True}
    )
    load = {"quantization_config": BitsAndBytesConfig(**options), "device_map": {"": "cpu"}}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", **load).eval()
    # In eval mode bitsandbytes repacks 4-bit layers for some CPUs, with coarser scales.
    quantised_model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", **load).train()
    adapter, texts, place = _adapter(), real_text_ids(2), Placement(True, (0, 2), "mlp")
    with pytest.raises(ModelError, match=r"mlp\.down_proj of decoder layer 0 is a Linear(4bit|8bitLt)"):
        baked_weights(model, adapter, place)
    with torch.no_grad(), attach_from_placement(quantised_model, adapter, place):
        quantised = [quantised_model(input_ids=ids).logits for ids in texts]
    assert dequantise(model, torch.float32) == 3 * 4
    comparison = export_baked(model, adapter, tmp_path / "baked", texts, placement=place)
    assert comparison.max_abs <= 1e-4
    assert "quantization_config" not in json.loads((tmp_path / "baked" / "config.json").read_text())
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "baked").eval()
    assert all(tensor.dtype == torch.float32 for tensor in plain.state_dict().values())
    with torch.no_grad():
        # bitsandbytes' own layers said the same; int8 also rounds what goes into a layer.
        limit = 1e-4 if kind == "nf4" else 0.02
        for ids, expected in zip(texts, quantised, strict=True):
            assert float((plain(input_ids=ids).logits - expected).abs().max()) <= limit
        if kind == "nf4":
            with attach_from_placement(original, adapter, place):
                difference = (original(input_ids=texts[0]).logits - quantised[0]).abs().max()
            assert float(difference) > 1e-3
        else:
            # On the grid of LLM.int8(): whole multiples of a row's largest weight over 127.
            weight_OI = original.model.layers[1].mlp.down_proj.weight
            step_O1 = weight_OI.half().float().abs().amax(1, keepdim=True) / 127
            found_OI = plain.model.layers[1].mlp.down_proj.weight
            assert bool(((found_OI - weight_OI).abs() <= 0.6 * step_O1).all())
            assert torch.allclose(found_OI / step_O1, (found_OI / step_O1).round(), atol=1e-2)
            assert not torch.allclose(found_OI, weight_OI, atol=1e-5)


def test_rounding_to_half_precision_comes_after_the_comparison(tmp_path: Path) -> None:
    model, adapter, texts = tiny_phi3(tied=True), _adapter(), real_text_ids(2)
    place = Placement(final=False, layers=(1,))
    comparison = export_baked(
        model, adapter, tmp_path / "baked", texts, placement=place, dtype=torch.bfloat16
    )
    assert comparison.max_abs <= 1e-4
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "baked").eval()
    assert plain.dtype == torch.bfloat16
    # A gate in layers leaves tied embeddings alone: nothing is untied or stored twice.
    assert plain.lm_head.weight is plain.model.embed_tokens.weight
    folded = baked_weights(model, adapter, place)["model.layers.1.mlp.down_proj.weight"]
    assert torch.equal(plain.model.layers[1].mlp.down_proj.weight, folded.bfloat16())
    assert model.dtype == torch.float32


def test_what_describe_refuses_does_not_appear(tmp_path: Path) -> None:
    def describe(folder: Path, _comparison: LogitComparison) -> None:
        (folder / "bake.json").write_text("{}")
        raise ModelError("no")

    with pytest.raises(ModelError, match="no"):
        export_baked(tiny_phi3(), _adapter(), tmp_path / "baked", real_text_ids(1), describe=describe)
    assert list(tmp_path.iterdir()) == []
