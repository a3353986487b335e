"""What is kept on a card, activations or dequantised weights, changes neither losses nor gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from so8t_engine.benchmark.random_base import SHAPES
from so8t_engine.model.so8t_model import StepTotals
from so8t_engine.training.waiting import measure
from tests.gpu.test_recorded_cuda import batch_of, made

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA card"),
]


def gradients(quantization: str, recorded: bool, **settings: Any) -> tuple[list[float], Tensor]:  # noqa: ANN401
    """Losses and summed gradients of passes of several lengths."""
    places = {f"memory.{name}": value for name, value in settings.items() if name != "kept_shorter"}
    model, replays = made(quantization, **places)
    assert model.lean is not None
    model.lean.kept_shorter = settings.get("kept_shorter", ())
    assert model.gradients is not None
    losses = []
    for seed, length in enumerate((64, 200, 64, 128)):
        batch = batch_of(1, length, seed)
        totals = StepTotals.of([batch])
        torch.manual_seed(seed)
        report: Any = None
        if recorded:
            report = replays.replay(batch, totals, 0.5, 0.05, gradients_are_zero=seed == 0)
        else:
            on_card = {name: tensor.cuda() for name, tensor in batch.items()}
            with torch.autocast("cuda", dtype=torch.bfloat16):
                report = model(on_card, totals, alpha_target=0.5, pet_weight=0.05)
            report.loss.backward()
        losses.append(float(report.loss))
    return losses, model.gradients.flat.clone()


@pytest.fixture(autouse=True)
def _six_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough of them that what waits on the host comes from more than one."""
    monkeypatch.setitem(SHAPES, "tiny", SHAPES["tiny"] | {"num_hidden_layers": 6})


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
@pytest.mark.parametrize(
    "settings",
    [
        {"kept_layers": 2},
        {"kept_weights": 2},
        {"kept_layers": 1, "kept_weights": 1},
        {"kept_layers": 0, "kept_weights": 1, "kept_shorter": ((64, 2), (128, 1))},
        {"kept_layers": 1, "kept_weights": 1, "offload_activations": True},
        {"keep_attention": True},
        {"keep_attention": True, "offload_activations": True},
        {"keep_attention": True, "offload_activations": True, "kept_layers": 2},
        {"offload_everything": "on", "offload_activations": True, "mlp_tile": 64},
        {
            "offload_everything": "on",
            "offload_activations": True,
            "keep_attention": True,
            "mlp_tile": 64,
            "kept_layers": 0,
            "kept_shorter": ((64, 2), (128, 1)),
        },
    ],
)
def test_what_is_kept_changes_no_gradient(
    quantization: str, settings: dict[str, Any], recorded: bool
) -> None:
    # Each tile has its own dropout.
    same = {name: value for name, value in settings.items() if name == "mlp_tile"}
    plain, kept = gradients(quantization, recorded, **same), gradients(quantization, recorded, **settings)
    assert kept[0] == pytest.approx(plain[0], rel=1e-5)
    # bf16 and the order of flash attention's sums.
    assert (plain[1] - kept[1]).norm() <= 1e-3 * plain[1].norm()
    assert plain[1].norm() > 0


def test_card_and_bus_are_measured_and_memory_is_given_back() -> None:
    model, _replays = made("nf4", **{"memory.offload_activations": True, "memory.offload_everything": "auto"})
    assert model.lean is not None
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    rates = measure(model.lean)
    assert 0 < rates.forward_s < 1e-3
    assert 1e8 < rates.bus < 1e12
    # The products' workspace, and the angles of so many positions.
    assert torch.cuda.memory_allocated() - before < 40 * 2**20
