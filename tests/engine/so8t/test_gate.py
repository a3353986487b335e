"""The gate's three forms: definition, identity at g = 0, norms, derivatives, and the order of factors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm, logm
from torch import Tensor

from so8t_engine.errors import SO8TError
from so8t_engine.so8t.gate import GATE_FORMS, GateForm, apply_gate, gate_matrix, gate_norm_change
from so8t_engine.so8t.rotation import commutator_norm, generators_to_matrices

seeds = st.integers(0, 2**31 - 1)
norms = st.floats(1e-6, 10.0)
gates = st.floats(0.0, 1.0)


def _rotations(seed: int, norm: float = 1.0, blocks: int = 4, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    theta_B28 = torch.randn(blocks, 28, generator=generator, dtype=torch.float64)
    theta_B28 = theta_B28 / theta_B28.norm(dim=1, keepdim=True) * norm
    return generators_to_matrices(theta_B28).to(dtype)


def _hidden(seed: int, blocks: int = 4) -> Tensor:
    return torch.randn(2, 5, 8 * blocks, generator=torch.Generator().manual_seed(seed))


def test_each_form_is_its_definition() -> None:
    total_B88, hidden = _rotations(1, dtype=torch.float64), _hidden(1).double()
    dense = torch.block_diag(*total_B88)
    moved = hidden @ dense.T
    g = 0.3
    assert torch.allclose(apply_gate(hidden, total_B88, g, "residual"), hidden + g * (moved - hidden))
    assert torch.allclose(apply_gate(hidden, total_B88, g, "additive"), hidden + g * moved)
    power = torch.from_numpy(expm(g * logm(dense.numpy()).real))
    assert torch.allclose(apply_gate(hidden, total_B88, g, "geodesic"), hidden @ power.T)
    assert torch.allclose(apply_gate(hidden, total_B88, 1.0, "geodesic"), moved)
    with pytest.raises(SO8TError, match="no gate form"):
        apply_gate(hidden, total_B88, g, "spherical")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", GATE_FORMS)
@pytest.mark.parametrize("as_tensor", [False, True])
def test_at_g_0_the_gate_is_the_identity_bit_for_bit(
    dtype: torch.dtype, form: GateForm, as_tensor: bool
) -> None:
    hidden = _hidden(2).to(dtype)
    hidden[0, 0, :4] = torch.tensor([-0.0, 0.0, torch.finfo(dtype).max, torch.finfo(dtype).tiny]).to(dtype)
    out = apply_gate(hidden, _rotations(2), torch.tensor(0.0) if as_tensor else 0.0, form)
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    assert torch.equal(out.view(bits), hidden.view(bits))


@pytest.mark.parametrize("form", GATE_FORMS)
@pytest.mark.parametrize("gate", [0.0, 0.0067, 0.5, 0.8345])
def test_derivatives_of_the_gate(form: GateForm, gate: float) -> None:
    theta_B28 = torch.randn(2, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(4)) * 0.3
    hidden = _hidden(4, 2).double()
    g = torch.tensor(gate, dtype=torch.float64)
    inputs = [tensor.requires_grad_() for tensor in (hidden, theta_B28, g)]
    assert torch.autograd.gradcheck(lambda h, t, s: apply_gate(h, generators_to_matrices(t), s, form), inputs)


@given(seeds, norms, gates)
@settings(max_examples=60, deadline=None)
def test_singular_values_are_bounded_by_the_form(seed: int, norm: float, g: float) -> None:
    total_B88 = _rotations(seed, norm)
    assert float(gate_norm_change(total_B88, g, "residual").max()) <= 1.0 + 1e-6
    assert float(gate_norm_change(total_B88, g, "additive").max()) <= 1.0 + g + 1e-6
    geodesic = gate_norm_change(total_B88, g, "geodesic")
    assert float((geodesic - 1.0).abs().max()) <= 2e-6


@given(seeds, norms, gates)
@settings(max_examples=60, deadline=None)
def test_the_residual_gate_never_lengthens_a_block(seed: int, norm: float, g: float) -> None:
    hidden = _hidden(seed)
    out = apply_gate(hidden, _rotations(seed + 1, norm), g, "residual")
    before, after = (h.view(-1, 8).norm(dim=1) for h in (hidden, out))
    assert bool((after <= before * (1 + 1e-5)).all())


@given(seeds, seeds, st.floats(0.01, 3.0), st.floats(0.1, 1.0))
@settings(max_examples=60, deadline=None)
def test_the_order_of_the_factors_matters_unless_they_commute(
    seed: int, other: int, norm: float, g: float
) -> None:
    safe_B88, cmd_B88 = (
        _rotations(seed, norm, dtype=torch.float64),
        _rotations(other, norm, dtype=torch.float64),
    )
    hidden = _hidden(seed).double()
    right = apply_gate(hidden, cmd_B88 @ safe_B88, g)
    swapped = apply_gate(hidden, safe_B88 @ cmd_B88, g)
    difference = float((right - swapped).abs().max())
    commutator = float(commutator_norm(cmd_B88, safe_B88).max())
    if seed == other:
        assert difference <= 1e-12
    else:
        # g ‖[R_cmd, R_safe] x‖ for random x is near g · c · 2√8 ‖x‖/√8 in norm.
        assert difference >= 1e-3 * g * commutator > 0


@given(st.integers(1, 28), st.floats(0.1, 3.0), st.floats(0.1, 3.0))
@settings(max_examples=30, deadline=None)
def test_commuting_blocks_may_be_swapped(seed: int, first: float, second: float) -> None:
    # Rotations of one plane each, on planes that do not meet, commute.
    theta_B28, other_B28 = torch.zeros(1, 28).double(), torch.zeros(1, 28).double()
    theta_B28[0, 0], other_B28[0, 27] = first, second  # (0,1) and (6,7)
    safe_B88, cmd_B88 = generators_to_matrices(theta_B28), generators_to_matrices(other_B28)
    hidden = _hidden(seed, 1).double()
    right, swapped = apply_gate(hidden, cmd_B88 @ safe_B88, 0.7), apply_gate(hidden, safe_B88 @ cmd_B88, 0.7)
    assert float((right - swapped).abs().max()) <= 1e-14
    assert float(commutator_norm(cmd_B88, safe_B88)) <= 1e-15


@given(seeds, st.integers(0, 3), gates, st.sampled_from(GATE_FORMS))
@settings(max_examples=60, deadline=None)
def test_a_block_leaves_the_others_alone(seed: int, block: int, g: float, form: GateForm) -> None:
    total_B88, hidden = _rotations(seed), _hidden(seed)
    turned_B88 = total_B88.clone()
    turned_B88[block] = _rotations(seed + 1)[block]
    changed = (apply_gate(hidden, total_B88, g, form) != apply_gate(hidden, turned_B88, g, form)).view(
        -1, 4, 8
    )
    others = [index for index in range(4) if index != block]
    assert not bool(changed[:, others].any())
    hidden_other = hidden.clone()
    hidden_other.view(2, 5, 4, 8)[:, :, block] += 1.0
    moved = apply_gate(hidden_other, total_B88, g, form) != apply_gate(hidden, total_B88, g, form)
    assert not bool(moved.view(-1, 4, 8)[:, others].any())


def test_the_closed_form_of_the_residual_singular_values() -> None:
    # One plane turned by ω: the factor there is |1 − g + g e^{iω}|.
    theta_B28 = torch.zeros(1, 28).double()
    theta_B28[0, 0] = 2.0
    values = gate_norm_change(generators_to_matrices(theta_B28), 0.5)[0].numpy()
    assert np.allclose(sorted(values)[:2], abs(0.5 + 0.5 * np.exp(2j)))
    assert np.allclose(sorted(values)[2:], 1.0)
    assert gate_matrix(torch.eye(8).unsqueeze(0), 0.4).equal(torch.eye(8).unsqueeze(0))
