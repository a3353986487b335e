"""Telling a person that a pipeline is over when no window is left to do it: by the system's own means."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from so8t_engine.i18n import _
from so8t_engine.processes import unseen

log = logging.getLogger(__name__)
#: In the pipeline's folder: put there by a window that closes, taken away by one that attaches.
ASKED = "tell-when-over"
_LIMIT_S = 30.0
_BALLOON = (
    "Add-Type -AssemblyName System.Windows.Forms,System.Drawing;"
    "$n=New-Object System.Windows.Forms.NotifyIcon;$n.Icon=[System.Drawing.SystemIcons]::Information;"
    "$n.Visible=$true;$n.ShowBalloonTip(15000,$env:SO8T_TITLE,$env:SO8T_TEXT,'Info');"
    "Start-Sleep 15;$n.Dispose()"
)


def ask(work: Path) -> None:
    """Have the end of the pipeline in ``work`` told by its own process."""
    try:
        (work / ASKED).touch()
    except OSError as error:
        log.info("the end of %s will not be told: %s", work, error)


def take_over(work: Path) -> bool:
    """Whether that was asked for; from now on it is not."""
    try:
        (work / ASKED).unlink()
    except OSError:
        return False
    return True


def sentence(status: str | None) -> str:
    """How a pipeline ended, for a person."""
    texts = {
        "finished": _("The pipeline has finished."),
        "stopped": _("The pipeline was stopped."),
        "failed": _("The pipeline failed."),
    }
    return texts.get(status or "", _("The pipeline's process ended without a word."))


def tell(status: str | None) -> bool:
    """A notification of the system, without a window; False where it has no means for one."""
    title, text = _("SO8T Control Panel"), sentence(status)
    command, more = _command(title, text)
    if shutil.which(command[0]) is None:
        log.info("no means of telling that the pipeline is over: %s is missing", command[0])
        return False
    try:
        done = subprocess.run(
            command, env=os.environ | more, capture_output=True, timeout=_LIMIT_S, check=False,
            stdin=subprocess.DEVNULL, **unseen(),
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        log.info("telling that the pipeline is over failed: %s", error)
        return False
    return done.returncode == 0


def _command(title: str, text: str) -> tuple[list[str], Mapping[str, str]]:
    if sys.platform == "win32":
        return ["powershell", "-NoProfile", "-Command", _BALLOON], {"SO8T_TITLE": title, "SO8T_TEXT": text}
    if sys.platform == "darwin":
        script = [
            "on run argv",
            "display notification (item 2 of argv) with title (item 1 of argv)",
            "end run",
        ]
        return ["osascript", *(part for line in script for part in ("-e", line)), title, text], {}
    return ["notify-send", "--app-name=SO8T", "--", title, text], {}
