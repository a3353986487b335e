"""Rotation maps against scipy in float64, their derivatives, and how they act on hidden states."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import expm, logm
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from so8t_engine.errors import SO8TError
from so8t_engine.so8t import grouped
from so8t_engine.so8t.blocks import apply_blocks
from so8t_engine.so8t.exponential import skew_exponential
from so8t_engine.so8t.logarithm import matrices_to_generators, rotation_logarithm
from so8t_engine.so8t.rotation import (
    apply_rotation,
    commutator_norm,
    determinant,
    generators_from_skew,
    generators_to_matrices,
    orthogonality_error,
    skew_from_generators,
)

# One seeded population for all comparisons: 10,000 generators, norms spread evenly over 1e-6 … 10.
COUNT = 10_000
#: scipy's logarithm is taken of each n-th; ``SO8T_LOGARITHMS=1`` takes all.
LOGARITHM_OF_EACH = int(os.environ.get("SO8T_LOGARITHMS", "8"))


@pytest.fixture(scope="module")
def theta_B28() -> Tensor:
    generator = torch.Generator().manual_seed(8)
    direction = torch.randn(COUNT, 28, dtype=torch.float64, generator=generator)
    norm = torch.logspace(-6, 1, COUNT, dtype=torch.float64).unsqueeze(1)
    return direction / direction.norm(dim=1, keepdim=True) * norm


@pytest.fixture(scope="module")
def reference_B88(theta_B28: Tensor) -> Tensor:
    return torch.from_numpy(expm(_skew_by_hand(theta_B28.numpy())))


def _skew_by_hand(theta_B28: np.ndarray) -> np.ndarray:
    """A written from the definition, independent of the code under test."""
    skew_B88 = np.zeros((len(theta_B28), 8, 8))
    k = 0
    for i in range(8):
        for j in range(i + 1, 8):
            skew_B88[:, i, j] = theta_B28[:, k]
            skew_B88[:, j, i] = -theta_B28[:, k]
            k += 1
    return skew_B88


def test_generators_fill_the_upper_triangle_in_order(theta_B28: Tensor) -> None:
    skew_B88 = skew_from_generators(theta_B28)
    assert torch.equal(skew_B88, torch.from_numpy(_skew_by_hand(theta_B28.numpy())))
    assert torch.equal(generators_from_skew(skew_B88), theta_B28)


def test_exp_in_float64_equals_scipy(theta_B28: Tensor, reference_B88: Tensor) -> None:
    rotation_B88 = generators_to_matrices(theta_B28)
    assert float((rotation_B88 - reference_B88).abs().max()) <= 1e-12


def test_exp_in_float32_equals_scipy(theta_B28: Tensor) -> None:
    # The reference is taken at the generators after rounding to float32: the map is judged, not them.
    theta32_B28 = theta_B28.float()
    reference_B88 = torch.from_numpy(expm(_skew_by_hand(theta32_B28.double().numpy())))
    rotation_B88 = generators_to_matrices(theta32_B28)
    assert rotation_B88.dtype == torch.float32
    assert float((rotation_B88.double() - reference_B88).abs().max()) <= 2e-6
    assert float(orthogonality_error(rotation_B88).max()) <= 2e-6
    assert float((determinant(rotation_B88) - 1).abs().max()) <= 1e-5


def test_exp_holds_for_frobenius_norms_up_to_40() -> None:
    theta_B28 = torch.randn(200, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 5
    reference_B88 = torch.from_numpy(expm(_skew_by_hand(theta_B28.numpy())))
    assert float((generators_to_matrices(theta_B28) - reference_B88).abs().max()) <= 1e-12


@pytest.mark.parametrize("norm", [1e-6, 0.2, 0.5, 1.0, 2.0, 4.0, 9.0, 30.0])
def test_derivative_of_exp_at_every_number_of_squarings(norm: float) -> None:
    generator = torch.Generator().manual_seed(3)
    theta_B28 = torch.randn(5, 28, dtype=torch.float64, generator=generator)
    theta_B28 = (theta_B28 / theta_B28.norm(dim=1, keepdim=True) * norm).requires_grad_()
    weight_B88 = torch.randn(5, 8, 8, dtype=torch.float64, generator=generator)
    (ours,) = torch.autograd.grad(generators_to_matrices(theta_B28), theta_B28, weight_B88)
    plain_B88 = torch.matrix_exp(skew_from_generators(theta_B28))
    (theirs,) = torch.autograd.grad(plain_B88, theta_B28, weight_B88)
    assert float((ours - theirs).abs().max()) <= 1e-12 * float(theirs.abs().max())
    if norm < 10.0:
        assert torch.autograd.gradcheck(generators_to_matrices, (theta_B28[:2].detach().requires_grad_(),))


def test_exp_of_any_leading_dimensions_is_that_of_each_block() -> None:
    skew_2B88 = skew_from_generators(torch.randn((2, 3, 28), dtype=torch.float64))
    each = [skew_exponential(skew_2B88[index]) for index in range(2)]
    torch.testing.assert_close(skew_exponential(skew_2B88), torch.stack(each), rtol=0, atol=1e-13)


def test_cayley_is_the_exact_cayley_transform(theta_B28: Tensor) -> None:
    skew = _skew_by_hand(theta_B28[::10].numpy())
    expected = np.linalg.inv(np.eye(8) - skew / 2) @ (np.eye(8) + skew / 2)
    rotation_B88 = generators_to_matrices(theta_B28[::10], "cayley")
    assert np.abs(rotation_B88.numpy() - expected).max() <= 1e-13
    rotation32_B88 = generators_to_matrices(theta_B28.float(), "cayley")
    assert float(orthogonality_error(rotation32_B88).max()) <= 2e-6
    assert float((determinant(rotation32_B88) - 1).abs().max()) <= 1e-5


def test_log_equals_scipy_and_inverts_exp(reference_B88: Tensor) -> None:
    skew_B88 = rotation_logarithm(reference_B88)
    back_B88 = generators_to_matrices(matrices_to_generators(reference_B88))
    assert float((back_B88 - reference_B88).abs().max()) <= 1e-12
    # The conditioning of the logarithm is 1/δ for a largest angle π − δ: scipy's error grows with it.
    delta_B = np.pi - torch.linalg.eigvalsh(1j * skew_B88)[:, -1]
    # A skew logarithm with every angle below π is the principal one: scipy's exponential of it says as much
    # about all of them as scipy's logarithm, which takes 4 ms each and is asked for a part.
    assert torch.equal(skew_B88, -skew_B88.mT)
    assert float(delta_B.min()) > 0
    assert np.abs(expm(skew_B88.numpy()) - reference_B88.numpy()).max() <= 1e-12
    for row in range(0, COUNT, LOGARITHM_OF_EACH):
        expected = logm(reference_B88[row].numpy())
        error = np.abs(skew_B88[row].numpy() - expected.real).max()
        assert error <= 1e-12 / min(1.0, float(delta_B[row])), (row, error, float(delta_B[row]))


def test_log_returns_the_generators_within_the_principal_branch(theta_B28: Tensor) -> None:
    # ‖A‖₂ ≤ ‖θ‖ < 3 keeps every angle below π.
    inside_B28 = theta_B28[theta_B28.norm(dim=1) < 3.0]
    assert len(inside_B28) > 9_000
    back_B28 = matrices_to_generators(generators_to_matrices(inside_B28))
    assert float((back_B28 - inside_B28).abs().max()) <= 1e-12
    back32_B28 = matrices_to_generators(generators_to_matrices(inside_B28.float()))
    assert float((back32_B28.double() - inside_B28).abs().max()) <= 1e-5


def test_log_of_half_turns_is_a_logarithm() -> None:
    turns_B88 = torch.stack(
        [
            torch.diag(torch.tensor([-1.0, -1, 1, 1, 1, 1, 1, 1])),
            -torch.eye(8),
            torch.diag(torch.tensor([1.0, -1, -1, -1, 1, 1, 1, -1])),
        ]
    ).double()
    mixed_88 = generators_to_matrices(torch.randn(1, 28, dtype=torch.float64))[0]
    turns_B88 = torch.cat([turns_B88, mixed_88 @ turns_B88 @ mixed_88.mT])
    skew_B88 = rotation_logarithm(turns_B88)
    assert float((skew_B88 + skew_B88.mT).abs().max()) == 0.0
    assert np.abs(expm(skew_B88.numpy()) - turns_B88.numpy()).max() <= 1e-12


@pytest.mark.parametrize("kind", ["reflection", "scaled", "row-normalised"])
def test_log_refuses_what_is_no_rotation(kind: str) -> None:
    matrix_B88 = torch.eye(8).repeat(3, 1, 1)
    if kind == "reflection":
        matrix_B88[1, 0, 0] = -1.0
    elif kind == "scaled":
        matrix_B88[1] *= 1.1
    else:
        rows = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
        matrix_B88[1] = rows / rows.norm(dim=1, keepdim=True)
    with pytest.raises(SO8TError, match="block 1 is not a rotation"):
        matrices_to_generators(matrix_B88)


def _inputs(scale: float, blocks: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(blocks)
    theta_B28 = torch.randn(blocks, 28, dtype=torch.float64, generator=generator) * scale
    return theta_B28.requires_grad_()


@pytest.mark.parametrize("scale", [1e-3, 0.1, 0.6])
def test_derivatives_of_the_maps(scale: float) -> None:
    theta_B28 = _inputs(scale)
    assert torch.autograd.gradcheck(generators_to_matrices, (theta_B28,))
    assert torch.autograd.gradcheck(lambda t: generators_to_matrices(t, "cayley"), (theta_B28,))
    free_B88 = torch.randn(2, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m: generators_to_matrices(m, "free"), (free_B88,))


@pytest.mark.parametrize("scale", [1e-4, 0.1, 0.3])
def test_derivative_of_the_logarithm(scale: float) -> None:
    # Composed with a fixed rotation, so that the derivative is tested along SO(8) and not only at exp(θ).
    fixed_B88 = generators_to_matrices(_inputs(0.1, 2).detach())

    def log_of_product(theta_B28: Tensor) -> Tensor:
        return matrices_to_generators(generators_to_matrices(theta_B28) @ fixed_B88)

    assert torch.autograd.gradcheck(log_of_product, (_inputs(scale, 2),))


def test_derivative_of_the_commutator() -> None:
    theta_B28, other_B28 = _inputs(0.3), _inputs(0.4, 2)
    assert torch.autograd.gradcheck(
        lambda a, b: commutator_norm(generators_to_matrices(a)[:2], generators_to_matrices(b)),
        (theta_B28, other_B28),
    )


def test_commutator_is_0_at_the_identity_with_a_finite_gradient() -> None:
    theta_B28 = torch.zeros(2, 28, requires_grad=True)
    other_B28 = torch.zeros(2, 28, requires_grad=True)
    norm_B = commutator_norm(generators_to_matrices(theta_B28), generators_to_matrices(other_B28))
    norm_B.sum().backward()
    assert torch.equal(norm_B, torch.zeros(2))
    assert theta_B28.grad is not None
    assert torch.equal(theta_B28.grad, torch.zeros(2, 28))


def test_commutator_scale_is_what_is_documented() -> None:
    generator = torch.Generator().manual_seed(0)
    haar_B88 = torch.linalg.qr(torch.randn(4000, 8, 8, generator=generator, dtype=torch.float64))[0]
    haar_B88[:, :, 0] *= torch.linalg.det(haar_B88).unsqueeze(-1)
    assert float(commutator_norm(haar_B88[:2000], haar_B88[2000:]).mean()) == pytest.approx(0.69, abs=0.02)
    small_B88 = generators_to_matrices(torch.randn(2000, 28, generator=generator) * 0.01)
    assert 3e-4 < float(commutator_norm(small_B88[:1000], small_B88[1000:]).mean()) < 3e-3


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2**-8), (torch.float16, 2**-11)]
)
@pytest.mark.parametrize("shape", [(48,), (5, 48), (2, 3, 48), (1, 700, 24)])
def test_apply_equals_the_definition_in_float64(
    dtype: torch.dtype, tolerance: float, shape: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(5)
    blocks = shape[-1] // 8
    rotation_B88 = generators_to_matrices(torch.randn(blocks, 28, generator=generator))
    hidden = torch.randn(shape, generator=generator).to(dtype)
    out = apply_rotation(hidden, rotation_B88)
    blocks_in = hidden.double().numpy().reshape(-1, blocks, 8)
    expected = np.stack(
        [blocks_in[:, b] @ rotation_B88[b].double().numpy().T for b in range(blocks)], axis=1
    ).reshape(shape)
    assert out.dtype == dtype
    assert out.shape == hidden.shape
    # One rounding of the result: relative to its own size.
    error = np.abs(out.double().numpy() - expected)
    assert (error <= tolerance * np.maximum(np.abs(expected), 1e-2) + 1e-6).all()


@pytest.mark.parametrize("blocks", [1, 2, 3, 6])
def test_derivative_of_apply(blocks: int) -> None:
    hidden = torch.randn(2, 3, 8 * blocks, dtype=torch.float64, requires_grad=True)
    matrix_B88 = torch.randn(blocks, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(apply_blocks, (hidden, matrix_B88))


def test_apply_of_many_tokens_has_the_gradient_of_einsum() -> None:
    generator = torch.Generator().manual_seed(2)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        hidden = torch.randn(1300, 48, generator=generator).to(dtype).requires_grad_()
        matrix_B88 = torch.randn(6, 8, 8, generator=generator).requires_grad_()
        weight = torch.randn(1300, 48, generator=generator)
        ours = torch.autograd.grad((apply_blocks(hidden, matrix_B88) * weight).sum(), (hidden, matrix_B88))
        plain = torch.einsum("bij,tbj->tbi", matrix_B88, hidden.float().view(1300, 6, 8)).reshape(1300, 48)
        theirs = torch.autograd.grad((plain * weight).sum(), (hidden, matrix_B88))
        for one, two in zip(ours, theirs, strict=True):
            assert one.dtype == two.dtype
            scale = float(two.float().abs().max())
            assert float((one.float() - two.float()).abs().max()) <= tolerance * scale


def test_apply_keeps_float32_under_autocast() -> None:
    rotation_B88 = generators_to_matrices(torch.randn(2, 28))
    hidden = torch.randn(4, 16)
    plain = apply_rotation(hidden, rotation_B88)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(apply_rotation(hidden, rotation_B88), plain)


@pytest.mark.parametrize("width", [8, 16])
@pytest.mark.parametrize("tokens", [127, 128, 600, 1304, 1309])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_grouped_products_are_the_batched_ones(
    width: int, tokens: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(tokens)
    hidden = torch.randn(tokens, 40 + width, generator=generator).to(dtype)
    matrix_B88 = torch.randn(5 + width // 8, 8, 8, generator=generator)
    # Not contiguous, as the gradient of a transposed product is.
    gradient = torch.randn(40 + width, tokens, generator=generator).to(dtype).T
    found = []
    for used in (width, 0):
        monkeypatch.setattr(grouped, "_width", lambda used=used: used)
        leaves = [tensor.detach().requires_grad_() for tensor in (hidden, matrix_B88)]
        assert grouped.takes(*leaves) == (used > 0 and tokens >= 128)
        out = apply_blocks(leaves[0], leaves[1])
        found.append((out.detach(), *torch.autograd.grad(out, leaves, gradient)))
    for one, two in zip(*found, strict=True):
        assert one.dtype == two.dtype
        # The order of the float32 sums differs, and so a last place of bf16 may.
        last = 2.0**-7 if one.dtype == torch.bfloat16 else 2e-6
        assert float((one - two).abs().max()) <= last * float(two.abs().max())


@pytest.mark.parametrize(("tokens", "products"), [(4, "bmm"), (128, "convolution")])
def test_apply_switches_reduced_float32_products_off_and_on_again(tokens: int, products: str) -> None:
    class Precisions(TorchDispatchMode):
        """Notes the precision in force at each batched or grouped product."""

        def __init__(self) -> None:
            super().__init__()
            self.seen: list[tuple[str, ...]] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
            if "bmm" in str(func) or "convolution" in str(func):
                self.seen.append((products if products in str(func) else "another", *_precisions()))
            return func(*args, **(kwargs or {}))

    if products == "convolution" and not grouped.takes(torch.zeros(128, 16), torch.zeros(2, 8, 8)):
        pytest.skip("this processor multiplies in batches")
    hidden = torch.randn(tokens, 16, requires_grad=True)
    rotation_B88 = generators_to_matrices(torch.randn(2, 28)).requires_grad_()
    before, conv = torch.get_float32_matmul_precision(), torch.backends.mkldnn.conv.fp32_precision
    try:
        torch.set_float32_matmul_precision("medium")
        torch.backends.mkldnn.conv.fp32_precision = "bf16"
        allowed = _precisions()
        with Precisions() as precisions:
            apply_rotation(hidden, rotation_B88).sum().backward()
        assert precisions.seen == [(products, "ieee", "ieee", "ieee")] * 3
        assert _precisions() == allowed
        assert "ieee" not in allowed[1:]
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.mkldnn.conv.fp32_precision = conv


def _precisions() -> tuple[str, str, str]:
    mkldnn: Any = torch.backends.mkldnn
    return (
        torch.backends.cuda.matmul.fp32_precision,
        mkldnn.matmul.fp32_precision,
        mkldnn.conv.fp32_precision,
    )


def test_the_backward_pass_keeps_the_hidden_states_and_the_matrices_only() -> None:
    hidden = torch.randn(64, 48, requires_grad=True)
    matrix_B88 = torch.randn(6, 8, 8, requires_grad=True)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        apply_blocks(hidden, matrix_B88)
    assert {tensor.data_ptr() for tensor in saved} == {hidden.data_ptr(), matrix_B88.data_ptr()}


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(SO8TError, match="28"):
        generators_to_matrices(torch.zeros(2, 27))
    with pytest.raises(SO8TError, match="8 × 8"):
        generators_to_matrices(torch.zeros(2, 28), "free")
    with pytest.raises(SO8TError, match="hidden size of 24"):
        apply_rotation(torch.zeros(2, 24), torch.eye(8).repeat(2, 1, 1))
    with pytest.raises(SO8TError, match="no rotation map"):
        generators_to_matrices(torch.zeros(2, 28), "neumann")  # type: ignore[arg-type]
