"""Everything that a run's length decides: α(t), learning rates, λ(t) of PET. Imports no torch.

The trainer and the window's preview call the same functions, so a preview cannot promise another run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from so8t_engine.config import Config
from so8t_engine.so8t.schedule import GateSchedule, pet_weight_at, sigmoid


def planned_steps(config: Config, rows: int, batches: int | None = None) -> int:
    """Optimizer steps of a run over ``rows`` training rows: the step limit, or whole epochs.

    Args:
        batches: forward passes of an epoch. None counts them by rows, which packed rows do not follow.

    As transformers' Trainer counts: an epoch's last step may hold fewer batches, the last batch fewer rows.
    """
    training = config.training
    if training.max_steps is not None:
        return training.max_steps
    if batches is None:
        batches = -(-rows // training.batch_size)
    updates = max(1, -(-batches // training.accumulation))
    return max(1, math.ceil(training.epochs * updates))


def gate_schedule(config: Config, total_steps: int) -> GateSchedule:
    """α(t), or α*(t) for a learned α, over ``total_steps``; annealing takes ``anneal_fraction`` of them."""
    settings = config.so8t
    return GateSchedule(
        kind=settings.alpha_schedule,
        alpha_start=settings.alpha_start,
        alpha_target=settings.alpha_target,
        anneal_steps=max(1, round(settings.anneal_fraction * total_steps)),
    )


def rate_factor(config: Config, total_steps: int) -> Callable[[int], float]:
    """The factor, in [0, 1], by which all learning rates but α's are multiplied.

    The function takes the number of steps that are done: 0 gives the factor of step 1. The rate rises in
    ``ceil(warmup_ratio · total_steps)`` steps, the last of which has the whole rate; then it stays
    (``constant``), falls evenly (``linear``) or as half a cosine, ½ (1 + cos πp) with p the part of
    the rest that is done.
    """
    warmup = math.ceil(config.training.warmup_ratio * total_steps)
    kind = config.training.lr_scheduler

    def factor(done: int) -> float:
        if done < warmup:
            return (done + 1) / max(warmup, 1)
        if kind == "constant":
            return 1.0
        progress = (done - warmup) / max(total_steps - warmup, 1)
        if kind == "linear":
            return max(0.0, 1.0 - progress)
        return 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))

    return factor


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """What is set while an optimizer step runs.

    Attributes:
        step: from 1, as the run's own charts count.
        alpha: α, or its target α* where α is learned.
        gate: σ of it.
        lora_rate: learning rate of LoRA.
        so8t_rate: learning rate of rotations and heads.
        pet_weight: λ.
    """

    step: int
    alpha: float
    gate: float
    lora_rate: float
    so8t_rate: float
    pet_weight: float


def plan(config: Config, total_steps: int, points: int = 600) -> list[PlannedStep]:
    """About ``points`` steps of a run, from the first to the last, and those at which a curve bends or jumps.

    Raises:
        SO8TError: ``total_steps`` is less than 1, or the settings give no schedule.
    """
    schedule, factor = gate_schedule(config, total_steps), rate_factor(config, total_steps)
    so8t, training = config.so8t, config.training
    last = max(points, 2) - 1
    steps = {1 + round(index * (total_steps - 1) / last) for index in range(last + 1)}
    planned = []
    for step in sorted(steps | _corners(config, total_steps)):
        # Trainer's clock: α is set for the step to come, rate and λ go by the steps that are done.
        alpha, share = schedule.alpha_at(step, total_steps), factor(step - 1)
        planned.append(
            PlannedStep(
                step=step,
                alpha=alpha,
                gate=sigmoid(alpha),
                lora_rate=share * training.learning_rate,
                so8t_rate=share * so8t.learning_rate,
                pet_weight=pet_weight_at(step - 1, total_steps, so8t.pet_weights, so8t.pet_fractions),
            )
        )
    return planned


def _corners(config: Config, total_steps: int) -> set[int]:
    """The steps beside the warm-up's end and beside each change of PET's λ."""
    training, so8t = config.training, config.so8t
    ends = [math.ceil(training.warmup_ratio * total_steps)]
    ends += [round(sum(so8t.pet_fractions[:count]) * total_steps) for count in (1, 2)]
    return {min(max(end + beside, 1), total_steps) for end in ends for beside in (0, 1)}
