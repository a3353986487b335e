"""What may be deleted, and deleting it."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from so8t_engine.errors import SO8TError
from so8t_engine.files import write_atomically
from so8t_engine.i18n import _
from so8t_engine.pipeline.context import StepContext
from so8t_engine.pipeline.errors import PipelineError
from so8t_engine.pipeline.step import StepResult
from so8t_engine.pipeline.steps.cleanup import CleanupSettings
from so8t_engine.pipeline.store import StepStore
from so8t_engine.training.checkpoint import checkpoints, pinned_steps, step_of
from so8t_engine.training.process import ProcessMark
from so8t_engine.training.run_directory import RunDirectory

log = logging.getLogger(__name__)
Kind = Literal["scratch", "output", "checkpoint"]


@dataclass(frozen=True, slots=True)
class Doomed:
    """One thing to delete: a scratch folder, a file of an output by its manifest, or a checkpoint."""

    kind: Kind
    step: str
    path: Path
    bytes: int

    def record(self) -> dict[str, object]:
        """Plain JSON."""
        return {"kind": self.kind, "step": self.step, "path": str(self.path), "bytes": self.bytes}


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(one.stat().st_size for one in path.rglob("*") if one.is_file() and not one.is_symlink())


def listing(settings: CleanupSettings, work: Path) -> list[Doomed]:
    """What may be deleted now. Nothing outside ``work``, and nothing that no manifest of it names.

    Raises:
        PipelineError: a step named in the settings does not exist.
    """
    stores = {path.name.partition("-")[2]: StepStore(path) for path in sorted((work / "steps").glob("?-*"))}
    found: list[Doomed] = []
    for name, store in stores.items():
        # An open step was interrupted: its scratch is what it goes on from.
        done = store.manifest() is not None and not store.state().get("open")
        if settings.scratch and done and store.scratch.is_dir() and any(store.scratch.iterdir()):
            found.append(Doomed("scratch", name, store.scratch, _size(store.scratch)))
    for name in settings.outputs:
        if name in {"cleanup", "upload"} or (name not in stores and name not in _NAMES):
            raise PipelineError(
                _("The outputs of %(name)s cannot be cleaned away.") % {"name": name},
                _("Name steps such as collect or preprocess under cleanup.outputs."),
            )
        if name in stores:
            found += _outputs(name, stores[name])
    if settings.checkpoints:
        for path in sorted((work / "runs").glob("*")):
            found += _checkpoints(RunDirectory(path))
    return found


_NAMES = ("collect", "preprocess", "soul", "train", "integrate", "evaluate")


def _outputs(name: str, store: StepStore) -> list[Doomed]:
    manifest = store.manifest() or {"files": {}}
    gone = set(manifest.get("cleaned", ()))
    paths = [store.output / file for file in manifest["files"] if file not in gone]
    return [Doomed("output", name, path, path.stat().st_size) for path in paths if path.is_file()]


def _checkpoints(run: RunDirectory) -> list[Doomed]:
    """Checkpoints of a run that is over, uploaded and not pinned."""
    mark = ProcessMark.read(run.process)
    if mark is not None and mark.alive():
        return []
    uploaded, over = run.path / "uploaded.json", run.final / "results.json"
    if not uploaded.is_file() or not over.is_file() or (run.path / "pinned").exists():
        return []
    kept = pinned_steps(run.checkpoints)
    return [
        Doomed("checkpoint", "train", path, _size(path))
        for path in checkpoints(run.checkpoints)
        if step_of(path) not in kept
    ]


def clean_up(settings: CleanupSettings, context: StepContext) -> StepResult:
    """Delete what `listing` names and write ``deleted.json``."""
    doomed = listing(settings, context.work)
    note = context.output / "deleted.json"
    deleted: list[dict[str, object]] = json.loads(note.read_text(encoding="utf-8")) if note.exists() else []
    trashed = 0
    what = _("Deleting")
    for done, one in enumerate(doomed):
        context.progress(what, done, len(doomed))
        into_trash = settings.trash and one.kind != "scratch" and _trash(one.path)
        if not into_trash:
            _delete(one.path)
        trashed += into_trash
        if one.kind == "output":
            store = StepStore(context.work / "steps" / _folder(context.work, one.step))
            store.mark_cleaned([one.path.relative_to(store.output).as_posix()])
        deleted.append(one.record() | {"trash": into_trash})
        write_atomically(note, json.dumps(deleted, indent=1))
    context.progress(what, len(doomed), len(doomed))
    task = _remove_startup_task(context) if settings.startup_task else None
    write_atomically(note, json.dumps(deleted, indent=1))
    facts = {
        "deleted": len(deleted),
        "bytes": sum(int(str(one["bytes"])) for one in deleted),
        "trashed": trashed,
        "startup_task_removed": task,
    }
    # What was there to delete depends on what went before; that it is gone does not.
    return StepResult(facts, content="cleaned")


def _folder(work: Path, name: str) -> str:
    return next(path.name for path in (work / "steps").glob(f"?-{name}"))


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _trash(path: Path) -> bool:
    """Whether ``path`` is in the system's trash now."""
    from send2trash import send2trash

    try:
        send2trash(str(path))
    except (OSError, ValueError) as error:
        log.info("no trash for %s: %s", path, error)
        return False
    return not path.exists()


def _remove_startup_task(context: StepContext) -> bool:
    from so8t_engine import autostart

    try:
        there = autostart.status().enabled
        if there:
            autostart.disable()
    except SO8TError as error:
        context.warn("startup", error.sentence, error.mend)
        return False
    return there
