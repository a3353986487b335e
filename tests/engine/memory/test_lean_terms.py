"""The estimate's allocations against those of the real lean layers, and of a real step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from so8t_engine.config import Config
from so8t_engine.memory.families import FAMILIES, LEAN_TYPES
from so8t_engine.memory.fit import with_changes
from so8t_engine.memory.geometry import geometry_from_config
from so8t_engine.memory.lean_step import evaluation_moment, training_moment
from so8t_engine.memory.lean_terms import runs_lean, step_shape
from so8t_engine.model.lean.body import KNOWN_TYPES
from so8t_engine.model.so8t_model import SO8TModel, StepTotals
from tests.engine.memory.card_kernels import install
from tests.engine.memory.live_bytes import LiveBytes

#: Small tensors that the estimate leaves out: rotations on their way, counts, the losses' scalars.
SLACK = 700_000

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "several tiles": ("phi3", {}, {"data.max_length": 1280}),
    "one tile, no dropout": ("phi3", {}, {"data.max_length": 512, "lora.dropout": 0.0}),
    "all logits": ("phi3", {"vocab_size": 16384}, {"data.max_length": 512, "memory.loss_path": "full"}),
    "rows": ("phi3", {}, {"data.max_length": 512, "training.batch_size": 4, "lora.r": 64}),
    "gated MLP": ("llama", {}, {"data.max_length": 1024, "so8t.gate_layers": [0, 2]}),
    "gated attention": (
        "llama",
        {},
        {
            "data.max_length": 1024,
            "so8t.gate_layers": [1],
            "so8t.gate_site": "attention",
            "so8t.gate_final": False,
        },
    ),
    "biases": ("qwen2", {}, {"data.max_length": 1024, "lora.targets": ["q_proj", "down_proj"]}),
    "nothing recomputed": (
        "phi3",
        {},
        {"data.max_length": 1024, "training.gradient_checkpointing": False},
    ),
    "weights of two layers held": (
        "phi3",
        {},
        {"data.max_length": 512, "memory.kept_weights": 2, "memory.kept_layers": 1},
    ),
    "all weights held": ("llama", {}, {"data.max_length": 512, "memory.kept_weights": 3}),
    "attention kept": ("phi3", {}, {"data.max_length": 1280, "memory.keep_attention": True}),
    "attention kept, all MLPs gated": (
        "llama",
        {},
        {"data.max_length": 1024, "memory.keep_attention": True, "so8t.gate_layers": [0, 1, 2]},
    ),
    "attention kept but where it is gated": (
        "phi3",
        {},
        {
            "data.max_length": 1024,
            "memory.keep_attention": True,
            "so8t.gate_layers": [1],
            "so8t.gate_site": "attention",
        },
    ),
    "two layers kept": ("phi3", {}, {"data.max_length": 1024, "memory.kept_layers": 2}),
}


def _model(model_type: str, sizes: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    values: dict[str, Any] = {
        "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2 if model_type == "llama" else 4, "vocab_size": 2048,
        "max_position_embeddings": 8192, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
    } | sizes  # fmt: skip
    config = AutoConfig.for_model(model_type, **values)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.requires_grad_(False)
    model.config.use_cache = False
    return model, config.to_dict()


def _batch(config: Config, vocabulary: int) -> dict[str, torch.Tensor]:
    rows, tokens = config.training.batch_size, config.data.max_length
    ids = torch.randint(1, vocabulary, (rows, tokens))
    labels = ids.clone()
    labels[:, :8] = -100
    return {
        "input_ids_NT": ids, "labels_NT": labels, "attention_mask_NT": torch.ones_like(ids),
        "pool_index_N": torch.full((rows,), 7), "task_N": torch.arange(rows) % 4,
        "safety_N": torch.arange(rows) % 2,
    }  # fmt: skip


def _followed(model: SO8TModel, batch: dict[str, torch.Tensor]) -> LiveBytes:
    live = LiveBytes()
    assert model.lean is not None
    model.lean.angles = None  # kept from pass to pass; the estimate counts them with each
    for parameter in model.parameters():
        live.hold(parameter)
        if parameter.grad is not None:
            live.hold(parameter.grad)
    linears = (
        linear
        for layer in model.lean.layers
        for linear in (*layer.attention.projections, layer.attention.output, *layer.mlp.linears)
    )
    held = [linear.whole_OI for linear in linears if linear.whole_OI is not None]
    for tensor in (*model.buffers(), *batch.values(), *held):
        live.hold(tensor)
    return live


@pytest.mark.parametrize(("case", "accumulation"), [("rows", 1), *((case, 2) for case in CASES)])
def test_a_step_holds_what_the_estimate_says(
    case: str, accumulation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_type, sizes, settings = CASES[case]
    install(monkeypatch)
    base, values = _model(model_type, sizes)
    changes = {"memory.mlp_tile": 512, "training.accumulation": accumulation, "lora.r": 8} | settings
    config = with_changes(Config(), changes)
    model = SO8TModel(base, config).train()
    assert model.lean is not None
    batch = _batch(config, values["vocab_size"])
    rows = config.training.batch_size
    totals = StepTotals(rows * (config.data.max_length - 8), rows, rows, rows, 1)

    def forward() -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(batch, totals, alpha_target=0.0, pet_weight=0.05).loss

    for _earlier in range(accumulation - 1):
        with LiveBytes():  # nothing is counted, and nothing computed
            forward().backward()
    live = _followed(model, batch)
    before = live.now
    with live:
        forward().backward()
    shape = step_shape(config, geometry_from_config(values), compute=2, flash=False)
    predicted = training_moment(shape).bytes
    assert abs(live.peak - before - predicted) <= SLACK
    assert predicted > 8 * SLACK

    model.eval()
    live = _followed(model, batch)
    before = live.now
    with live, torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        _hidden, out = model.adapt(batch)
        model.lm_loss(out.hidden_NTH, batch["labels_NT"])
    assert abs(live.peak - before - evaluation_moment(shape).bytes) <= SLACK


def test_the_same_architectures_are_lean_here_and_there() -> None:
    assert set(KNOWN_TYPES) == LEAN_TYPES
    assert set(FAMILIES) >= LEAN_TYPES


def test_a_short_sliding_window_and_eager_attention_are_not_lean() -> None:
    values = {
        "model_type": "mistral", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 100, "sliding_window": 4096,
    }  # fmt: skip
    geometry = geometry_from_config(values)
    assert runs_lean(with_changes(Config(), {"data.max_length": 4096}), geometry)
    assert not runs_lean(with_changes(Config(), {"data.max_length": 4097}), geometry)
    assert not runs_lean(with_changes(Config(), {"model.attention": "eager"}), geometry)
    assert not runs_lean(with_changes(Config(), {"memory.layers": "plain"}), geometry)
