"""``so8t`` without its start: importing torch and transformers takes eight seconds of processor time.

`so8t_here` runs a command in this process, `so8t_forked` in a process of its own that has everything already.
``train`` is also started as a person starts it, by several tests.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from so8t_engine import cli, i18n
from tests.faults.harness import fork, wait_for


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


def so8t_forked(
    *arguments: str | Path, cwd: Path, timeout: float = 300.0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line's ``main`` in ``cwd`` in a forked process."""
    if not hasattr(os, "fork"):
        return so8t_here(*arguments, cwd=cwd, **environment)
    words = ["so8t", *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        said = [Path(folder) / name for name in ("stdout", "stderr")]

        def work() -> int:
            for number, file in enumerate(said, 1):
                handle = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600)
                os.dup2(handle, number)
            # What pytest put in their place is shared with the parent.
            sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", encoding="utf-8") for number in (1, 2))
            os.chdir(cwd)
            os.environ |= {"SO8T_LANG": "en"} | environment
            sys.argv = words
            i18n.set_language(os.environ["SO8T_LANG"])
            try:
                cli.main()
            except SystemExit as end:
                return end.code if isinstance(end.code, int) else int(end.code is not None)
            return 0

        pid = fork(work)
        status = wait_for(pid, timeout)
        if status is None:
            os.killpg(pid, signal.SIGKILL)
            wait_for(pid)
        out, err = (file.read_text("utf-8") if file.exists() else "" for file in said)
    assert status is not None, f"{words} took too long: {err[-2000:]}"
    return subprocess.CompletedProcess(words, status, out, err)
