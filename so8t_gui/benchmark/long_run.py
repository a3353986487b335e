"""Run directories of any length, for measuring the window. Their numbers are made up, and the run says so."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

from so8t_engine.config import load_config
from so8t_engine.history.event_index import write_whole
from so8t_engine.training.events import CheckpointEvent, EvaluationEvent, Event, InfoEvent, StateEvent
from so8t_engine.training.run_directory import RunDirectory
from so8t_engine.training.states import State

TERMS = ("lm", "consistency", "pet", "safety", "dual", "task", "alpha")
PHI = (1 + math.sqrt(5)) / 2
STEP_S = 0.06
RARE_EVERY = 5_000


def _line(event: Event, seq: int) -> bytes:
    stamped = event.model_copy(update={"seq": seq, "run": "made-up"})
    return stamped.model_dump_json(by_alias=True).encode() + b"\n"


def opening_lines(start: float) -> Iterator[bytes]:
    """What a run says before its first step."""
    facts = {"device": "none: a made-up run that measures the window"}
    for event in (
        StateEvent(from_=State.IDLE, to=State.LOADING, time=start),
        InfoEvent(facts=facts, time=start),
        StateEvent(from_=State.LOADING, to=State.RUNNING, time=start + 1),
    ):
        yield _line(event, 1)


def step_lines(n: int, of: int, start: float) -> bytes:
    """The three events of a step as the trainer writes them; now and then a checkpoint and an evaluation.

    Written by hand: a million steps through pydantic would take minutes.
    """
    wave = math.sin(n / 17) * 0.1 + math.sin(n / 1013) * 0.2
    loss = 0.4 + 3 * math.exp(-3 * n / of) + wave
    now = start + 1 + n * STEP_S
    alpha = -5 + (PHI + 5) / (1 + math.exp(-12 * (n / of - 0.5)))
    shares = {name: loss / (index + 2) for index, name in enumerate(TERMS)}
    terms = json.dumps(shares, separators=(",", ":"))
    phase = "latent" if n < of / 5 else "transition" if n < of / 2 else "stable"
    head = f'{{"seq":{n},"time":{now},"run":"made-up"'
    text = (
        f'{head},"type":"step","step":{n},"of":{of},"epoch":{n / of * 2},"loss":{loss},'
        f'"terms":{terms},"raw":{terms},"lr":{2e-3 * (1 - n / of)},"lrs":{{"lora":0.002,"so8t":0.01}},'
        f'"grad_norm":{5 + 3 * wave},"tokens":1000,"tokens_per_s":{5000 + 900 * wave},"step_s":{STEP_S}}}\n'
        f'{head},"type":"gate","step":{n},"alpha":{alpha},"target":{alpha},"final_target":{PHI},'
        f'"g":{1 / (1 + math.exp(-alpha))},"source":"learned","phase":"{phase}","converged_at":null}}\n'
        f'{head},"type":"memory","step":{n},"allocated":null,"reserved":null,"peak_allocated":null,'
        f'"peak_reserved":null,"device_used":null,"device_total":null,'
        f'"process_rss":{10**9 + (n % 1000) * 10**5},"source":"none","temperature_c":null,'
        f'"utilisation":null,"power_w":null}}\n'
    ).encode()
    if n % RARE_EVERY == 0:
        saved = CheckpointEvent(step=n, path=f"checkpoints/{n}", bytes=10**7, sha256="0", time=now)
        metrics = {"task_accuracy": 0.5}
        seen = EvaluationEvent(
            step=n, split="validation", rows=400, loss=loss * 0.9, metrics=metrics, time=now
        )
        text += _line(saved, n) + _line(seen, n)
    return text


def write_run(folder: Path, steps: int, *, finished: bool = True, of: int | None = None) -> RunDirectory:
    """A run directory with ``steps`` steps, ended or not."""
    run = RunDirectory.create(load_config("demo"), folder)
    start = time.time() - steps * STEP_S
    with run.events.open("wb") as file:
        file.writelines(opening_lines(start))
        file.writelines(step_lines(n, of or steps, start) for n in range(1, steps + 1))
        if finished:
            end = StateEvent(from_=State.RUNNING, to=State.FINISHED, time=time.time())
            file.write(_line(end, 10**9))
    # As the trainer does while it writes (`EventWriter`).
    write_whole(run.events)
    return run
