"""PET of a run: what was measured before weighting, λ(t), and the phase. No Qt, no torch.

The events hold PET's weighted share of the loss; λ(t) is the settings' own function of the step, so the
measured value is the share divided by it. Where λ is 0 nothing was measured, and nothing is shown.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

import numpy as np

from so8t_engine.config import Config
from so8t_engine.so8t.schedule import pet_phase_at
from so8t_gui.models.buffers import Columns
from so8t_gui.models.run_model import TERM, RunModel

PET = TERM + "pet"


@dataclass(frozen=True, slots=True)
class PetPhase:
    """Phase ``number`` of ``of``, with λ = ``weight``, up to and with step ``until``."""

    number: int
    of: int
    weight: float
    until: int


def _ends(config: Config, total: int) -> list[int]:
    """The last step (from 1) of each of PET's phases, as the trainer counts them."""
    fractions = config.so8t.pet_fractions
    # The trainer asks with the number of steps done, one less than the step's own number.
    return [
        bisect_right(range(total), phase, key=lambda done: pet_phase_at(done, total, fractions))
        for phase in range(len(fractions))
    ]


def phase_at(config: Config, step: int, total: int) -> PetPhase:
    """The phase that step ``step`` (from 1) of ``total`` was or will be trained in."""
    ends = _ends(config, total)
    number = min(bisect_left(ends, step), len(ends) - 1)
    return PetPhase(number + 1, len(ends), config.so8t.pet_weights[number], ends[number])


class PetCourse:
    """Columns ``pet`` and ``weight`` of a run, grown with it."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._generation, self._source = 0, 0
        self.columns = Columns(single=True)

    def update(self, model: RunModel) -> None:
        """Take in the steps since the last call."""
        steps = model.steps
        if self._source != id(steps) or self._generation != steps.generation:
            self.columns = Columns(single=True)
            self._source, self._generation = id(steps), steps.generation
        done = len(self.columns)
        if model.last_step is None or len(steps) <= done:
            return
        number = steps.view("step")[done:]
        ends = _ends(self.config, model.last_step.of)
        index = np.searchsorted(ends, number, side="left").clip(max=len(ends) - 1)
        weight = np.asarray(self.config.so8t.pet_weights, np.float64)[index]
        with np.errstate(divide="ignore", invalid="ignore"):
            measured = np.where(weight > 0, steps.view(PET)[done:] / weight, np.nan)
        self.columns.extend(
            {"step": number, "elapsed": steps.view("elapsed")[done:], "pet": measured, "weight": weight}
        )
