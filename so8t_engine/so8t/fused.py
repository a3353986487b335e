"""The gate and the rotations by Triton kernels, where a CUDA card and triton are there.

The torch path in `blocks`, `rotation` and `gate` gives the same numbers up to float32 rounding and serves
everywhere else. ``SO8T_TRITON=0`` in the environment switches these kernels off.
"""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from so8t_engine.i18n import _
from so8t_engine.so8t.blocks import BLOCK

log = logging.getLogger(__name__)

#: Largest difference from PyTorch with which the kernels are used.
TOLERANCE = 1e-6
# "given" is K itself, with the closed gate's identity; "plain" knows no gate.
_FORMS = {"plain": 0, "residual": 1, "additive": 2, "given": 3}
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Tile(NamedTuple):
    """What one program of a gate kernel works on: ``tokens`` × ``blocks`` at a time, ``rounds`` times."""

    tokens: int
    blocks: int
    warps: int
    rounds: int

    def grid(self, tokens: int, blocks: int) -> tuple[int, int]:
        """Programs for a whole tensor: (blocks, tokens)."""
        return -(-blocks // self.blocks), -(-tokens // (self.tokens * self.rounds))


# The fastest of a sweep at 2,048 × 3,072 (tests/benchmarks/RESULTS.md). In the backward pass in float32 a
# thread holds one block of one token and its 64 sums; in half precision tensor cores hold them.
FORWARD = Tile(16, 16, 4, 1)
BACKWARD = Tile(8, 4, 1, 16)
BACKWARD_HALF = Tile(64, 4, 4, 8)
REDUCE = Tile(16, 4, 4, 1)  # partial sums at a time, blocks per program
BUILD_WARPS = (2, 2)  # forward, backward

#: Device → why its kernels are not used though triton is installed and wanted.
_trouble: dict[torch.device, str] = {}


def triton_works(device: torch.device) -> bool:
    """Whether triton is installed and wanted, compiles here, agrees with PyTorch on a small case, and has not
    failed since.

    Triton needs a C compiler at run time, which a home computer may lack: then PyTorch's own kernels do
    the work, the log says why, and `kernel_trouble` gives it to whoever tells a person.
    """
    return device not in _trouble and _checked(device)


@cache
def _checked(device: torch.device) -> bool:
    if os.environ.get("SO8T_TRITON", "1") == "0":
        return False
    if find_spec("triton") is None:
        log.info("triton is not installed: PyTorch's own kernels do the work")
        return False
    try:
        worst = _worst_difference(device)
    except Exception as error:
        log.warning("triton does not work here: PyTorch's own kernels do the work", exc_info=True)
        _trouble[device] = _reason(error)
        return False
    if not worst < TOLERANCE:
        _trouble[device] = _("its results differ by %(size).1e") % {"size": worst}
        log.warning("triton: %s: PyTorch's own kernels do the work", _trouble[device])
        return False
    return True


def kernel_trouble(device: torch.device) -> str | None:
    """Why triton, though installed and wanted, does not do the work on a card; None where nothing is wrong.

    The first call for a card checks its kernels, which compiles some of them.
    """
    if device.type == "cuda" or _interpreted():
        triton_works(device)
    return _trouble.get(device)


def gave_up(device: torch.device, error: BaseException) -> bool:
    """Whether ``error`` came out of triton; if so, PyTorch's own kernels do the work from now on."""
    trace, inside = error.__traceback__, False
    while trace is not None and not inside:
        inside = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0] == "triton"
        trace = trace.tb_next
    if not inside or device in _trouble:
        return False
    log.warning("triton failed: PyTorch's own kernels do the work from now on", exc_info=error)
    _trouble[device] = _reason(error)
    return True


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip()[:200].rstrip('.')}" if lines else type(error).__name__


@torch.no_grad()
def _worst_difference(device: torch.device) -> float:
    """Largest error of the kernels on a small case, against PyTorch in float64."""
    from so8t_engine.so8t.exponential import skew_exponential
    from so8t_engine.so8t.rotation import skew_from_generators

    random = torch.Generator().manual_seed(0)
    theta_2B28 = torch.randn((2, 4, 28), generator=random).to(device)
    safe_B88, cmd_B88, total_B88 = fused_rotations(theta_2B28[0], theta_2B28[1])
    wanted_2B88 = skew_exponential(skew_from_generators(theta_2B28.double()))
    errors = [
        (safe_B88 - wanted_2B88[0]).abs().max(),
        (cmd_B88 - wanted_2B88[1]).abs().max(),
        (total_B88 - wanted_2B88[1] @ wanted_2B88[0]).abs().max(),
    ]
    hidden_TH = torch.randn((3, 32), generator=random).to(device)
    gated_TH = fused_gate(hidden_TH, total_B88, None, "plain").double()
    wanted_TBi = torch.einsum("bij,tbj->tbi", total_B88.double(), hidden_TH.double().view(3, 4, 8))
    errors.append((gated_TH - wanted_TBi.reshape(3, 32)).abs().max() / 10)
    # The kernel for half precision is another one; the gradient of M is float32 there too.
    half = torch.bfloat16 if device.type != "cuda" or torch.cuda.is_bf16_supported() else torch.float16
    half_TH = hidden_TH.to(half)
    grad_B88 = gate_gradients(half_TH, half_TH, total_B88, total_B88.new_ones(()), _FORMS["plain"])[1]
    parts_TB8 = half_TH.double().view(3, 4, 8)
    assert grad_B88 is not None
    errors.append((grad_B88 - torch.einsum("tbi,tbj->bij", parts_TB8, parts_TB8)).abs().max() / 10)
    return float(torch.stack([error.double() for error in errors]).max())  # NaN, if one is NaN


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def can_fuse(hidden: Tensor, matrix_B88: Tensor, form: str = "plain") -> bool:
    """Whether `fused_gate` takes these tensors: float32 or half precision, on a card (or interpreted)."""
    return (
        matrix_B88.dtype == torch.float32
        and matrix_B88.device == hidden.device
        and form in _FORMS
        and kernels_on(hidden)
    )


def kernels_on(tensor: Tensor) -> bool:
    """Whether triton's kernels take this tensor: float32 or half precision, on a card (or interpreted)."""
    return (
        (tensor.is_cuda or _interpreted())
        and tensor.dtype in _DTYPES
        and tensor.numel() > 0
        and triton_works(tensor.device)
    )


def can_fuse_build(theta_B28: Tensor) -> bool:
    """Whether `fused_rotations` takes these generators: float32, on a card (or interpreted)."""
    return (
        (theta_B28.is_cuda or _interpreted())
        and theta_B28.dtype == torch.float32
        and triton_works(theta_B28.device)
    )


def on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current card, which need not be the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


class _Gate(torch.autograd.Function):
    """Saves the hidden states, which exist anyway, and B matrices; nothing per token besides."""

    @staticmethod
    def forward(ctx: Any, hidden_TH: Tensor, matrix_B88: Tensor, gate: Tensor, form: int) -> Tensor:  # noqa: ANN401
        from so8t_engine.so8t.triton_kernels import gate_forward

        ctx.save_for_backward(hidden_TH, matrix_B88, gate)
        ctx.form = form
        out_TH = torch.empty_like(hidden_TH)
        tokens, blocks = hidden_TH.shape[0], matrix_B88.shape[0]
        with on_device_of(hidden_TH):
            gate_forward[FORWARD.grid(tokens, blocks)](
                hidden_TH, matrix_B88, gate, out_TH, tokens, blocks,
                FORM=form, TOKENS=FORWARD.tokens, BLOCKS=FORWARD.blocks, ROUNDS=FORWARD.rounds,
                num_warps=FORWARD.warps,
            )  # fmt: skip
        return out_TH

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        hidden_TH, matrix_B88, gate = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        return *gate_gradients(grads[0].contiguous(), hidden_TH, matrix_B88, gate, ctx.form, wanted), None


def gate_gradients(
    grad_TH: Tensor,
    hidden_TH: Tensor,
    matrix_B88: Tensor,
    gate: Tensor,
    form: int,
    wanted: tuple[bool, bool, bool] = (True, True, True),
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of the hidden states, of M and of g; the same bits every time."""
    from so8t_engine.so8t.triton_kernels import gate_backward, gate_backward_half

    half = hidden_TH.dtype != torch.float32
    kernel, tile = (gate_backward_half, BACKWARD_HALF) if half else (gate_backward, BACKWARD)
    more = {"WIDE": _interpreted()} if half else {}
    want_hidden, want_matrix = wanted[0], wanted[1] or wanted[2]
    tokens, blocks = hidden_TH.shape[0], matrix_B88.shape[0]
    grid = tile.grid(tokens, blocks)
    grad_hidden_TH = torch.empty_like(hidden_TH) if want_hidden else hidden_TH
    partial_PB88 = matrix_B88.new_empty((grid[1] if want_matrix else 1, blocks, BLOCK, BLOCK))
    arrived = torch.empty((), dtype=torch.int32, device=matrix_B88.device)
    grad_matrix_B88, grad_gate = None, None
    with on_device_of(hidden_TH):
        kernel[grid](
            grad_TH, hidden_TH, matrix_B88, gate, grad_hidden_TH, partial_PB88, arrived, tokens, blocks,
            FORM=form, WANT_HIDDEN=want_hidden, WANT_MATRIX=want_matrix,
            TOKENS=tile.tokens, BLOCKS=tile.blocks, ROUNDS=tile.rounds, num_warps=tile.warps, **more,
        )  # fmt: skip
        if want_matrix:
            want_gate = wanted[2] and form in (_FORMS["residual"], _FORMS["additive"])
            grad_matrix_B88, grad_gate = _reduce(partial_PB88, matrix_B88, gate, arrived, form, want_gate)
    return (grad_hidden_TH if want_hidden else None), grad_matrix_B88, grad_gate


def _reduce(
    partial_PB88: Tensor, matrix_B88: Tensor, gate: Tensor, arrived: Tensor, form: int, want_gate: bool
) -> tuple[Tensor, Tensor | None]:
    """The gradients of M and g from the partial sums of that of K."""
    from so8t_engine.so8t.triton_kernels import gate_reduce

    strips, blocks = partial_PB88.shape[:2]
    programs = -(-blocks // REDUCE.blocks)
    grad_matrix_B88, grad_gate = torch.empty_like(matrix_B88), torch.empty_like(gate)
    gate_reduce[(programs,)](
        partial_PB88, matrix_B88, gate, grad_matrix_B88, grad_gate, matrix_B88.new_empty(programs), arrived,
        strips, blocks, programs,
        FORM=form, WANT_GATE=want_gate, STRIPS=REDUCE.tokens, BLOCKS=REDUCE.blocks,
        PROGRAMS=1 << (programs - 1).bit_length(), num_warps=REDUCE.warps,
    )  # fmt: skip
    return grad_matrix_B88, grad_gate if want_gate else None


def fused_gate(hidden: Tensor, matrix_B88: Tensor, gate: Tensor | None, form: str) -> Tensor:
    """K x per block in one pass over the hidden states.

    Args:
        hidden: shape (…, H); `can_fuse` must hold.
        matrix_B88: M or K, shape (H/8, 8, 8), float32.
        gate: g, 0-dim; None for ``plain``.
        form: ``plain`` (K = M), ``residual``, ``additive``, or ``given`` (K itself, the identity at g = 0).

    Returns:
        Shape and dtype of ``hidden``; summed in float32 and rounded once.
    """
    flat_TH = hidden.reshape(-1, hidden.shape[-1])
    strength = gate if gate is not None else matrix_B88.new_ones(())
    out_TH: Tensor = _Gate.apply(  # type: ignore[no-untyped-call]
        flat_TH.contiguous(), matrix_B88.contiguous(), strength.float(), _FORMS[form]
    )
    return out_TH.view(hidden.shape)


class _Rotations(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, safe_B28: Tensor, cmd_B28: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401
        from so8t_engine.so8t.triton_kernels import build_forward

        blocks = safe_B28.shape[0]
        safe_B88, cmd_B88, total_B88 = (safe_B28.new_empty((blocks, BLOCK, BLOCK)) for _matrix in range(3))
        with on_device_of(safe_B28):
            build_forward[(blocks,)](
                safe_B28, cmd_B28, safe_B88, cmd_B88, total_B88,
                num_warps=BUILD_WARPS[0],
            )  # fmt: skip
        ctx.save_for_backward(safe_B28, cmd_B28, safe_B88, cmd_B88)
        ctx.set_materialize_grads(False)
        return safe_B88, cmd_B88, total_B88

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, Tensor | None]:  # noqa: ANN401
        from so8t_engine.so8t.triton_kernels import build_backward

        if all(grad is None for grad in grads):
            return None, None
        safe_B28, cmd_B28, safe_B88, cmd_B88 = ctx.saved_tensors
        out_safe_B28, out_cmd_B28 = torch.empty_like(safe_B28), torch.empty_like(cmd_B28)
        # What has no gradient is not read; any tensor stands in its place.
        given = [safe_B88 if grad is None else grad.contiguous() for grad in grads]
        has_safe, has_cmd, has_total = (grad is not None for grad in grads)
        with on_device_of(safe_B28):
            build_backward[(safe_B28.shape[0],)](
                safe_B28, cmd_B28, safe_B88, cmd_B88, *given, out_safe_B28, out_cmd_B28,
                HAS_SAFE=has_safe, HAS_CMD=has_cmd, HAS_TOTAL=has_total,
                num_warps=BUILD_WARPS[1],
            )  # fmt: skip
        return out_safe_B28, out_cmd_B28


def fused_rotations(safe_B28: Tensor, cmd_B28: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """R_safe, R_cmd and M = R_cmd R_safe (B, 8, 8), float32, by the exponential map in float64."""
    out: tuple[Tensor, Tensor, Tensor] = _Rotations.apply(  # type: ignore[no-untyped-call]
        safe_B28.contiguous(), cmd_B28.contiguous()
    )
    return out
