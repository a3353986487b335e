"""LoRA's dropout, whose mask is never kept: the same seed gives the same one again.

Where passes are recorded the seed itself lies on the card, so that a pass that was recorded once and is
replayed draws anew each time. Otherwise a generator is seeded for each mask.
"""

# ruff: noqa: N815  (fields of the dataclasses are tensors and carry their shapes)

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from so8t_engine.so8t.fused import on_device_of

_WIDTH = 256


@dataclass(frozen=True, slots=True)
class CardSeed:
    """A number on the card, and what tells its uses apart.

    Attributes:
        seeds_L: int64, one for each layer. index: of this one.
    """

    seeds_L: Tensor
    index: int
    salt: int = 0


Seed = int | CardSeed


def fork(seed: Seed | None, number: int) -> Seed | None:
    """A seed of its own for each of a layer's linears and tiles (the mixing of SplitMix64, Steele 2014)."""
    if seed is None:
        return None
    if isinstance(seed, CardSeed):
        return replace(seed, salt=_mix(seed.salt, number))
    return _mix(seed, number)


def other(seed: Seed | None) -> Seed | None:
    """A second seed beside this one."""
    if seed is None:
        return None
    return replace(seed, salt=seed.salt ^ 1) if isinstance(seed, CardSeed) else seed ^ 1


def _mix(seed: int, number: int) -> int:
    mixed = (seed + 0x9E3779B97F4A7C15 * (number + 1)) % 2**64
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % 2**64
    return (mixed ^ (mixed >> 31)) % 2**63


def on_card(seeds_L: Tensor) -> list[Seed]:
    """The layers' seeds, which lie on the card."""
    return [CardSeed(seeds_L, index) for index in range(len(seeds_L))]


def kept(input_tI: Tensor, probability: float, seed: Seed) -> Tensor:
    """The input with elements at 0, each with the probability; a new tensor, not scaled."""
    if isinstance(seed, CardSeed):
        return _by_kernel(input_tI.contiguous(), torch.empty_like(input_tI), probability, seed)
    return _mask(input_tI, probability, seed).mul_(input_tI)


def keep_in_place(values_tI: Tensor, probability: float, seed: Seed) -> None:
    """Put the elements that `kept` drops of a contiguous tensor to 0."""
    if isinstance(seed, CardSeed):
        _by_kernel(values_tI, values_tI, probability, seed)
    else:
        values_tI.mul_(_mask(values_tI, probability, seed))


def _by_kernel(input_tI: Tensor, out_tI: Tensor, probability: float, seed: CardSeed) -> Tensor:
    from so8t_engine.model.lean.kernels import keep_elements

    size = input_tI.numel()
    with on_device_of(input_tI):
        keep_elements[(-(-size // (4 * _WIDTH)),)](
            input_tI, out_tI, seed.seeds_L, seed.index, seed.salt, 1.0 - probability, size,
            WIDTH=_WIDTH, num_warps=4,
        )  # fmt: skip
    return out_tI


def _mask(like: Tensor, probability: float, seed: int) -> Tensor:
    """0 with the probability, else 1; the same for the same seed, shape and device."""
    generator = torch.Generator(like.device).manual_seed(seed)
    return torch.empty_like(like).bernoulli_(1.0 - probability, generator=generator)
