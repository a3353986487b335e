"""Baking: the exported model equals the gated one, and a wrong one is not exported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from so8t_engine.errors import ModelError
from so8t_engine.so8t.adapter import SO8TAdapter
from so8t_engine.so8t.attach import attach_gate
from so8t_engine.so8t.bake import (
    BakeTolerance,
    LogitComparison,
    baked_head_weight,
    compare_logits,
    export_baked,
    fold_into_next,
    fold_into_previous,
)
from so8t_engine.so8t.gate import GATE_FORMS, GateForm, gate_matrix
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
    wrong_VH = baked_head_weight(model, _swapped(adapter))
    comparison = compare_logits(model, adapter, wrong_VH, texts)
    assert comparison.max_abs > 1e-2
    assert not BakeTolerance().accepts(comparison)
    assert BakeTolerance().accepts(compare_logits(model, adapter, baked_head_weight(model, adapter), texts))


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
    weight_VH = baked_head_weight(model, _adapter())
    weight_VH[3, 3] = nan
    assert not BakeTolerance().accepts(compare_logits(model, _adapter(), weight_VH, real_text_ids(2)))
