"""``so8t runs``: what the run folders say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from so8t_engine.errors import RunError
from so8t_engine.training.checkpoint import pin, pinned_steps
from so8t_engine.training.events import StateEvent, StepEvent
from so8t_engine.training.process import ProcessMark
from so8t_engine.training.run_directory import RunDirectory
from so8t_engine.training.states import LIVE


def run_summary(run: RunDirectory) -> dict[str, Any]:
    """Id, state, last step and loss of a run, read from its events.

    A run whose last state is a live one but whose trainer is gone is ``dead``: shown as what it is.
    """
    events = run.read_events()
    states = [event for event in events if isinstance(event, StateEvent)]
    steps = [event for event in events if isinstance(event, StepEvent)]
    state = str(states[-1].to) if states else "idle"
    if states and states[-1].to in LIVE:
        mark = ProcessMark.read(run.process)
        if mark is None or not mark.alive():
            state = "dead"
    return {
        "id": run.id,
        "path": str(run.path),
        "state": state,
        "started": events[0].time if events else None,
        "step": steps[-1].step if steps else 0,
        "of": steps[-1].of if steps else None,
        "loss": steps[-1].loss if steps else None,
    }


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """Summaries of the runs directly below ``folder``, the newest first."""
    found = []
    for path in sorted(folder.glob("*/events.jsonl"), reverse=True):
        try:
            found.append(run_summary(RunDirectory.open(path.parent)))
        except RunError:
            continue  # a folder without config.yaml is no run
    return sorted(found, key=lambda run: run["started"] or 0.0, reverse=True)


def pin_checkpoint(path: Path, step: int, pinned: bool) -> dict[str, Any]:
    """Keep a checkpoint of a run for good, or no longer. Raises `RunError` where there is none."""
    run = RunDirectory.open(path)
    pin(run.checkpoints, step, pinned)
    return {"run": run.id, "pinned": sorted(pinned_steps(run.checkpoints))}
