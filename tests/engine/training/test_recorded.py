"""What passes that can be recorded rest on, as far as it needs no card."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from so8t_engine.benchmark.random_base import SHAPES, random_base
from so8t_engine.config import Config
from so8t_engine.data.packed import PackedCollator
from so8t_engine.data.tokenize import Encoded
from so8t_engine.memory.fit import with_changes
from so8t_engine.model.divisors import Divisors
from so8t_engine.model.gradients import ALIGNMENT, FlatGradients
from so8t_engine.model.so8t_model import SO8TModel, StepTotals
from so8t_engine.training.recorded import RecordedPasses, padded_length
from so8t_engine.training.recorded_inputs import empty_inputs, fill


@given(st.integers(1, 4096), st.integers(1, 4096))
def test_padded_lengths_come_round_and_pad_little(length: int, longest: int) -> None:
    wanted = padded_length(length, longest)
    assert length <= wanted <= max(longest, length)
    assert wanted - length <= max(16, length // 4)
    assert padded_length(wanted, longest) == wanted


def test_few_lengths_are_recorded() -> None:
    assert len({padded_length(length, 2048) for length in range(1, 2049)}) <= 40


def test_gradients_of_one_buffer_add_up_and_are_cleared_in_place() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(7, 5)
    gradients = FlatGradients(list(layer.parameters()))
    assert gradients.flat.numel() == 2 * ALIGNMENT
    inputs = torch.randn(3, 7)
    layer(inputs).square().sum().backward()
    once = layer.weight.grad
    assert once is not None
    wanted = torch.autograd.grad(layer(inputs).square().sum(), layer.weight)[0]
    assert torch.equal(once, wanted)
    layer(inputs).square().sum().backward()
    assert torch.equal(layer.weight.grad, 2 * wanted)  # type: ignore[arg-type]
    assert layer.weight.grad is once
    layer.zero_grad(set_to_none=True)
    gradients.zero()
    assert layer.weight.grad is once
    assert not gradients.flat.any()
    assert FlatGradients.for_training(list(layer.parameters())) is None, "off a card nothing changes"


def _batch() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    ids_NT = torch.randint(3, 200, (2, 40), generator=random)
    labels_NT, mask_NT = ids_NT.clone(), torch.ones_like(ids_NT)
    labels_NT[:, :13] = -100
    labels_NT[1, 30:], mask_NT[1, 30:] = -100, 0
    return {
        "input_ids_NT": ids_NT, "labels_NT": labels_NT, "attention_mask_NT": mask_NT,
        "pool_index_N": torch.tensor([12, 12]), "task_N": torch.tensor([2, -100]),
        "safety_N": torch.tensor([1, 0]),
    }  # fmt: skip


def _pack() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Three packed rows of 27 tokens in all, and the same in a recording's tensors, which are larger."""
    random = torch.Generator().manual_seed(2)
    rows = []
    for length, task, safety in ((9, 2, 1), (12, None, 0), (6, 3, None)):
        ids = torch.randint(3, 200, (length,), generator=random).tolist()
        rows.append(Encoded(ids, [-100] * 4 + ids[4:], 3, task, safety, truncated=False))
    batch = PackedCollator(0)(rows)
    inputs = empty_inputs(batch, 6, 64, torch.device("cpu"))
    fill(inputs, batch, 0)
    return batch, inputs


def test_a_pack_is_filled_up_with_a_row_of_its_own_and_rows_without_tokens() -> None:
    batch, inputs = _pack()
    assert batch["cumulative_S"].tolist() == [0, 9, 21, 27, 32]
    assert inputs["cumulative_S"].tolist() == [0, 9, 21, 27, 32, 64, 64, 64, 64]
    assert inputs["row_index_NT"][0, 27:].eq(-1).all()
    assert inputs["labels_NT"][0, 27:].eq(-100).all()
    assert inputs["task_N"].tolist() == [2, -100, 3, -100, -100, -100]
    assert inputs["safety_N"].tolist() == [1, 0, -100, -100, -100, -100]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("schedule", ["learned", "sigmoid"])
def test_a_pass_whose_numbers_are_tensors_is_the_same_pass(schedule: str, packed: bool) -> None:
    torch.manual_seed(3)
    base = random_base(
        "tiny", "none", double_quant=True, attention="sdpa", dtype=torch.float32, device=torch.device("cpu")
    )
    places = {"lora.dropout": 0.0, "so8t.alpha_schedule": schedule, "data.max_length": 64}
    model = SO8TModel(base, with_changes(Config(), places)).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    batch, inputs = _pack() if packed else (_batch(), _batch())
    totals = StepTotals.of([batch, batch])
    own = totals.divisors()
    numbers = torch.tensor(
        [own.tokens, own.rows, own.task_rows, own.safety_rows, own.micro_batches, 0.4, 0.05]
    )
    tokens, rows, task, safety, passes, alpha, pet = numbers.unbind()
    found = []
    for read, step, target, weight in (
        (batch, totals, 0.4, 0.05),
        (inputs, Divisors(tokens, rows, task, safety, passes, True, True), alpha, pet),
    ):
        model.zero_grad()
        report = model(read, step, alpha_target=target, pet_weight=weight)
        report.loss.backward()
        grads = torch.cat([p.grad.flatten() for p in model.trainable().values() if p.grad is not None])
        found.append(({name: float(raw) for name, (raw, _w) in report.terms.items()}, grads))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    # Other shapes add up in another order.
    apart = (found[0][1] - found[1][1]).abs().max()
    assert apart < (2e-6 if packed else 1e-7), float(apart)


def test_without_a_card_nothing_is_recorded_and_the_reason_is_known() -> None:
    base = random_base(
        "tiny", "none", double_quant=True, attention="sdpa", dtype=torch.float32, device=torch.device("cpu")
    )
    model = SO8TModel(base, Config())
    assert RecordedPasses.impossible(model, Config()) == "no card is used"


def test_angles_that_depend_on_a_rows_length_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    half = SHAPES["tiny"]["hidden_size"] // SHAPES["tiny"]["num_attention_heads"] // 2
    factors = {"short_factor": [1.0] * half, "long_factor": [2.0] * half}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 128} | factors
    grown = SHAPES["tiny"] | {"rope_parameters": rope, "original_max_position_embeddings": 128}
    monkeypatch.setitem(SHAPES, "grown", grown)
    found = []
    for shape, length in (("tiny", 256), ("grown", 128), ("grown", 256)):
        base = random_base(
            shape,
            "none",
            double_quant=True,
            attention="sdpa",
            dtype=torch.float32,
            device=torch.device("cpu"),
        )
        lean = SO8TModel(base, Config()).lean
        assert lean is not None
        found.append(lean.angles_grow(length, torch.empty(())))
    assert found == [False, False, True]
