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


class LiveBytes(TorchDispatchMode):
    """While active, storages that operators make are followed until they die.

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
        out = func(*args, **(kwargs or {}))
        made = sum(self._take(leaf) for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor))
        self.peak = max(self.peak, self.now)
        if made and self._trace is not None:
            self._trace(str(func), made, self.now)
        return out
