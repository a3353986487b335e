"""Recorded passes on a card: the same losses and gradients as ordinary ones, whatever changes between two."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from so8t_engine.benchmark.random_base import random_base  # noqa: E402
from so8t_engine.config import Config  # noqa: E402
from so8t_engine.memory.fit import with_changes  # noqa: E402
from so8t_engine.model.gradients import FlatGradients  # noqa: E402
from so8t_engine.model.so8t_model import SO8TModel, StepTotals  # noqa: E402
from so8t_engine.training.recorded import RecordedPasses  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA card"),
]


def made(quantization: str, **settings: Any) -> tuple[SO8TModel, RecordedPasses]:  # noqa: ANN401
    torch.manual_seed(3)
    base = random_base(
        "tiny", quantization, double_quant=True, attention="sdpa", dtype=torch.bfloat16,
        device=torch.device("cuda"),
    )  # fmt: skip
    places = {"lora.dropout": 0.1, "so8t.alpha_schedule": "learned", "data.max_length": 256}
    model = SO8TModel(base, with_changes(Config(), places | settings)).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # not 0: otherwise A has no gradient
            torch.nn.init.normal_(parameter, std=0.05)
    model.gradients = FlatGradients.for_training(list(model.trainable().values()))
    recorded = RecordedPasses(model, 256, 0, limit=2**36, always=True)
    model.before_evaluation = recorded.release  # as the trainer has it
    return model, recorded


def batch_of(rows: int, length: int, seed: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    ids_NT = torch.randint(3, 200, (rows, length), generator=random)
    labels_NT = ids_NT.clone()
    labels_NT[:, : length // 3] = -100
    return {
        "input_ids_NT": ids_NT, "labels_NT": labels_NT, "attention_mask_NT": torch.ones_like(ids_NT),
        "pool_index_N": torch.full((rows,), length // 3 - 1), "task_N": torch.arange(rows) % 4,
        "safety_N": torch.arange(rows) % 2,
    }  # fmt: skip


def both(model: SO8TModel, recorded: RecordedPasses, batch: dict[str, Tensor], seed: int) -> tuple[Any, Any]:
    """(terms, gradients) of an ordinary pass and of a replayed one, with the same dropout."""
    totals = StepTotals.of([batch])
    assert model.gradients is not None
    found = []
    for replay in (False, True):
        model.gradients.zero()
        torch.manual_seed(seed)
        if replay:
            report = recorded.replay(batch, totals, 0.5, 0.05, gradients_are_zero=True)
            assert report is not None
        else:
            on_card = {name: tensor.cuda() for name, tensor in batch.items()}
            with torch.autocast("cuda", dtype=torch.bfloat16):
                report = model(on_card, totals, alpha_target=0.5, pet_weight=0.05)
            report.loss.backward()
            del on_card
        terms = {name: float(raw) for name, (raw, _weighted) in report.terms.items()}
        del report
        found.append((terms, model.gradients.flat.clone()))
    return found[0], found[1]


@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"training.gradient_checkpointing": False},
        {"so8t.gate_layers": [1], "memory.kept_layers": 1},
        {"memory.offload_activations": True},
        {"memory.keep_attention": True},
        {"memory.offload_activations": True, "memory.keep_attention": True},
        {"memory.offload_activations": True, "memory.offload_everything": "on"},
    ],
)
def test_a_replayed_pass_is_an_ordinary_one(quantization: str, settings: dict[str, Any]) -> None:
    model, recorded = made(quantization, **settings)
    seeds = iter(range(100))
    for rows, length in ((1, 64), (1, 50), (2, 64), (1, 200), (1, 64)):
        seed = next(seeds)
        ordinary, replayed = both(model, recorded, batch_of(rows, length, seed), seed)
        assert ordinary[0].keys() == replayed[0].keys()
        for name, value in ordinary[0].items():
            assert replayed[0][name] == pytest.approx(value, rel=2e-2, abs=1e-4), name
        apart = (ordinary[1] - replayed[1]).norm() / ordinary[1].norm()
        assert apart < 2e-2, (rows, length, float(apart))
    assert recorded.active


def test_dropout_is_drawn_anew_with_each_replay() -> None:
    model, recorded = made("nf4", **{"lora.dropout": 0.5})
    batch, losses = batch_of(1, 64, 0), []
    for _each in range(3):
        model.zero_grad()
        report = recorded.replay(batch, StepTotals.of([batch]), 0.0, 0.0, gradients_are_zero=True)
        assert report is not None
        losses.append(float(report.loss))
    assert len(set(losses)) == 3


def test_passes_add_up_and_memory_comes_back() -> None:
    model, recorded = made("nf4", **{"lora.dropout": 0.0})
    batch = batch_of(1, 64, 1)
    totals = StepTotals.of([batch])
    assert model.gradients is not None
    recorded.replay(batch, totals, 0.0, 0.05, gradients_are_zero=True)
    model.zero_grad()
    recorded.replay(batch, totals, 0.0, 0.05, gradients_are_zero=True)
    once = model.gradients.flat.clone()
    recorded.replay(batch, totals, 0.0, 0.05, gradients_are_zero=False)
    assert torch.allclose(model.gradients.flat, 2 * once, rtol=1e-3, atol=1e-6)
    before = torch.cuda.memory_reserved()
    model.eval()
    assert torch.cuda.memory_reserved() < before
    model.train()
    model.zero_grad()
    recorded.replay(batch, totals, 0.0, 0.05, gradients_are_zero=True)
    assert torch.allclose(model.gradients.flat, once, rtol=1e-3, atol=1e-6)
