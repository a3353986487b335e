"""``so8t queue``: runs that wait for their turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from so8t_engine.commands.runs import check_runs_folder
from so8t_engine.config import load_config
from so8t_engine.errors import RunError
from so8t_engine.history.queue import OnFailure, RunQueue, may_follow
from so8t_engine.history.summary import summarise
from so8t_engine.i18n import _
from so8t_engine.training.preflight import preflight
from so8t_engine.training.run_directory import RunDirectory
from so8t_engine.training.session import EngineSession
from so8t_engine.training.states import Command

LOOK_S = 2.0


def list_queue(folder: Path) -> tuple[str, dict[str, Any]]:
    """The queue as text and as one object. Raises `RunError` where there is no such folder."""
    queue = _queue_of(folder)
    entries = queue.entries()
    other = queue.other_runner()
    lines = [f"{place:3d}  {one.id}  {one.name}  {one.problem}" for place, one in enumerate(entries, 1)]
    lines = [line.rstrip() for line in lines] or [_("No run waits.")]
    if other is not None:
        lines.append(_("Process %(pid)d works through this queue.") % {"pid": other.pid})
    result = {
        "folder": str(queue.runs),
        "runs": [{"id": one.id, "name": one.name, "problem": one.problem} for one in entries],
        "on_failure": str(queue.on_failure),
        "runner": other.pid if other is not None else None,
    }
    return "\n".join(lines) + "\n", result


def _queue_of(folder: Path) -> RunQueue:
    """Raises `RunError` where there is no such folder."""
    queue = RunQueue(folder)
    check_runs_folder(queue.runs)
    return queue


def add_to_queue(config_path: Path, overrides: Sequence[str], folder: Path | None) -> dict[str, Any]:
    """Append a run. Raises `ConfigError` or `DataError` where it could not be trained."""
    config = load_config(config_path, overrides)
    preflight(config)
    queue = RunQueue(folder or Path(config.run.directory))
    entry = queue.add(config)
    return {"id": entry.id, "name": entry.name, "place": len(queue.entries())}


def change_queue(folder: Path, id_: str, place: int | None) -> tuple[str, dict[str, Any]]:
    """Move a run to a place (from 1), or remove it with None. Raises `RunError` without such a folder."""
    queue = _queue_of(folder)
    if place is None:
        queue.remove(id_)
    else:
        queue.move(id_, place - 1)
    return list_queue(folder)


def run_queue(
    folder: Path, after: Path | None, on_failure: OnFailure | None, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Train what waits, one run after the other, until the queue is empty or held.

    Args:
        after: a run that goes on now; its end comes first.

    Raises:
        RunError: there is no such folder, or another process works through its queue.
    """
    queue = _queue_of(folder)
    if on_failure is not None:
        queue.set_on_failure(on_failure)
    if not queue.become_runner():
        other = queue.other_runner()
        raise RunError(
            _("Process %(pid)d works through this queue already.") % {"pid": other.pid if other else 0},
            _("Wait for it, or end it first."),
        )
    done: list[dict[str, Any]] = []
    held = False
    try:
        if after is not None:
            held = not _wait_for(after, queue, tell)
        while not held and (config := queue.take()) is not None:
            run = RunDirectory.create(config.model_copy(
                update={"run": config.run.model_copy(update={"directory": str(queue.runs)})}
            ))  # fmt: skip
            tell(_("Run folder: %(path)s") % {"path": str(run.path)})
            _train(run, config.run.placement)
            summary = summarise(run.path)
            done.append({"path": str(run.path), "state": str(summary.state)})
            tell(f"{run.id}: {summary.state}")
            held = not may_follow(summary, queue.on_failure)
    finally:
        queue.resign()
    waiting = len(queue.entries())
    if held and waiting:
        tell(_("The queue is held; %(count)d runs wait.") % {"count": waiting})
    return {"runs": done, "held": held, "waiting": waiting}


def _train(run: RunDirectory, placement: str) -> None:
    """One run to its end. Ctrl+C stops and saves it, and so holds the queue."""
    try:
        EngineSession(run, placement=placement).follow(lambda events: None)
    except KeyboardInterrupt:
        run.send(Command.STOP)
        EngineSession(run, attach=True).follow(lambda events: None)


def _wait_for(run: Path, queue: RunQueue, tell: Callable[[str], None]) -> bool:
    """Wait for a run's end; whether the queue goes on after it."""
    tell(_("Waiting for the end of %(name)s.") % {"name": run.name})
    while (summary := summarise(run)).live:
        time.sleep(LOOK_S)
    return may_follow(summary, queue.on_failure)
