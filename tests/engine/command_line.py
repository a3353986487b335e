"""``so8t`` in this process, which has imported everything: what a command says and does, without its start.

Each command is also run as a process of its own by at least one test; that costs seconds for importing torch.
"""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from so8t_engine import cli, i18n


def so8t_here(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line's ``main`` in ``cwd``, in English if nothing else is asked for."""
    words = ["so8t", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    before = i18n.language()
    status: object = 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", words)
        for name, value in ({"SO8T_LANG": "en"} | environment).items():
            patch.setenv(name, value)
        try:
            cli.main()
        except SystemExit as end:
            status = end.code or 0
        finally:
            i18n.set_language(before)
    assert isinstance(status, int), status
    return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())
