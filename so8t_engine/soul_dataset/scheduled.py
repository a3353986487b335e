"""Source ``schedule``: synthetic records along the annealing schedule. Nothing in them was learned."""

from __future__ import annotations

import numpy as np

from so8t_engine.config import Config
from so8t_engine.so8t.schedule import PHASES, GateSchedule, pet_weight_at
from so8t_engine.soul_dataset.records import SoulRecords
from so8t_engine.soul_dataset.rotations import (
    GENERATORS,
    Floats,
    commutator_norm,
    haar_rotations,
    skew_exponential,
    skew_from_generators,
)
from so8t_engine.soul_dataset.settings import SoulDatasetSettings

TASKS = 4


def scheduled_records(config: Config, settings: SoulDatasetSettings) -> SoulRecords:
    """``settings.records`` records, one at each step of a schedule of as many steps.

    α follows the run's schedule (its target curve where α is learned). R_safe and R_cmd are exp of
    Gaussian generators with standard deviation init_std + (spread − init_std) g/g_end, or Haar-uniform.
    Head values are one-hot targets of a class drawn evenly, PET's value is its scheduled weight λ.
    """
    count, so8t = settings.records, config.so8t
    schedule = GateSchedule(
        kind=so8t.alpha_schedule,
        alpha_start=so8t.alpha_start,
        alpha_target=so8t.alpha_target,
        anneal_steps=max(1, round(so8t.anneal_fraction * count)),
    )
    steps = range(1, count + 1)
    alpha_N = np.array([schedule.alpha_at(step, count) for step in steps])
    phases = [schedule.phase_at(step - 1, count) for step in steps]
    pet = [pet_weight_at(step - 1, count, so8t.pet_weights, so8t.pet_fractions) for step in steps]
    gate_N = _sigmoid(alpha_N)
    generator = np.random.Generator(np.random.PCG64(settings.seed))
    if settings.sampling == "haar":
        safe_N88, cmd_N88 = haar_rotations(generator, count), haar_rotations(generator, count)
    else:
        open_N = gate_N / max(float(gate_N.max()), 1e-12)
        std_N1 = (so8t.init_std + (settings.spread - so8t.init_std) * open_N)[:, None]
        safe_N88, cmd_N88 = (
            skew_exponential(skew_from_generators(generator.standard_normal((count, GENERATORS)) * std_N1))
            for _which in range(2)
        )
    # An even number of each class, in drawn order: ALLOW, ESCALATION, DENY, REFUSE.
    task_N = generator.permutation(np.arange(count) % TASKS)
    safety_N = (task_N >= 2).astype(np.int64)
    safety_N2 = np.eye(2, dtype=np.float32)[safety_N]
    return SoulRecords(
        source="schedule",
        sample_id=[f"schedule-{settings.seed}-{step:07d}" for step in steps],
        timestamp=[None] * count,
        step_N=np.arange(1, count + 1),
        of=count,
        phase_N=np.array([PHASES.index(phase) for phase in phases]),
        alpha_N=alpha_N,
        gate_N=gate_N,
        alpha_source="target of a learned α" if schedule.learned else "scheduled",
        commutator_N=commutator_norm(cmd_N88, safe_N88),
        safe_N88=safe_N88.astype(np.float32),
        cmd_N88=cmd_N88.astype(np.float32),
        total_N88=(cmd_N88 @ safe_N88).astype(np.float32),
        safety_N2=safety_N2,
        task_N4=np.eye(TASKS, dtype=np.float32)[task_N],
        dual_N22=np.stack((safety_N2, safety_N2), axis=1),
        heads_source=["target"] * count,
        pet_N=np.array(pet),
        pet_source="scheduled_weight",
        lora=[None] * count,
        notes={
            "synthetic": True,
            "sampling": settings.sampling,
            "schedule": so8t.alpha_schedule,
            "explanation": (
                "Synthetic targets along the schedule. Head values are one-hot targets of a drawn class, "
                "not the output of a trained head; pet is the scheduled weight; there is no LoRA and no "
                "measured time."
            ),
        },
    )


def _sigmoid(alpha_N: Floats) -> Floats:
    gate_N: Floats = 1.0 / (1.0 + np.exp(-alpha_N))
    return gate_N
