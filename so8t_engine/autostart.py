"""Continuing interrupted runs when a person logs on: a systemd user unit, or a task of Windows' scheduler.

Off unless asked for, for this person only, and removed without a trace by `disable`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from so8t_engine.errors import SO8TError
from so8t_engine.i18n import _
from so8t_engine.processes import unseen

UNIT = "so8t-continue.service"
TASK = "SO8T Control Panel - continue runs"
#: What Windows' own programs write in.
_CONSOLE = "oem" if sys.platform == "win32" else None
_TASK_SCHEMA = "http://schemas.microsoft.com/windows/2004/02/mit/task"


@dataclass(frozen=True, slots=True)
class Autostart:
    """Whether runs are continued at logon. ``where``: the unit's file or the task's name."""

    enabled: bool
    where: str
    command: str = ""


def command_line(runs: Path) -> list[str]:
    """What is run at logon."""
    return [sys.executable, "-m", "so8t_engine.cli", "runs", "continue", str(runs.expanduser().absolute())]


def status() -> Autostart:
    """The present setting. Raises `SO8TError` on a system that has neither scheduler."""
    if sys.platform == "win32":
        done = _schtasks("/Query", "/TN", TASK)
        return Autostart(done.returncode == 0, TASK)
    unit = _unit_file()
    if not unit.is_file():
        return Autostart(False, str(unit))
    lines = unit.read_text(encoding="utf-8").splitlines()
    command = next((line.removeprefix("ExecStart=") for line in lines if line.startswith("ExecStart=")), "")
    return Autostart(_wanted_link().is_symlink(), str(unit), command)


def enable(runs: Path) -> Autostart:
    """Continue interrupted runs below ``runs`` at each logon. Raises `SO8TError`."""
    if sys.platform == "win32":
        _enable_task(runs)
        return status()
    unit, link = _unit_file(), _wanted_link()
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        unit.write_text(unit_text(runs), encoding="utf-8")
        link.unlink(missing_ok=True)
        link.symlink_to(Path("..") / UNIT)
    except OSError as error:
        raise SO8TError(
            _("%(path)s cannot be written: %(reason)s.")
            % {"path": str(unit), "reason": error.strerror or str(error)},
            _("Check the folder and its permissions."),
        ) from error
    _reload()
    return status()


def disable() -> Autostart:
    """Undo `enable`; does nothing where it was not done. Raises `SO8TError`."""
    if sys.platform == "win32":
        if status().enabled:
            _must(_schtasks("/Delete", "/TN", TASK, "/F"))
        return status()
    try:
        _wanted_link().unlink(missing_ok=True)
        _unit_file().unlink(missing_ok=True)
    except OSError as error:
        raise SO8TError(
            _("%(path)s cannot be removed: %(reason)s.")
            % {"path": str(_unit_file()), "reason": error.strerror or str(error)},
            _("Check the folder and its permissions."),
        ) from error
    _reload()
    return status()


# Linux


def _unit_file() -> Path:
    if not sys.platform.startswith("linux"):
        raise SO8TError(
            _("On this system nothing can be started at logon by this program."),
            _("Run 'so8t runs continue' yourself after the start."),
        )
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return home / "systemd" / "user" / UNIT


def _wanted_link() -> Path:
    return _unit_file().parent / "default.target.wants" / UNIT


def _quoted(argument: str) -> str:
    """As systemd reads it inside double quotes: no specifiers, variables or escapes."""
    if any(ord(sign) < 32 for sign in argument):
        raise SO8TError(
            _("A path with control characters cannot be started at logon: %(path)r.") % {"path": argument},
            _("Rename the folder."),
        )
    escaped = argument.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def unit_text(runs: Path) -> str:
    """The unit. A logout ends it by SIGTERM, on which the trainer saves and stops."""
    folder = str(Path.cwd()).replace("%", "%%")
    return "\n".join(
        [
            "[Unit]",
            "Description=SO8T Control Panel: continue interrupted training runs",
            "",
            "[Service]",
            "Type=exec",
            f"ExecStart={' '.join(_quoted(part) for part in command_line(runs))}",
            f"WorkingDirectory={folder}",
            "UMask=0077",
            "TimeoutStopSec=180",
            "",
            "[Install]",
            "WantedBy=default.target",
            "",
        ]
    )


def _reload() -> None:
    """Have a running systemd read the folder again; without one the next logon does."""
    if shutil.which("systemctl") is not None:
        subprocess.run(["systemctl", "--user", "daemon-reload"], check=False, capture_output=True, timeout=20)


# Windows


def task_xml(runs: Path, user: str) -> str:
    """The task: at this person's logon, on battery too, without a time limit, one at a time."""
    ElementTree.register_namespace("", _TASK_SCHEMA)

    def add(parent: ElementTree.Element, name: str, text: str = "") -> ElementTree.Element:
        element = ElementTree.SubElement(parent, f"{{{_TASK_SCHEMA}}}{name}")
        element.text = text or None
        return element

    task = ElementTree.Element(f"{{{_TASK_SCHEMA}}}Task", version="1.2")
    description = "SO8T Control Panel: continue interrupted training runs"
    add(add(task, "RegistrationInfo"), "Description", description)
    trigger = add(add(task, "Triggers"), "LogonTrigger")
    add(trigger, "Enabled", "true")
    add(trigger, "UserId", user)
    principal = add(add(task, "Principals"), "Principal")
    principal.set("id", "Author")
    add(principal, "UserId", user)
    add(principal, "LogonType", "InteractiveToken")
    add(principal, "RunLevel", "LeastPrivilege")
    settings = add(task, "Settings")
    for name, value in (
        ("MultipleInstancesPolicy", "IgnoreNew"),
        ("DisallowStartIfOnBatteries", "false"),
        ("StopIfGoingOnBatteries", "false"),
        ("ExecutionTimeLimit", "PT0S"),
    ):
        add(settings, name, value)
    actions = add(task, "Actions")
    actions.set("Context", "Author")
    action = add(actions, "Exec")
    program, *arguments = command_line(runs)
    windowless = Path(program).with_name("pythonw.exe")
    add(action, "Command", str(windowless) if windowless.exists() else program)
    add(action, "Arguments", subprocess.list2cmdline(arguments))
    add(action, "WorkingDirectory", str(Path.cwd()))
    return ElementTree.tostring(task, encoding="unicode")


def _schtasks(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["schtasks", *arguments], check=False, capture_output=True, text=True,
        encoding=_CONSOLE, errors="replace", timeout=60, **unseen(),
    )  # fmt: skip


def _enable_task(runs: Path) -> None:
    user = f"{os.environ.get('USERDOMAIN', '')}\\{os.environ.get('USERNAME', '')}".lstrip("\\")
    with tempfile.TemporaryDirectory(prefix="so8t-") as folder:
        file = Path(folder) / "task.xml"
        file.write_text('<?xml version="1.0" encoding="UTF-16"?>\n' + task_xml(runs, user), encoding="utf-16")
        _must(_schtasks("/Create", "/TN", TASK, "/XML", str(file), "/F"))


def _must(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise SO8TError(
            _("Windows' task scheduler refused: %(reason)s")
            % {"reason": lines[-1] if lines else done.returncode},
            _("Open the task scheduler and look whether tasks may be made."),
        )
