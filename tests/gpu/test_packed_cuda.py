"""Packed rows on a card: recorded as ordinary, each row as if alone, and nothing seen of the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from so8t_engine.data.packed import PackedCollator
from so8t_engine.data.tokenize import Collator, Encoded
from so8t_engine.model.packed import PackedRows, attend
from so8t_engine.model.so8t_model import SO8TModel, StepTotals
from so8t_engine.training.recorded import RecordedPasses
from tests.gpu.test_recorded_cuda import both, made

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA card"),
]


def rows_of(lengths: list[int], seed: int) -> list[Encoded]:
    random = torch.Generator().manual_seed(seed)
    rows = []
    for index, length in enumerate(lengths):
        ids = torch.randint(3, 200, (length,), generator=random).tolist()
        cut = length // 3
        rows.append(Encoded(ids, [-100] * cut + ids[cut:], cut - 1, index % 4, index % 2, truncated=False))
    return rows


def packed_model(quantization: str, **settings: Any) -> tuple[SO8TModel, RecordedPasses]:  # noqa: ANN401
    model, _padded = made(quantization, **{"training.packing": True, "lora.dropout": 0.0} | settings)
    assert RecordedPasses.impossible(model, model.settings) is None
    return model, RecordedPasses(model, 512, 0, limit=2**36, always=True, most_rows=12)


@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lora.dropout": 0.1},
        {"training.gradient_checkpointing": False},
        {"so8t.gate_layers": [1], "memory.kept_layers": 1},
        {"memory.offload_activations": True},
        {"memory.offload_activations": True, "memory.keep_attention": True},
        {"memory.offload_activations": True, "memory.offload_everything": "on"},
    ],
)
def test_a_replayed_pack_is_an_ordinary_one(quantization: str, settings: dict[str, Any]) -> None:
    model, recorded = packed_model(quantization, **settings)
    packs = ([100, 50, 7], [200, 180, 64, 60], [30] * 12, [100, 51, 6], [256, 200])
    for seed, lengths in enumerate(packs):
        ordinary, replayed = both(model, recorded, PackedCollator(0)(rows_of(lengths, seed)), seed)
        assert ordinary[0].keys() == replayed[0].keys()
        for name, value in ordinary[0].items():
            assert replayed[0][name] == pytest.approx(value, rel=2e-2, abs=1e-4), (name, lengths)
        if "lora.dropout" not in settings:
            apart = (ordinary[1] - replayed[1]).norm() / ordinary[1].norm()
            assert apart < 2e-2, (lengths, float(apart))
    assert recorded.active


def test_packs_of_any_rows_share_a_recording_of_their_length() -> None:
    model, recorded = packed_model("nf4")
    for seed, lengths in enumerate(([250, 240], [50] * 10, [100, 200, 190])):
        batch = PackedCollator(0)(rows_of(lengths, seed))
        model.zero_grad()
        assert recorded.replay(batch, StepTotals.of([batch]), 0.0, 0.05, gradients_are_zero=True)
    assert len(recorded._recordings) == 1


def _terms(model: SO8TModel, batches: list[dict[str, Tensor]]) -> tuple[dict[str, float], Tensor]:
    totals = StepTotals.of(batches)
    assert model.gradients is not None
    model.gradients.zero()
    found: dict[str, float] = {}
    for batch in batches:
        on_card = {name: tensor.cuda() for name, tensor in batch.items()}
        with torch.autocast("cuda", dtype=torch.bfloat16):
            report = model(on_card, totals, alpha_target=0.5, pet_weight=0.05)
        report.loss.backward()
        for name, (raw, _weighted) in report.terms.items():
            found[name] = found.get(name, 0.0) + float(raw)
    return found, model.gradients.flat.clone()


def test_a_pack_is_its_rows_one_by_one() -> None:
    model, _recorded = packed_model("nf4")
    rows = rows_of([100, 50, 7, 33, 121], 3)
    packed = _terms(model, [PackedCollator(0)(rows)])
    alone = _terms(model, [Collator(0)([row]) for row in rows])
    assert packed[0] == pytest.approx(alone[0], rel=1e-2, abs=1e-4)
    assert (packed[1] - alone[1]).norm() < 2e-2 * alone[1].norm()


def test_no_row_sees_another_not_by_a_bit() -> None:
    model, _recorded = packed_model("nf4")
    model.eval()
    lengths = [100, 50, 33]
    one, other = rows_of(lengths, 1), rows_of(lengths, 2)
    found = []
    for rows in ([one[0], one[1], one[2]], [other[0], one[1], other[2]]):
        batch = {name: tensor.cuda() for name, tensor in PackedCollator(0)(rows).items()}
        with torch.no_grad():
            hidden = model.hidden_states(
                batch["input_ids_NT"], batch["attention_mask_NT"], packed=PackedRows.of(batch, 256)
            )
        found.append(hidden[0])
    assert torch.equal(found[0][100:150], found[1][100:150])
    assert not torch.equal(found[0][:100], found[1][:100])


@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
def test_views_into_one_projection_need_no_copies(heads: tuple[int, int]) -> None:
    torch.manual_seed(0)
    size, tokens, (many, few) = 96, 90, heads
    whole = torch.randn((1, tokens, (many + 2 * few) * size), device="cuda", dtype=torch.bfloat16)
    ends = torch.tensor([0, 20, 63, 90, 90, 90], dtype=torch.int32, device="cuda")
    weight = torch.randn((1, many, tokens, size), device="cuda", dtype=torch.bfloat16)
    found = []
    for copied in (False, True):
        read = whole.detach().requires_grad_()
        parts = torch.split(read, [many * size, few * size, few * size], -1)
        query, key, value = (part.view(1, tokens, -1, size).transpose(1, 2) for part in parts)
        if copied:
            query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        out = attend(query, key, value, ends, 60, 0.1)
        out.backward(weight)
        found.append((out.detach(), read.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.allclose(found[0][1], found[1][1], atol=2e-2)  # type: ignore[arg-type]
