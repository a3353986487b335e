"""bitsandbytes' 8-bit AdamW without waiting for the card, and one call for tensors that lie side by side.

bitsandbytes updates tensor by tensor and waits for the card after each: 260 waits a step for the LoRA
matrices of a Phi-3-class model, measured 20 ms where the card works 1 ms. Blocks of 256 values share a scale
and each tensor begins a block, so that one call over all of them gives the same bits as one call for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import bitsandbytes as bnb
import torch
from bitsandbytes import functional
from torch import Tensor, nn

from so8t_engine.model.gradients import ALIGNMENT, FlatGradients, padded


@dataclass(slots=True)
class _Joined:
    """Values, gradients and moments of parameters that follow each other in one buffer each.

    Attributes:
        places: id of a parameter → where it begins.
        group: the number of the one that all of them belong to.
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
        functional.optimizer_update_8bit_blockwise(
            self.optimizer_name, joined.gradient, joined.values, joined.state1, joined.state2,
            *group["betas"], 0.0, 0.0, group["eps"], step, group["lr"],
            self.name2qmap["dynamic"], self.name2qmap["udynamic"], joined.absmax1, joined.absmax2,
            group["weight_decay"], gnorm_scale=1.0, skip_zeros=self.args.skip_zeros,
        )  # fmt: skip


class AdamW8bit(_OneCall, bnb.optim.AdamW8bit):  # type: ignore[misc]
    """`bitsandbytes.optim.AdamW8bit`, without its waits."""


class PagedAdamW8bit(_OneCall, bnb.optim.PagedAdamW8bit):  # type: ignore[misc]
    """`bitsandbytes.optim.PagedAdamW8bit`, without its waits: who reads its moments waits first."""
