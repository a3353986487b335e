"""Runs that no person ended: what they reached, what is on disk, what was lost; and runs that live."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from so8t_engine.i18n import _
from so8t_engine.training.checkpoint import checkpoints, step_of
from so8t_engine.training.control import OWNER_GONE, SIGNAL
from so8t_engine.training.events import CheckpointEvent, Event, StateEvent, StepEvent, parse_event
from so8t_engine.training.process import ProcessMark
from so8t_engine.training.run_directory import RunDirectory
from so8t_engine.training.states import LIVE, State

CHUNK_BYTES = 262_144
#: Beyond this much of events without a change of state, the run is not looked at further.
MOST_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A run that can perhaps be continued.

    Attributes:
        path: its folder.
        died: its trainer went without a word (power, crash); else it was told to save and stop.
        step, of: the last step taken; 0 and None before the first.
        saved_step: of the newest checkpoint; None where there is none.
        lost_s: seconds between that checkpoint (or the start) and the last sign of life.
        heard: the last sign of life, seconds since 1970.
    """

    path: Path
    died: bool
    step: int
    of: int | None
    saved_step: int | None
    lost_s: float
    heard: float

    @property
    def continuable(self) -> bool:
        """Whether there is a checkpoint."""
        return self.saved_step is not None

    @property
    def lost_steps(self) -> int:
        """Steps that have to be done again."""
        return max(0, self.step - (self.saved_step or 0))

    def sentence(self) -> str:
        """What was lost and what is there, for a person."""
        reached = (
            _("It reached step %(step)d of %(of)d.") % {"step": self.step, "of": self.of}
            if self.of is not None
            else _("It had not taken a step.")
        )
        if self.saved_step is None:
            return f"{reached} " + _("Nothing had been saved yet: it has to be started anew.")
        if not self.lost_steps:
            return f"{reached} " + _("All of it is saved.")
        lost = _("Saved is step %(saved)d; %(steps)d steps (%(time)s of work) were lost and are done again.")
        minutes, seconds = divmod(round(self.lost_s), 60)
        values = {"saved": self.saved_step, "steps": self.lost_steps, "time": f"{minutes}:{seconds:02d}"}
        return f"{reached} {lost % values}"


def newest_events(path: Path) -> list[Event]:
    """The end of an event file, from before its last change of state and its last checkpoint on."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        length = CHUNK_BYTES
        while True:
            file.seek(max(0, end - length))
            found = [e for line in file.read().split(b"\n") if (e := parse_event(line)) is not None]
            kinds = {event.type for event in found}
            if length >= min(end, MOST_BYTES) or {"state", "checkpoint", "step"} <= kinds:
                return found
            length *= 4


def _cause(states: list[StateEvent]) -> str:
    """Why the last stop was asked for; empty where a person did it."""
    return next((event.cause for event in reversed(states) if event.to is State.STOPPING), "")


def interrupted(path: Path) -> Interrupted | None:
    """What became of the run in ``path``; None where it lives, ended by itself or was ended by a person.

    Raises:
        OSError: its events cannot be read.
    """
    run = RunDirectory(path)
    events = newest_events(run.events)
    states = [event for event in events if isinstance(event, StateEvent)]
    if not states:
        return None
    died = states[-1].to in LIVE
    if died:
        mark = ProcessMark.read(run.process)
        if mark is not None and mark.alive():
            return None
    elif states[-1].to is not State.STOPPED or _cause(states) not in {OWNER_GONE, SIGNAL}:
        return None
    steps = [event for event in events if isinstance(event, StepEvent)]
    saved = checkpoints(run.checkpoints)
    saved_step = step_of(saved[-1]) if saved else None
    times = [e.time for e in events if isinstance(e, CheckpointEvent) and e.step == saved_step]
    since = times[-1] if times else states[0].time
    heard = max(event.time for event in events)
    step = steps[-1].step if steps else saved_step or 0
    if steps and saved_step is not None and step <= saved_step:
        since = heard
    return Interrupted(
        path=path,
        died=died,
        step=step,
        of=steps[-1].of if steps else None,
        saved_step=saved_step,
        lost_s=max(0.0, heard - since),
        heard=heard,
    )


def find_interrupted(folder: Path) -> list[Interrupted]:
    """Interrupted runs directly below ``folder``, the newest first; unreadable ones are left out."""
    found = []
    for events in folder.glob("*/events.jsonl") if folder.is_dir() else []:
        try:
            one = interrupted(events.parent)
        except OSError:
            continue  # removed at this moment, or somebody else's
        if one is not None:
            found.append(one)
    return sorted(found, key=lambda one: one.heard, reverse=True)


def find_live(folder: Path) -> list[Path]:
    """Folders of the runs directly below ``folder`` that are being trained now, the newest first."""
    found: list[tuple[float, Path]] = []
    for process in folder.glob("*/process.json") if folder.is_dir() else []:
        mark = ProcessMark.read(process)
        if mark is None or not mark.alive():
            continue
        try:
            states = [e for e in newest_events(process.parent / "events.jsonl") if isinstance(e, StateEvent)]
        except OSError:
            continue
        if states and states[-1].to in LIVE:
            found.append((states[-1].time or time.time(), process.parent))
    return [path for _time, path in sorted(found, reverse=True)]
