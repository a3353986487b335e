"""Publishing a folder so that it is either complete and verifiable or not there.

Files are written into a temporary sibling, synced, hashed into a manifest that is written last, and the
folder is renamed into place. safetensors notices a truncated file but neither flipped bits nor a tail of
zeros, therefore the SHA-256 manifest.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from so8t_engine.errors import RunError
from so8t_engine.i18n import _

MANIFEST = "MANIFEST.json"
_STEP = re.compile(r"step-(\d{8})\Z")


@dataclass(frozen=True, slots=True)
class Published:
    """A complete folder: its size in bytes and the SHA-256 of its manifest."""

    path: Path
    bytes: int
    sha256: str


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    if path.is_dir() and sys.platform == "win32":
        return  # Windows cannot sync a folder; NTFS journals the rename
    # Windows' fsync needs a handle that may write.
    handle = os.open(path, os.O_RDONLY if path.is_dir() or sys.platform != "win32" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish_folder(target: Path, write: Callable[[Path], None]) -> Published:
    """Have ``write`` fill a temporary folder, then make it ``target``.

    Args:
        target: where the folder will be; a complete older one of the same name is replaced.
        write: called with the temporary folder.

    Raises:
        RunError: the folder cannot be written; nothing is left at ``target`` that was not there before.
    """
    temporary = target.with_name(f".{target.name}.partial")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        write(temporary)
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        for path in files:
            _sync(path)
        content = {
            path.relative_to(temporary).as_posix(): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
            for path in files
        }
        manifest = temporary / MANIFEST
        manifest.write_text(json.dumps({"files": content}, indent=1, sort_keys=True), encoding="utf-8")
        _sync(manifest)
        _sync(temporary)
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
        _sync(target.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise RunError(
            _("%(path)s cannot be saved: %(reason)s.")
            % {"path": str(target), "reason": error.strerror or str(error)},
            _("Free some disk space or choose another runs folder; the run goes on and tries again."),
        ) from error
    total = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    return Published(target, total, _sha256(target / MANIFEST))


def verify_folder(path: Path) -> None:
    """Check every file against the manifest.

    Raises:
        RunError: naming the first file that is missing, changed, or not listed.
    """
    try:
        content = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["files"]
        for name, expected in content.items():
            file = path / name
            if not file.is_file():
                raise RunError(_("%(path)s is missing.") % {"path": str(file)})
            if file.stat().st_size != expected["bytes"] or _sha256(file) != expected["sha256"]:
                raise RunError(_("%(path)s is damaged: its SHA-256 differs.") % {"path": str(file)})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(_("%(path)s is not a complete checkpoint.") % {"path": str(path)}) from error


def checkpoints(folder: Path) -> list[Path]:
    """Published checkpoints, the oldest first."""
    found = [path for path in folder.glob("step-*") if _STEP.match(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: path.name)


def newest_usable(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that verifies, and a sentence for each newer one that does not."""
    damaged: list[str] = []
    for path in reversed(checkpoints(folder)):
        try:
            verify_folder(path)
        except RunError as error:
            damaged.append(error.sentence)
            continue
        return path, damaged
    return None, damaged


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of an optimizer step stands."""
    return folder / f"step-{step:08d}"


def prune(folder: Path, keep: int) -> list[Path]:
    """Remove all but the newest ``keep`` checkpoints; call it after a new one was published."""
    old = checkpoints(folder)[:-keep]
    for path in old:
        shutil.rmtree(path, ignore_errors=True)
    return old
