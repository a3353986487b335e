"""Command line of what comes after training: ``serve`` and ``audit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from so8t_engine.cli_options import errors, print_result
from so8t_engine.commands.chat_cli import chat

RunArgument = Annotated[Path, typer.Argument(help="a finished run's folder")]
LogArgument = Annotated[Path, typer.Argument(help="audit.sqlite, or the run folder that holds it")]
JsonOption = Annotated[bool, typer.Option("--json", help="one JSON object on standard output")]


def add_commands(app: typer.Typer) -> None:
    """Put the commands into the program's command line."""
    app.command()(serve)
    app.command()(chat)
    audit = typer.Typer(no_args_is_help=True, help="The audit log of so8t serve")
    audit.command("verify")(audit_verify)
    audit.command("export")(audit_export)
    audit.command("rotate")(audit_rotate)
    audit.command("prune")(audit_prune)
    app.add_typer(audit, name="audit")


def serve(
    run: RunArgument,
    host: Annotated[str, typer.Option(help="who may reach it; this computer alone by default")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8718,
    set_: Annotated[list[str] | None, typer.Option("--set", help="serving.x=value; may be repeated")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda instead of the run's")] = "",
) -> None:
    """Answer /think and OpenAI's chat API over HTTP; Ctrl+C ends it."""
    from so8t_engine.commands.serve import serve_run

    serve_run(run, host, port, set_ or [], device, errors)


def audit_verify(
    log: LogArgument,
    head: Annotated[str, typer.Option(help="number:MAC that an earlier verify printed")] = "",
    as_json: JsonOption = False,
) -> None:
    """Check every row, the chain, and its end against the anchor; names the first row that is wrong."""
    from so8t_engine.commands.serve import audit_verify as check

    text, result, valid = check(log, head)
    print_result(text, result, as_json)
    raise typer.Exit(0 if valid else 1)


def audit_export(
    log: LogArgument, out: Annotated[Path | None, typer.Option(help="a file; standard output without")] = None
) -> None:
    """The rows as JSON lines; hashes only, there are no texts in it."""
    from so8t_engine.commands.serve import audit_export as export

    export(log, out)


def audit_rotate(log: LogArgument, as_json: JsonOption = False) -> None:
    """A new key for the rows to come; older rows stay verifiable."""
    from so8t_engine.commands.serve import audit_rotate as rotate

    name = rotate(log)
    print_result(f"{name}\n", {"key": name}, as_json)


def audit_prune(
    log: LogArgument,
    days: Annotated[float, typer.Option(min=0.0, help="remove rows that are older")],
    as_json: JsonOption = False,
) -> None:
    """Remove old rows; the chain stays verifiable and says where it begins."""
    from so8t_engine.commands.serve import audit_prune as prune

    count = prune(log, days)
    print_result(f"{count}\n", {"removed": count}, as_json)
