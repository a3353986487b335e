"""The Triton kernels give the numbers of the torch path: interpreted on the CPU, compiled on a card."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from so8t_engine.so8t import fused
from so8t_engine.so8t.adapter import SO8TAdapter
from so8t_engine.so8t.blocks import apply_blocks
from so8t_engine.so8t.gate import apply_gate, apply_gate_matrix, gate_matrix
from so8t_engine.so8t.rotation import generators_to_matrices

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
#: The last takes the interpreter half a minute and tells it nothing new.
SHAPES = [(1, 8), (5, 40), (2, 67, 136), (3, 100, 256)][: 3 if INTERPRETED else 4]
compiled = pytest.mark.skipif(
    not INTERPRETED and not (torch.cuda.is_available() and find_spec("triton")),
    reason="needs an NVIDIA card and triton",
)


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed (the extra 'kernels')")
@pytest.mark.skipif(INTERPRETED, reason="is the interpreted run itself")
def test_the_kernels_are_right_when_interpreted() -> None:
    """Triton's interpreter runs the same program text on the CPU; it must be chosen before the import."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


@compiled
def test_the_check_before_use_finds_the_kernels_right() -> None:
    """Where it fails, the gate runs on PyTorch's own kernels, and nothing but the log tells."""
    assert fused._worst_difference(torch.device(DEVICE)) < fused.TOLERANCE


def _theta(blocks: int, scale: float, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return (scale * torch.randn((2, blocks, 28), generator=random)).to(DEVICE).requires_grad_()


@compiled
@pytest.mark.gpu
@pytest.mark.parametrize("scale", [0.0, 1e-6, 0.02, 0.7, 3.0])
def test_rotations_and_their_gradients_are_float64s(scale: float) -> None:
    theta_2B28 = _theta(6, scale)
    assert fused.can_fuse_build(theta_2B28)
    ours = fused.fused_rotations(theta_2B28[0], theta_2B28[1])
    exact_2B28 = theta_2B28.detach().double().requires_grad_()
    safe_B88, cmd_B88 = generators_to_matrices(exact_2B28[0]), generators_to_matrices(exact_2B28[1])
    wanted = (safe_B88, cmd_B88, cmd_B88 @ safe_B88)
    for one, other in zip(ours, wanted, strict=True):
        assert one.dtype == torch.float32
        assert float((one - other).detach().abs().max()) <= 2e-7
    weights = [torch.randn(6, 8, 8, generator=torch.Generator().manual_seed(k)).to(DEVICE) for k in range(3)]
    for chosen in ((0, 1, 2), (2,), (0,), (1, 2)):
        (grad,) = torch.autograd.grad(
            [ours[k] for k in chosen], theta_2B28, [weights[k] for k in chosen], retain_graph=True
        )
        (exact,) = torch.autograd.grad(
            [wanted[k] for k in chosen], exact_2B28, [weights[k].double() for k in chosen], retain_graph=True
        )
        assert float((grad - exact).abs().max()) <= 1e-6 * float(exact.abs().max())


@compiled
@pytest.mark.gpu
@pytest.mark.parametrize("form", ["plain", "given", "residual", "additive"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_gate_and_its_gradients_are_the_torch_paths(
    form: str, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    random = torch.Generator().manual_seed(1)
    hidden = torch.randn(shape, generator=random).to(DEVICE, dtype).requires_grad_()
    total_B88 = generators_to_matrices(_theta(shape[-1] // 8, 0.5).detach()[0]).requires_grad_()
    gate = torch.tensor(0.3, device=DEVICE, requires_grad=True)
    weight = torch.randn(shape, generator=random).to(DEVICE, dtype)
    as_it_is = form in ("plain", "given")
    inputs = (hidden, total_B88) if as_it_is else (hidden, total_B88, gate)
    assert fused.can_fuse(hidden, total_B88, form)
    ours = fused.fused_gate(hidden, total_B88, None if form == "plain" else gate, form)
    kernel_B88 = total_B88 if as_it_is else gate_matrix(total_B88, gate, form)  # type: ignore[arg-type]
    theirs = apply_blocks(hidden, kernel_B88)
    assert ours.dtype == dtype
    # Float32 sums in another order may round to the neighbouring value of the hidden type.
    neighbour = {torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}[dtype]
    torch.testing.assert_close(ours, theirs, rtol=neighbour, atol=2e-6)
    ours_grads = torch.autograd.grad(ours, inputs, weight)
    their_grads = torch.autograd.grad(theirs, inputs, weight)
    torch.testing.assert_close(ours_grads[0], their_grads[0], rtol=neighbour, atol=2e-6)
    for one, other in zip(ours_grads[1:], their_grads[1:], strict=True):
        assert float((one - other).abs().max()) <= 1e-5 * float(other.abs().max()) + 1e-6


@compiled
@pytest.mark.gpu
@pytest.mark.parametrize(
    ("dtype", "tile"),
    [
        (torch.float32, fused.Tile(2, 4, 1, 1)),
        (torch.float32, fused.Tile(4, 2, 1, 3)),
        (torch.float32, fused.Tile(8, 8, 2, 16)),
        (torch.bfloat16, fused.Tile(16, 2, 1, 1)),
        (torch.bfloat16, fused.Tile(16, 4, 1, 3)),
        (torch.float16, fused.Tile(32, 2, 2, 2)),
    ],
)
def test_every_tile_gives_the_same(
    dtype: torch.dtype, tile: fused.Tile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounds, strips and programs of the reduction that do not divide the work; and the same bits again."""
    random = torch.Generator().manual_seed(3)
    hidden_TH, grad_TH = (torch.randn((29, 72), generator=random).to(DEVICE, dtype) for _one in range(2))
    total_B88 = generators_to_matrices(_theta(9, 0.5).detach()[0])
    gate = torch.tensor(0.3, device=DEVICE)
    residual = fused._FORMS["residual"]
    wanted_TH = fused.fused_gate(hidden_TH, total_B88, gate, "residual")
    wanted = fused.gate_gradients(grad_TH, hidden_TH, total_B88, gate, residual)
    for name in ("FORWARD", "BACKWARD", "BACKWARD_HALF"):
        monkeypatch.setattr(fused, name, tile)
    monkeypatch.setattr(fused, "REDUCE", fused.Tile(2, 2, 1, 1))
    # Sums in another order may round to the neighbouring value of the hidden type.
    neighbour = {torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}[dtype]
    ours_TH = fused.fused_gate(hidden_TH, total_B88, gate, "residual")
    torch.testing.assert_close(ours_TH, wanted_TH, rtol=neighbour, atol=1e-6)
    ours = fused.gate_gradients(grad_TH, hidden_TH, total_B88, gate, residual)
    again = fused.gate_gradients(grad_TH, hidden_TH, total_B88, gate, residual)
    for one, same, other in zip(ours, again, wanted, strict=True):
        assert one is not None
        assert same is not None
        assert other is not None
        assert torch.equal(one, same)
        near = neighbour if one.dtype == dtype else 1e-6
        assert float((one - other).abs().max()) <= near * float(other.abs().max())


@compiled
@pytest.mark.gpu
def test_a_closed_gate_is_the_identity_bit_for_bit() -> None:
    hidden_TH = torch.tensor([[-0.0, float("inf"), 1e-40, 3.0] * 4], device=DEVICE)
    total_B88 = generators_to_matrices(_theta(2, 1.0).detach()[0])
    for g in (0.0, torch.tensor(0.0, device=DEVICE)):
        for out_TH in (apply_gate(hidden_TH, total_B88, g), apply_gate_matrix(hidden_TH, total_B88, g)):
            assert torch.equal(out_TH.view(torch.int32), hidden_TH.view(torch.int32))


@compiled
@pytest.mark.gpu
def test_the_adapter_takes_the_kernels_and_learns_the_same() -> None:
    random = torch.Generator().manual_seed(2)
    hidden_NTH = torch.randn((2, 9, 64), generator=random).to(DEVICE)
    pool_N = torch.tensor([8, 4], device=DEVICE)

    def gradients(with_kernels: bool) -> list[Tensor]:
        adapter = SO8TAdapter(64, gate_learned=True, alpha_start=0.5, init_std=0.3).to(DEVICE)
        with pytest.MonkeyPatch.context() as patch:
            if not with_kernels:
                patch.setattr(fused, "triton_works", lambda _device: False)
            out = adapter(hidden_NTH, pool_N)
            total = out.hidden_NTH.square().mean() + out.safety_logits_N2.sum() + out.task_logits_N4.sum()
            total.backward()
        return [p.grad for p in adapter.parameters() if p.grad is not None]

    ours, theirs = gradients(True), gradients(False)
    assert len(ours) == len(theirs) >= 5
    for one, other in zip(ours, theirs, strict=True):
        assert float((one - other).abs().max()) <= 1e-5 * float(other.abs().max()) + 1e-7
