"""``so8t runs continue`` and ``so8t autostart``: runs that no person ended go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from so8t_engine import autostart
from so8t_engine.commands.runs import check_runs_folder
from so8t_engine.commands.train import train_headless
from so8t_engine.errors import RunError
from so8t_engine.i18n import _
from so8t_engine.plain_text import visible
from so8t_engine.training.interrupted import Interrupted, find_interrupted


def _record(one: Interrupted) -> dict[str, Any]:
    return {
        "run": one.path.name,
        "path": str(one.path),
        "step": one.step,
        "of": one.of,
        "saved_step": one.saved_step,
        "lost_steps": one.lost_steps,
        "lost_seconds": one.lost_s,
        "continuable": one.continuable,
        "sentence": one.sentence(),
    }


def continue_runs(folder: Path, dry_run: bool, console: Console) -> tuple[int, dict[str, Any]]:
    """Continue the interrupted runs below ``folder``, one after the other, the newest first.

    A run that a person stops meanwhile ends the round.

    Returns:
        The exit status (that of the first run that failed) and the result for ``--json``.

    Raises:
        RunError: there is no such folder.
    """
    check_runs_folder(folder.expanduser())
    found = find_interrupted(folder.expanduser().absolute())
    records = [_record(one) for one in found]
    for one in found:
        console.print(visible(f"{one.path.name}: {one.sentence()}"))
    if not found:
        console.print(_("No run was interrupted."))
    status = 0
    for one, record in zip(found, records, strict=True):
        if dry_run or not one.continuable:
            continue
        results: list[dict[str, Any]] = []
        try:
            code = train_headless(Path("demo"), [], one.path, True, console, results.append)
        except RunError as error:  # another program took it up meanwhile
            console.print(f"{error.sentence} {error.mend}".strip())
            code = error.exit_code
        record["status"] = results[-1].get("status") if results else "failed"
        status = status or code
        if record["status"] == "stopped":
            break
    return status, {"runs": records}


def set_autostart(action: str, runs: Path) -> tuple[str, dict[str, Any]]:
    """``on``, ``off`` or ``status``. Raises `SO8TError`."""
    if action == "on":
        state = autostart.enable(runs)
    elif action == "off":
        state = autostart.disable()
    else:
        state = autostart.status()
    text = (
        _("Interrupted runs are continued at logon (%(where)s).")
        if state.enabled
        else _("Interrupted runs are not continued at logon.")
    )
    result = {"enabled": state.enabled, "where": state.where, "command": state.command}
    return text % {"where": state.where} + "\n", result
