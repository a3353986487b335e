"""Recorded-run fixtures: event files written by the real `EventWriter`, for testing their reader.

The numbers are test input, made by formulas; none of them is shown to a user as a result.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from so8t_engine.config import Config
from so8t_engine.config.training import PHI
from so8t_engine.training.events import (
    CheckpointEvent,
    EndEvent,
    EvaluationEvent,
    Event,
    GateEvent,
    InfoEvent,
    MemoryEvent,
    RotationEvent,
    StateEvent,
    StepEvent,
)
from so8t_engine.training.run_directory import EventWriter, RunDirectory
from so8t_engine.training.states import State

START = 1_700_000_000.0


def state(from_: State, to: State, time: float, reason: str = "") -> StateEvent:
    return StateEvent(**{"from": from_, "to": to, "time": time, "reason": reason})


def step(n: int, of: int, time: float, loss: float | None = None) -> StepEvent:
    value = 3 * math.exp(-n / 60) + 0.4 + 0.1 * math.sin(n) if loss is None else loss
    terms = {"lm": value * 0.7, "safety": value * 0.15, "task": value * 0.1, "alpha": value * 0.05}
    return StepEvent(
        step=n,
        of=of,
        epoch=n / of,
        loss=value,
        terms=terms,
        raw=terms,
        lr=2e-3 * min(1, n / 10),
        grad_norm=1 + math.cos(n / 3) / 2,
        tokens=1000,
        tokens_per_s=900 + 40 * math.sin(n / 5),
        step_s=1.0,
        time=time,
    )


def gate(n: int, of: int, time: float, source: str = "learned") -> GateEvent:
    alpha = -5 + (PHI + 5) / (1 + math.exp(-12 * (n / of - 0.5)))
    target = -5 + (PHI + 5) * min(1.0, n / of)
    near = abs(alpha - PHI) < 0.01 and source == "learned"
    return GateEvent(
        step=n,
        alpha=alpha,
        target=target,
        final_target=PHI,
        g=1 / (1 + math.exp(-alpha)),
        source=source,  # type: ignore[arg-type]
        phase="transition",
        converged_at=n if near else None,
        time=time,
    )


def rotations(folder: Path, n: int, blocks: int = 6) -> RotationEvent:
    """Store random exact rotations and describe them."""
    rng = np.random.default_rng(n)
    pairs = []
    for _ in range(2):
        a = rng.normal(0, 0.3 + n / 400, (blocks, 8, 8))
        q, _r = np.linalg.qr(np.eye(8) + (a - a.transpose(0, 2, 1)) / 2)
        pairs.append((q * np.sign(np.einsum("bii->bi", q))[:, None, :]).astype(np.float32))
    name = f"rotations/step-{n:06d}.safetensors"
    save_file({"r_safe": pairs[0], "r_cmd": pairs[1]}, folder / name)
    return RotationEvent(
        step=n,
        commutator_mean=0.1 + n / 1000,
        commutator_max=0.2 + n / 900,
        orthogonality=6e-7,
        det_min=0.9999998,
        det_max=1.0000002,
        blocks=blocks,
        file=name,
    )


def events_of_a_run(folder: Path, steps: int = 120) -> list[Event]:
    """A finished run on a computer without an NVIDIA card."""
    found: list[Event] = [
        state(State.IDLE, State.LOADING, START),
        InfoEvent(facts={"trainable parameters": 123456, "device": "cpu"}, time=START + 1),
        state(State.LOADING, State.RUNNING, START + 2),
        evaluation(0, START + 2.5),
    ]
    for n in range(1, steps + 1):
        now = START + 3 + n
        found += [step(n, steps, now), gate(n, steps, now)]
        found.append(MemoryEvent(step=n, process_rss=int(1.1e9 + 1e6 * n), time=now))
        if n % 20 == 0:
            found.append(rotations(folder, n).model_copy(update={"time": now}))
        if n % 60 == 0:
            found.append(
                CheckpointEvent(step=n, path=f"checkpoints/{n}", bytes=3_000_000, sha256="ab", time=now)
            )
    end = START + 5 + steps
    found.append(evaluation(steps, end))
    found.append(state(State.RUNNING, State.FINISHED, end))
    found.append(EndEvent(status="finished", step=steps, seconds=float(steps), time=end))
    return found


def evaluation(n: int, time: float) -> EvaluationEvent:
    late = n > 0
    return EvaluationEvent(
        step=n,
        split="validation",
        rows=200,
        loss=1.1 if late else 3.4,
        metrics={
            "task_accuracy": 0.86 if late else 0.25,
            "safety_accuracy": 0.9 if late else 0.5,
            "danger_to_allow": 0.02 if late else 0.3,
            "baseline_task_accuracy": 0.7,
        },
        confusion=[[44, 3, 2, 1], [4, 41, 3, 2], [1, 4, 42, 3], [0, 1, 4, 45]],
        time=time,
    )


def recorded_run(config: Config, path: Path, steps: int = 120) -> RunDirectory:
    """Write a finished run's directory."""
    run = RunDirectory.create(config, path)
    writer = EventWriter(run)
    for event in events_of_a_run(run.path, steps):
        writer.write(event)
    writer.close()
    return run
