"""Command line of ``so8t chat``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from so8t_engine.cli_options import JsonOption, RunArgument, errors, print_json


def chat(
    run: RunArgument,
    once: Annotated[str | None, typer.Option(help="ask this, answer, and end")] = None,
    base: Annotated[bool, typer.Option("--base", help="the base model answers too")] = False,
    adapter: Annotated[bool, typer.Option(help="with LoRA")] = True,
    g: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="of the gate; as trained")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=8192)] = 128,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="0: the likeliest token")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.01, max=1.0)] = 1.0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda instead of the run's")] = "",
    as_json: JsonOption = False,
) -> None:
    """Talk to a run in the terminal: heads, decision and answer; the thinking is not shown."""
    if as_json and once is None:
        raise typer.BadParameter("needs --once", param_hint="--json")
    from so8t_engine.commands.chat import answer, converse, load

    model = load(run, device, errors)
    from so8t_engine.serving.chat import ChatSettings

    settings = ChatSettings(adapter, g, max_new_tokens, temperature, top_p, seed)
    if once is None:
        converse(model, settings, base=base, console=errors)
        return

    def say(text: str) -> None:
        if not as_json:
            sys.stdout.write(text)
            sys.stdout.flush()

    found = answer(model, once, settings, base=base, say=say, tell=errors.print)
    if as_json:
        print_json({"run": str(run), **found})
    raise typer.Exit(1 if found["cancelled"] else 0)
