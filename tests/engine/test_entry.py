"""The quick way to ``so8t estimate`` says what the command line proper says, and leaves the rest to it."""

from __future__ import annotations

import errno
import io
import subprocess
import sys
from pathlib import Path

import pytest

from so8t_engine import cli
from so8t_engine.cli_options import PatientConsole
from so8t_engine.commands.train import _Summary
from so8t_engine.entry import _plain_estimate, main
from so8t_engine.training.events import EndEvent


def _run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False
    )


def test_both_ways_print_the_same() -> None:
    # Offloaded, the system memory that is free would be said, which is another a moment later.
    overrides = ("--set", "data.max_length=4096", "--set", "memory.offload_activations=false")
    arguments = ("estimate", "phi35_8gb", *overrides, "--json")
    quick, whole = (_run(module, *arguments) for module in ("so8t_engine.entry", "so8t_engine.cli"))
    assert (quick.returncode, whole.returncode) == (0, 0)
    assert quick.stdout == whole.stdout
    assert not quick.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (("estimate", "--help"), 0, "--set"),
        (("estimate",), 2, "config"),
        (("estimate", "no-such-preset"), 2, "no-such-preset"),
        (("estimate", "demo", "--set", "memory.nothing=1"), 2, "memory.nothing"),
        (("--help",), 0, "estimate"),
    ],
)
def test_everything_else_is_told_by_the_command_line_proper(
    arguments: tuple[str, ...], status: int, word: str
) -> None:
    ended = _run("so8t_engine.entry", *arguments)
    assert ended.returncode == status
    assert word in ended.stdout + ended.stderr


def test_the_quick_way_imports_neither_typer_nor_torch() -> None:
    code = (
        "import os, sys\n"
        "def leave(status):\n"
        "    heavy = {'typer', 'torch', 'transformers', 'numpy', 'rich'} & set(sys.modules)\n"
        "    sys.exit(','.join(sorted(heavy)) or status)\n"
        "os._exit = leave\n"
        "sys.argv = ['so8t', 'estimate', 'phi35_8gb', '--json']\n"
        "from so8t_engine.entry import main\n"
        "main()\n"
        "sys.exit('the whole command line answered')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_words_are_told_apart() -> None:
    assert _plain_estimate(["estimate", "a.yaml", "--set=x=1", "--set", "y=2", "--json"]) == (
        Path("a.yaml"),
        ["x=1", "y=2"],
        True,
    )
    for other in (["fit", "a"], ["estimate", "a", "b"], ["estimate", "a", "--set"], ["estimate", "--x", "a"]):
        assert _plain_estimate(other) is None


def test_ctrl_c_while_the_command_line_is_imported_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main", interrupted)
    monkeypatch.setattr(sys, "argv", ["so8t", "doctor"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130


def test_a_terminal_that_is_gone_ends_nothing() -> None:
    """Of a run whose ``tee`` or terminal had ended, rich ended the program."""

    class Gone(io.StringIO):
        def write(self, _text: str) -> int:
            raise failures.pop()

    failures = [BrokenPipeError(errno.EPIPE, "gone"), OSError(errno.EIO, "gone")]
    while failures:
        console = PatientConsole(file=Gone(), markup=False)
        console.print("1/3  loss 1.0")
        assert console.quiet


def test_a_run_resumed_after_its_last_step_reports_that_step() -> None:
    seen = _Summary(PatientConsole(quiet=True))
    seen.take(EndEvent(status="finished", step=7, seconds=1.0))
    assert seen.result()["step"] == 7
