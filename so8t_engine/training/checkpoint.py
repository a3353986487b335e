"""Publishing a folder so that it is either complete and verifiable or not there.

Files are written into a temporary sibling, synced, hashed into a manifest that is written last, and the
folder is renamed into place. safetensors notices a truncated file but neither flipped bits nor a tail of
zeros, therefore the SHA-256 manifest. An older folder of the same name changes places with the new one in
one step where the system can do that; elsewhere it steps aside first, and `standing` and `settle` find it
there after a crash between the two.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError

from so8t_engine import files
from so8t_engine.errors import NoRoomError, RunError
from so8t_engine.i18n import _

MANIFEST = "MANIFEST.json"
PIN = ".pin"
#: Left free on the disk beyond what is about to be written: events and the log need some.
RESERVE_BYTES = 16 << 20
_STEP = re.compile(r"step-(\d{8})\Z")
_PARTIAL, _ASIDE, _REMOVED = ".partial", ".old", ".removed"


@dataclass(frozen=True, slots=True)
class Published:
    """A complete folder: its size in bytes and the SHA-256 of its manifest."""

    path: Path
    bytes: int
    sha256: str


def _hidden(target: Path, ending: str) -> Path:
    return target.with_name(f".{target.name}{ending}")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def publish_folder(
    target: Path, write: Callable[[Path], Mapping[str, str] | None], *, needed_bytes: int = 0
) -> Published:
    """Have ``write`` fill a temporary folder, then make it ``target``.

    Args:
        target: where the folder will be; a complete older one of the same name is replaced.
        write: called with the temporary folder; may return file name → SHA-256 of what it meant to write,
            which is then compared with what the disk gives back.
        needed_bytes: room that is asked for before anything is written.

    Raises:
        NoRoomError: the disk is full. RunError: the folder cannot be written for another reason; what stood
            at ``target`` before still stands there.
    """
    temporary = _hidden(target, _PARTIAL)
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        _check_room(target.parent, needed_bytes)
        files.remove_folder(temporary)
        temporary.mkdir()
        meant = write(temporary) or {}
        content = _content(temporary, meant, target)
        manifest = json.dumps(
            {"format": 1, "name": target.name, "files": content}, indent=1, sort_keys=True
        ).encode()
        files.write_durably(temporary / MANIFEST, manifest)
        if files.read_whole(temporary / MANIFEST) != manifest:
            raise _not_as_written(target, MANIFEST)
        files.sync(temporary)
        _put_in_place(temporary, target)
        files.sync(target.parent)
    except (OSError, SafetensorError) as error:
        files.remove_folder(temporary)
        raise (NoRoomError if _is_full(error) else RunError)(
            _("%(path)s cannot be saved: %(reason)s.")
            % {"path": str(target), "reason": getattr(error, "strerror", None) or str(error)},
            _("Free some disk space or choose another runs folder; the run goes on and tries again."),
        ) from error
    except RunError:
        files.remove_folder(temporary)
        raise
    total = sum(entry["bytes"] for entry in content.values()) + len(manifest)
    return Published(target, total, _sha256(manifest))


def _is_full(error: Exception) -> bool:
    """Whether there was no room, or none left for this user."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None))
    # safetensors says it in words: Linux' and macOS' number, and Windows'.
    return "(os error 28)" in str(error) or "(os error 112)" in str(error)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed and free < needed + RESERVE_BYTES:
        raise NoRoomError(
            _("A checkpoint needs %(needed)d MB on the disk of %(path)s, and %(free)d MB are free.")
            % {
                "needed": -(-(needed + RESERVE_BYTES) // 10**6),
                "free": free // 10**6,
                "path": str(folder),
            },
            _("Free some disk space; the run goes on and tries again."),
        )


def _content(folder: Path, meant: Mapping[str, str], target: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file, as read back after syncing."""
    content: dict[str, dict[str, Any]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        files.sync(path)
        data = files.read_whole(path)
        content[name] = {"bytes": len(data), "sha256": _sha256(data)}
    changed = [name for name, sha256 in meant.items() if content.get(name, {}).get("sha256") != sha256]
    if changed:
        raise _not_as_written(target, changed[0])
    return content


def _not_as_written(target: Path, name: str) -> RunError:
    return RunError(
        _("%(path)s cannot be saved: the disk gave back something else than was written to %(file)s.")
        % {"path": str(target), "file": name},
        _("Check the disk; the run goes on and tries again."),
    )


def _put_in_place(temporary: Path, target: Path) -> None:
    aside = _hidden(target, _ASIDE)
    if target.exists() and not files.exchange(temporary, target):
        files.remove_folder(aside)
        files.move(target, aside)
        try:
            files.move(temporary, target)
        except OSError:
            files.move(aside, target)
            raise
    elif not target.exists():
        files.move(temporary, target)
    files.remove_folder(temporary)  # after an exchange it holds the older one
    files.remove_folder(aside)


def standing(target: Path) -> Path:
    """Where the folder published as ``target`` is: there, or aside if a crash came between two renames."""
    aside = _hidden(target, _ASIDE)
    return aside if not target.exists() and aside.exists() else target


def settle(folder: Path) -> None:
    """Put back what stepped aside, and remove what was never finished. Only the run's trainer may call it.

    Raises:
        RunError: an older folder cannot be put back.
    """
    for path in sorted(folder.glob(f".*{_ASIDE}")):
        target = path.with_name(path.name.removeprefix(".").removesuffix(_ASIDE))
        if target.exists():
            files.remove_folder(path)
            continue
        try:
            files.move(path, target)
        except OSError as error:
            raise RunError(
                _("%(path)s cannot be put back in its place: %(reason)s.")
                % {"path": str(path), "reason": error.strerror or str(error)},
                _("Rename it to %(name)s by hand.") % {"name": target.name},
            ) from error
    for ending in (_PARTIAL, _REMOVED):
        for path in sorted(folder.glob(f".*{ending}")):
            files.remove_folder(path)


def verify_folder(path: Path) -> None:
    """Check every file against the manifest.

    Raises:
        RunError: naming the first file that is missing, changed, or cannot be read.
    """
    read_verified(path, keep=())


def read_verified(path: Path, keep: Collection[str] | None = None) -> dict[str, bytes]:
    """File name → content of a published folder; each file is read once, and what was hashed is returned.

    Args:
        path: the folder.
        keep: whose content is wanted; None wants all. The others are checked and dropped.

    Raises:
        RunError: naming the first file that is missing, changed, or cannot be read.
    """
    found: dict[str, bytes] = {}
    try:
        for name, expected in _manifest(path).items():
            file = path / name
            data = files.with_patience(lambda file=file: files.read_whole(file))  # type: ignore[misc]
            if len(data) != expected["bytes"] or _sha256(data) != expected["sha256"]:
                raise RunError(_("%(path)s is damaged: its SHA-256 differs.") % {"path": str(file)})
            if keep is None or name in keep:
                found[name] = data
    except FileNotFoundError as error:
        raise RunError(_("%(path)s is missing.") % {"path": str(error.filename or path)}) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(_("%(path)s is not a complete checkpoint.") % {"path": str(path)}) from error
    return found


def _manifest(path: Path) -> dict[str, dict[str, Any]]:
    content = json.loads(files.with_patience(lambda: files.read_whole(path / MANIFEST)))
    if content["name"] != path.name.removeprefix(".").removesuffix(_ASIDE):
        raise RunError(
            _("%(path)s holds what was saved as %(name)s.") % {"path": str(path), "name": content["name"]}
        )
    listed: dict[str, dict[str, Any]] = content["files"]
    for name in listed:
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or PurePosixPath(name).is_absolute() or ":" in name or "\\" in name:
            raise ValueError(name)
    return listed


def checkpoints(folder: Path) -> list[Path]:
    """Published checkpoints, the oldest first. Raises `RunError` where the folder cannot be read."""

    def names() -> set[str]:
        with os.scandir(folder) as entries:
            found = [entry.name for entry in entries if entry.is_dir()]
        aside = {name[1 : -len(_ASIDE)] for name in found if name.startswith(".") and name.endswith(_ASIDE)}
        return {name for name in {*found, *aside} if _STEP.match(name)}

    try:
        return [standing(folder / name) for name in sorted(files.with_patience(names))]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unreadable(folder, error) from error


def _unreadable(path: Path, error: OSError) -> RunError:
    return RunError(
        _("%(path)s cannot be read: %(reason)s.")
        % {"path": str(error.filename or path), "reason": error.strerror or str(error)}
    )


def step_of(path: Path) -> int:
    """The optimizer step of a checkpoint's folder. Raises `ValueError` for another name."""
    match = _STEP.match(path.name.removeprefix(".").removesuffix(_ASIDE))
    if match is None:
        raise ValueError(path.name)
    return int(match[1])


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


def pin(folder: Path, step: int, pinned: bool = True) -> None:
    """Keep a checkpoint for good, or no longer. Any process may.

    Raises:
        RunError: there is no such checkpoint, or the folder cannot be written.
    """
    path = checkpoint_path(folder, step)
    if pinned and not standing(path).is_dir():
        steps = ", ".join(str(step_of(found)) for found in checkpoints(folder))
        raise RunError(
            _("There is no checkpoint of step %(step)d.") % {"step": step},
            _("There are checkpoints of these steps: %(steps)s.") % {"steps": steps} if steps else "",
        )
    mark = path.with_name(path.name + PIN)
    try:
        if pinned:
            mark.touch()
        else:
            mark.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(
            _("%(path)s cannot be written: %(reason)s.")
            % {"path": str(mark), "reason": error.strerror or str(error)}
        ) from error


def pinned_steps(folder: Path) -> set[int]:
    """Steps whose checkpoints are kept for good."""
    names = (path.name.removesuffix(PIN) for path in folder.glob(f"step-*{PIN}"))
    return {int(match[1]) for name in names if (match := _STEP.match(name))}


def prune(folder: Path, keep: int, also: Collection[int] = ()) -> list[Path]:
    """Remove all but the newest ``keep`` checkpoints, those of the steps ``also`` and the pinned ones.

    Call it after a new one was published. A checkpoint is renamed before it is taken apart, so that a half
    removed one is never taken for a damaged one.
    """
    kept = {*also, *pinned_steps(folder)}
    old = [path for path in checkpoints(folder)[:-keep] if step_of(path) not in kept]
    for path in old:
        removed = _hidden(path, _REMOVED)
        try:
            path.rename(removed)
        except OSError:
            continue  # in use on Windows, say; the next one tries again
        files.remove_folder(removed)
    return old
