"""The adapter as a whole: order, dtype, gradients of every parameter, what it keeps."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from so8t_engine.errors import SO8TError
from so8t_engine.so8t.adapter import SO8TAdapter
from so8t_engine.so8t.heads import SO8THeads, last_token_index, rms_normalise
from so8t_engine.so8t.losses import IGNORE, head_cross_entropy
from so8t_engine.so8t.rotation import generators_to_matrices

HIDDEN = 32


def _hidden(rows: int = 3, tokens: int = 5) -> Tensor:
    return torch.randn(rows, tokens, HIDDEN, generator=torch.Generator().manual_seed(3))


def _pool(rows: int = 3) -> Tensor:
    return torch.arange(rows) + 1


def test_safety_acts_first() -> None:
    adapter = SO8TAdapter(HIDDEN, init_std=0.5, alpha_start=200.0).requires_grad_(False)  # g = 1: M h
    built = adapter.build_rotations()
    hidden_NTH = _hidden()
    out_NTH = adapter.gated(hidden_NTH)
    vectors = hidden_NTH.view(-1, HIDDEN // 8, 8)
    safe_first = torch.einsum("bij,tbj->tbi", built.safe_B88, vectors)
    expected = torch.einsum("bij,tbj->tbi", built.cmd_B88, safe_first).reshape(hidden_NTH.shape)
    swapped = torch.einsum("bij,bjk,tbk->tbi", built.safe_B88, built.cmd_B88, vectors)
    assert torch.allclose(out_NTH, expected, atol=2e-6)
    assert float((out_NTH - swapped.reshape(hidden_NTH.shape)).abs().max()) > 0.1


@pytest.mark.parametrize("rotation_map", ["exp", "cayley", "free"])
@pytest.mark.parametrize("gate_form", ["residual", "additive", "geodesic"])
def test_every_parameter_receives_a_gradient(rotation_map: str, gate_form: str) -> None:
    if (rotation_map, gate_form) == ("free", "geodesic"):
        with pytest.raises(SO8TError, match="geodesic"):
            SO8TAdapter(HIDDEN, rotation_map="free", gate_form="geodesic")
        return
    adapter = SO8TAdapter(
        HIDDEN,
        rotation_map=rotation_map,  # type: ignore[arg-type]
        gate_form=gate_form,  # type: ignore[arg-type]
        gate_learned=True,
    )
    hidden_NTH = _hidden().requires_grad_()
    out = adapter(hidden_NTH, _pool())
    weight = torch.randn(out.hidden_NTH.shape)
    loss = (out.hidden_NTH * weight).sum() + sum(
        logits.square().sum() for logits in (out.safety_logits_N2, out.task_logits_N4, out.dual_logits_N22)
    )
    loss.backward()
    names = [name for name, parameter in adapter.named_parameters() if parameter.grad is None]
    assert not names
    for name, parameter in adapter.named_parameters():
        assert parameter.grad is not None
        assert float(parameter.grad.abs().max()) > 0, name
        assert bool(parameter.grad.isfinite().all()), name
    assert hidden_NTH.grad is not None


def test_r_safe_gets_a_signal_of_its_own_through_the_safety_head() -> None:
    adapter = SO8TAdapter(HIDDEN)
    out = adapter(_hidden(), _pool())
    head_cross_entropy(out.safety_logits_N2, torch.tensor([0, 1, IGNORE])).backward()
    assert adapter.theta_safe.grad is not None
    assert float(adapter.theta_safe.grad.abs().max()) > 1e-6
    assert adapter.theta_cmd.grad is None or float(adapter.theta_cmd.grad.abs().max()) == 0.0


def test_a_few_steps_teach_the_heads_and_the_rotations() -> None:
    adapter = SO8TAdapter(HIDDEN, gate_learned=True)
    before = copy.deepcopy(adapter.state_dict())
    hidden_NTH, labels_N = _hidden(8), torch.tensor([0, 1] * 4)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2, weight_decay=0.0)
    losses = []
    for _step in range(30):
        out = adapter(hidden_NTH, torch.full((8,), 4))
        loss = head_cross_entropy(out.safety_logits_N2, labels_N) + out.hidden_NTH.square().mean() * 0
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]
    assert float((adapter.theta_safe.detach() - before["theta_safe"]).norm()) > 1e-2
    built = adapter.build_rotations()
    assert adapter.instruments(built)["orthogonality_max"] <= 2e-6


@pytest.mark.parametrize("move", ["bf16", "half", "double", "to", "inside a model"])
def test_the_adapter_stays_float32(move: str) -> None:
    adapter = SO8TAdapter(HIDDEN, gate_learned=False)
    before = copy.deepcopy(adapter.state_dict())
    moves = {
        "bf16": lambda: adapter.bfloat16(),
        "half": lambda: adapter.half(),
        "double": lambda: adapter.double(),
        "to": lambda: adapter.to("cpu", torch.bfloat16),
        "inside a model": lambda: nn.ModuleDict({"a": adapter, "b": nn.Linear(2, 2)}).to(torch.bfloat16),
    }
    moves[move]()
    for name, tensor in adapter.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, before[name]), name
    out = adapter(_hidden().bfloat16(), _pool())
    assert out.hidden_NTH.dtype == torch.bfloat16
    assert out.safety_logits_N2.dtype == out.task_logits_N4.dtype == out.gate.dtype == torch.float32


def test_the_heads_stay_float32_under_autocast() -> None:
    adapter = SO8TAdapter(HIDDEN)
    plain = adapter(_hidden(), _pool())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = adapter(_hidden(), _pool())
    assert torch.equal(mixed.safety_logits_N2, plain.safety_logits_N2)
    assert torch.equal(mixed.hidden_NTH, plain.hidden_NTH)


def test_heads_read_the_pooled_token_and_ignore_its_scale() -> None:
    adapter = SO8TAdapter(HIDDEN)
    hidden_NTH = _hidden()
    index_N = last_token_index(torch.tensor([[1, 1, 0, 0, 0], [0, 1, 1, 1, 0], [1, 1, 1, 1, 1]]))
    assert index_N.tolist() == [1, 3, 4]
    out = adapter(hidden_NTH, index_N)
    other = hidden_NTH.clone()
    other[0, 2:] = 7.0
    other[1, 4:] = -7.0
    again = adapter(other * 40.0, index_N)
    assert torch.allclose(out.safety_logits_N2, again.safety_logits_N2, atol=1e-5)
    built = adapter.build_rotations()
    row = hidden_NTH[0, 1] / hidden_NTH[0, 1].square().mean().sqrt()
    expected = adapter.heads.task_head(torch.block_diag(*built.total_B88) @ row)
    assert torch.allclose(out.task_logits_N4[0], expected, atol=1e-5)


def test_derivatives_of_the_heads() -> None:
    generator = torch.Generator().manual_seed(0)
    heads = SO8THeads(16, generator=generator).double()
    pooled_NH = torch.randn(2, 16, generator=generator).double().requires_grad_()
    safe_B28 = (torch.randn(2, 28, generator=generator) * 0.2).double().requires_grad_()
    cmd_B28 = (torch.randn(2, 28, generator=generator) * 0.2).double().requires_grad_()

    def logits(pooled_NH: Tensor, safe_B28: Tensor, cmd_B28: Tensor) -> tuple[Tensor, ...]:
        safe_B88, cmd_B88 = generators_to_matrices(safe_B28), generators_to_matrices(cmd_B28)
        out = heads(pooled_NH, safe_B88, cmd_B88 @ safe_B88)
        return out.safety_N2, out.task_N4, out.dual_N22

    assert torch.autograd.gradcheck(logits, (pooled_NH, safe_B28, cmd_B28))
    assert torch.autograd.gradcheck(rms_normalise, (pooled_NH,))


def test_the_same_seed_gives_the_same_adapter() -> None:
    one, two, three = SO8TAdapter(HIDDEN, seed=1), SO8TAdapter(HIDDEN, seed=1), SO8TAdapter(HIDDEN, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.theta_safe, three.theta_safe)
    free = SO8TAdapter(HIDDEN, seed=1, rotation_map="free")
    assert torch.equal(free.theta_safe, generators_to_matrices(one.theta_safe))
    assert float(one.theta_safe.std()) == pytest.approx(0.02, rel=0.3)


def test_a_scheduled_alpha_is_assigned_and_a_learned_one_is_not() -> None:
    scheduled, learned = SO8TAdapter(HIDDEN), SO8TAdapter(HIDDEN, gate_learned=True)
    scheduled.set_alpha(0.0)
    assert float(scheduled.gate) == 0.5
    assert "alpha" not in dict(scheduled.named_parameters())
    assert dict(learned.named_parameters())["alpha"].shape == ()
    with pytest.raises(SO8TError, match="learned"):
        learned.set_alpha(0.0)


def test_kept_rotations_are_forgotten_when_the_parameters_may_have_changed() -> None:
    adapter = SO8TAdapter(HIDDEN, init_std=0.3, alpha_start=3.0).eval()
    hidden_NTH = _hidden()
    with torch.no_grad():
        first = adapter.gated(hidden_NTH)
        assert adapter.current_rotations() is adapter.current_rotations()
        adapter.load_state_dict(SO8TAdapter(HIDDEN, init_std=0.3, alpha_start=3.0, seed=9).state_dict())
        second = adapter.gated(hidden_NTH)
        adapter.theta_safe.add_(0.5)
        third = adapter.gated(hidden_NTH)
        # Written past autograd, as the kernels of 8-bit optimizers do.
        adapter.train()
        adapter.theta_cmd.data.add_(0.5)
        adapter.eval()
        fourth = adapter.gated(hidden_NTH)
    assert not torch.allclose(first, second)
    assert not torch.allclose(second, third)
    assert not torch.allclose(third, fourth)
    assert torch.equal(fourth, adapter.gated(hidden_NTH, adapter.build_rotations()))


def test_the_instruments_read_the_rotations() -> None:
    adapter = SO8TAdapter(HIDDEN, init_std=0.5)
    values = adapter.instruments()
    assert 0.1 < values["commutator_mean"] <= values["commutator_max"] <= 1.0
    assert values["orthogonality_max"] <= 2e-6
    assert abs(values["determinant_min"] - 1) <= 1e-5
    free = SO8TAdapter(HIDDEN, rotation_map="free")
    with torch.no_grad():
        free.theta_safe[0] *= 2.0
    assert free.instruments()["orthogonality_max"] == pytest.approx(3.0, abs=1e-4)


def test_impossible_adapters_are_refused() -> None:
    for options in ({"hidden_size": 30}, {"hidden_size": 32, "gate_form": "x"}):
        with pytest.raises(SO8TError) as caught:
            SO8TAdapter(**options)  # type: ignore[arg-type]
        assert caught.value.mend
