"""``soul.pt``, the historical soul file: export, and an import that says what it read.

Layouts in circulation: ``{alpha, so8_rotation, step}``, and the superset with r_safe, r_cmd, the heads and
pet. Matrices may be (8, 8) for the whole model, (64,) flattened, or (B, 8, 8). Reading uses
``weights_only=True`` and nothing else: such files come from strangers.
"""

from __future__ import annotations

import math
import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from so8t_engine.errors import SO8TError
from so8t_engine.i18n import _
from so8t_engine.so8t.blocks import BLOCK
from so8t_engine.so8t.logarithm import require_rotations
from so8t_engine.so8t.soul_file import (
    FLOATS,
    Soul,
    SoulMetadata,
    factors_to_generators,
    not_a_number,
    whole_step,
    write_atomically,
)

KEYS = ("alpha", "so8_rotation", "step", "r_safe", "r_cmd", "safety_head", "task_head", "dual_heads", "pet")
# A product stored beside its factors must be theirs to float32 rounding of a file's own arithmetic.
_PRODUCT_TOLERANCE = 1e-3
# 2^24 numbers are 262,144 blocks. A tensor may claim any size by a stride of 0.
_LARGEST = 2**24
# What torch.load raises for torn, foreign and hostile files, found by damaging files at every byte.
_UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    LookupError,
    ArithmeticError,
    EOFError,
    MemoryError,
    ImportError,
    struct.error,
    pickle.UnpicklingError,
)


def export_soul_pt(path: Path, soul: Soul) -> None:
    """Write ``soul.pt`` with the keys of `KEYS`; what the soul lacks is None. Whole or not at all."""
    heads = soul.heads
    content: dict[str, object] = {
        "alpha": soul.alpha,
        "so8_rotation": soul.rotation("total"),
        "step": soul.step,
        "r_safe": soul.rotation("safe"),
        "r_cmd": soul.rotation("cmd"),
        "safety_head": _head(heads, "safety_head."),
        "task_head": _head(heads, "task_head."),
        "dual_heads": [_head(heads, "dual_heads.0."), _head(heads, "dual_heads.1.")] if heads else None,
        "pet": dict(soul.pet) or None,
    }
    write_atomically(path, lambda temporary: torch.save(content, temporary))


def _head(heads: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor] | None:
    found = {name.removeprefix(prefix): tensor for name, tensor in heads.items() if name.startswith(prefix)}
    return found or None


def import_soul_pt(path: Path) -> Soul:
    """Read ``soul.pt`` of any layout above; ``report`` of the result lists each key and what became of it.

    Raises:
        SO8TError: the file cannot be read without running code from it, is no mapping, or a matrix is of
            a wrong shape or no rotation (a row-normalised matrix is not one).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of formats: what the file is worth is checked below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise SO8TError(
            _("%(path)s cannot be read safely: %(error)s.") % {"path": path, "error": _first_sentence(error)},
            _("Only files with plain tensors and numbers are read; files that would run code are not."),
        ) from error
    if not isinstance(content, Mapping):
        raise SO8TError(
            _("%(path)s holds a %(kind)s and no soul.") % {"path": path, "kind": type(content).__name__},
            _("Expected is a mapping with alpha, so8_rotation and step."),
        )
    if not any(key in content for key in KEYS):
        raise SO8TError(
            _("%(path)s has none of the keys of a soul.") % {"path": path},
            _("Expected are some of %(keys)s.") % {"keys": ", ".join(KEYS)},
        )
    soul = Soul(metadata=SoulMetadata(schema_version=""))
    report = soul.report
    soul.alpha = _number(path, content, "alpha", report)
    step = _number(path, content, "step", report)
    soul.step = None if step is None else whole_step(path, step)
    safe_B88, cmd_B88, total_B88 = (
        _rotations(path, content, key, report) for key in ("r_safe", "r_cmd", "so8_rotation")
    )
    if safe_B88 is not None and cmd_B88 is not None:
        _compare_product(path, safe_B88, cmd_B88, total_B88, report)
        soul.theta_safe, soul.theta_cmd = factors_to_generators(safe_B88), factors_to_generators(cmd_B88)
        soul.metadata = SoulMetadata(schema_version="", rotation_map="exp")
        report.append(_("r_safe, r_cmd: kept as generators of the rotation map exp."))
    else:
        soul.total_B88 = None if total_B88 is None else total_B88.float()
    _heads(path, content, soul)
    _pet(path, content.get("pet"), soul)
    for key in content:
        if key not in KEYS:
            report.append(_("%(name)s: not known, not read.") % {"name": str(key)[:80]})
    return soul


def _found(key: str, read: bool) -> str:
    return (_("%(name)s: read.") if read else _("%(name)s: missing.")) % {"name": key}


def _first_sentence(error: BaseException) -> str:
    """What torch says, without its advice on how to run the file's code after all."""
    text = (str(error).splitlines() or [""])[0].strip()
    if named := re.search(r"GLOBAL ([\w.]{1,80})", str(error)):
        return _("it asks for %(name)s, which is code and not a value") % {"name": named[1]}
    if text.startswith("Weights only load failed"):
        return _("it is torn, or holds more than tensors and plain values")
    return text.rstrip(".") or type(error).__name__


def _is_tensor(value: object) -> TypeGuard[Tensor]:
    """Whether a value is an ordinary dense tensor of real floating-point numbers and of a sane size."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.dtype in FLOATS
        and value.numel() <= _LARGEST
    )


def _is_number(value: object) -> TypeGuard[Tensor | float]:
    if isinstance(value, Tensor):
        return value.numel() == 1 and (_is_tensor(value) or value.dtype == torch.int64)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _finite_number(path: Path, key: str, value: object) -> float:
    plain = value.detach() if isinstance(value, Tensor) else value
    try:
        number = float(plain) if _is_number(plain) else math.nan
    except OverflowError:  # a whole number of hundreds of digits
        number = math.inf
    if not math.isfinite(number):
        raise not_a_number(path, key)
    return number


def _number(path: Path, content: Mapping[Any, Any], key: str, report: list[str]) -> float | None:
    value = content.get(key)
    report.append(_found(key, value is not None))
    return None if value is None else _finite_number(path, key, value)


def _pet(path: Path, value: object, soul: Soul) -> None:
    """PET's last values by name; a single number is kept as ``value``."""
    entries = value if isinstance(value, Mapping) else {} if value is None else {"value": value}
    for name, number in entries.items():
        soul.pet[str(name)[:80]] = _finite_number(path, f"pet.{str(name)[:80]}", number)
    soul.report.append(_found("pet", bool(soul.pet)))


def _rotations(path: Path, content: Mapping[Any, Any], key: str, report: list[str]) -> Tensor | None:
    """The matrices of a key as (B, 8, 8) float64, checked; None where the key is missing."""
    value = content.get(key)
    if value is None:
        report.append(_found(key, False))
        return None
    shape = tuple(value.shape) if isinstance(value, Tensor) else ()
    if not _is_tensor(value) or not _is_matrix_shape(shape):
        raise SO8TError(
            _("%(path)s: %(key)s has the shape %(shape)s.") % {"path": path, "key": key, "shape": shape},
            _("Expected are 8×8 matrices: (8, 8), (64,) or (B, 8, 8)."),
        )
    matrix_B88 = value.detach().double().reshape(-1, BLOCK, BLOCK)
    require_rotations(matrix_B88, f"{path}: {key}")
    report.append(
        _("%(name)s: read, %(shape)s as %(blocks)d blocks.")
        % {"name": key, "shape": shape, "blocks": matrix_B88.shape[0]}
    )
    return matrix_B88


def _is_matrix_shape(shape: tuple[int, ...]) -> bool:
    return shape == (BLOCK * BLOCK,) or (
        len(shape) in (2, 3) and shape[-2:] == (BLOCK, BLOCK) and shape[0] > 0
    )


def _compare_product(
    path: Path, safe_B88: Tensor, cmd_B88: Tensor, total_B88: Tensor | None, report: list[str]
) -> None:
    """Refuse factors that do not fit together, and say when the stored product has them swapped."""
    if safe_B88.shape != cmd_B88.shape:
        raise SO8TError(
            _("%(path)s: r_safe has %(safe)d blocks and r_cmd %(cmd)d.")
            % {"path": path, "safe": safe_B88.shape[0], "cmd": cmd_B88.shape[0]},
            _("Take the file from another checkpoint."),
        )
    if total_B88 is None or total_B88.shape != safe_B88.shape:
        return
    if float((cmd_B88 @ safe_B88 - total_B88).abs().max()) <= _PRODUCT_TOLERANCE:
        return
    if float((safe_B88 @ cmd_B88 - total_B88).abs().max()) <= _PRODUCT_TOLERANCE:
        report.append(_("so8_rotation is R_safe R_cmd, the swapped order; R_cmd R_safe is used instead."))
    else:
        report.append(_("so8_rotation is not the product of r_cmd and r_safe; the product is used instead."))


def _heads(path: Path, content: Mapping[Any, Any], soul: Soul) -> None:
    """Weights and biases of the heads: a state dict each, or the weight alone."""
    dual = content.get("dual_heads")
    pairs: list[tuple[str, object, int]] = [
        ("safety_head", content.get("safety_head"), 2),
        ("task_head", content.get("task_head"), 4),
    ]
    if isinstance(dual, list | tuple) and len(dual) == 2:
        pairs += [("dual_heads.0", dual[0], 2), ("dual_heads.1", dual[1], 2)]
    elif isinstance(dual, Mapping):
        # The state dict of a module list: 0.weight, 0.bias, 1.weight, 1.bias.
        named = {str(key): tensor for key, tensor in dual.items()}
        pairs += [(f"dual_heads.{number}", _head(named, f"{number}."), 2) for number in (0, 1)]
    else:
        pairs.append(("dual_heads", dual, 2))
    for name, value, classes in pairs:
        state = {"weight": value} if isinstance(value, Tensor) else value
        if state is None:
            soul.report.append(_found(name, False))
            continue
        if not _is_head(state, classes):
            raise SO8TError(
                _("%(path)s: %(key)s is not a linear layer with %(classes)d outputs.")
                % {"path": path, "key": name, "classes": classes},
                _("Expected are a weight of shape (classes, hidden) and a bias of shape (classes,)."),
            )
        assert isinstance(state, Mapping)
        soul.heads |= {f"{name}.{key}": tensor.detach().float().contiguous() for key, tensor in state.items()}
        soul.report.append(_found(name, True))


def _is_head(state: object, classes: int) -> bool:
    if not isinstance(state, Mapping) or "weight" not in state or set(state) - {"weight", "bias"}:
        return False
    if not all(_is_tensor(tensor) and bool(tensor.isfinite().all()) for tensor in state.values()):
        return False
    weight, bias = state["weight"], state.get("bias")
    return (
        weight.ndim == 2 and weight.shape[0] == classes and (bias is None or tuple(bias.shape) == (classes,))
    )
