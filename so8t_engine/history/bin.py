"""Runs that were deleted: moved aside within the runs folder, so that it can be undone at no cost."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

from so8t_engine.errors import RunError
from so8t_engine.files import move
from so8t_engine.history.summary import summarise
from so8t_engine.i18n import _

FOLDER = ".deleted"


def delete(run: Path) -> Path:
    """Move a run aside; returns where it lies now. Raises `RunError`: it lives, or cannot be moved."""
    try:
        if summarise(run).live:
            raise RunError(
                _("The run in %(path)s is being trained now.") % {"path": str(run)},
                _("Stop it first."),
            )
        target = run.parent / FOLDER / f"{run.name}.{secrets.token_hex(3)}"
        target.parent.mkdir(exist_ok=True)
        return move(run, target)
    except OSError as error:
        raise RunError(
            _("%(path)s cannot be moved: %(reason)s.")
            % {"path": str(run), "reason": error.strerror or str(error)}
        ) from error


def restore(deleted: Path) -> Path:
    """Undo `delete`. Raises `RunError` where its place is taken."""
    target = deleted.parent.parent / deleted.name.rpartition(".")[0]
    if target.exists():
        raise RunError(_("%(path)s exists already.") % {"path": str(target)})
    try:
        return move(deleted, target)
    except OSError as error:
        raise RunError(
            _("%(path)s cannot be moved: %(reason)s.")
            % {"path": str(deleted), "reason": error.strerror or str(error)}
        ) from error


def deleted_runs(folder: Path) -> list[Path]:
    """What was deleted and is still there."""
    place = folder / FOLDER
    return sorted(path for path in place.iterdir() if path.is_dir()) if place.is_dir() else []


def empty(folder: Path) -> int:
    """Remove for good what was deleted; returns the bytes that this freed. Raises `RunError`."""
    freed = 0
    for path in deleted_runs(folder):
        freed += sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        try:
            shutil.rmtree(path)
        except OSError as error:
            raise RunError(
                _("%(path)s cannot be removed: %(reason)s.")
                % {"path": str(path), "reason": error.strerror or str(error)}
            ) from error
    return freed
