"""One trainer a run: who holds the lock is named, and a dead holder's lock is taken over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from so8t_engine.commands.train import train_headless
from so8t_engine.config import Config
from so8t_engine.errors import RunError
from so8t_engine.training.control import RunControl
from so8t_engine.training.lock import STALE_S, Owner, RunLock, check_free
from so8t_engine.training.process import ProcessMark
from so8t_engine.training.run import run_training
from so8t_engine.training.run_directory import RunDirectory

ROOT = Path(__file__).parents[3]
HOLD = """
import sys, time
from pathlib import Path
from so8t_engine.training.lock import RunLock
lock = RunLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def _holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_and_told_who_holds_the_run(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    run = RunDirectory.create(tiny_config(), tmp_path / "run")
    holder = _holder(run.lock)
    before = {path: path.read_bytes() for path in (run.events, run.config_file)}
    try:
        with pytest.raises(RunError, match=f"Process {holder.pid} on .* has been training") as caught:
            run_training(run, handle_signals=False)
        assert "Open the run" in caught.value.mend
        with pytest.raises(RunError, match=str(holder.pid)):
            check_free(run.lock)
        assert {path: path.read_bytes() for path in before} == before
        assert not run.process.exists()
        # Whoever watches the run knows its trainer by this file: `so8t train --resume` leaves it alone, too.
        run.process.write_text("{}")
        with pytest.raises(RunError, match=str(holder.pid)):
            train_headless(Path(), (), run.path, resume=True, console=Console(quiet=True))
        assert run.process.read_text() == "{}"
    finally:
        holder.kill()
        holder.wait()
    check_free(run.lock)  # the system dropped it with its holder


def test_of_many_that_take_over_a_dead_holders_lock_one_gets_it(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    holder = _holder(path)
    os.kill(holder.pid, signal.SIGKILL) if os.name == "posix" else holder.kill()
    holder.wait()
    assert json.loads(path.read_text())["pid"] == holder.pid, "its name still stands there"
    contenders = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _each in range(6)
    ]
    try:
        deadline = time.monotonic() + 60
        while sum(c.poll() is not None for c in contenders) < 5 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert [c.poll() for c in contenders].count(None) == 1
    finally:
        for contender in contenders:
            contender.kill()
            contender.wait()


def test_two_controls_in_one_process_do_not_write_one_run(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    run = RunDirectory.create(tiny_config(), tmp_path / "run")
    control = RunControl(run)
    try:
        with pytest.raises(RunError, match="has been training"):
            RunControl(run)
    finally:
        control.close()
    RunControl(run).close()


@pytest.mark.parametrize(("age_s", "free"), [(0.0, False), (STALE_S * 2, True)])
def test_another_computers_lock_counts_while_it_is_touched(tmp_path: Path, age_s: float, free: bool) -> None:
    path = tmp_path / "run.lock"
    record = {"pid": 1, "created": 1.0, "host": "elsewhere", "since": time.time()}
    path.write_text(json.dumps(record))
    beaten = time.time() - age_s
    os.utime(path, (beaten, beaten))
    if free:
        RunLock(path).release()
    else:
        with pytest.raises(RunError, match="on elsewhere"):
            RunLock(path)
        assert abs(path.stat().st_mtime - beaten) < 1, "looking is no sign of life"


def test_a_reused_process_number_is_no_owner(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    here = Owner.here()
    mark = ProcessMark.of(os.getppid())
    record = {"pid": mark.pid, "created": mark.created - 1000, "host": here.host, "since": 0}
    path.write_text(json.dumps(record))
    RunLock(path).release()
    path.write_text("not JSON")
    RunLock(path).release()
