"""8-bit AdamW in one call gives the bits and the state that bitsandbytes gives tensor by tensor."""

from __future__ import annotations

from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from torch import nn

from so8t_engine.model.gradients import FlatGradients
from so8t_engine.training.adamw_8bit import AdamW8bit
from so8t_engine.training.optimizer_state import capture_optimizer, restore_optimizer
from so8t_engine.training.quantised_moments import CodeTable

#: The last but one is no multiple of a block of 256; the last keeps 32-bit moments.
SHAPES = ((16, 512), (300, 16), (70, 61), (5, 7))


def parameters() -> list[nn.Parameter]:
    random = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=random)) for shape in SHAPES]


def groups(own: list[nn.Parameter]) -> list[dict[str, Any]]:
    return [
        {"params": own[:3], "lr": 1e-2, "weight_decay": 0.1},
        {"params": own[3:], "lr": 3e-2, "weight_decay": 0.0},
    ]


def joined() -> tuple[list[nn.Parameter], FlatGradients, AdamW8bit]:
    own = parameters()
    gradients = FlatGradients(own)
    optimizer = AdamW8bit(groups(own))
    optimizer.join(own[:3], gradients)
    return own, gradients, optimizer


def step(own: list[nn.Parameter], optimizer: torch.optim.Optimizer, seed: int, *, elsewhere: bool) -> None:
    """One update; the gradients are written where they lie, or are new tensors."""
    random = torch.Generator().manual_seed(seed)
    for parameter in own:
        grad = torch.randn(parameter.shape, generator=random)
        if elsewhere or parameter.grad is None:
            parameter.grad = grad
        else:
            parameter.grad.copy_(grad)
    optimizer.param_groups[0]["lr"] = 1e-2 / (1 + seed)
    optimizer.step()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_one_call_gives_the_same_bits_as_many(elsewhere: bool) -> None:
    plain = parameters()
    upstream = bnb.optim.AdamW8bit(groups(plain))
    own, _gradients, optimizer = joined()
    assert optimizer._joined is not None
    assert len({p.untyped_storage().data_ptr() for p in own[:3]}) == 1
    for seed in range(5):
        step(plain, upstream, seed, elsewhere=True)
        step(own, optimizer, seed, elsewhere=elsewhere)
    for one, other in zip(plain, own, strict=True):
        assert torch.equal(one, other)
        state, again = upstream.state[one], optimizer.state[other]
        assert set(state) == set(again)
        for key, value in state.items():
            same = torch.equal(value, again[key]) if isinstance(value, torch.Tensor) else value == again[key]
            assert same, key


def test_a_checkpoint_goes_from_either_to_either() -> None:
    for first_joined in (True, False):

        def make(join: bool) -> tuple[list[nn.Parameter], Any]:
            if join:
                own, _gradients, optimizer = joined()
                return own, optimizer
            own = parameters()
            return own, AdamW8bit(groups(own))

        own, optimizer = make(first_joined)
        for seed in range(3):
            step(own, optimizer, seed, elsewhere=False)
        names = {id(p): f"p{index}" for index, p in enumerate(own)}
        tensors, content = capture_optimizer(optimizer, names)
        again, other = make(not first_joined)
        with torch.no_grad():
            for source, target in zip(own, again, strict=True):
                target.copy_(source)
        restore_optimizer(other, {id(p): f"p{index}" for index, p in enumerate(again)}, tensors, content)
        for seed in range(3, 6):
            step(own, optimizer, seed, elsewhere=False)
            step(again, other, seed, elsewhere=False)
        assert all(torch.equal(a, b) for a, b in zip(own, again, strict=True))


def test_what_is_not_side_by_side_is_updated_one_by_one() -> None:
    own = parameters()
    gradients = FlatGradients([own[0], own[3], own[1], own[2]])
    optimizer = AdamW8bit(groups(own))
    optimizer.join(own[:3], gradients)
    assert optimizer._joined is None
    step(own, optimizer, 0, elsewhere=False)
    assert not torch.equal(own[0], parameters()[0])


def test_the_table_of_codes_gives_bitsandbytes_codes_also_for_zeros_and_very_small_values() -> None:
    random = torch.Generator().manual_seed(3)
    for name, signed in (("dynamic", True), ("udynamic", False)):
        values_256 = bnb.functional.create_dynamic_map(signed=signed)
        table = CodeTable.of(values_256)
        assert table is not None, name
        moments = torch.randn((300, 256), generator=random) * torch.logspace(-30, 2, 300).unsqueeze(1)
        moments[7] = 0.0
        moments = (moments if signed else moments.abs()).view(-1)
        wanted, wanted_scales = bnb.functional.quantize_blockwise(moments, code=values_256, blocksize=256)
        codes, scales = torch.empty_like(wanted), torch.empty_like(wanted_scales.absmax)
        table.write(moments, codes, scales)
        assert torch.equal(codes, wanted)
        assert torch.equal(scales, wanted_scales.absmax)


def test_a_library_that_codes_another_way_is_left_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def nearest(values: torch.Tensor, values_256: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        blocks = values.reshape(-1, 256)
        scales = blocks.abs().amax(1)
        shares = blocks / scales.clamp(min=1e-38).unsqueeze(1)
        codes = torch.bucketize(shares, (values_256[1:] + values_256[:-1]) / 2)
        return codes.to(torch.uint8).view(-1), scales

    monkeypatch.setattr("so8t_engine.training.quantised_moments._by_bitsandbytes", nearest)
    own, _gradients, optimizer = joined()
    assert optimizer._joined is not None
    assert optimizer._joined.tables is None
    step(own, optimizer, 0, elsewhere=False)
    assert not torch.equal(own[0], parameters()[0])
