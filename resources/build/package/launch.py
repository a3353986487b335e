"""The packaged program's only script: both executables and their child processes begin here.

``so8t-gui`` and ``so8t`` are the same file under two names. Children are started as ``sys.executable -m
so8t_engine.…``, which Python's own interpreter understands and a packaged program must be taught.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from pathlib import Path

OWN = ("so8t_engine.", "so8t_gui.")


def main() -> None:
    """Run a module of the program, the command line or the window."""
    multiprocessing.freeze_support()
    if sys.stdout is None or sys.stderr is None:  # a window on Windows has no console
        sink = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  (as long as the process)
        sys.stdout, sys.stderr = sys.stdout or sink, sys.stderr or sink
    if len(sys.argv) > 2 and sys.argv[1] == "-m" and sys.argv[2].startswith(OWN):
        module = sys.argv[2]
        del sys.argv[1:3]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    elif Path(sys.executable).stem.endswith("-gui"):
        from so8t_gui.entry import run

        run()
    else:
        from so8t_engine.entry import main as command_line

        command_line()


if __name__ == "__main__":
    main()
