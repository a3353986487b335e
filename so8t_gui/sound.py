"""A short sound of the system's own: it asks for no library and brings no file along."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from PySide6.QtWidgets import QApplication

SOUNDS = Path("/usr/share/sounds/freedesktop/stereo")


def linux_player(*, bad: bool) -> list[str] | None:
    """The command that plays the desktop's sound for good or bad news; None where there is none."""
    if (player := shutil.which("canberra-gtk-play")) is not None:
        return [player, "-i", "dialog-error" if bad else "complete"]
    file = SOUNDS / ("dialog-error.oga" if bad else "complete.oga")
    for name in ("pw-play", "paplay"):
        if (player := shutil.which(name)) is not None and file.is_file():
            return [player, str(file)]
    return None


def play(*, bad: bool) -> None:
    """Play it and return at once; where the system has no player, its bell."""
    if sys.platform == "win32":
        import winsound

        winsound.MessageBeep(winsound.MB_ICONHAND if bad else winsound.MB_OK)
        return
    command = linux_player(bad=bad) if sys.platform == "linux" else None
    if command is None:
        QApplication.beep()
        return
    quiet = subprocess.DEVNULL
    try:
        # Its end is not waited for; the next call reaps it.
        subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
    except OSError:
        QApplication.beep()
