"""``so8t soul``: what a soul file holds, the way to ``soul.pt`` and back; torch is imported in use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from so8t_engine.commands.soul_text import export_report, summary_text
from so8t_engine.errors import SO8TError
from so8t_engine.i18n import _
from so8t_engine.plain_text import visible

if TYPE_CHECKING:
    from so8t_engine.so8t.soul_file import Soul

NAME = "soul.safetensors"
_SAFETENSORS, _PICKLED = ".safetensors", (".pt", ".pth", ".bin")


def show(path: Path) -> tuple[str, dict[str, Any]]:
    """What a soul file or a run's soul holds, as text for a person and as the object of ``--json``.

    Raises:
        SO8TError: there is no soul, or it cannot be used.
    """
    file = locate(path)
    soul = _read(file)
    from so8t_engine.so8t.soul_summary import soul_summary

    summary = soul_summary(soul)
    return summary_text(file, summary), {"file": str(file), **summary}


def export(source: Path, target: Path, force: bool) -> tuple[str, dict[str, Any]]:
    """Write ``soul.pt`` from a soul file or a run folder. Raises `SO8TError`; nothing is written then."""
    file = locate(source)
    _check_target(target, (".pt", ".pth"), force)
    from so8t_engine.so8t.soul_file import load_soul
    from so8t_engine.so8t.soul_pt import export_soul_pt

    soul = load_soul(file)
    _write(target, lambda: export_soul_pt(target, soul))
    return _done(file, target, export_report(soul))


def import_(source: Path, target: Path, force: bool) -> tuple[str, dict[str, Any]]:
    """Write ``soul.safetensors`` from a ``soul.pt``. Raises `SO8TError`; nothing is written then."""
    _check_file(source)
    _check_target(target, (_SAFETENSORS,), force)
    from so8t_engine.so8t.soul_file import save_soul
    from so8t_engine.so8t.soul_pt import import_soul_pt

    soul = import_soul_pt(source)
    _write(target, lambda: save_soul(target, soul))
    return _done(source, target, soul.report)


def locate(path: Path) -> Path:
    """The soul file meant by ``path``: the file itself, or a run folder's ``final/soul.safetensors``.

    Raises:
        SO8TError: there is none; the sentence says where it was looked for.
    """
    if not path.is_dir():
        _check_file(path)
        return path
    file = path / "final" / NAME
    if not file.is_file():
        raise SO8TError(
            _("The folder %(path)s has no soul: there is no file %(file)s.") % _shown(path=path, file=file),
            _("Name a soul file, or the folder of a run that has ended; a stopped run has a soul too."),
        )
    return file


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise SO8TError(_("%(path)s is a folder.") % _shown(path=path), _("Name the soul file itself."))
    if not path.is_file():
        raise SO8TError(_("There is no file %(path)s.") % _shown(path=path), _("Check the path of the soul."))


def _check_target(target: Path, endings: tuple[str, ...], force: bool) -> None:
    """Refuse a target of another kind, a folder, or one that exists, before anything is read."""
    if target.suffix.lower() not in endings:
        raise SO8TError(
            _("%(path)s does not end in %(ending)s.") % _shown(path=target, ending=" / ".join(endings)),
            _("Name the file to write so; the ending tells what the file is."),
        )
    if target.is_dir():
        raise SO8TError(_("%(path)s is a folder.") % _shown(path=target), _("Name the file to write."))
    if os.path.lexists(target) and not force:
        raise SO8TError(_("%(path)s exists already.") % _shown(path=target), _("Add --force to replace it."))


def _read(file: Path) -> Soul:
    """By the ending, and where that says nothing by the first bytes: zip and pickle are ``soul.pt``."""
    from so8t_engine.so8t.soul_file import load_soul
    from so8t_engine.so8t.soul_pt import import_soul_pt

    ending = file.suffix.lower()
    pickled = ending in _PICKLED
    if not pickled and ending != _SAFETENSORS:
        try:
            with file.open("rb") as opened:
                pickled = opened.read(2).startswith((b"PK", b"\x80"))
        except OSError as error:
            raise SO8TError(
                _("%(path)s cannot be read: %(reason)s.")
                % _shown(path=file, reason=error.strerror or str(error))
            ) from error
    return import_soul_pt(file) if pickled else load_soul(file)


def _write(target: Path, write: Callable[[], object]) -> None:
    try:
        write()
    except OSError as error:
        raise SO8TError(
            _("%(path)s cannot be written: %(reason)s.")
            % _shown(path=target, reason=error.strerror or str(error)),
            _("Choose another place, or free some disk space."),
        ) from error


def _done(source: Path, target: Path, report: list[str]) -> tuple[str, dict[str, Any]]:
    first = _("%(source)s → %(target)s") % _shown(source=source, target=target)
    lines = [first, *("  " + visible(line) for line in report)]
    return "\n".join(lines) + "\n", {"source": str(source), "target": str(target), "report": report}


def _shown(**values: object) -> dict[str, str]:
    return {name: visible(str(value)) for name, value in values.items()}
