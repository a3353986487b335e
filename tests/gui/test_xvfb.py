"""The clicking test once more on a real X screen, where the platform plugin and the fonts differ."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import warm


def missing() -> str:
    """Why there is no X screen to click on; empty where there is one."""
    if shutil.which("xvfb-run") is None:
        return "xvfb-run is not installed"
    probe = "from PySide6.QtWidgets import QApplication; QApplication([])"
    done = subprocess.run(
        ["xvfb-run", "-a", sys.executable, "-c", probe],
        env=os.environ | {"QT_QPA_PLATFORM": "xcb"},
        capture_output=True,
        timeout=120,
        check=False,
    )
    return "" if done.returncode == 0 else "Qt's xcb plugin lacks a system library (libxcb-*)"


#: Target → how many of its tests must pass. In one process: they share its start and the tiny model.
TARGETS = {
    "test_real_run.py::test_a_run_is_steered_by_clicking": 1,
    "test_tasks.py": 6,
    "test_tasks_training.py::test_stop_save_and_resume": 1,
    "test_tasks_training.py::test_correct_ten_labels": 1,
}


@pytest.mark.slow
@pytest.mark.xvfb
@pytest.mark.timeout(600)
def test_clicking_on_a_real_screen() -> None:
    """A run steered by clicking, and the everyday tasks; their steps are printed."""
    if reason := missing():
        pytest.skip(reason)
    # For the tasks that train; test_a_run_is_steered_by_clicking starts a trainer as always.
    warm.address()
    command = ["xvfb-run", "-a", "-s", "-screen 0 1440x900x24", sys.executable, "-m", "pytest", "-q", "-s"]
    done = subprocess.run(
        [*command, *(str(Path(__file__).parent / target) for target in TARGETS)],
        env=os.environ | {"QT_QPA_PLATFORM": "xcb"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert f"{sum(TARGETS.values())} passed" in done.stdout
    sys.stdout.write("\n".join(line for line in done.stdout.splitlines() if line.endswith(" steps")))
