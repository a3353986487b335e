"""Rows packed into one sequence are computed as if each were alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from so8t_engine.config import Config
from so8t_engine.data.packed import PackedCollator, cut_packed
from so8t_engine.data.tokenize import IGNORED, Collator, Encoded
from so8t_engine.model.loading import load_base
from so8t_engine.model.packed import PackedRows, attend, use_packed_attention
from so8t_engine.model.so8t_model import Batch, SO8TModel, StepTotals
from so8t_engine.so8t.pet import pet_loss
from so8t_engine.so8t.pet_packed import packed_pet_loss

Make = Callable[..., Config]
LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=7)


def _rows(lengths: list[int], seed: int = 0) -> list[Encoded]:
    random = torch.Generator().manual_seed(seed)
    rows = []
    for number, length in enumerate(lengths):
        ids = torch.randint(3, 4000, (length,), generator=random).tolist()
        prompt = int(torch.randint(0, length, (), generator=random))
        # Plain text too, whose first token is labelled although nothing can predict it.
        labels = list(ids) if number % 3 == 2 else [IGNORED] * prompt + ids[prompt:]
        task = None if number % 4 == 3 else number % 4
        rows.append(Encoded(ids, labels, prompt, task, number % 2 if number != 1 else None, False))
    return rows


@pytest.fixture(
    scope="module",
    params=[
        "sdpa",
        "eager",
        "checkpointed",
        "checkpointed, attention kept",
        "gate in a layer",
        "plain",
        "plain, checkpointed",
    ],
)
def model(request: pytest.FixtureRequest, tiny_model: Any) -> SO8TModel:  # noqa: ANN401
    kind = request.param
    config = Config.model_validate(
        {
            "model": {
                "path": str(tiny_model), "device": "cpu", "quantization": "none",
                "attention": "eager" if kind == "eager" else "sdpa",
            },
            "data": {"train": "embedded:four_class", "max_length": 64},
            "lora": {"dropout": 0.0},
            "so8t": {
                "alpha_schedule": "learned", "alpha_start": 0.3, "init_std": 0.3, "commutator_weight": 0.1,
                "gate_layers": [0] if kind == "gate in a layer" else [],
            },
            "training": {"packing": True, "gradient_checkpointing": "checkpointed" in kind},
            "memory": {
                "layers": "plain" if "plain" in kind else "lean", "keep_attention": "kept" in kind,
            },
        }
    )  # fmt: skip
    torch.manual_seed(5)
    made = SO8TModel(load_base(config.model), config)
    with torch.no_grad():  # LoRA's B is 0 at the start: its A would have no gradient
        for name, parameter in made.trainable().items():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return made.train()


def _step(model: SO8TModel, batches: list[Batch]) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Raw terms and gradients of an optimizer step."""
    model.zero_grad()
    totals = StepTotals.of(batches)
    terms: dict[str, float] = {}
    for batch in batches:
        report = model(batch, totals, alpha_target=1.0, pet_weight=0.5)
        report.loss.backward()
        for name, (raw, _weighted) in report.terms.items():
            terms[name] = terms.get(name, 0.0) + float(raw)
    return terms, {n: p.grad.clone() for n, p in model.trainable().items() if p.grad is not None}


def _compare(model: SO8TModel, ours: list[Batch], alone: list[Batch]) -> None:
    terms, gradients = _step(model, ours)
    wanted_terms, wanted = _step(model, alone)
    assert set(terms) == set(wanted_terms)
    for name, value in wanted_terms.items():
        assert terms[name] == pytest.approx(value, rel=2e-5, abs=2e-6), name
    assert set(gradients) == set(wanted)
    largest = max(float(gradient.abs().max()) for gradient in wanted.values())
    for name, gradient in wanted.items():
        bound = 1e-4 * float(gradient.abs().max()) + 1e-6 * largest
        assert float((gradients[name] - gradient).abs().max()) <= bound, name


@given(LENGTHS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_losses_and_gradients_are_those_of_single_unpadded_rows(model: SO8TModel, lengths: list[int]) -> None:
    rows = _rows(lengths)
    packed, alone = PackedCollator(0)(rows), Collator(0, 1)
    single = [alone([row]) for row in rows]
    ours, theirs = StepTotals.of([packed]), StepTotals.of(single)
    assert (ours.tokens, ours.rows, ours.task_rows, ours.safety_rows) == (
        theirs.tokens, theirs.rows, theirs.task_rows, theirs.safety_rows,
    )  # fmt: skip
    _compare(model, [packed], single)


def test_a_packed_batch_cut_in_pieces_and_a_padded_one_learn_the_same(model: SO8TModel) -> None:
    rows = _rows([9, 30, 4, 17, 1, 12])
    packed = PackedCollator(0)(rows)
    pieces = list(cut_packed(packed, 2))
    assert [len(piece["task_N"]) for piece in pieces] == [2, 2, 2]
    assert sum(piece["input_ids_NT"].shape[1] for piece in pieces) == sum(len(r.input_ids) for r in rows)
    _compare(model, pieces, [Collator(0)(rows)])
    _compare(model, [packed], [Collator(0)(rows)])


def test_no_row_has_any_influence_on_another(model: SO8TModel) -> None:
    rows = _rows([9, 14, 6])
    batch = PackedCollator(0)(rows)
    model.eval()
    with torch.no_grad():
        hidden_NTH, _out = model.adapt(batch)
        changed = batch | {"input_ids_NT": batch["input_ids_NT"].clone()}
        changed["input_ids_NT"][0, 9:23] += 1
        other_NTH, _out = model.adapt(changed)
    model.train()
    assert torch.equal(hidden_NTH[:, :9], other_NTH[:, :9])
    assert torch.equal(hidden_NTH[:, 23:29], other_NTH[:, 23:29])
    assert not torch.equal(hidden_NTH[:, 9:23], other_NTH[:, 9:23])


def test_a_row_has_exactly_zero_gradient_from_another(model: SO8TModel) -> None:
    packed = PackedRows.of(PackedCollator(0)(_rows([9, 14, 6])), 64)
    assert packed is not None
    body = model.causal_lm.model
    embedded_NTH = torch.randn((1, 32, 64), generator=torch.Generator().manual_seed(0)).requires_grad_()
    model.eval()
    out_NTH = body(
        inputs_embeds=embedded_NTH, use_cache=False, **packed.arguments(model._rows_apart)
    ).last_hidden_state
    (gradient,) = torch.autograd.grad(out_NTH[:, 9:23].square().sum(), embedded_NTH)
    model.train()
    assert bool((gradient[:, :9] == 0).all())
    assert bool((gradient[:, 23:] == 0).all())
    assert bool((gradient[:, 9:23] != 0).any())


@given(LENGTHS, st.sampled_from([(4, 4), (4, 2), (3, 1)]))
@settings(max_examples=30, deadline=None)
def test_attention_is_that_of_a_block_diagonal_mask(lengths: list[int], heads: tuple[int, int]) -> None:
    packed = PackedRows.of(PackedCollator(0)(_rows(lengths)), 30)
    assert packed is not None
    mask_NTT = packed.block_mask()
    # Filling is a row of its own here too: with −1 everywhere it looks at itself.
    tokens = mask_NTT.shape[-1]
    random = torch.Generator().manual_seed(1)
    shapes = [(1, count, tokens, 8) for count in (heads[0], heads[1], heads[1])]
    inputs = [torch.randn(shape, generator=random, dtype=torch.float64).requires_grad_() for shape in shapes]
    ours = attend(inputs[0], inputs[1], inputs[2], packed.cumulative_S, packed.longest, 0.3)
    theirs = functional.scaled_dot_product_attention(
        *inputs, attn_mask=mask_NTT, scale=0.3, enable_gqa=heads[0] != heads[1]
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    weight = torch.randn(ours.shape, generator=random, dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad(ours, inputs, weight), torch.autograd.grad(theirs, inputs, weight), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@given(st.lists(st.integers(1, 700), min_size=1, max_size=5), st.sampled_from([None, 0.7]))
@settings(max_examples=25, deadline=None)
def test_pet_crosses_no_border(lengths: list[int], huber: float | None) -> None:
    random = torch.Generator().manual_seed(2)
    rows = [torch.randn((1, n, 5), generator=random, dtype=torch.float64) * (n % 3) for n in lengths]
    filling = torch.randn((1, 4, 5), generator=random, dtype=torch.float64)
    hidden = torch.cat([*rows, filling], 1).requires_grad_()
    index = torch.tensor([[number for number, n in enumerate(lengths) for _t in range(n)] + [-1] * 4])
    ours = packed_pet_loss(hidden, index, len(lengths), huber)
    theirs = torch.stack([pet_loss(row, None, huber) for row in hidden.split([*lengths, 4], 1)[:-1]]).mean()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    (one,) = torch.autograd.grad(ours, hidden, retain_graph=True)
    if bool(theirs.requires_grad):
        (other,) = torch.autograd.grad(theirs, hidden)
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    assert bool((one[:, -4:] == 0).all())


def _peer(kind: str) -> nn.Module:
    import transformers as tf

    shared: dict[str, Any] = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    }  # fmt: skip
    made: dict[str, Callable[[], Any]] = {
        "llama": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**shared)),
        "qwen2": lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**shared)),
        "mistral, short window": lambda: tf.MistralForCausalLM(tf.MistralConfig(**shared, sliding_window=5)),
        "mistral, long window": lambda: tf.MistralForCausalLM(tf.MistralConfig(**shared, sliding_window=50)),
        "gemma": lambda: tf.GemmaForCausalLM(tf.GemmaConfig(**shared, head_dim=8)),
    }
    torch.manual_seed(0)
    peer: nn.Module = made[kind]()
    return peer.eval()


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral, short window", "mistral, long window", "gemma"])
@torch.no_grad()
def test_other_architectures_keep_rows_apart(kind: str) -> None:
    peer: Any = _peer(kind)
    rows = [[3, 4, 5, 6, 7, 8, 9, 10, 11], [20], [30, 31, 32, 33, 34, 35, 36]]
    before = [peer.model(input_ids=torch.tensor([row])).last_hidden_state for row in rows]
    apart = use_packed_attention(peer, 9)
    assert apart == (kind != "mistral, short window")
    encoded = [Encoded(row, row, 0, None, None, False) for row in rows]
    packed = PackedRows.of(batch := PackedCollator(0)(encoded), 9)
    assert packed is not None
    hidden = peer.model(
        input_ids=batch["input_ids_NT"], use_cache=False, **packed.arguments(apart)
    ).last_hidden_state
    wanted = torch.cat(before, 1)
    torch.testing.assert_close(hidden[:, : wanted.shape[1]], wanted, rtol=1e-5, atol=1e-5)
    # Padded batches are computed as before.
    again = peer.model(input_ids=torch.tensor([rows[0]])).last_hidden_state
    torch.testing.assert_close(again, before[0], rtol=1e-5, atol=1e-5)
