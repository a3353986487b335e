"""The demonstration's own model, rows and optimizer: at every step lean layers give plain ones' gradients.

Both start each step from the same weights, so that a difference cannot hide behind the drift that rounding
alone causes over a run. ``SO8T_LEAN_STEPS=30 pytest -s`` on this file goes further than CI does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from so8t_engine.config import load_config
from so8t_engine.data.dataset import load_splits
from so8t_engine.data.packed import PackedCollator
from so8t_engine.data.tokenize import Collator, encode_row
from so8t_engine.model.lean.dropout import _mask, fork
from so8t_engine.model.loading import load_base, load_tokenizer
from so8t_engine.model.so8t_model import Batch, SO8TModel, StepTotals
from so8t_engine.paths import configs_dir
from so8t_engine.training.optimizer import make_optimizer

STEPS = int(os.environ.get("SO8T_LEAN_STEPS", "2"))
ROWS, ACCUMULATION, LENGTH = 6, 2, 192
#: (dropout, packing): two cover both; all four in the long version.
CASES = (
    [(0.0, True), (0.1, False)]
    if STEPS == 2
    else [(p, packed) for p in (0.0, 0.1) for packed in (False, True)]
)


class _SameMask(nn.Module):
    """Drops what the lean layers drop, for a seed that is given before each pass; in tiles of an MLP."""

    def __init__(self, probability: float, site: int, number: int, tile: int | None) -> None:
        super().__init__()
        self.probability, self.site, self.number, self.tile = probability, site, number, tile
        self.seed = 0

    def forward(self, input_NTI: Tensor) -> Tensor:
        flat_tI = input_NTI.reshape(-1, input_NTI.shape[-1])
        parts = []
        for index, part_tI in enumerate(flat_tI.split(self.tile or len(flat_tI))):
            own: int | None = self.seed ^ self.site
            if self.tile is not None:
                own = fork(own, 16 * index)
            seed = fork(own, self.number)
            assert seed is not None
            parts.append(part_tI * _mask(part_tI, self.probability, seed))
        return torch.cat(parts).view_as(input_NTI) / (1.0 - self.probability)


def _models(dropout: float, packing: bool) -> tuple[Any, SO8TModel, SO8TModel]:
    changes = ["model.device=cpu", f"lora.dropout={dropout}", f"training.packing={packing}"]
    found = []
    for layers in ("plain", "lean"):
        config = load_config(configs_dir() / "demo.yaml", [*changes, f"memory.layers={layers}"])
        found.append(SO8TModel(load_base(config.model), config).train())
    plain, lean = found
    assert plain.lean is None
    assert lean.lean is not None
    return config, plain, lean


def _seed_masks(model: SO8TModel, dropout: float, tile: int, seed: int) -> None:
    """Have peft's layers draw the masks that the lean layers draw after ``torch.manual_seed(seed)``."""
    torch.manual_seed(seed)
    layers = model.causal_lm.model.layers
    for layer, own in zip(layers, torch.randint(2**62, (len(layers),)).tolist(), strict=True):
        places = (
            (layer.self_attn.qkv_proj, 0, 0, None), (layer.self_attn.o_proj, 0, 8, None),
            (layer.mlp.gate_up_proj, 1, 0, tile), (layer.mlp.down_proj, 1, 2, tile),
        )  # fmt: skip
        for module, site, number, own_tile in places:
            mask = _SameMask(dropout, site, number, own_tile)
            mask.seed = own
            module.lora_dropout["default"] = mask


def _gradients(
    model: SO8TModel, step: list[Batch], first_seed: int, masks: Callable[[int], None]
) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    totals, loss = StepTotals.of(step), 0.0
    for number, batch in enumerate(step):
        masks(first_seed + number)
        torch.manual_seed(first_seed + number)
        report = model(batch, totals, alpha_target=1.0, pet_weight=0.05)
        report.loss.backward()
        loss += float(report.loss)
    return loss, {name: p.grad.clone() for name, p in model.trainable().items()}  # type: ignore[union-attr]


@pytest.mark.parametrize(("dropout", "packing"), CASES)
def test_each_step_of_the_demonstration_has_the_gradients_of_plain_layers(
    dropout: float, packing: bool
) -> None:
    config, plain, lean = _models(dropout, packing)
    tokenizer = load_tokenizer(config.model)
    rows = load_splits(
        "embedded:four_class", None, fmt="auto", validation_fraction=0.1, seed=42, max_rows=None
    )
    encoded = [encode_row(tokenizer, row, LENGTH) for row in rows.train[: ROWS * ACCUMULATION * STEPS]]
    collate = (PackedCollator if packing else Collator)(tokenizer.pad_token_id)
    batches = [collate(encoded[start : start + ROWS]) for start in range(0, len(encoded), ROWS)]
    optimizer = make_optimizer(lean, config)
    same = plain.trainable()
    tile = lean.lean.tile if lean.lean is not None else 0
    worst = [0.0, 0.0]
    for number in range(STEPS):
        step = batches[number * ACCUMULATION : (number + 1) * ACCUMULATION]
        with torch.no_grad():
            for name, parameter in lean.trainable().items():
                same[name].copy_(parameter)
        masks = (lambda seed: _seed_masks(plain, dropout, tile, seed)) if dropout else (lambda _seed: None)
        expected, wanted = _gradients(plain, step, 100 * number, masks)
        found, gradients = _gradients(lean, step, 100 * number, lambda _seed: None)
        worst[0] = max(worst[0], abs(found - expected) / expected)
        for name, gradient in gradients.items():
            difference = float((gradient - wanted[name]).abs().max())
            # A head's bias has a difference of probabilities for a gradient: 5e-3 stands for their size.
            least = 5e-3 if name.startswith("so8t.") and name.endswith(".bias") else 1e-12
            worst[1] = max(worst[1], difference / float(wanted[name].abs().max() + least))
        nn.utils.clip_grad_norm_(lean.trainable().values(), 1.0)
        optimizer.step()
    figures = f"{STEPS} steps: loss {worst[0]:.1e}, gradient {worst[1]:.1e}"
    sys.stdout.write(f"dropout {dropout}, packing {packing}, {figures}\n")
    assert worst[0] < 1e-6
    assert worst[1] < 2e-5  # of the largest element of the same tensor; float32 has 1.2e-7
