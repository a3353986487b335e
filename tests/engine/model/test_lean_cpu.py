"""The CPU's own ways of the lean layers against the plain ones of PyTorch, values and gradients."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from so8t_engine.model.lean.attention import Attention, Norm
from so8t_engine.model.lean.linear import LoraLinear
from so8t_engine.model.lean.mlp import GatedMLP
from so8t_engine.model.lean.ops import cross_entropy_rows, rotary, rotary_of_pairs
from so8t_engine.model.packed import _FlashRows, _row_by_row, side_by_side
from so8t_engine.so8t.losses import IGNORE
from so8t_engine.so8t.pet import pet_loss
from so8t_engine.so8t.pet_packed import packed_pet_loss


def _random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_attention_of_rows_as_one_node_is_sdpa_of_each_row(dtype: torch.dtype) -> None:
    ends = [0, 1, 40, 103, 110]
    # Queries, keys and values as parts of one wider row, as a fused projection gives them.
    wide_1TF = _random(1, 110, 3 * 64, dtype=dtype)
    grad_1hTD = _random(1, 4, 110, 16, seed=1, dtype=dtype)
    found, wanted = (wide_1TF.clone().requires_grad_() for _way in range(2))

    def parts(one: Tensor) -> list[Tensor]:
        return [part.view(1, 110, 4, 16).transpose(1, 2) for part in one.split(64, -1)]

    out = _row_by_row(*parts(found), torch.tensor(ends, dtype=torch.int32), 0.25)
    assert type(out.grad_fn).__name__ == "_FlashRowsBackward"
    assert issubclass(_FlashRows, torch.autograd.Function)
    out.backward(grad_1hTD)
    rows = [
        functional.scaled_dot_product_attention(
            *(part[:, :, begin:end] for part in parts(wanted)), is_causal=True, scale=0.25
        )
        for begin, end in pairwise(ends)
    ]
    plain = torch.cat(rows, 2)
    plain.backward(grad_1hTD)
    assert torch.equal(out, plain)
    assert found.grad is not None
    assert wanted.grad is not None
    assert torch.equal(found.grad, wanted.grad)


def test_queries_and_keys_in_pairs_are_turned_as_halves_are() -> None:
    linear = LoraLinear(nn.Linear(64, 192, bias=False))
    block = Attention(Norm(torch.ones(64), 1e-5), (linear,), linear, 4, 4, 16, 0.25)
    angle_1TR = _random(1, 7, 8).repeat(1, 1, 2)
    cos_1TR, sin_1TR = angle_1TR.cos(), angle_1TR.sin()
    order_F = block.pairs_order(cos_1TR)
    assert order_F is not None
    assert block.pairs_order(cos_1TR[..., :8]) is None
    plain_1TF = _random(1, 7, 192, seed=1)
    paired_1TF = plain_1TF[..., order_F].contiguous()
    for part in plain_1TF.split(64, -1)[:2]:
        rotary(part.view(1, 7, 4, 16), part, cos_1TR, sin_1TR)
    rotary_of_pairs(paired_1TF[..., :128], cos_1TR, sin_1TR)
    torch.testing.assert_close(paired_1TF, plain_1TF[..., order_F])


def test_gradients_that_lie_side_by_side_are_turned_back_where_they_are() -> None:
    linear = LoraLinear(nn.Linear(64, 192, bias=False))
    block = Attention(Norm(torch.ones(64), 1e-5), (linear,), linear, 4, 4, 16, 0.25)
    angle_1TR = _random(1, 7, 8, dtype=torch.float32).repeat(1, 1, 2)
    cos_1TR, sin_1TR = angle_1TR.cos(), angle_1TR.sin()
    order_F = block.pairs_order(cos_1TR)
    assert order_F is not None
    whole_1TgD = _random(1, 7, 12, 16, seed=1, dtype=torch.float32)
    beside = tuple(part.transpose(1, 2) for part in whole_1TgD.split(4, 2))
    apart = tuple(part.clone() for part in beside)
    # The same gradients with the units of each head in their own order.
    own_1TgD = torch.empty_like(whole_1TgD)
    own_1TgD.view(1, 7, 192)[..., order_F] = whole_1TgD.view(1, 7, 192)
    own = tuple(part.transpose(1, 2) for part in own_1TgD.split(4, 2))
    assert side_by_side(apart) is None
    assert side_by_side((beside[0], beside[2], beside[1])) is None
    (wanted_1TF,) = block.turned_back(own, cos_1TR, sin_1TR, False)
    (copied_1TF,) = block.turned_back(apart, cos_1TR, sin_1TR, True)
    (found_1TF,) = block.turned_back(beside, cos_1TR, sin_1TR, True)
    assert found_1TF.data_ptr() == whole_1TgD.data_ptr()
    assert torch.equal(found_1TF, copied_1TF)
    torch.testing.assert_close(found_1TF, wanted_1TF[..., order_F])


@pytest.mark.parametrize(("tokens", "tiles"), [(70, 1), (90, 1), (100, 2), (200, 3)])
def test_kept_tiles_are_even_and_change_nothing(tokens: int, tiles: int) -> None:
    """At a tile of 64; a tile of a few tokens would cost all the calls of a whole one."""
    torch.manual_seed(0)
    expand, contract = (nn.Linear(*sizes, bias=False, dtype=torch.float64) for sizes in ((16, 24), (12, 16)))
    a, b = (nn.Parameter(_random(*shape, seed=2)) for shape in ((3, 16), (24, 3)))
    norm, linears = Norm(_random(16, seed=1), 1e-5), (LoraLinear(expand, a, b, 0.7), LoraLinear(contract))
    leaf_1TH, results = _random(1, tokens, 16, seed=tokens).requires_grad_(), []
    for keep, tile in ((True, 64), (False, 10**6)):
        out_1TH = GatedMLP(norm, linears[:1], linears[1], "silu", tile).forward(leaf_1TH, None, keep=keep)
        if keep:
            assert len(out_1TH.grad_fn.kept) == tiles
        results.append((out_1TH, *torch.autograd.grad(out_1TH.square().sum(), (leaf_1TH, a, b))))
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)  # tiles are summed in float32


def test_pet_in_one_piece_is_pet_of_each_row_with_its_gradient() -> None:
    sizes = [2, 3, 40, 17]
    row_T = torch.cat([torch.full((size,), row) for row, size in enumerate(sizes)] + [torch.full((5,), -1)])
    hidden = _random(1, len(row_T), 16)
    hidden[:, 5:45] *= 3.0  # the rows differ in size
    found, wanted = (hidden.clone().requires_grad_() for _way in range(2))
    loss = packed_pet_loss(found, row_T.unsqueeze(0), len(sizes))
    assert type(loss.grad_fn).__name__ == "_SquaresBackward"
    loss.backward()
    plain = torch.stack([pet_loss(part) for part in wanted[:, :-5].split(sizes, 1)]).mean()
    plain.backward()
    assert found.grad is not None
    assert wanted.grad is not None
    torch.testing.assert_close(loss, plain, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-10, atol=1e-14)


def test_pet_of_rows_that_are_all_zero_is_nothing_with_a_finite_gradient() -> None:
    hidden = torch.zeros((1, 12, 8), requires_grad=True)
    loss = packed_pet_loss(hidden, torch.zeros((1, 12), dtype=torch.int64), 1)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert hidden.grad is not None
    assert torch.equal(hidden.grad, torch.zeros_like(hidden))


@pytest.mark.parametrize("bias", [False, True])
def test_merged_lora_gives_output_and_gradients_by_one_product_each(bias: bool) -> None:
    base = nn.Linear(24, 40, bias=bias, dtype=torch.float64).requires_grad_(False)
    a_rI, b_Or = nn.Parameter(_random(4, 24, seed=1)), nn.Parameter(_random(40, 4, seed=2))
    linear = LoraLinear(base, a_rI, b_Or, scale=0.5)
    input_tI, grad_tO = _random(64, 24, seed=3).requires_grad_(), _random(64, 40, seed=4)
    weight = linear.prepare(torch.float64, 64, None)
    assert weight.merged
    lows: list[Tensor | None] = []
    out_tO = linear.forward(input_tI.detach(), weight, None, lows)
    (low_tr,) = lows
    assert low_tr is not None
    found = linear.backward(grad_tO, input_tI.detach(), weight, None, low_tr=low_tr)
    none, *without = linear.backward(
        grad_tO, input_tI.detach(), weight, None, want_input=False, low_tr=low_tr
    )
    plain = base(input_tI) + 0.5 * (input_tI @ a_rI.T) @ b_Or.T
    plain.backward(grad_tO)
    assert none is None
    torch.testing.assert_close(out_tO, plain.detach(), rtol=1e-12, atol=1e-12)
    for one, wanted in zip((*found, *without), (input_tI, a_rI, b_Or, a_rI, b_Or), strict=True):
        torch.testing.assert_close(one, wanted.grad, rtol=1e-11, atol=1e-11)


def test_cross_entropy_in_place_agrees_where_the_share_underflows() -> None:
    logits_tV = _random(30, 50, dtype=torch.float32) * 8
    logits_tV[5] = -1e4
    logits_tV[5, 0] = 0.0  # the label's share is 0 in any float
    labels_t = torch.randint(1, 50, (30,), generator=torch.Generator().manual_seed(1))
    labels_t[3] = IGNORE
    wide = logits_tV.double().requires_grad_()
    wanted_t = functional.cross_entropy(wide, labels_t, reduction="none", ignore_index=IGNORE)
    wanted_t.sum().backward()
    assert wide.grad is not None
    found_t = cross_entropy_rows(logits_tV, labels_t, IGNORE, True)
    torch.testing.assert_close(found_t.double(), wanted_t.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(logits_tV.double(), wide.grad, rtol=0, atol=1e-6)
    assert not logits_tV[3].any()
