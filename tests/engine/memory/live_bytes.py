"""Counts the bytes of all tensors that are alive, operator by operator, as a card's allocator rounds them.

The independent side of the estimate's tests: the real code runs (on the CPU, in bf16), and what it holds at
its highest moment is what a card's allocator would have handed out for the same operators.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

BLOCK = 512
_aten = torch.ops.aten


def _attention_like(tensor: torch.Tensor) -> torch.Tensor:
    """Heads beside each other in memory, as attention on the CPU lays out what it returns."""
    return torch.empty_permuted(tensor.shape, (0, 2, 1, 3), dtype=tensor.dtype)


def _product(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """What a product or attention returns, without its numbers: in bf16 they take seconds on most CPUs."""
    if "out" in kwargs:
        return None
    if func is _aten._scaled_dot_product_flash_attention_for_cpu.default:
        query = args[0]
        sums = query.new_empty(query.shape[0], query.shape[2], query.shape[1], dtype=torch.float32)
        return _attention_like(query), sums.transpose(1, 2)
    if func is _aten._scaled_dot_product_flash_attention_for_cpu_backward.default:
        return tuple(_attention_like(tensor) for tensor in args[1:4])
    if func in (_aten.mm.default, _aten.addmm.default):
        one, other = args[-2:]
        return one.new_empty((one.shape[0], other.shape[1]))
    if func in (_aten.bmm.default, _aten.baddbmm.default):
        one, other = args[-2:]
        return one.new_empty((*one.shape[:2], other.shape[2]))
    if func in (_aten.addmm_.default, _aten.baddbmm_.default):
        return args[0]
    return None


class LiveBytes(TorchDispatchMode):
    """While active, storages that operators make are followed until they die; products are not computed.

    Attributes:
        now, peak: bytes, each storage rounded up to 512.
        trace: called with (operator, now) after each operator that made something; for looking at it.
    """

    def __init__(self, trace: Callable[[str, int, int], None] | None = None) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, weakref.ref[Any]] = {}
        self._sizes: dict[int, int] = {}
        self._trace = trace

    def reset_peak(self) -> None:
        self.peak = self.now

    def hold(self, tensor: torch.Tensor) -> None:
        """Count a tensor that was made before."""
        self._take(tensor)

    def _take(self, tensor: torch.Tensor) -> int:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive and self._alive[key]() is not None:
            return 0
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        self._sizes[key] = size
        self.now += size

        def gone(_ref: object, key: int = key) -> None:
            self.now -= self._sizes.pop(key, 0)
            self._alive.pop(key, None)

        self._alive[key] = weakref.ref(storage, gone)
        return size

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        out = _product(func, args, kwargs or {})
        if out is None:
            out = func(*args, **(kwargs or {}))
        made = sum(self._take(leaf) for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor))
        self.peak = max(self.peak, self.now)
        if made and self._trace is not None:
            self._trace(str(func), made, self.now)
        return out
