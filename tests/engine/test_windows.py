"""What only Windows does to a program, played on any system."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from so8t_engine import files, processes, streams
from so8t_engine.commands import export
from so8t_engine.config.loading import validate_section
from so8t_engine.errors import RunError, SO8TError
from so8t_engine.pipeline.config import PipelineConfig
from so8t_engine.pipeline.journal import Journal
from so8t_engine.safe_paths import is_windows_name
from so8t_engine.training.lock import RunLock

GREEK = "α = −1 → φ"


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(subprocess, "CREATE_NO_WINDOW", 0x08000000, raising=False)
    monkeypatch.setattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0x00000200, raising=False)


def _page(name: str) -> tuple[io.BytesIO, io.TextIOWrapper]:
    raw = io.BytesIO()
    return raw, io.TextIOWrapper(raw, encoding=name, newline="\n")


def test_without_a_console_what_is_written_goes_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    streams.prepare()
    sys.stdout.write(GREEK)
    sys.stdout.flush()
    sys.stderr.write(GREEK)
    sys.stdout.close()
    sys.stderr.close()


@pytest.mark.parametrize("utf8", [False, True])
def test_a_code_page_that_lacks_a_letter_ends_nothing(monkeypatch: pytest.MonkeyPatch, utf8: bool) -> None:
    raw, stream = _page("cp1252")
    monkeypatch.setattr(sys, "stdout", stream)
    assert not streams.is_utf8(stream)
    streams.prepare(utf8=utf8)
    sys.stdout.write(GREEK)
    sys.stdout.flush()
    written = raw.getvalue()
    assert written == (GREEK.encode() if utf8 else b"\\u03b1 = \\u22121 \\u2192 \\u03c6")


def test_the_window_ends_well_without_a_console() -> None:
    code = (
        "import sys; sys.stdout = sys.stderr = None\n"
        "from so8t_gui import app, entry\n"
        "app.main = lambda **_kept: 0\n"
        "entry.run()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, env=os.environ | {"QT_QPA_PLATFORM": "offscreen"}
    )
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("words", "status"), [("estimate demo", 0), ("runs show none", 1), ("runs list none", 1)]
)
def test_japanese_comes_out_of_a_western_pipe(tmp_path: Path, words: str, status: int) -> None:
    """A pipe of Windows has the system's code page; JSON says the same in any."""

    def said(encoding: str, *more: str) -> bytes:
        done = subprocess.run(
            [sys.executable, "-m", "so8t_engine", *words.split(), *more],
            capture_output=True,
            check=False,
            cwd=tmp_path,
            env=os.environ | {"SO8T_LANG": "ja", "PYTHONIOENCODING": encoding},
        )
        assert done.returncode == status, done.stderr
        assert b"UnicodeEncodeError" not in done.stderr
        return done.stdout

    assert bool(said("cp1252")) == (status == 0)
    western, unicode = (json.loads(said(page, "--json").decode("utf-8")) for page in ("cp1252", "utf-8"))
    assert western.keys() == unicode.keys()
    assert western.get("error") == unicode.get("error")


def _in_use(times: int, real: Callable[..., object], tried: list[object]) -> Callable[..., object]:
    def refuse(*arguments: object, **how: object) -> object:
        tried.append(arguments)
        if len(tried) <= times:
            raise PermissionError(13, "The process cannot access the file", str(arguments[0]))
        return real(*arguments, **how)

    return refuse


@pytest.mark.parametrize("name", ["rename", "replace", "unlink"])
def test_what_is_in_use_for_a_moment_is_moved_the_moment_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(files, "MOVE_TRIES", 8)
    tried: list[object] = []
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("new", encoding="utf-8")
    monkeypatch.setattr(os, name, _in_use(3, getattr(os, name), tried))
    if name == "unlink":
        files.forget(source)
    elif name == "rename":
        assert files.move(source, target) == target
    else:
        target.write_text("old", encoding="utf-8")
        files.write_atomically(target, "new")
    assert len(tried) == 4
    assert name == "unlink" or target.read_text(encoding="utf-8") == "new"
    assert name == "replace" or not source.exists()
    monkeypatch.setattr(os, name, _in_use(99, getattr(os, name), []))
    monkeypatch.setattr(files, "MOVE_TRIES", 2)
    with pytest.raises(PermissionError):
        files.forget(target) if name == "unlink" else files.move(target, source, over=name == "replace")


@pytest.mark.usefixtures("windows")
def test_children_have_no_console_window() -> None:
    assert processes.apart() == {"creationflags": 0x08000200}
    assert processes.unseen() == {"creationflags": 0x08000000}


def test_a_closing_console_stops_a_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)
    ignored = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    with Journal(tmp_path, PipelineConfig()) as journal:
        assert not journal.stopping()
        signal.raise_signal(signal.SIGUSR1)
        assert journal.stopping()
        journal.end("stopped")
    assert signal.signal(signal.SIGUSR1, ignored) is signal.SIG_IGN


def test_a_strange_letter_of_another_program_is_no_fault_of_ours(tmp_path: Path) -> None:
    program = tmp_path / "llama-quantize"
    program.write_text("#!/bin/sh\nprintf 'bad \\201\\215 letters\\n' >&2\nexit 3\n", encoding="utf-8")
    program.chmod(0o755)
    with pytest.raises(SO8TError, match="letters"):
        export._quantise(str(program), tmp_path / "a", tmp_path / "b")


class _Locking:
    """As msvcrt: a byte that another handle holds is refused with EACCES."""

    LK_NBLCK, LK_UNLCK = 2, 0

    def __init__(self) -> None:
        self.holder: int | None = None
        self.asked: list[int] = []

    def locking(self, handle: int, mode: int, size: int) -> None:
        assert size == 1
        assert os.lseek(handle, 0, os.SEEK_CUR) == 1 << 30, "beside the text, which others may read"
        self.asked.append(mode)
        if mode == self.LK_UNLCK:
            self.holder = None
        elif self.holder is not None:
            raise PermissionError(13, "Permission denied")
        else:
            self.holder = handle


@pytest.mark.usefixtures("windows")
def test_a_run_is_locked_and_given_back_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = _Locking()
    monkeypatch.setitem(sys.modules, "msvcrt", fake)
    first = RunLock(tmp_path / "run.lock")
    with pytest.raises(RunError, match=str(os.getpid())):
        RunLock(tmp_path / "run.lock")
    first.release()
    assert fake.asked == [2, 2, 0]
    with RunLock(tmp_path / "run.lock"):
        assert fake.holder is not None
    assert fake.holder is None


@pytest.mark.parametrize("possible", [True, False])
@pytest.mark.parametrize("pair", ["pipeline con", "console Nul.txt", "v1.2 COM1", "x-1 v1.", "a lpt9.x"])
def test_a_pipeline_has_a_name_that_windows_has_a_folder_for(
    pair: str, possible: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = pair.split()[not possible]
    assert is_windows_name(name) == possible
    assert PipelineConfig(name=name).name == name, "elsewhere any will do"
    monkeypatch.setattr(sys, "platform", "win32")
    found = validate_section(PipelineConfig, {"name": name})
    if possible:
        assert isinstance(found, PipelineConfig)
    else:
        assert [problem.path for problem in found] == ["name"]  # type: ignore[union-attr]
