"""What the commands of ``so8t`` share: arguments, and how a result is printed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from so8t_engine.streams import is_utf8


class PatientConsole(Console):
    """Goes quiet where nobody can see it any more: the terminal or the program behind the pipe is gone.

    What takes hours must not end for that.
    """

    def print(self, *objects: Any, **how: Any) -> None:  # noqa: ANN401
        try:
            super().print(*objects, **how)
        except OSError:
            self.quiet = True

    def on_broken_pipe(self) -> None:
        """rich would end the program, and close standard output with it."""
        self.quiet = True


#: Everything that is not the result goes here.
errors = PatientConsole(stderr=True, highlight=False, markup=False, soft_wrap=True)

ConfigArgument = Annotated[Path, typer.Argument(help="YAML file, or the name of a preset such as demo")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="a.b=value; may be repeated")]
JsonOption = Annotated[bool, typer.Option("--json", help="one JSON object on standard output")]
RunArgument = Annotated[Path, typer.Argument(help="a finished run's folder")]


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on standard output, and nothing else there."""
    # In another code page letters are escaped: whoever reads it gets the same.
    sys.stdout.write(json.dumps(value, ensure_ascii=not is_utf8(sys.stdout)) + "\n")
    sys.stdout.flush()


def print_result(text: str, result: dict[str, Any], as_json: bool) -> None:
    """The report for a person, or the same for a program."""
    if as_json:
        print_json(result)
    else:
        sys.stdout.write(text)
        sys.stdout.flush()
