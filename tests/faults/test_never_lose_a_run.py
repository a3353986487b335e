"""Short versions of the campaigns in this folder; each module's docstring has the command of the long one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def campaign(module: str, *arguments: str) -> dict[str, Any]:
    """Run a campaign in a process of its own (it forks) and return the counts that it printed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", f"tests.faults.{module}", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("{"))
    print(line)  # noqa: T201  (the counts belong into the test's report)
    counts: dict[str, Any] = json.loads(line[: line.rindex("}") + 1])
    return counts


pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the campaigns fork")


def test_killed_runs_are_continued_to_the_same_bits() -> None:
    counts = campaign("kill_runs", "--kills", "3")
    assert counts["kills"] >= 3
    assert counts["runs"] >= 1


def test_a_run_continued_from_its_step_boundaries_repeats_itself() -> None:
    counts = campaign("resume_everywhere", "--variants", "2", "--every", "5")
    assert counts["boundaries"] >= 3


def test_no_kill_loses_a_published_checkpoint() -> None:
    counts = campaign("kill_publish", "--kills", "12", "--stride", "15")
    assert counts["kills"] == 12
    assert counts["boundaries"] >= 12


def test_a_fault_at_any_call_ends_in_a_checkpoint_or_a_sentence() -> None:
    counts = campaign("fault_loop", "--stride", "31")
    assert min(counts["save faults"], counts["load faults"], counts["event faults"]) > 0
    assert counts["saved in spite of it"] > 0
    assert counts["told and not saved"] > 0


def test_damaged_files_are_refused_or_read_as_they_were() -> None:
    counts = campaign("mutations", "--count", "180")
    assert counts["refused with a sentence"] > 45
    assert counts["checkpoint"] == counts["event_log"] == 30
