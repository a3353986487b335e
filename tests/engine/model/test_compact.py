"""Laying weights side by side changes no value and no tensor's identity."""

from __future__ import annotations

import pytest
import torch

from so8t_engine.benchmark.random_base import random_base
from so8t_engine.model.compact import compact


@pytest.mark.parametrize("kind", ["nf4", "int8", "none"])
def test_a_compacted_model_computes_the_same(kind: str) -> None:
    model = random_base(
        "tiny", kind, double_quant=True, attention="sdpa", dtype=torch.float32, device=torch.device("cpu")
    )
    ids = torch.arange(1, 33).unsqueeze(0)
    held = dict(model.named_parameters())
    before = {name: tensor.detach().clone() for name, tensor in held.items()}
    untouched = random_base(
        "tiny", "none", double_quant=True, attention="sdpa", dtype=torch.float32, device=torch.device("cpu")
    )
    assert compact(untouched, "cuda") == 0, "nothing of it is on a card"
    moved = compact(model, "cpu")
    assert moved >= sum(tensor.numel() * tensor.element_size() for tensor in before.values())
    for name, tensor in model.named_parameters():
        assert tensor is held[name]
        assert torch.equal(tensor.detach(), before[name])
    with torch.no_grad():
        first = model(input_ids=ids).logits  # type: ignore[operator]
        compact(model, "cpu")
        second = model(input_ids=ids).logits  # type: ignore[operator]
    assert torch.equal(first, second)


def test_tied_weights_stay_tied() -> None:
    base = torch.nn.Embedding(8, 4)
    head = torch.nn.Linear(4, 8, bias=False)
    head.weight = base.weight
    whole = torch.nn.ModuleList([base, head])
    wanted = base.weight.detach().clone()
    assert compact(whole, "cpu") == 8 * 4 * 4
    assert head.weight is base.weight
    assert torch.equal(head.weight.detach(), wanted)
