"""Command line of the queue, ``so8t queue …``, and ``so8t desktop``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from so8t_engine.cli_options import ConfigArgument, JsonOption, SetOption, errors, print_json, print_result
from so8t_engine.history.queue import OnFailure


class Switch(StrEnum):
    """Whether something is to be there."""

    ON = "on"
    OFF = "off"


queue = typer.Typer(no_args_is_help=True, help="Runs that wait for their turn")
FolderOption = Annotated[Path, typer.Option("--runs", help="the runs folder")]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="as so8t queue list prints it")]


@queue.command("list")
def queue_list(runs: FolderOption = Path("runs"), as_json: JsonOption = False) -> None:
    """What waits, the next run first."""
    from so8t_engine.commands.queue import list_queue

    print_result(*list_queue(runs), as_json)


@queue.command("add")
def queue_add(
    config: ConfigArgument,
    set_: SetOption = None,
    runs: Annotated[Path | None, typer.Option("--runs", help="instead of the configuration's folder")] = None,
    as_json: JsonOption = False,
) -> None:
    """Append a run; its settings and rows are checked now."""
    from so8t_engine.commands.queue import add_to_queue

    result = add_to_queue(config, set_ or [], runs)
    print_result(f"{result['place']}. {result['id']}  {result['name']}\n", result, as_json)


@queue.command("move")
def queue_move(
    id_: IdArgument,
    place: Annotated[int, typer.Argument(min=1, help="1 is the next run")],
    runs: FolderOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Put a run at another place."""
    from so8t_engine.commands.queue import change_queue

    print_result(*change_queue(runs, id_, place), as_json)


@queue.command("remove")
def queue_remove(id_: IdArgument, runs: FolderOption = Path("runs"), as_json: JsonOption = False) -> None:
    """Take a run out of the queue."""
    from so8t_engine.commands.queue import change_queue

    print_result(*change_queue(runs, id_, None), as_json)


@queue.command("run")
def queue_run(
    runs: FolderOption = Path("runs"),
    after: Annotated[Path | None, typer.Option(help="wait for the end of this run first")] = None,
    on_failure: Annotated[OnFailure | None, typer.Option(help="from now on; hold without a choice")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train what waits, one run after the other. Ctrl+C stops and saves the present one and ends."""
    from so8t_engine.commands.queue import run_queue

    result = run_queue(runs, after, on_failure, lambda line: errors.print(line))
    if as_json:
        print_json(result)
    failed = any(run["state"] != "finished" for run in result["runs"])
    raise typer.Exit(1 if failed else 0)


def desktop(
    choice: Annotated[Switch, typer.Argument(help="on or off")],
    as_json: JsonOption = False,
) -> None:
    """Put the window into the desktop's menu, or take it out (Linux)."""
    from so8t_engine.desktop import set_desktop_entry

    files = [str(path) for path in set_desktop_entry(choice is Switch.ON)]
    print_result("\n".join(files) + "\n", {"desktop": str(choice), "files": files}, as_json)
