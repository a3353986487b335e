"""The nine everyday tasks by clicks and keys only on a real window under Xvfb, with their steps counted.

``python tests/gui/everyday_tasks.py`` takes some minutes: three of the tasks train a small model. The list
beside other programs' documented ways is in ``resources/guide``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

TASKS = {
    "test_train_the_preset": "train the preset",
    "test_change_the_sequence_length_and_see_the_budget": "change sequence length and see the budget",
    "test_stop_save_and_resume": "stop, save and resume",
    "test_compare_two_runs": "compare two runs",
    "test_export_a_chart": "export a chart",
    "test_correct_ten_labels": "correct ten labels",
    "test_switch_language_and_theme": "switch language and theme",
    "test_find_the_highest_commutator_block": "find the highest-commutator block",
    "test_upload_privately": "upload privately",
}
FILES = ("test_tasks.py", "test_tasks_training.py")


def run() -> tuple[int, dict[str, int], str]:
    """Do the tasks; pytest's exit status, the steps of each test that passed, and all it printed."""
    here = Path(__file__).parent
    screen = ["xvfb-run", "-a", "-s", "-screen 0 1440x900x24"]
    pytest = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*screen, *pytest, *(str(here / name) for name in FILES)],
        env=os.environ | {"QT_QPA_PLATFORM": "xcb"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    steps = {name: int(count) for name, count in re.findall(r"(test_\w+): (\d+) steps", done.stdout)}
    return done.returncode, steps, done.stdout


def main() -> int:
    status, steps, said = run()
    for test, task in TASKS.items():
        sys.stdout.write(f"{steps.get(test, 'not done')!s:>8}  {task}\n")
    if status or not steps.keys() >= TASKS.keys():
        sys.stdout.write(said[-4000:])
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
