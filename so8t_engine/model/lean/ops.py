"""RMS norm, rotary embedding and gated activation with hand-written gradients, without autograd.

On a card with triton each is one kernel; elsewhere PyTorch's operators give the same numbers up to rounding.
The callers are autograd functions that choose themselves what to keep.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from so8t_engine.so8t.fused import kernels_on, on_device_of

Activation = Literal["silu", "gelu_tanh"]
_STRIP = 1024
#: Heads of a token that one program rotates, and blocks of 4-bit codes that one dequantises.
_HEADS, _BLOCKS = 16, 32


def _power_of_two(size: int) -> int:
    return 1 << max(size - 1, 0).bit_length()


def rms_norm(hidden: Tensor, weight_H: Tensor, eps: float) -> Tensor:
    """weight · h / rms(h), rounded as transformers rounds; shape (…, H), contiguous."""
    if not kernels_on(hidden):
        wide = _wide(hidden)
        return (wide * _inverse_rms(wide, eps)).to(hidden.dtype).mul_(weight_H)
    from so8t_engine.model.lean.kernels import norm_forward

    out, size = torch.empty_like(hidden), hidden.shape[-1]
    with on_device_of(hidden):
        norm_forward[(hidden.numel() // size,)](
            hidden, weight_H, out, size, eps, WIDTH=_power_of_two(size), num_warps=8
        )
    return out


def rms_norm_gradient(
    grad: Tensor, hidden: Tensor, weight_H: Tensor, eps: float, residual: Tensor | None = None
) -> Tensor:
    """The gradient of h for the gradient of `rms_norm`, plus ``residual``; all of shape (…, H), contiguous.

    d h = r (g w − n · mean(g w · n)) with r = 1 / rms(h), n = r h.
    """
    if not kernels_on(hidden):
        wide = _wide(hidden)
        scale = _inverse_rms(wide, eps)
        result = grad.to(wide.dtype) * weight_H.to(wide.dtype)
        share = (result * wide).mean(-1, keepdim=True).mul_(scale.pow(3))
        # Where there is a residual it is added by the same pass as the first product.
        result = (
            result.mul_(scale) if residual is None else torch.addcmul(residual.to(wide.dtype), result, scale)
        )
        return result.addcmul_(wide, share, value=-1.0).to(hidden.dtype)
    from so8t_engine.model.lean.kernels import norm_backward

    out, size = torch.empty_like(hidden), hidden.shape[-1]
    with on_device_of(hidden):
        norm_backward[(hidden.numel() // size,)](
            hidden, weight_H, grad, hidden if residual is None else residual, out, size, eps,
            RESIDUAL=residual is not None, WIDTH=_power_of_two(size), num_warps=8,
        )  # fmt: skip
    return out


def _inverse_rms(wide: Tensor, eps: float) -> Tensor:
    norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    inverse: Tensor = norm.square_().div_(wide.shape[-1]).add_(eps).rsqrt_()
    return inverse


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def rotary(
    source_NThD: Tensor, target: Tensor, cos_NTR: Tensor, sin_NTR: Tensor, transposed: bool = False
) -> None:
    """Rotate heads from ``source_NThD`` into ``target`` (N, T, h·D), a slice of a wider row perhaps.

    The first R units of a head are rotated, the halves of R against each other (Su et al. 2021, as
    transformers lays it out); the rest pass. ``transposed`` applies the transpose, for gradients.

    Args:
        source_NThD: shape (N, T, h, D), any strides with contiguous units; may share memory with the target.
        target: written; its last dimension is contiguous and its rows are evenly spaced.
        cos_NTR, sin_NTR: contiguous, shape (N or 1, T, R), equal in both halves of R.
    """
    count, tokens, heads, size = source_NThD.shape
    rotated = cos_NTR.shape[-1]
    sign = -1.0 if transposed else 1.0
    if not kernels_on(source_NThD):
        out_NThD = target.view(count, tokens, heads, size)
        half = rotated // 2
        cos, sin = cos_NTR[..., :half].unsqueeze(2), sin_NTR[..., :half].unsqueeze(2)
        one, two = source_NThD[..., :half], source_NThD[..., half:rotated]
        # Both halves are read before the target, which may be the source, is written.
        first = (one * cos).addcmul_(two, sin, value=-sign)
        second = (two * cos).addcmul_(one, sin, value=sign)
        out_NThD[..., :half], out_NThD[..., half:rotated] = first, second
        if rotated < size and source_NThD.data_ptr() != out_NThD.data_ptr():
            out_NThD[..., rotated:] = source_NThD[..., rotated:]
        return
    from so8t_engine.model.lean.kernels import rotate

    with on_device_of(source_NThD):
        rotate[(count * tokens, -(-heads // _HEADS))](
            source_NThD, target, cos_NTR, sin_NTR, tokens, heads,
            source_NThD.stride(1), source_NThD.stride(2), source_NThD.stride(0), target.stride(-2),
            cos_NTR.stride(0) if cos_NTR.shape[0] > 1 else 0,
            SIZE=size, HALF=rotated // 2, WIDTH=_power_of_two(rotated // 2), REST=size - rotated, SIGN=sign,
            GROUP=_HEADS, num_warps=4,
        )  # fmt: skip


def rotary_of_pairs(units_NTF: Tensor, cos_NTR: Tensor, sin_NTR: Tensor, transposed: bool = False) -> None:
    """`rotary` in place of whole heads whose units to be turned lie in pairs: one product of complex numbers.

    Args:
        units_NTF: shape (N, T, h·R), a part of wider rows of an even number of units perhaps.
    """
    half = cos_NTR.shape[-1] // 2
    sin_NTr = sin_NTR[..., :half]
    turn_NTr = torch.complex(
        cos_NTR[..., :half].contiguous(), -sin_NTr if transposed else sin_NTr.contiguous()
    )
    torch.view_as_complex(units_NTF.view(*units_NTF.shape[:-1], -1, half, 2)).mul_(turn_NTr.unsqueeze(2))


def has_room(tensor: Tensor) -> bool:
    """Whether time is shorter than memory: on the CPU in full precision."""
    return tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64)


def activation(gate_tI: Tensor, kind: Activation) -> Tensor | None:
    """act(gate), to be kept for `gated_activation` and its gradient; None where it is to be made anew."""
    return _activated(gate_tI, kind) if has_room(gate_tI) and not kernels_on(gate_tI) else None


def gated_activation(
    gate_tI: Tensor, up_tI: Tensor, kind: Activation, active_tI: Tensor | None = None
) -> Tensor:
    """up · act(gate), shape (t, I); rows of the inputs may be halves of wider rows.

    ``active_tI``: act(gate) where it is known.
    """
    if active_tI is not None:
        return active_tI * up_tI
    if not kernels_on(gate_tI):
        return _activated(gate_tI, kind).mul_(up_tI)
    from so8t_engine.model.lean.kernels import gated_forward

    tokens, size = gate_tI.shape
    out_tI = torch.empty((tokens, size), dtype=gate_tI.dtype, device=gate_tI.device)
    with on_device_of(gate_tI):
        gated_forward[(tokens, -(-size // _STRIP))](
            gate_tI, up_tI, out_tI, size, gate_tI.stride(0), up_tI.stride(0),
            GELU=kind == "gelu_tanh", WIDTH=_STRIP, num_warps=4,
        )  # fmt: skip
    return out_tI


def _activated(gate_tI: Tensor, kind: Activation) -> Tensor:
    return functional.silu(gate_tI) if kind == "silu" else functional.gelu(gate_tI, approximate="tanh")


def gated_activation_gradient(
    grad_tI: Tensor, gate_tI: Tensor, up_tI: Tensor, kind: Activation, active_tI: Tensor | None = None
) -> None:
    """Replace ``gate_tI`` and ``up_tI`` by their gradients, in place."""
    if not kernels_on(gate_tI):
        through_tI = grad_tI * up_tI
        torch.mul(grad_tI, _activated(gate_tI, kind) if active_tI is None else active_tI, out=up_tI)
        if kind == "silu":
            torch.ops.aten.silu_backward(through_tI, gate_tI, grad_input=gate_tI)
        else:
            torch.ops.aten.gelu_backward(through_tI, gate_tI, approximate="tanh", grad_input=gate_tI)
        return
    from so8t_engine.model.lean.kernels import gated_backward

    tokens, size = gate_tI.shape
    with on_device_of(gate_tI):
        gated_backward[(tokens, -(-size // _STRIP))](
            gate_tI, up_tI, grad_tI, size, gate_tI.stride(0), up_tI.stride(0),
            GELU=kind == "gelu_tanh", WIDTH=_STRIP, num_warps=4,
        )  # fmt: skip


def cross_entropy_rows(logits_tV: Tensor, labels_t: Tensor, ignore: int, want_grad: bool) -> Tensor:
    """Cross-entropy per token, float32 (t,), 0 where the label is ``ignore``.

    With ``want_grad`` the logits are replaced by the gradient of their sum, softmax − one-hot.
    """
    if not kernels_on(logits_tV):
        if want_grad and logits_tV.device.type == "cpu" and logits_tV.dtype == _wide(logits_tV).dtype:
            return _cross_entropy_in_place(logits_tV, labels_t, ignore)
        log_share_tV = torch.log_softmax(_wide(logits_tV), -1)
        losses_t = functional.nll_loss(log_share_tV, labels_t, ignore_index=ignore, reduction="none")
        if want_grad:
            share_tV = log_share_tV.exp_()
            wanted_t = labels_t != ignore
            rows = torch.arange(len(labels_t), device=labels_t.device)
            share_tV[rows, labels_t.clamp(min=0)] -= 1.0
            logits_tV.copy_(share_tV.masked_fill_(~wanted_t.unsqueeze(-1), 0.0))
        return losses_t
    from so8t_engine.model.lean.kernels import loss_rows

    tokens, vocabulary = logits_tV.shape
    losses_t = torch.empty(tokens, dtype=torch.float32, device=logits_tV.device)
    with on_device_of(logits_tV):
        loss_rows[(tokens,)](
            logits_tV, labels_t, losses_t, ignore,
            VOCABULARY=vocabulary, WANT_GRAD=want_grad,
            WIDTH=min(_power_of_two(vocabulary), 8192), num_warps=16,
        )  # fmt: skip
    return losses_t


def _cross_entropy_in_place(logits_tV: Tensor, labels_t: Tensor, ignore: int) -> Tensor:
    """`cross_entropy_rows` with one exponential a logit: log Σ exp(x − max) is −log of the largest share."""
    wanted_t, at_t1 = labels_t != ignore, labels_t.clamp(min=0).unsqueeze(-1)
    largest_t = logits_tV.amax(-1) - logits_tV.gather(-1, at_t1).squeeze(-1)
    torch.softmax(logits_tV, -1, out=logits_tV)
    losses_t = largest_t.sub_(logits_tV.amax(-1).log_())
    logits_tV.scatter_add_(-1, at_t1, logits_tV.new_tensor(-1.0).expand_as(at_t1))
    if not bool(wanted_t.all()):
        losses_t.masked_fill_(~wanted_t, 0.0)
        logits_tV.masked_fill_(~wanted_t.unsqueeze(-1), 0.0)
    return losses_t


def dequantise_rows(code_OI: Tensor, scale_O: Tensor, dtype: torch.dtype) -> Tensor:
    """int8 rows as ``dtype``: code · scale / 127 (Dettmers et al. 2022, LLM.int8(), section 3)."""
    out_OI = torch.empty(code_OI.shape, dtype=dtype, device=code_OI.device)
    if not kernels_on(out_OI):
        for start in range(0, len(code_OI), 1024):
            part = slice(start, start + 1024)
            out_OI[part] = (code_OI[part].float() * (scale_O[part].float() / 127.0).unsqueeze(-1)).to(dtype)
        return out_OI
    from so8t_engine.model.lean.kernels import dequantise_rows as kernel

    rows, size = code_OI.shape
    with on_device_of(out_OI):
        kernel[(rows, -(-size // _STRIP))](code_OI, scale_O.float(), out_OI, size, WIDTH=_STRIP, num_warps=4)
    return out_OI


def dequantise_4bit(packed: Tensor, state: Any, dtype: torch.dtype) -> Tensor:  # noqa: ANN401
    """A 4-bit layer's weight (O, I) in ``dtype``, the values that bitsandbytes' own routine gives.

    On a card one kernel reads codes and nested scales and writes the weight; bitsandbytes takes three and
    a buffer of scales.

    Args:
        packed: two codes a byte. state: bitsandbytes' ``QuantState`` (Dettmers et al. 2023, QLoRA).
    """
    nested = bool(state.nested)
    if not kernels_on(packed.new_empty(1, dtype=dtype)) or math.prod(state.shape) % state.blocksize:
        import bitsandbytes as bnb

        plain_OI: Tensor = bnb.functional.dequantize_4bit(packed, state)
        return plain_OI.to(dtype)
    out_OI = torch.empty(state.shape, dtype=dtype, device=packed.device)
    from so8t_engine.model.lean.kernels import dequantise_4bit as kernel

    blocks, own = out_OI.numel() // state.blocksize, state.state2 if nested else state
    with on_device_of(out_OI):
        # Without fusing: a product and a sum are rounded one by one, as bitsandbytes rounds them.
        kernel[(-(-blocks // _BLOCKS),)](
            packed, state.absmax, state.code, own.code, own.absmax, state.offset if nested else own.absmax,
            out_OI, blocks, NESTED=nested, BLOCK=state.blocksize, SCALE_BLOCK=own.blocksize, ROWS=_BLOCKS,
            num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    return out_OI
