"""A layer of which more than its input is kept: what its attention made, or everything.

Kept are the layer's input, what the heads made with the sums it needs, and the residual stream between the
halves. The backward pass then goes through the MLP, the output projection and the attention one after the
other: scores are not computed a second time, nor the output projection, and queries, keys and values are not
there while the MLP is. Compared with `Recomputed` that is three tensors of hidden states instead of one.

With ``everything`` queries, keys and values and the outputs of gate and up are kept too: on the host, where
there is room for that, so that no product with a frozen weight is computed twice. What is left to do again
are norms, activations and LoRA's A x.

Which kernel attends is PyTorch's choice. Its results are caught below autograd and given back there in the
backward pass, as PyTorch's selective checkpointing does it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from so8t_engine.model.lean.dropout import Seed
from so8t_engine.model.lean.layer import DecoderLayer, Scene
from so8t_engine.model.lean.offload import Offload, Ticket
from so8t_engine.model.packed import side_by_side

#: Names of PyTorch's operators that attend; one that is not among them is computed again.
KERNELS = frozenset(
    f"aten::_scaled_dot_product_{name}"
    for name in ("flash_attention", "efficient_attention", "cudnn_attention", "flash_attention_for_cpu")
) | {"torch_attn::_varlen_attn"}

#: What a layer's tensors on the host are called.
HIDDEN, MIXED, MIDDLE = "hidden", "mixed", "middle"


def sums_name(number: int) -> str:
    """Of what the kernels returned beside the heads' result: sums, of one kernel or of one for each row."""
    return f"sums {number}"


def part_name(number: int) -> str:
    """Of queries, keys and values, or of all three where they lie side by side."""
    return f"part {number}"


def tile_name(tile: int, number: int) -> str:
    """Of what one of the layers that make gate and up gave for a tile."""
    return f"tile {tile} {number}"


class _Kernels(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Catches what attention's kernels return, or gives it back in their place.

    Args:
        given: what each of them returned before, in order; None lets them run.
    """

    def __init__(self, given: Sequence[Any] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._given = None if given is None else list(given)
        self.made: list[Any] = []

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: Any = (),  # noqa: ANN401
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        if func.name().partition(".")[0] not in KERNELS:
            return func(*args, **(kwargs or {}))
        if self._given:
            return self._given.pop(0)
        self.made.append(func(*args, **(kwargs or {})))
        return self.made[-1]


class _Store:
    """Tensors of one layer: on the card, or on the host with a ticket."""

    def __init__(self, offload: Offload | None) -> None:
        self._offload = offload
        if offload is not None:
            offload.begin_layer()

    def put(self, name: str, tensor: Tensor) -> Tensor | Ticket:
        return tensor.detach() if self._offload is None else self._offload.push(tensor.detach(), name)

    def take(self, kept: Tensor | Ticket) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        assert self._offload is not None
        return self._offload.take(kept)

    def put_all(self, names: Callable[[int], str], tensors: Sequence[Tensor]) -> list[Tensor | Ticket]:
        return [self.put(names(number), one) for number, one in enumerate(tensors)]

    def take_all(self, kept: Sequence[Tensor | Ticket]) -> list[Tensor]:
        """In the order in which they were put, fetched the last first."""
        return [self.take(one) for one in reversed(kept)][::-1]


class _Results:
    """What an attention's kernels returned, without what lies in the heads' result all the same."""

    def __init__(self, store: _Store, made: list[Any], mixed_NTF: Tensor) -> None:
        self._store, self._stored = store, 0
        self._kept = [[self._put(one, mixed_NTF) for one in results] for results in made]

    def _put(self, one: Any, mixed_NTF: Tensor) -> Any:  # noqa: ANN401
        if not isinstance(one, Tensor):
            return one
        if one.untyped_storage().data_ptr() == mixed_NTF.untyped_storage().data_ptr():
            return one.shape, one.stride(), one.storage_offset() - mixed_NTF.storage_offset()
        if not one.is_floating_point() or one.ndim < 2:
            return one.detach()  # seeds and such are a few bytes and stay where they are
        self._stored += 1
        return self._store.put(sums_name(self._stored - 1), one)

    def take(self) -> None:
        """Fetch what waits on the host, the last one first."""
        for results in reversed(self._kept):
            for place in reversed(range(len(results))):
                if isinstance(results[place], Ticket):
                    results[place] = self._store.take(results[place])

    def beside(self, mixed_NTF: Tensor) -> list[Any]:
        """The kernels' results once more, given what the heads made."""
        start = mixed_NTF.storage_offset()
        return [
            tuple(
                mixed_NTF.as_strided(one[0], one[1], start + one[2]) if isinstance(one, tuple) else one
                for one in results
            )
            for results in self._kept
        ]


class _Tiles:
    """Outputs of gate and up in a store, tile by tile."""

    def __init__(self, store: _Store) -> None:
        self._store = store
        self._tiles: dict[int, list[Tensor | Ticket]] = {}

    def put(self, number: int, outs: list[Tensor]) -> None:
        self._tiles[number] = self._store.put_all(partial(tile_name, number), outs)

    def take(self, number: int) -> list[Tensor]:
        return self._store.take_all(self._tiles.pop(number))


class _Hollow(torch.autograd.Function):
    """Tensors without values through which gradients reach what made the real ones."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
        return tuple(one.new_empty(()).expand(one.shape) for one in tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
        return grads


class Selected(torch.autograd.Function):
    """A layer of which the attention's results are kept; not for one whose attention is gated.

    Gradients of the layer's own parameters and of the gate's K as with `Recomputed`.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        hidden_NTH: Tensor,
        matrix_B88: Tensor | None,
        layer: DecoderLayer,
        scene: Scene,
        seed: Seed | None,
        offload: Offload | None,
        everything: bool,
    ) -> Tensor:
        ctx.layer, ctx.scene, ctx.seed = layer, scene, seed
        ctx.store = store = _Store(offload)
        ctx.save_for_backward(matrix_B88)
        ctx.hidden = store.put(HIDDEN, hidden_NTH)
        attention = layer.attention
        projected = attention.projected(hidden_NTH, scene.cos_NTR, scene.sin_NTR, seed)
        # A kernel makes the sums that its gradient reads only where it is told that there will be one.
        with torch.enable_grad(), _Kernels() as kernels:
            query, key, value = (one.detach().requires_grad_() for one in projected)
            mixed_NTF = attention.mixed(query, key, value, scene.packed).detach()
        ctx.projected = None
        ctx.results = _Results(store, kernels.made, mixed_NTF)
        if everything:
            one_NTF = side_by_side(projected)
            ctx.projected = store.put_all(part_name, projected if one_NTF is None else (one_NTF,))
            del one_NTF
        del projected, query, key, value, kernels
        # Pushed in the opposite order of use.
        ctx.mixed = store.put(MIXED, mixed_NTF)
        middle_NTH = hidden_NTH + attention.added(mixed_NTF, seed)
        del mixed_NTF
        ctx.tiles = _Tiles(store) if everything and layer.site != "mlp" else None
        if ctx.tiles is None:
            ctx.middle = store.put(MIDDLE, middle_NTH)
        out_NTH = layer.second_half(middle_NTH, matrix_B88, scene, seed, waiting=ctx.tiles)
        if ctx.tiles is not None:
            ctx.middle = store.put(MIDDLE, middle_NTH)
        return out_NTH

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        layer: DecoderLayer = ctx.layer
        store: _Store = ctx.store
        scene, seed, attention = ctx.scene, ctx.seed, layer.attention
        (matrix_B88,) = ctx.saved_tensors

        def again(kept: Tensor | Ticket) -> Tensor:
            return store.take(kept).detach().requires_grad_()

        with torch.enable_grad(), torch.autocast(grads[0].device.type, enabled=False):
            matrix = None if matrix_B88 is None else matrix_B88.detach().requires_grad_()
            middle_NTH, ctx.middle = again(ctx.middle), None
            out_NTH = layer.second_half(middle_NTH, matrix, scene, seed, for_gradient=True, waiting=ctx.tiles)
            torch.autograd.backward(out_NTH, grads[0])
            grad_NTH = middle_NTH.grad
            del middle_NTH, out_NTH
            assert grad_NTH is not None
            mixed_NTF, ctx.mixed = again(ctx.mixed), None
            torch.autograd.backward(attention.added(mixed_NTF, seed, skip=True), grad_NTH)
            grad_mixed_NTF, mixed_NTF = mixed_NTF.grad, mixed_NTF.detach()
            results: _Results = ctx.results
            kept, ctx.projected = ctx.projected, None
            values: Sequence[Tensor] | None = None if kept is None else store.take_all(kept)
            results.take()
            hidden_NTH, ctx.hidden, ctx.results = again(ctx.hidden), None, None
            skip = values is not None
            projected = attention.projected(hidden_NTH, scene.cos_NTR, scene.sin_NTR, seed, skip=skip)
            hollow: tuple[Tensor, ...] = projected
            if values is None:
                hollow, values = _Hollow.apply(*projected), projected  # type: ignore[no-untyped-call]
            elif len(values) == 1:
                values = attention.by_heads(attention.parts(values))
            leaves = [one.detach().requires_grad_() for one in values]
            del projected, values
            with _Kernels(results.beside(mixed_NTF)):
                again_NTF = attention.mixed(leaves[0], leaves[1], leaves[2], scene.packed)
            del results, mixed_NTF
            grads_NhTD = torch.autograd.grad(again_NTF, leaves, grad_mixed_NTF)
            del again_NTF, leaves, grad_mixed_NTF
            torch.autograd.backward(hollow, grads_NhTD)
        assert hidden_NTH.grad is not None
        grad_NTH.add_(hidden_NTH.grad)
        return (grad_NTH, None if matrix is None else matrix.grad, None, None, None, None, None)
