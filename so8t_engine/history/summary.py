"""Summaries of run directories, from the head and the tail of their events: a list must be quick."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from so8t_engine.training.events import Event, StateEvent, StepEvent, parse_event
from so8t_engine.training.process import ProcessMark
from so8t_engine.training.run_directory import RunDirectory
from so8t_engine.training.states import ENDED, State

HEAD_BYTES = 16_384
TAIL_BYTES = 262_144


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One row of the history.

    Attributes:
        state: the last one recorded; None where none was.
        live: whether its trainer's process is running now.
        lost: the record says that it is live, but its process is gone.
        started: seconds since 1970. step, of, loss: of the newest step; None before the first.
    """

    path: Path
    state: State | None
    live: bool
    lost: bool
    started: float | None
    step: int | None
    of: int | None
    loss: float | None
    has_checkpoint: bool

    @property
    def can_resume(self) -> bool:
        """Whether it can be continued from a checkpoint."""
        return self.has_checkpoint and not self.live and self.state is not State.FINISHED


def _events(data: bytes) -> list[Event]:
    return [event for line in data.split(b"\n") if (event := parse_event(line)) is not None]


def summarise(path: Path) -> RunSummary:
    """The summary of a run directory. Raises `OSError` where its events cannot be read."""
    run = RunDirectory(path)
    with run.events.open("rb") as file:
        head = _events(file.read(HEAD_BYTES))
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        tail = _events(file.read())
    states = [event.to for event in (*head, *tail) if isinstance(event, StateEvent)]
    step = next((event for event in reversed(tail) if isinstance(event, StepEvent)), None)
    state = states[-1] if states else None
    mark = ProcessMark.read(run.process)
    live = state not in ENDED and mark is not None and mark.alive()
    return RunSummary(
        path=path,
        state=state,
        live=live,
        lost=state is not None and state not in ENDED and not live,
        started=head[0].time if head else None,
        step=step.step if step else None,
        of=step.of if step else None,
        loss=step.loss if step else None,
        has_checkpoint=run.checkpoints.is_dir() and any(run.checkpoints.iterdir()),
    )


def scan(folder: Path) -> list[RunSummary]:
    """Summaries of the runs directly below ``folder``, newest first; unreadable ones are left out."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not (path / "events.jsonl").is_file():
            continue
        try:
            found.append(summarise(path))
        except OSError:
            # Another program may be removing it at this moment; the next refresh tells.
            continue
    return sorted(found, key=lambda run: run.started or 0.0, reverse=True)
