"""Names that come from files and strangers, held inside the folder they belong to."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath, PureWindowsPath

from so8t_engine.errors import SO8TError
from so8t_engine.i18n import _
from so8t_engine.plain_text import visible

_HUB_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.\-]{0,94}[A-Za-z0-9_])?"
_HUB_ID = re.compile(f"{_HUB_PART}/{_HUB_PART}")


_DEVICES = re.compile(r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])", re.IGNORECASE)


def is_windows_name(name: str) -> bool:
    """Whether Windows makes a folder of exactly this name: no device's, nothing that it cuts off."""
    return not _DEVICES.fullmatch(name.partition(".")[0].rstrip()) and name == name.rstrip(". ")


def is_hub_id(text: str) -> bool:
    """Whether ``text`` is ``owner/name`` as the Hub allows it: no path, no ``..``, no drive."""
    return bool(_HUB_ID.fullmatch(text)) and ".." not in text and "--" not in text


def _is_plain_relative(name: str) -> bool:
    windows = PureWindowsPath(name)
    return bool(name) and not (
        "\x00" in name
        or PurePosixPath(name).is_absolute()
        or windows.drive
        or windows.root
        or ".." in windows.parts  # splits at both kinds of slashes
    )


def inside(folder: Path, name: str) -> Path:
    """``folder / name``, where a file's contents gave the name.

    Raises:
        SO8TError: the name is absolute, climbs out by ``..``, or leads out over a symbolic link.
    """
    path = folder / name if _is_plain_relative(name) else None
    if path is None or leaves(folder, path):
        raise SO8TError(
            _("The name '%(name)s' leads out of the folder %(folder)s.")
            % {"name": visible(name, 120), "folder": str(folder)},
            _("Such a file is not made by this program; do not use it."),
        )
    return path


def leaves(folder: Path, path: Path, also: tuple[Path, ...] = ()) -> bool:
    """Whether ``path``, links followed, lies outside ``folder`` and outside each folder of ``also``."""
    try:
        real = path.resolve()
        return not any(real.is_relative_to(allowed.resolve()) for allowed in (folder, *also))
    except (OSError, RuntimeError, ValueError):  # a loop of links
        return True


def is_folder(path: Path) -> bool:
    """As `Path.is_dir`, which raises where a name is too long."""
    try:
        return path.is_dir()
    except OSError:
        return False


def is_there(path: Path) -> bool:
    """As `Path.exists`, which raises where a name is too long."""
    try:
        return path.exists()
    except OSError:
        return False
