"""The lean layers compute what transformers and peft compute, and keep little for the backward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from so8t_engine.config import Config
from so8t_engine.model.lean.attention import Attention, Norm
from so8t_engine.model.lean.body import why_not_lean
from so8t_engine.model.lean.dropout import fork
from so8t_engine.model.lean.linear import LoraLinear, Weight
from so8t_engine.model.lean.loss import linear_cross_entropy
from so8t_engine.model.lean.mlp import GatedMLP
from so8t_engine.model.so8t_model import Batch, SO8TModel, StepTotals
from so8t_engine.so8t.losses import IGNORE

FAMILIES: dict[str, tuple[Any, Any]] = {
    "phi3": (Phi3Config, Phi3ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
}
SIZES = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def _base(family: str = "phi3", **changes: Any) -> nn.Module:  # noqa: ANN401
    torch.manual_seed(0)
    config, model = FAMILIES[family]
    made: nn.Module = model(config(**SIZES | changes)).eval()
    for parameter in made.parameters():
        parameter.requires_grad_(False)
        if parameter.ndim == 1:  # norms and biases that differ from their neutral value
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def _model(base: nn.Module, dropout: float = 0.0, **sections: dict[str, Any]) -> SO8TModel:
    gate = {"alpha_start": 0.3, "init_std": 0.3}
    values: dict[str, Any] = {"lora": {"dropout": dropout}, "so8t": gate, "data": {"max_length": 64}}
    for name, section in sections.items():
        values[name] = values.get(name, {}) | section
    model = SO8TModel(base, Config.model_validate(values)).train()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.trainable().items():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return model


def _batch(rows: int = 2, tokens: int = 24) -> Batch:
    generator = torch.Generator().manual_seed(2)
    ids_NT = torch.randint(3, 300, (rows, tokens), generator=generator)
    mask_NT, labels_NT = torch.ones_like(ids_NT), ids_NT.clone()
    mask_NT[-1, -6:] = 0
    labels_NT[:, :5] = IGNORE
    labels_NT[-1, -6:] = IGNORE
    return {
        "input_ids_NT": ids_NT, "attention_mask_NT": mask_NT, "labels_NT": labels_NT,
        "pool_index_N": torch.full((rows,), 4), "task_N": torch.arange(rows) % 4,
        "safety_N": torch.arange(rows) % 2,
    }  # fmt: skip


def _loss_and_gradients(model: SO8TModel, seed: int = 3) -> tuple[float, dict[str, Tensor]]:
    batch = _batch()
    model.zero_grad()
    torch.manual_seed(seed)
    report = model(batch, StepTotals.of([batch]), alpha_target=1.0, pet_weight=0.1)
    report.loss.backward()
    return float(report.loss), {name: p.grad.clone() for name, p in model.trainable().items()}  # type: ignore[union-attr]


def _assert_same(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        difference = float((gradient - other[name]).abs().max())
        # A head's bias has the difference of two probabilities for a gradient: 5e-3 stands for their size.
        least = 5e-3 if name.startswith("so8t.") and name.endswith(".bias") else 1e-6
        assert difference <= tolerance * float(gradient.abs().max() + least), name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("site", [None, "mlp", "attention"])
def test_loss_and_gradients_are_those_of_transformers_and_peft(
    family: str, checkpointing: bool, site: str | None
) -> None:
    gate = {} if site is None else {"gate_layers": [1], "gate_site": site}

    def run(layers: str) -> tuple[float, dict[str, Tensor]]:
        model = _model(
            _base(family), so8t={"alpha_start": 0.3, "init_std": 0.3} | gate,
            memory={"layers": layers, "mlp_tile": 64},
            training={"gradient_checkpointing": checkpointing},
        )  # fmt: skip
        assert (model.lean is None) == (layers == "plain")
        return _loss_and_gradients(model)

    plain, lean = run("plain"), run("lean")
    assert lean[0] == pytest.approx(plain[0], rel=1e-6)
    _assert_same(plain[1], lean[1])


@pytest.mark.parametrize("kept", [0, 2, 9])
def test_recomputation_keeps_dropout_and_changes_no_gradient(kept: int) -> None:
    def gradients(checkpointing: bool) -> dict[str, Tensor]:
        model = _model(
            _base(), dropout=0.3, training={"gradient_checkpointing": checkpointing},
            memory={"kept_layers": kept},
        )  # fmt: skip
        first, again, other = (_loss_and_gradients(model, seed)[1] for seed in (3, 3, 4))
        _assert_same(first, again, 0.0)
        name = next(name for name in first if "lora_B" in name)
        assert not torch.allclose(first[name], other[name], rtol=0.05)
        return first

    _assert_same(gradients(True), gradients(False), 1e-6)


@given(tile=st.integers(64, 80), rows=st.integers(1, 4), tokens=st.integers(3, 60))
def test_the_tile_changes_no_result(tile: int, rows: int, tokens: int) -> None:
    """Tiles of the smallest size against one tile, at any length."""
    hidden_NTH = torch.randn((rows, tokens, 16), generator=torch.Generator().manual_seed(tokens))
    outs = []
    for size in (tile, 10**6):
        mlp, _parameters = _mlp(tile=size, dtype=torch.float32)
        leaf = hidden_NTH.clone().requires_grad_()
        out = mlp.forward(leaf, None)
        out.square().sum().backward()
        outs.append((out.detach(), leaf.grad, mlp.contract.a_rI.grad))  # type: ignore[union-attr]
    for one, other in zip(*outs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def _lora(inputs: int, outputs: int, seed: int, dtype: torch.dtype, bias: bool = False) -> LoraLinear:
    torch.manual_seed(seed)
    base = nn.Linear(inputs, outputs, bias=bias, dtype=dtype).requires_grad_(False)
    a, b = (nn.Parameter(torch.randn(shape, dtype=dtype) * 0.3) for shape in ((3, inputs), (outputs, 3)))
    return LoraLinear(base, a, b, 0.7, 0.4)


def _mlp(tile: int, dtype: torch.dtype = torch.float64, fused: bool = True) -> tuple[GatedMLP, list[Tensor]]:
    expand = [_lora(16, 24, 1, dtype)] if fused else [_lora(16, 12, k, dtype, bias=True) for k in (1, 2)]
    torch.manual_seed(9)
    norm = Norm(torch.rand(16, dtype=dtype) + 0.5, 1e-5)
    mlp = GatedMLP(norm, tuple(expand), _lora(12, 16, 3, dtype), "silu", tile)
    return mlp, [p for linear in mlp.linears for p in linear.parameters]


def test_lora_is_merged_where_that_is_less_work_and_exact() -> None:
    linear = _lora(6, 12, 1, torch.float64, bias=True)
    parameters = linear.parameters
    assert linear.prepare(torch.float64, 4, None).merged
    assert not linear.prepare(torch.float64, 3, None).merged  # 3 (6 + 12) < 6 · 12
    assert not linear.prepare(torch.float64, 4, 11).merged  # dropout
    assert not linear.prepare(torch.bfloat16, 4, None).merged
    input_tI = torch.randn((5, 6), dtype=torch.float64)
    grad_tO = torch.randn((5, 12), dtype=torch.float64)
    merged, plain = linear.prepare(torch.float64, 5, None), Weight(linear.base.weight.detach(), False)
    wanted_tO = linear.base(input_tI) + 0.7 * input_tI @ parameters[0].T @ parameters[1].T
    torch.testing.assert_close(linear.forward(input_tI, merged, None), wanted_tO)
    torch.testing.assert_close(linear.forward(input_tI, plain, None), wanted_tO)
    wanted = torch.autograd.grad(wanted_tO, parameters, grad_tO)
    for weight in (merged, plain):
        grad_tI, *pair = linear.backward(grad_tO, input_tI, weight, None)
        assert grad_tI is not None
        torch.testing.assert_close(grad_tI, grad_tO @ merged.matrix_OI)
        for found, one in zip(pair, wanted, strict=True):
            torch.testing.assert_close(found, one)


@pytest.mark.parametrize("seed", [None, 11])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("options", [{}, {"keep": True}, {"residual": False}])
def test_the_mlps_gradient_against_finite_differences(
    seed: int | None, fused: bool, options: dict[str, bool]
) -> None:
    """float64; with dropout drawn from a fixed seed; two tiles, the second one shorter."""
    mlp, parameters = _mlp(4, fused=fused)
    hidden_NTH = torch.randn((2, 3, 16), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *args: mlp.forward(args[0], seed, **options), (hidden_NTH, *parameters), atol=1e-6
    )


@pytest.mark.parametrize("seed", [None, 11])
@pytest.mark.parametrize("fused", [True, False])
def test_the_attentions_gradient_against_finite_differences(seed: int | None, fused: bool) -> None:
    """Four query heads on two key heads of four units; half of a head is rotated."""
    dtype = torch.float64
    widths = [32] if fused else [16, 8, 8]
    projections = tuple(_lora(16, width, k, dtype, bias=not fused) for k, width in enumerate(widths))
    torch.manual_seed(9)
    norm = Norm(torch.rand(16, dtype=dtype) + 0.5, 1e-5)
    block = Attention(norm, projections, _lora(16, 16, 5, dtype), 4, 2, 4, 0.5)
    angle_1TR = torch.randn((1, 3, 1), dtype=dtype).expand(1, 3, 2)
    parameters = [p for linear in (*projections, block.output) for p in linear.parameters]
    hidden_NTH = torch.randn((2, 3, 16), dtype=dtype, requires_grad=True)

    def added(hidden_NTH: Tensor, *_parameters: Tensor) -> Tensor:
        projected = block.projected(hidden_NTH, angle_1TR.cos(), angle_1TR.sin(), seed)
        return block.added(block.mixed(*projected, None), seed)

    assert torch.autograd.gradcheck(added, (hidden_NTH, *parameters), atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_the_fused_loss_is_cross_entropy(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("so8t_engine.model.lean.loss._CPU_LOGITS", 0)  # else one chunk on the CPU
    torch.manual_seed(0)
    hidden_tH = torch.randn((7, 16), dtype=torch.float64, requires_grad=True)
    weight_VH, labels_t = torch.randn((20, 16), dtype=torch.float64), torch.randint(0, 20, (7,))
    labels_t[2] = IGNORE
    wanted = nn.functional.cross_entropy(hidden_tH @ weight_VH.T, labels_t, reduction="sum")
    (expected_tH,) = torch.autograd.grad(wanted, hidden_tH)
    found = linear_cross_entropy(hidden_tH, weight_VH, labels_t, chunk)
    (gradient_tH,) = torch.autograd.grad(3.0 * found, hidden_tH)
    torch.testing.assert_close(found.double(), wanted.detach(), rtol=1e-6, atol=0.0)
    torch.testing.assert_close(gradient_tH, 3.0 * expected_tH, rtol=1e-9, atol=1e-9)


def test_only_the_layers_inputs_are_kept_under_checkpointing() -> None:
    batch = _batch(2, 40)

    def kept_bytes(**memory: Any) -> int:  # noqa: ANN401
        model = _model(_base(), memory=memory, training={"gradient_checkpointing": True})
        found: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.hidden_states(batch["input_ids_NT"], batch["attention_mask_NT"])
        return sum(found.values())

    hidden = batch["input_ids_NT"].numel() * 64 * 4
    # Three layers' inputs and the last norm's.
    assert kept_bytes() == 4 * hidden
    assert kept_bytes(kept_layers=3) > 12 * hidden


def _int8_base() -> nn.Module:
    from so8t_engine.benchmark.random_base import random_base

    torch.manual_seed(0)
    return random_base(
        "tiny", "int8", double_quant=True, attention="sdpa", dtype=torch.float32, device=torch.device("cpu")
    )


@pytest.mark.parametrize("kept", [1, 2, 9])
def test_weights_that_stay_dequantised_change_nothing_and_are_given_back(kept: int) -> None:
    plain = _loss_and_gradients(_model(_int8_base(), dropout=0.3))
    model = _model(_int8_base(), dropout=0.3, memory={"kept_weights": kept})
    assert model.lean is not None
    linear = model.lean.layers[0].mlp.contract
    assert linear.weight(torch.float32) is linear.weight(torch.float32), "made once"
    assert model.lean.kept_weights == min(kept, 2)
    assert (model.lean.layers[1].attention.output.whole_OI is None) == (kept == 1)
    found = _loss_and_gradients(model)
    assert found[0] == plain[0]
    _assert_same(found[1], plain[1], 0.0)
    model.lean.kept_weights = 0
    assert all(linear.whole_OI is None for layer in model.lean.layers for linear in layer.mlp.linears)
    _assert_same(_loss_and_gradients(model)[1], plain[1], 0.0)


def test_short_passes_keep_more_layers_and_learn_the_same() -> None:
    plain = _loss_and_gradients(_model(_base(), dropout=0.3, training={"gradient_checkpointing": True}))[1]
    model = _model(_base(), dropout=0.3, training={"gradient_checkpointing": True})
    assert model.lean is not None
    for shorter, kept in (((23, 3),), 0), (((8, 3), (24, 2)), 2), (((24, 3), (40, 1)), 3):
        model.lean.kept_shorter = shorter
        assert model.lean.kept_at(24) == kept
        _assert_same(_loss_and_gradients(model)[1], plain, 1e-6)


def test_int8_is_computed_from_the_values_that_the_codes_stand_for() -> None:
    """Weights, not activations, are quantised here: against float32 weights of the same values."""
    import bitsandbytes as bnb

    torch.manual_seed(0)
    layer = bnb.nn.Linear8bitLt(32, 24, bias=False, has_fp16_weights=False)
    layer.weight = bnb.nn.Int8Params(torch.randn(24, 32), requires_grad=False).to("cpu")
    if layer.weight.dtype != torch.int8:
        layer.weight = layer.weight._quantize(torch.device("cpu"))
    codes_OI, scales_O = layer.weight.data.double(), layer.weight.SCB.double()
    wanted_OI = codes_OI * scales_O.unsqueeze(-1) / 127
    torch.testing.assert_close(
        LoraLinear(layer).weight(torch.float32).double(), wanted_OI, rtol=1e-6, atol=1e-8
    )
    rounded = LoraLinear(layer).weight(torch.bfloat16)
    assert torch.equal(rounded, wanted_OI.float().to(torch.bfloat16))


def test_seeds_differ_between_linears_and_tiles() -> None:
    seeds = {fork(fork(5, tile * 16), number) for tile in range(20) for number in range(9)}
    assert len(seeds) == 180
    assert fork(None, 3) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"attention_dropout": 0.1}, "attention_dropout"), ({"sliding_window": 32}, "sliding window")],
)
def test_what_is_not_known_runs_as_transformers_wrote_it(changes: dict[str, Any], reason: str) -> None:
    base = _base(**changes)
    found = why_not_lean(base, 64)
    assert found is not None
    assert reason in found
    assert _model(base).lean is None


def test_a_window_longer_than_the_sequence_changes_nothing() -> None:
    assert why_not_lean(_base(sliding_window=64), 64) is None
