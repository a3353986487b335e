"""The lean layers' Triton kernels give the numbers of the torch path: interpreted, or compiled on a card."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from so8t_engine.model.lean import ops
from so8t_engine.model.lean.dropout import CardSeed, fork, keep_in_place, kept
from so8t_engine.so8t.losses import IGNORE

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
compiled = pytest.mark.skipif(
    not INTERPRETED and not (torch.cuda.is_available() and find_spec("triton")),
    reason="needs an NVIDIA card and triton",
)
DTYPES = [torch.float32, torch.bfloat16]


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


def _both(monkeypatch: pytest.MonkeyPatch, compute: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """``(by kernels, by torch)``."""
    by_kernels = compute()
    monkeypatch.setattr(ops, "kernels_on", lambda _tensor: False)
    by_torch = compute()
    monkeypatch.undo()
    return by_kernels.double(), by_torch.double()


def _close(pair: tuple[Tensor, Tensor], dtype: torch.dtype) -> None:
    """bf16 rounds to 2⁻⁸ of a value; torch's own path rounds once or twice more."""
    one, other = pair
    limit = 4e-6 if dtype == torch.float32 else 2e-2
    assert float((one - other).abs().max()) <= limit * max(1.0, float(other.abs().max()))


def _random(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype).to(DEVICE)


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [48, 64])
def test_norm(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, size: int) -> None:
    assert ops.kernels_on(_random(1, dtype=dtype))
    hidden, grad, more = (_random(7, size, dtype=dtype, seed=k) for k in range(3))
    weight_H = _random(size, dtype=dtype, seed=4)
    _close(_both(monkeypatch, lambda: ops.rms_norm(hidden, weight_H, 1e-5)), dtype)
    for residual in (None, more):
        _close(
            _both(monkeypatch, lambda r=residual: ops.rms_norm_gradient(grad, hidden, weight_H, 1e-5, r)),
            dtype,
        )


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rotated", [12, 8])
@pytest.mark.parametrize("transposed", [False, True])
def test_rotary(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, rotated: int, transposed: bool) -> None:
    """In place within a wider row, and from another layout into it."""
    cos, sin = (_random(1, 5, rotated // 2, dtype=dtype, seed=k).repeat(1, 1, 2) for k in (1, 2))

    def in_place() -> Tensor:
        wide = _random(2, 5, 48, dtype=dtype)
        part = wide[..., 12:36]
        ops.rotary(part.unflatten(-1, (2, 12)), part, cos, sin, transposed)
        return wide

    def across() -> Tensor:
        source = _random(2, 3, 5, 12, dtype=dtype).transpose(1, 2)
        wide = torch.zeros((2, 5, 48), dtype=dtype, device=DEVICE)
        own = [table.expand(2, -1, -1).contiguous() for table in (cos, sin)]
        ops.rotary(source, wide[..., :36], *own, transposed)
        return wide

    for compute in (in_place, across):
        _close(_both(monkeypatch, compute), dtype)


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["silu", "gelu_tanh"])
def test_gated_activation(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, kind: ops.Activation) -> None:
    both_tF, grad_tI = _random(6, 200, dtype=dtype), _random(6, 100, dtype=dtype, seed=1)

    def gradient() -> Tensor:
        own = both_tF.clone()
        ops.gated_activation_gradient(grad_tI, *own.chunk(2, -1), kind)
        return own

    _close(_both(monkeypatch, lambda: ops.gated_activation(*both_tF.chunk(2, -1), kind)), dtype)
    _close(_both(monkeypatch, gradient), dtype)


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocabulary", [130, 9000])
def test_cross_entropy(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, vocabulary: int) -> None:
    logits_tV = 4 * _random(5, vocabulary, dtype=dtype)
    labels_t = torch.tensor([3, IGNORE, vocabulary - 1, 0, 64], device=DEVICE)

    def compute() -> Tensor:
        own = logits_tV.clone()
        losses_t = ops.cross_entropy_rows(own, labels_t, IGNORE, want_grad=True)
        return torch.cat((losses_t, own.flatten().float()))

    _close(_both(monkeypatch, compute), dtype)


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
def test_int8_rows(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    codes = torch.randint(-127, 128, (9, 70), dtype=torch.int8).to(DEVICE)
    scales = _random(9, dtype=torch.float32).abs()
    one, other = _both(monkeypatch, lambda: ops.dequantise_rows(codes, scales, dtype))
    # The kernel divides by 127, torch multiplies the scale first: one rounding of float32 apart.
    assert float((one - other).abs().max()) <= (1e-6 if dtype == torch.float32 else 2**-7) * float(
        other.max()
    )


@compiled
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("shape", [(96, 64), (33, 320)])
def test_nf4_is_dequantised_as_bitsandbytes_does(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], nested: bool
) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    for dtype in DTYPES:
        packed, state = bnb.functional.quantize_4bit(
            _random(*shape, dtype=dtype), quant_type="nf4", compress_statistics=nested
        )
        one, other = _both(monkeypatch, lambda: ops.dequantise_4bit(packed, state, dtype))  # noqa: B023
        assert one.shape == shape
        # The interpreter cuts a float32 off to bf16 where a card rounds it.
        limit = 2**-7 if INTERPRETED and dtype == torch.bfloat16 else 0.0
        assert torch.all((one - other).abs() <= limit * other.abs()), float((one - other).abs().max())


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout_keeps_what_it_should_and_the_same_again(dtype: torch.dtype) -> None:
    """Twice the same elements, another seed others, with the asked share, values untouched, also in place."""
    input_tI = _random(67, 96, dtype=dtype) + 3.0
    seeds_L = torch.tensor([2**61 + 5, 77], device=DEVICE)
    first, second = CardSeed(seeds_L, 0), CardSeed(seeds_L, 1)
    kept_tI = kept(input_tI, 0.25, first)
    assert torch.equal(kept_tI, kept(input_tI, 0.25, first))
    others = [kept(input_tI, 0.25, seed) for seed in (second, fork(first, 0), fork(first, 1))]  # type: ignore[arg-type]
    assert all(not torch.equal(kept_tI, other_tI) for other_tI in others)
    was_kept = kept_tI != 0
    assert torch.equal(kept_tI[was_kept], input_tI[was_kept])
    for tensor in (kept_tI, *others):
        # Three standard deviations of 6,432 draws.
        assert abs(float((tensor == 0).float().mean()) - 0.25) < 0.0163
    in_place_tI = input_tI.clone()
    keep_in_place(in_place_tI, 0.25, first)
    assert torch.equal(in_place_tI, kept_tI)
    seeds_L[0] += 1  # as a recorded pass sees it: the seed is read when the kernel runs
    assert not torch.equal(kept_tI, kept(input_tI, 0.25, first))
