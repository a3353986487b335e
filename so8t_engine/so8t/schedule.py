"""Schedules over a run: the gate parameter α and the weight of PET. Imports no torch.

The gate is g = σ(α). With α = −5 the base model is intact (g = 0.0067), with α = φ the gate is open
(g = 0.8345).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from so8t_engine.errors import SO8TError
from so8t_engine.i18n import _

PHI = (1.0 + math.sqrt(5.0)) / 2.0
ALPHA_START = -5.0

ScheduleKind = Literal["sigmoid", "linear", "phases", "learned"]
TargetKind = Literal["sigmoid", "linear", "phases"]
Phase = Literal["latent", "transition", "stable"]

SCHEDULE_KINDS: tuple[ScheduleKind, ...] = ("sigmoid", "linear", "phases", "learned")
PHASES: tuple[Phase, ...] = ("latent", "transition", "stable")


def sigmoid(value: float) -> float:
    """The logistic function σ, without overflow for large |value|."""
    if value >= 0:
        return 1.0 / (1.0 + math.exp(-value))
    exponential = math.exp(value)
    return exponential / (1.0 + exponential)


@dataclass(frozen=True)
class GateSchedule:
    """The curve α(t), or α*(t) for a learned α.

    Attributes:
        kind: ``sigmoid``, ``linear``, ``phases``; ``learned`` makes α a parameter, and the curve of
            `learned_target` is what its loss w (α − α*(t))² pulls it towards.
        alpha_start: α at the beginning of ``sigmoid`` and ``linear``.
        alpha_target: α at the end, φ by default.
        anneal_steps: T_a of ``sigmoid`` in optimizer steps; None means the whole run.
        linear_parts: hold, ramp and hold of ``linear``, as parts of the run. A run of
            ``sum(linear_parts)`` steps takes them as steps.
        phase_fractions: latent, transition and stable as parts of the run.
        latent_alphas: α at the beginning and at the end of the latent phase.
        learned_target: the curve of α*(t) for ``learned``.
    """

    kind: ScheduleKind = "sigmoid"
    alpha_start: float = ALPHA_START
    alpha_target: float = PHI
    anneal_steps: int | None = None
    linear_parts: tuple[float, float, float] = (50.0, 400.0, 50.0)
    phase_fractions: tuple[float, float, float] = (0.2, 0.3, 0.5)
    latent_alphas: tuple[float, float] = (-4.98, -4.93)
    learned_target: TargetKind = "sigmoid"

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULE_KINDS or self.learned_target not in SCHEDULE_KINDS[:3]:
            raise SO8TError(
                _("There is no α schedule %(kind)s.") % {"kind": repr((self.kind, self.learned_target))},
                _("Choose one of %(kinds)s.") % {"kinds": ", ".join(SCHEDULE_KINDS)},
            )
        if self.anneal_steps is not None and self.anneal_steps < 1:
            raise SO8TError(
                _("The annealing takes %(steps)d steps.") % {"steps": self.anneal_steps},
                _("Give at least 1, or leave it empty for the whole run."),
            )
        _check_parts(self.linear_parts, _("The parts of the linear schedule"))
        _check_parts(self.phase_fractions, _("The phase fractions"))

    @property
    def learned(self) -> bool:
        """Whether α is a parameter; only then may its arrival at the target be called convergence."""
        return self.kind == "learned"

    def alpha_at(self, step: int, total_steps: int) -> float:
        """α(t) at optimizer step ``step`` of ``total_steps``, or α*(t) for a learned α.

        Before the first step the value of step 0 holds, after the last that of the last.

        Raises:
            SO8TError: ``total_steps`` is less than 1.
        """
        _check_total(total_steps)
        time = min(max(step, 0), total_steps)
        kind = self.learned_target if self.kind == "learned" else self.kind
        if kind == "sigmoid":
            return self._sigmoid_alpha(time, self.anneal_steps or total_steps)
        if kind == "linear":
            return self._linear_alpha(time / total_steps)
        return self._phases_alpha(time / total_steps)

    def gate_at(self, step: int, total_steps: int) -> float:
        """g = σ(α(t)), in [0, 1]."""
        return sigmoid(self.alpha_at(step, total_steps))

    def phase_at(self, step: int, total_steps: int) -> Phase:
        """The name of the phase by `phase_fractions`, whatever the kind of the curve."""
        return phase_at(step, total_steps, self.phase_fractions)

    def curve(self, total_steps: int, points: int = 200) -> list[tuple[int, float]]:
        """``(step, α)`` at up to ``points`` distinct steps from 0 to ``total_steps``, for a preview."""
        _check_total(total_steps)
        count = max(2, points)
        steps = sorted({round(index * total_steps / (count - 1)) for index in range(count)})
        return [(step, self.alpha_at(step, total_steps)) for step in steps]

    def _sigmoid_alpha(self, time: int, anneal: int) -> float:
        if time >= anneal:
            return self.alpha_target
        rise = sigmoid(12.0 * (time / anneal - 0.5))
        return self.alpha_start + (self.alpha_target - self.alpha_start) * rise

    def _linear_alpha(self, progress: float) -> float:
        hold, ramp, _end = (part / sum(self.linear_parts) for part in self.linear_parts)
        if progress <= hold:
            return self.alpha_start
        if progress >= hold + ramp:
            return self.alpha_target
        return self.alpha_start + (self.alpha_target - self.alpha_start) * (progress - hold) / ramp

    def _phases_alpha(self, progress: float) -> float:
        latent, transition, _stable = (part / sum(self.phase_fractions) for part in self.phase_fractions)
        first, last = self.latent_alphas
        if progress < latent:
            return first + (last - first) * progress / latent
        if progress >= latent + transition or transition == 0.0:
            return self.alpha_target
        rise = (progress - latent) / transition
        # Smoothstep: continuous at both ends of the transition, and without a kink.
        return last + (self.alpha_target - last) * rise * rise * (3.0 - 2.0 * rise)


def phase_at(step: int, total_steps: int, fractions: tuple[float, float, float] = (0.2, 0.3, 0.5)) -> Phase:
    """``latent``, ``transition`` or ``stable`` at ``step`` of ``total_steps``.

    Raises:
        SO8TError: ``total_steps`` is less than 1 or the fractions cannot divide a run.
    """
    return PHASES[_part_at(step, total_steps, fractions)]


def pet_weight_at(
    step: int,
    total_steps: int,
    weights: Sequence[float] = (0.01, 0.05, 0.1),
    fractions: Sequence[float] = (0.2, 0.4, 0.4),
) -> float:
    """λ(t), the weight of PET: ``weights`` over consecutive ``fractions`` of the run.

    Raises:
        SO8TError: ``total_steps`` is less than 1, or weights and fractions do not match.
    """
    if len(weights) != len(fractions):
        raise SO8TError(
            _("PET has %(weights)d weights for %(fractions)d fractions of the run.")
            % {"weights": len(weights), "fractions": len(fractions)},
            _("Give as many weights as fractions."),
        )
    return float(weights[_part_at(step, total_steps, fractions)])


def pet_phase_at(step: int, total_steps: int, fractions: Sequence[float] = (0.2, 0.4, 0.4)) -> int:
    """The index of PET's phase at ``step``; see `pet_weight_at`."""
    return _part_at(step, total_steps, fractions)


def _part_at(step: int, total_steps: int, fractions: Sequence[float]) -> int:
    """The index of the part of the run that holds ``step``."""
    _check_total(total_steps)
    _check_parts(fractions, _("The phase fractions"))
    progress = min(max(step, 0), total_steps) / total_steps
    whole, end = sum(fractions), 0.0
    for index, fraction in enumerate(fractions):
        end += fraction / whole
        # The tolerance keeps 0.2 + 0.4 from ending one step late by rounding.
        if progress < end - 1e-12:
            return index
    return max(index for index, fraction in enumerate(fractions) if fraction > 0)


def _check_total(total_steps: int) -> None:
    if total_steps < 1:
        raise SO8TError(
            _("A schedule over %(steps)d steps has no values.") % {"steps": total_steps},
            _("Give the run at least one step."),
        )


def _check_parts(parts: Sequence[float], what: str) -> None:
    if not parts or min(parts) < 0 or not 0 < sum(parts) < math.inf:
        raise SO8TError(
            _("%(what)s are %(parts)s.") % {"what": what, "parts": ", ".join(map(str, parts))},
            _("Give values of at least 0, one of them above 0."),
        )
