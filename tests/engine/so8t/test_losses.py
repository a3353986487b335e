"""Losses and PET against independent formulas, their derivatives, masks and invariances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr, softmax
from torch import Tensor
from torch.nn import functional

from so8t_engine.errors import SO8TError
from so8t_engine.so8t.losses import (
    IGNORE,
    LossWeights,
    alpha_loss,
    chunked_cross_entropy,
    combine,
    commutator_hinge,
    consistency_loss,
    dual_cross_entropy,
    focal_cross_entropy,
    head_cross_entropy,
    orthogonality_loss,
)
from so8t_engine.so8t.pet import pet_loss
from so8t_engine.so8t.rotation import commutator_norm, generators_to_matrices

seeds = st.integers(0, 2**31 - 1)


def _randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _pet_by_hand(hidden: np.ndarray, mask: np.ndarray) -> float:
    """PET by loops over rows and tokens, from the specification."""
    rows = []
    for one, real in zip(hidden, mask, strict=True):
        triples = [t for t in range(len(one) - 2) if real[t] and real[t + 1] and real[t + 2]]
        squares = [(one[t + 2] - 2 * one[t + 1] + one[t]) ** 2 for t in triples]
        energy = [one[t] ** 2 for t in np.flatnonzero(real)]
        rows.append(float(np.mean(squares) / np.mean(energy)) if squares else 0.0)
    return float(np.mean(rows))


@given(seeds, st.integers(2, 5), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_pet_does_not_depend_on_how_rows_share_batches(seed: int, rows: int, cut: int) -> None:
    hidden = _randn(rows, 7, 8, seed=seed)
    mask = torch.rand(rows, 7, generator=torch.Generator().manual_seed(seed)) < 0.8
    parts = zip(torch.split(hidden, cut), torch.split(mask, cut), strict=True)
    shares = sum(float(pet_loss(part, marks)) * len(part) / rows for part, marks in parts)
    assert shares == pytest.approx(float(pet_loss(hidden, mask)), rel=1e-12, abs=1e-15)


@given(seeds, st.integers(1, 3), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_pet_is_its_definition(seed: int, rows: int, tokens: int) -> None:
    hidden = _randn(rows, tokens, 8, seed=seed)
    mask = torch.rand(rows, tokens, generator=torch.Generator().manual_seed(seed)) < 0.7
    expected = _pet_by_hand(hidden.numpy(), mask.numpy())
    assert float(pet_loss(hidden, mask)) == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert float(pet_loss(hidden)) == pytest.approx(_pet_by_hand(hidden.numpy(), np.ones((rows, tokens))))


def test_pet_over_several_chunks() -> None:
    hidden = _randn(2, 1500, 8)
    mask = torch.ones(2, 1500)
    mask[0, :300] = 0
    mask[1, 1100:] = 0
    assert float(pet_loss(hidden, mask)) == pytest.approx(_pet_by_hand(hidden.numpy(), mask.numpy()))


def test_pet_is_0_without_a_triple_and_for_linear_motion() -> None:
    assert float(pet_loss(_randn(2, 2, 8))) == 0.0
    assert float(pet_loss(_randn(1, 5, 8), torch.tensor([[1, 1, 0, 1, 1]]))) == 0.0
    assert float(pet_loss(torch.zeros(1, 5, 8))) == 0.0
    straight = torch.arange(6).double().view(1, 6, 1) * _randn(1, 1, 8) + _randn(1, 1, 8, seed=1)
    assert float(pet_loss(straight)) <= 1e-28
    hidden = torch.zeros(1, 5, 8, requires_grad=True)
    pet_loss(hidden).backward()
    assert hidden.grad is not None
    assert bool(hidden.grad.isfinite().all())


def test_pet_does_not_depend_on_scale_and_huber_bounds_outliers() -> None:
    hidden = _randn(1, 9, 8)
    plain = float(pet_loss(hidden))
    assert float(pet_loss(hidden * 300.0)) == pytest.approx(plain)
    assert float(pet_loss(hidden, huber_delta=1e6)) == pytest.approx(plain)
    spike = hidden.clone()
    spike[0, 4] += 50.0
    assert float(pet_loss(spike, huber_delta=0.5)) < 0.5 * float(pet_loss(spike))
    rms = float(hidden.square().mean().sqrt())
    difference = (hidden[:, 2:] - 2 * hidden[:, 1:-1] + hidden[:, :-2]) / rms
    expected = 2 * functional.huber_loss(difference, torch.zeros_like(difference), delta=0.5)
    assert float(pet_loss(hidden, huber_delta=0.5)) == pytest.approx(float(expected))


@pytest.mark.parametrize("huber", [None, 0.7])
def test_derivative_of_pet(huber: float | None) -> None:
    hidden = _randn(2, 6, 4).requires_grad_()
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    assert torch.autograd.gradcheck(lambda h: pet_loss(h, mask, huber), (hidden,))


def test_focal_is_its_definition_and_cross_entropy_at_gamma_0() -> None:
    logits, labels = _randn(6, 4) * 3, torch.tensor([0, 1, 2, 3, IGNORE, 1])
    weights = np.array([1.0, 3.0, 5.0, 5.0])
    log_p = log_softmax(logits.numpy(), axis=1)
    kept = [(n, int(y)) for n, y in enumerate(labels) if y != IGNORE]
    expected = np.mean([-weights[y] * (1 - np.exp(log_p[n, y])) ** 2 * log_p[n, y] for n, y in kept])
    assert float(focal_cross_entropy(logits, labels, 2.0, (1.0, 3.0, 5.0, 5.0))) == pytest.approx(expected)
    plain = functional.cross_entropy(logits, labels, ignore_index=IGNORE)
    assert float(head_cross_entropy(logits, labels)) == pytest.approx(float(plain))


def test_class_weights_act_at_batch_size_1() -> None:
    logits = _randn(1, 4)
    one, five = (
        float(focal_cross_entropy(logits, torch.tensor([2]), class_weights=w))
        for w in ((1.0, 1.0, 1.0, 1.0), (1.0, 3.0, 5.0, 5.0))
    )
    assert five == pytest.approx(5 * one)


def test_focal_is_finite_where_the_answer_is_certain() -> None:
    logits = torch.tensor([[80.0, 0.0], [0.0, 80.0]], requires_grad=True)
    focal_cross_entropy(logits, torch.tensor([0, 0])).backward()
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())


def test_consistency_is_its_definition() -> None:
    safety, task, dual = _randn(3, 2, seed=1), _randn(3, 4, seed=2), _randn(3, 2, 2, seed=3)
    one, two = softmax(dual[:, 0].numpy(), axis=1), softmax(dual[:, 1].numpy(), axis=1)
    p, t = softmax(safety.numpy(), axis=1), softmax(task.numpy(), axis=1)
    q = np.stack([t[:, 0] + t[:, 1], t[:, 2] + t[:, 3]], axis=1)
    expected = (rel_entr(one, two) + rel_entr(two, one)).sum(1) / 2 + rel_entr(p, q).sum(1)
    assert float(consistency_loss(safety, task, dual)) == pytest.approx(expected.mean())
    keep = torch.tensor([True, False, True])
    assert float(consistency_loss(safety, task, dual, keep)) == pytest.approx(expected[[0, 2]].mean())


def test_consistency_is_0_where_all_heads_agree() -> None:
    task = _randn(2, 4)
    probabilities = task.softmax(-1).view(2, 2, 2).sum(-1)
    agreed = probabilities.log()
    loss = consistency_loss(agreed, task, torch.stack((agreed, agreed), dim=1))
    assert abs(float(loss)) <= 1e-14


def test_derivatives_of_the_losses() -> None:
    labels = torch.tensor([0, 3, IGNORE])
    safety, task, dual = _randn(3, 2, seed=1), _randn(3, 4, seed=2), _randn(3, 2, 2, seed=3)
    for tensor in (safety, task, dual):
        tensor.requires_grad_()
    check = torch.autograd.gradcheck
    assert check(lambda x: focal_cross_entropy(x, labels, 2.0, (1.0, 3.0, 5.0, 5.0)), (task,))
    assert check(lambda x: dual_cross_entropy(x, labels.clamp(max=1)), (dual,))
    assert check(consistency_loss, (safety, task, dual))
    assert check(alpha_loss, (_randn(1)[0].requires_grad_(), 1.6))
    matrices = _randn(2, 8, 8).requires_grad_()
    assert check(orthogonality_loss, (matrices,))
    theta, other = _randn(2, 28).mul(0.1).requires_grad_(), _randn(2, 28, seed=5).mul(0.1).requires_grad_()
    assert check(
        lambda a, b: commutator_hinge(generators_to_matrices(a), generators_to_matrices(b), 0.9),
        (theta, other),
    )


def test_commutator_hinge_is_its_definition() -> None:
    cmd, safe = (
        generators_to_matrices(_randn(5, 28) * 0.1),
        generators_to_matrices(_randn(5, 28, seed=1) * 0.1),
    )
    c = commutator_norm(cmd, safe).numpy()
    assert float(commutator_hinge(cmd, safe, 0.2)) == pytest.approx((np.maximum(0, 0.2 - c) ** 2).mean())
    assert float(commutator_hinge(cmd, safe, float(c.min()) / 2)) == 0.0


def test_orthogonality_acts_on_free_matrices_only() -> None:
    theta = (_randn(3, 28) * 0.3).requires_grad_()
    loss = orthogonality_loss(generators_to_matrices(theta))
    (gradient,) = torch.autograd.grad(loss, theta)
    assert float(loss.detach()) <= 1e-30
    assert float(gradient.abs().max()) <= 1e-14
    free = (torch.eye(8).double().repeat(2, 1, 1) * 1.5).requires_grad_()
    loss = orthogonality_loss(free)
    (gradient,) = torch.autograd.grad(loss, free)
    assert float(loss.detach()) == pytest.approx(1.25**2 / 8)
    assert float(gradient[0, 0, 0]) == pytest.approx(4 * 1.25 * 1.5 / (2 * 64))


@pytest.mark.parametrize("chunk", [1, 3, 64])
@pytest.mark.parametrize("callable_head", [False, True])
def test_chunked_cross_entropy_equals_the_plain_loss_and_gradient(chunk: int, callable_head: bool) -> None:
    hidden = _randn(2, 7, 8).requires_grad_()
    weight = _randn(11, 8, seed=1).requires_grad_()
    labels = torch.randint(0, 11, (2, 7), generator=torch.Generator().manual_seed(2))
    labels[0, 5:] = IGNORE
    head = (lambda h: functional.linear(h, weight)) if callable_head else weight
    total, count = chunked_cross_entropy(hidden, head, labels, chunk)
    logits = functional.linear(hidden, weight)[:, :-1].reshape(-1, 11)
    expected = functional.cross_entropy(logits, labels[:, 1:].reshape(-1), reduction="sum")
    assert int(count) == int((labels[:, 1:] != IGNORE).sum())
    assert float(total.detach()) == pytest.approx(float(expected.detach()))
    ours, theirs = (
        torch.autograd.grad(total, (hidden, weight)),
        torch.autograd.grad(expected, (hidden, weight)),
    )
    for one, two in zip(ours, theirs, strict=True):
        assert torch.allclose(one, two)
    assert torch.autograd.gradcheck(
        lambda h: chunked_cross_entropy(h, weight.detach(), labels, chunk)[0], (hidden,)
    )


def test_chunked_cross_entropy_never_holds_the_logits_of_a_sequence() -> None:
    hidden, weight = torch.randn(1, 65, 8, requires_grad=True), torch.randn(100, 8)
    seen: list[int] = []

    def head(part: Tensor) -> Tensor:
        seen.append(part.shape[0])
        return functional.linear(part, weight)

    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        total, _count = chunked_cross_entropy(hidden, head, torch.randint(0, 100, (1, 65)), 16)
    assert max(saved, default=0) < 16 * 100
    total.backward()
    assert seen == [16] * 8  # four chunks, forward and again in the backward pass


def _all_losses(
    hidden: Tensor, mask: Tensor, labels: Tensor, heads: tuple[Tensor, Tensor, Tensor], classes: Tensor
) -> Tensor:
    safety, task, dual = heads
    weight = _randn(11, hidden.shape[-1], seed=9)
    total, count = chunked_cross_entropy(hidden, weight, labels, 4)
    return torch.stack(
        [
            total / count.clamp(min=1),
            pet_loss(hidden, mask),
            head_cross_entropy(safety, classes.clamp(max=1)),
            focal_cross_entropy(task, classes, 2.0, (1.0, 3.0, 5.0, 5.0)),
            dual_cross_entropy(dual, classes.clamp(max=1)),
            consistency_loss(safety, task, dual),
        ]
    )


def _batch(
    seed: int, rows: int, tokens: int
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, tokens + 1, (rows,), generator=generator)
    mask = torch.arange(tokens) < lengths.unsqueeze(1)
    labels = torch.randint(0, 11, (rows, tokens), generator=generator).masked_fill(~mask, IGNORE)
    classes = torch.randint(-1, 4, (rows,), generator=generator)
    classes[classes == -1] = IGNORE
    heads = (_randn(rows, 2, seed=seed), _randn(rows, 4, seed=seed + 1), _randn(rows, 2, 2, seed=seed + 2))
    return _randn(rows, tokens, 8, seed=seed + 3), mask, labels, heads, classes


@given(seeds, st.integers(1, 4), st.integers(1, 7), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_padding_never_changes_a_loss(seed: int, rows: int, tokens: int, padding: int) -> None:
    hidden, mask, labels, heads, classes = _batch(seed, rows, tokens)
    plain = _all_losses(hidden, mask, labels, heads, classes)
    garbage = hidden.masked_fill(~mask.unsqueeze(-1), 1e3)
    wide = torch.cat([garbage, _randn(rows, padding, 8, seed=seed) * 1e3], dim=1)
    wide_mask = functional.pad(mask, (0, padding))
    wide_labels = functional.pad(labels, (0, padding), value=IGNORE)
    assert torch.allclose(
        _all_losses(wide, wide_mask, wide_labels, heads, classes), plain, rtol=1e-12, atol=1e-14
    )


@given(seeds, st.integers(2, 5), st.integers(1, 7), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_the_order_of_the_batch_never_changes_a_loss(
    seed: int, rows: int, tokens: int, random: object
) -> None:
    hidden, mask, labels, heads, classes = _batch(seed, rows, tokens)
    order = list(range(rows))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = _all_losses(
        hidden[order],
        mask[order],
        labels[order],
        tuple(head[order] for head in heads),
        classes[order],  # type: ignore[arg-type]
    )
    plain = _all_losses(hidden, mask, labels, heads, classes)
    assert torch.allclose(shuffled, plain, rtol=1e-12, atol=1e-14)


def test_unlabelled_rows_have_loss_0_and_gradient_0() -> None:
    logits = _randn(2, 4).requires_grad_()
    labels = torch.full((2,), IGNORE)
    loss = focal_cross_entropy(logits, labels) + dual_cross_entropy(logits.view(2, 2, 2), labels)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) == 0.0
    total, count = chunked_cross_entropy(_randn(1, 1, 8), _randn(11, 8), torch.tensor([[3]]))
    assert (float(total), int(count)) == (0.0, 0)


def test_combine_reports_every_term_before_and_after_weighting() -> None:
    raw = torch.tensor(2.0, requires_grad=True)
    total, report = combine({"lm": raw, "alpha": raw * 3, "dual": None, "commutator": raw}, LossWeights())
    assert float(total.detach()) == pytest.approx(2.0 + 0.1 * 6.0)
    assert {name: (float(a), float(b)) for name, (a, b) in report.items()} == {
        "lm": (2.0, 2.0),
        "alpha": (6.0, pytest.approx(0.6)),
        "commutator": (2.0, 0.0),
    }
    total.backward()
    assert raw.grad is not None
    assert float(raw.grad) == pytest.approx(1.3)
    with pytest.raises(SO8TError, match="no loss term"):
        combine({"lmm": raw}, LossWeights())
    with pytest.raises(SO8TError, match="no loss term"):
        combine({}, LossWeights())
