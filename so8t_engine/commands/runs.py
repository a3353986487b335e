"""``so8t runs``: what the run folders say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from so8t_engine.config import Config
from so8t_engine.errors import RunError
from so8t_engine.history.compare import compare, differences, flat, results
from so8t_engine.history.index import RunIndex
from so8t_engine.history.notes import RunNotes
from so8t_engine.i18n import _
from so8t_engine.plain_text import visible
from so8t_engine.safe_paths import is_folder
from so8t_engine.training.checkpoint import pin, pinned_steps
from so8t_engine.training.events import EndEvent, Event, StateEvent, StepEvent
from so8t_engine.training.process import ProcessMark
from so8t_engine.training.run_directory import RunDirectory
from so8t_engine.training.states import LIVE, State


def state_of_final(run: RunDirectory) -> str:
    """In which state the run left the ``final/`` that stands.

    A life that came to no step, because its rows were gone, say, has changed nothing in it: what the one
    before ended as still holds.
    """
    events, ended = run.read_events(), ""
    state = _state(run, events)
    for event in events:
        if isinstance(event, StepEvent):
            ended = ""
        elif isinstance(event, EndEvent) and event.status in {"finished", "stopped"}:
            ended = event.status
    return ended if ended and state in {"failed", "aborted", "dead"} else state


def _state(run: RunDirectory, events: Sequence[Event]) -> str:
    states = [event for event in events if isinstance(event, StateEvent)]
    if states and states[-1].to in LIVE:
        mark = ProcessMark.read(run.process)
        if mark is None or not mark.alive():
            return "dead"
    return str(states[-1].to) if states else "idle"


def run_summary(run: RunDirectory) -> dict[str, Any]:
    """Id, state, last step and loss of a run, read from its events.

    A run whose last state is a live one but whose trainer is gone is ``dead``: shown as what it is.
    """
    events = run.read_events()
    steps = [event for event in events if isinstance(event, StepEvent)]
    return {
        "id": run.id,
        "path": str(run.path),
        "state": _state(run, events),
        "started": events[0].time if events else None,
        "step": steps[-1].step if steps else 0,
        "of": steps[-1].of if steps else None,
        "loss": steps[-1].loss if steps else None,
    }


def check_runs_folder(folder: Path) -> None:
    """Raises `RunError` where there is no such folder."""
    if not is_folder(folder):
        raise RunError(
            _("%(path)s is not a folder.") % {"path": str(folder)},
            _("Name the folder that holds your runs."),
        )


def list_runs(folder: Path, search: str = "") -> list[dict[str, Any]]:
    """Runs directly below ``folder``: the pinned first, then the newest. Raises `RunError` without one."""
    check_runs_folder(folder)
    found = []
    for run in RunIndex().runs(folder):
        summary, notes = run.summary, run.notes
        if not run.matches(search):
            continue
        found.append(
            {
                "id": summary.path.name,
                "path": str(summary.path),
                "state": "dead" if summary.lost else str(summary.state or State.IDLE),
                "started": summary.started,
                "step": summary.step or 0,
                "of": summary.of,
                "loss": summary.loss,
                "tags": list(notes.tags),
                "note": notes.note,
                "pinned": notes.pinned,
                "archived": notes.archived,
            }
        )
    return found


def show_run(path: Path) -> tuple[str, dict[str, Any]]:
    """What a run is and what came out, as text and as one object. Raises `RunError` or `ConfigError`."""
    run = RunDirectory.open(path)
    config, notes = run.config(), RunNotes.read(run.path)
    changed = {row.path: row.values[1] for row in differences([Config(), config])}
    result = {
        **run_summary(run),
        "tags": list(notes.tags),
        "note": notes.note,
        "pinned": notes.pinned,
        "archived": notes.archived,
        "settings": changed,
        "results": results(run),
    }
    head = [f"{result['id']}  {result['state']}  {result['step']}/{result['of']}  {result['loss']}"]
    if notes.tags or notes.note:
        head.append(", ".join(notes.tags) + ("  " if notes.tags else "") + notes.note)
    figures = [f"  {name}: {value}" for name, value in flat(result["results"]).items() if _is_figure(value)]
    settings = [f"  {name}: {value}" for name, value in changed.items()]
    lines = [*head, _("Settings that differ from the defaults:"), *settings, _("Results:"), *figures]
    return "".join(visible(line, 4096) + "\n" for line in lines), result


def compare_runs(paths: list[Path], defaults: bool) -> tuple[str, dict[str, Any]]:
    """Settings in which runs differ, and their figures side by side."""
    result = compare(paths, Config() if defaults else None)
    names = [*(["-"] if defaults else []), *result["runs"]]
    lines = [" | ".join(["", *names])]
    lines += [" | ".join([name, *map(str, values)]) for name, values in result["settings"].items()]
    tables = {run: flat(held) for run, held in result["results"].items()}
    figures = dict.fromkeys(n for table in tables.values() for n, value in table.items() if _is_figure(value))
    blank = [""] if defaults else []
    lines += [
        " | ".join([name, *blank, *(str(t.get(name, "")) for t in tables.values())]) for name in figures
    ]
    return "".join(visible(line, 8192) + "\n" for line in lines), result


def _is_figure(value: object) -> bool:
    return isinstance(value, int | float | str) and not isinstance(value, bool)


def pin_checkpoint(path: Path, step: int, pinned: bool) -> dict[str, Any]:
    """Keep a checkpoint of a run for good, or no longer. Raises `RunError` where there is none."""
    run = RunDirectory.open(path)
    pin(run.checkpoints, step, pinned)
    return {"run": run.id, "pinned": sorted(pinned_steps(run.checkpoints))}
