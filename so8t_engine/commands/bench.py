"""``so8t bench``: the window measures itself in its own processes; the engine only starts it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from so8t_engine.errors import SO8TError
from so8t_engine.i18n import _


def bench_window(arguments: list[str]) -> tuple[int, str, dict[str, Any]]:
    """Exit status, text and figures. Raises `SO8TError` where nothing could be measured."""
    command = [sys.executable, "-m", "so8t_gui.benchmark", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    try:
        result: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        raise SO8TError(
            _("The window could not be measured."), _("Standard error says why; is the window installed?")
        ) from error
    lines = [f"{name}: {value}" for name, value in result.items()]
    return done.returncode, "\n".join(lines) + "\n", result
