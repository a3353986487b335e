"""Short versions of the campaigns in this folder; each module's docstring has the command of the long one."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import fork, wait_for


def campaign(folder: Path, module: str, *arguments: str) -> dict[str, Any]:
    """Run a campaign in a forked process, which need not import torch again; the counts that it printed."""
    log = folder / "log.txt"

    def work() -> int:
        # What pytest put in their place is shared with the parent.
        sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", encoding="utf-8") for number in (1, 2))
        sys.argv = [module, *arguments]
        return int(importlib.import_module(f"tests.faults.{module}").main())

    pid = fork(work, log)
    status = wait_for(pid, 500)
    if status is None:
        os.killpg(pid, signal.SIGKILL)
        wait_for(pid)
    said = log.read_text("utf-8")
    assert status == 0, said[-6000:]
    line = next(line for line in said.splitlines() if line.startswith('{"harness"'))
    print(line)  # noqa: T201  (the counts belong into the test's report)
    counts: dict[str, Any] = json.loads(line[: line.rindex("}") + 1])
    return counts


pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the campaigns fork")


def test_killed_runs_are_continued_to_the_same_bits(tmp_path: Path) -> None:
    counts = campaign(tmp_path, "kill_runs", "--kills", "3")
    assert counts["kills"] >= 3
    assert counts["runs"] >= 1


def test_a_run_continued_from_its_step_boundaries_repeats_itself(tmp_path: Path) -> None:
    counts = campaign(tmp_path, "resume_everywhere", "--variants", "2", "--every", "5")
    assert counts["boundaries"] >= 3


def test_no_kill_loses_a_published_checkpoint(tmp_path: Path) -> None:
    counts = campaign(tmp_path, "kill_publish", "--kills", "10", "--stride", "21")
    assert counts["kills"] == 10
    assert counts["boundaries"] >= 8


def test_a_fault_at_any_call_ends_in_a_checkpoint_or_a_sentence(tmp_path: Path) -> None:
    counts = campaign(tmp_path, "fault_loop", "--stride", "31")
    assert min(counts["save faults"], counts["load faults"], counts["event faults"]) > 0
    assert counts["saved in spite of it"] > 0
    assert counts["told and not saved"] > 0


def test_damaged_files_are_refused_or_read_as_they_were(tmp_path: Path) -> None:
    counts = campaign(tmp_path, "mutations", "--count", "120")
    assert counts["refused with a sentence"] > 30
    assert counts["checkpoint"] == counts["event_log"] == 20
