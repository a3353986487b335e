"""How other programs are started, so that they behave the same on every system."""

from __future__ import annotations

import subprocess
import sys
from typing import Any


def apart() -> dict[str, Any]:
    """Keywords of `subprocess.Popen` for a child that outlives this program's terminal.

    Ctrl+C there does not reach it. On Windows it has no console, which would stand there as a window, and
    whose closing would end it.
    """
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def unseen() -> dict[str, Any]:
    """Keywords of `subprocess.run` for a small program: on Windows no console flashes up beside a window."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NO_WINDOW}
    return {}
