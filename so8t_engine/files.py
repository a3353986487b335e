"""Writing files so that a crash leaves either the old or the new content, in folders of one person."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Write ``text`` so that ``path`` holds either the old or the new content, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def make_private(folder: Path) -> None:
    """Make ``folder`` if need be; a new or empty one is its owner's alone (0700).

    A folder that a person has filled keeps its permissions. On Windows a folder below the profile is its
    owner's by inheritance. Raises `OSError`.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    if sys.platform != "win32" and not any(folder.iterdir()):
        folder.chmod(0o700)
