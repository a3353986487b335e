"""bitsandbytes' 8-bit AdamW without waiting for the card, and one call for tensors that lie side by side.

bitsandbytes updates tensor by tensor and waits for the card after each: 260 waits a step for the LoRA
matrices of a Phi-3-class model, measured 20 ms where the card works 1 ms. Blocks of 256 values share a scale
and each tensor begins a block, so that one call over all of them gives the same bits as one call for each.
On the CPU the codes are found by a table (`quantised_moments`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import bitsandbytes as bnb
import torch
from bitsandbytes import functional
from torch import Tensor, nn

from so8t_engine.model.gradients import ALIGNMENT, FlatGradients, padded
from so8t_engine.training.quantised_moments import CodeTable


@dataclass(slots=True)
class _Joined:
    """Values, gradients and moments of parameters that follow each other in one buffer each.

    Attributes:
        places: id of a parameter → where it begins.
        group: the number of the one that all of them belong to.
        tables: of both moments' codes on the CPU.
    """

    parameters: list[nn.Parameter]
    places: dict[int, int]
    gradients: FlatGradients
    values: Tensor
    gradient: Tensor
    state1: Tensor
    state2: Tensor
    absmax1: Tensor
    absmax2: Tensor
    group: int
    tables: tuple[CodeTable, CodeTable] | None = None


class _OneCall:
    """Mixed in before one of bitsandbytes' 8-bit AdamW."""

    _joined: _Joined | None = None

    def join(self: Any, parameters: Sequence[nn.Parameter], gradients: FlatGradients) -> None:
        """Update by one call those of ``parameters`` that keep 8-bit moments. Before the first step.

        Args:
            parameters: of one group, following each other in ``gradients``; they are moved into one buffer.
        """
        large = [p for p in parameters if p.numel() >= self.args.min_8bit_size]
        starts = [gradients.places[id(p)] for p in large]
        ends = [start + padded(p.numel()) for start, p in zip(starts, large, strict=True)]
        if len(large) < 2 or starts[1:] != ends[:-1] or self.args.optim_bits != 8:
            return
        first, count, device = starts[0], ends[-1] - starts[0], large[0].device
        values = torch.zeros(count, dtype=large[0].dtype, device=device)
        places = {id(p): start - first for p, start in zip(large, starts, strict=True)}
        for parameter in large:
            view = values[places[id(parameter)] :][: parameter.numel()].view_as(parameter)
            view.copy_(parameter.data)
            parameter.data = view
        state1, state2 = (self.get_state_buffer(values, dtype=torch.uint8) for _moment in range(2))
        absmax1, absmax2 = (torch.zeros(count // ALIGNMENT, device=device) for _moment in range(2))
        holds = [any(p is large[0] for p in group["params"]) for group in self.param_groups]
        self._joined = _Joined(
            large, places, gradients, values, gradients.flat[first : first + count],
            state1, state2, absmax1, absmax2, holds.index(True),
        )  # fmt: skip
        if device.type == "cpu" and values.dtype == torch.float32:
            self.fill_qmap()
            both = [CodeTable.of(self.name2qmap[name]) for name in ("dynamic", "udynamic")]
            if both[0] is not None and both[1] is not None:
                self._joined.tables = both[0], both[1]

    def init_state(self: Any, group: dict[str, Any], p: Tensor, gindex: int, pindex: int) -> None:
        joined: _Joined | None = self._joined
        if joined is None or id(p) not in joined.places:
            super().init_state(group, p, gindex, pindex)  # type: ignore[misc]
            return
        if "dynamic" not in self.name2qmap:
            self.fill_qmap()
        for name in ("dynamic", "udynamic"):
            self.name2qmap[name] = self.name2qmap[name].to(p.device)
        start, count = joined.places[id(p)], p.numel()
        blocks = slice(start // ALIGNMENT, (start + padded(count)) // ALIGNMENT)
        self.state[p].update(
            step=0,
            state1=joined.state1[start : start + count].view(p.shape), qmap1=self.name2qmap["dynamic"],
            state2=joined.state2[start : start + count].view(p.shape), qmap2=self.name2qmap["udynamic"],
            absmax1=joined.absmax1[blocks], absmax2=joined.absmax2[blocks],
        )  # fmt: skip

    @torch.no_grad()
    def step(self: Any, closure: Callable[[], Any] | None = None) -> Any:  # noqa: ANN401
        """One update of every parameter that has a gradient, without waiting for the card."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self.initialized:
            self.check_overrides()
            self.to_gpu()
            self.initialized = True
        joined: _Joined | None = self._joined
        for gindex, group in enumerate(self.param_groups):
            for pindex, p in enumerate(group["params"]):
                alone = joined is None or id(p) not in joined.places
                if alone and p.grad is None:
                    continue
                if len(self.state[p]) == 0:
                    self.init_state(group, p, gindex, pindex)
                if alone:
                    self.prefetch_state(p)
                    self.update_step(group, p, gindex, pindex)
        if joined is not None:
            self._update(joined)
        return loss

    def _update(self: Any, joined: _Joined) -> None:
        joined.gradients.gather()
        steps = {self.state[p]["step"] for p in joined.parameters}
        assert len(steps) == 1, "parameters of one buffer have taken different numbers of steps"
        step, group = steps.pop() + 1, self.param_groups[joined.group]
        for parameter in joined.parameters:
            self.state[parameter]["step"] = step
        for state in (joined.state1, joined.state2):
            if getattr(state, "is_paged", False):
                functional.prefetch_tensor(state)
        if joined.tables is not None:
            _update_on_cpu(self, joined, group, step)
            return
        functional.optimizer_update_8bit_blockwise(
            self.optimizer_name, joined.gradient, joined.values, joined.state1, joined.state2,
            *group["betas"], 0.0, 0.0, group["eps"], step, group["lr"],
            self.name2qmap["dynamic"], self.name2qmap["udynamic"], joined.absmax1, joined.absmax2,
            group["weight_decay"], gnorm_scale=1.0, skip_zeros=self.args.skip_zeros,
        )  # fmt: skip


def _update_on_cpu(optimizer: Any, joined: _Joined, group: dict[str, Any], step: int) -> None:  # noqa: ANN401
    """What bitsandbytes does on the CPU, in its order and so with its bits, but for how codes are found."""
    assert joined.tables is not None
    (beta1, beta2), rate, grad = group["betas"], group["lr"], joined.gradient
    maps = (optimizer.name2qmap["dynamic"], optimizer.name2qmap["udynamic"])
    held = ((joined.state1, joined.absmax1), (joined.state2, joined.absmax2))
    mean, square = (
        torch.ops.bitsandbytes.dequantize_blockwise(codes, scales, values_256, ALIGNMENT, torch.float32)
        for (codes, scales), values_256 in zip(held, maps, strict=True)
    )
    mean.mul_(beta1).add_(grad, alpha=1.0 - beta1)
    square.mul_(beta2).addcmul_(grad, grad, value=1.0 - beta2)
    root = (square.sqrt() / math.sqrt(1.0 - beta2**step)).add_(group["eps"])
    if group["weight_decay"] > 0.0:
        joined.values.mul_(1.0 - rate * group["weight_decay"])
    joined.values.addcdiv_(mean, root, value=-rate / (1.0 - beta1**step))
    for table, moment, (codes, scales) in zip(joined.tables, (mean, square), held, strict=True):
        table.write(moment, codes, scales)


class AdamW8bit(_OneCall, bnb.optim.AdamW8bit):  # type: ignore[misc]
    """`bitsandbytes.optim.AdamW8bit`, without its waits."""


class PagedAdamW8bit(_OneCall, bnb.optim.PagedAdamW8bit):  # type: ignore[misc]
    """`bitsandbytes.optim.PagedAdamW8bit`, without its waits: who reads its moments waits first."""
