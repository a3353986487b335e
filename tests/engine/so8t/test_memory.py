"""The gate's extra memory: one tensor of the size of the hidden states, the output itself."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from so8t_engine.so8t.gate import apply_gate
from so8t_engine.so8t.rotation import generators_to_matrices


class PeakBytes(TorchDispatchMode):
    """Counts the bytes of storages that operators create while the mode is on, and their peak."""

    def __init__(self, existing: list[Tensor]) -> None:
        super().__init__()
        self.live, self.peak = 0, 0
        self._known = {tensor.untyped_storage()._cdata for tensor in existing}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._known:
            return
        self._known.add(storage._cdata)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, storage._cdata, storage.nbytes())

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forward_and_backward_each_add_one_hidden_tensor(dtype: torch.dtype) -> None:
    hidden = torch.randn(1, 4096, 1024).to(dtype).requires_grad_()
    total_B88 = generators_to_matrices(torch.randn(128, 28)).requires_grad_()
    g = torch.tensor(0.3, requires_grad=True)
    gradient = torch.randn_like(hidden)
    one = hidden.numel() * hidden.element_size()
    # Matrices, and a chunk of 2**19 elements: its float32 product, for half precision its operands too.
    small = 3 * 2**20 if dtype == torch.float32 else 9 * 2**20
    with PeakBytes([hidden, total_B88, g, gradient]) as forward:
        out = apply_gate(hidden, total_B88, g)
    assert one <= forward.peak <= one + small
    with PeakBytes([hidden, total_B88, g, gradient, out]) as backward:
        grads = torch.autograd.grad(out, (hidden, total_B88, g), gradient)
    assert all(bool(grad.isfinite().all()) for grad in grads)
    assert one <= backward.peak <= one + small
