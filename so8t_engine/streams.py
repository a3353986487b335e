"""Standard output and error as Windows hands them over: missing, or in a code page that lacks α and −."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO


def is_utf8(stream: TextIO | None) -> bool:
    """Whether every letter can be written to ``stream`` as it is."""
    return (getattr(stream, "encoding", None) or "utf-8").lower().replace("_", "-") in {"utf-8", "utf8"}


def prepare(*, utf8: bool = False) -> None:
    """Let nothing that is written to standard output or error end the program.

    A program without a console (pythonw, ``so8t-gui.exe``) has neither: what is written goes nowhere. A file
    or pipe has the system's code page: what that lacks is written as ``\\u03b1``.

    Args:
        utf8: write UTF-8, whatever the system's code page is: this program reads it.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115  (as long as the process)
        elif isinstance(stream, io.TextIOWrapper) and not is_utf8(stream):
            stream.reconfigure(encoding="utf-8" if utf8 else None, errors="backslashreplace")
