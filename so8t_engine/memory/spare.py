"""What to keep of what would be computed again, from the memory that the limit leaves. Imports no torch.

Two things are kept, in this order: activations of the last layers, which saves their second forward pass,
and dequantised weights of the first ones. At any length a byte of the first saves several times what a byte
of the second does. Numbers are chosen before the run, so that the highest value that the estimate gives stays
within the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from so8t_engine.config import Config
from so8t_engine.memory.geometry import ModelGeometry
from so8t_engine.memory.lean_terms import runs_lean, waiting_bytes
from so8t_engine.memory.machine import Machine, may_wait
from so8t_engine.memory.needed import needed


@dataclass(frozen=True, slots=True)
class Spare:
    """What is kept.

    Attributes:
        layers: so many of the last layers keep their activations.
        weights: so many of the first layers hold their weights dequantised.
        high_bytes: of the estimate with it.
        shorter: (tokens of the pass' rows, layers that keep their activations then), the shortest first;
            longer ones keep `layers`.
    """

    layers: int
    weights: int
    high_bytes: int
    shorter: tuple[tuple[int, int], ...] = ()


def with_kept(config: Config, layers: int, weights: int, length: int | None = None) -> Config:
    """``config`` with so much kept and nothing left to choose, for rows of ``length`` tokens if given."""
    own = {"kept_layers": layers, "kept_weights": weights, "use_spare": False}
    changes: dict[str, Any] = {"memory": config.memory.model_copy(update=own)}
    if length is not None:
        changes["data"] = config.data.model_copy(update={"max_length": length})
    return config.model_copy(update=changes)


def most(size: Callable[[int], int], budget: int, least: int, limit: int) -> int:
    """The largest number from ``least`` to ``limit`` whose size is within ``budget``.

    Sizes grow with the number, nearly in proportion, so that the second guess is usually right. ``least`` is
    taken to fit.
    """
    if limit <= least or (top := size(limit)) <= budget:
        return max(limit, least)
    low, high, bottom, guesses = least, limit, size(least), 0
    while high - low > 1:
        share = (budget - bottom) / (top - bottom) if top > bottom and guesses < 4 else 0.5
        middle = min(max(low + int(share * (high - low)), low + 1), high - 1)
        guesses += 1
        found = size(middle)
        if found <= budget:
            low, bottom = middle, found
        else:
            high, top = middle, found
    return low


def choose_spare(
    config: Config,
    geometry: ModelGeometry,
    machine: Machine,
    *,
    cpu: bool,
    compute: int,
    budget: int,
    lengths: Sequence[int] = (),
) -> Spare:
    """What ``config`` keeps where ``memory.use_spare`` is on: at least what it asks for itself.

    Args:
        budget: bytes; the highest value of the estimate stays within it, or nothing is added.
        lengths: that rows of a pass may have, for `Spare.shorter`.

    Raises:
        ModelError: a LoRA target or a layer of the gate does not exist.
    """

    @cache
    def high(layers: int, weights: int, length: int | None = None) -> int:
        changed = with_kept(config, layers, weights, length)
        return needed(changed, geometry, machine, cpu=cpu, compute=compute)[2]

    memory, count = config.memory, geometry.layers
    layers, weights = min(memory.kept_layers, count), min(memory.kept_weights, count)
    if not config.memory.use_spare or not runs_lean(config, geometry) or high(layers, weights) > budget:
        return Spare(layers, weights, high(layers, weights))
    if config.training.gradient_checkpointing:
        layers = most(lambda number: high(number, weights), budget, layers, count)
    # Where not all layers keep their activations, what is left seldom holds even one layer's weights.
    one = sum(linear.parameters for linear in geometry.linears) * compute
    tight = layers < count and high(layers, weights) + one > budget
    if config.model.quantization != "none" and not cpu and not tight:
        weights = most(lambda number: high(layers, number), budget, weights, count)
    shorter: list[tuple[int, int]] = []
    if config.training.gradient_checkpointing and not config.training.packing:

        def kept_at(length: int, least: int) -> int:
            return most(lambda number: high(number, weights, length), budget, least, count)

        kept = layers
        # From long to short: a shorter pass keeps no fewer layers.
        for length in sorted({one for one in lengths if one < config.data.max_length}, reverse=True):
            kept = kept_at(length, kept) if kept < count else count
            if kept > layers:
                shorter.append((length, kept))
    return Spare(layers, weights, high(layers, weights), tuple(reversed(shorter)))


def uncrowded(config: Config, geometry: ModelGeometry, free: int) -> float:
    """The largest part of the layers that can wait as a whole in what may be taken of ``free`` system memory.

    0 where even less than that takes more.

    Raises:
        ModelError: as `waiting_bytes` does.
    """
    layers = geometry.layers

    def size(number: int) -> int:
        return waiting_bytes(config, geometry, number / layers)

    return most(size, may_wait(free), 0, layers) / layers
