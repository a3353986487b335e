"""The trainer is imported so that a stop is heard meanwhile."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import gc, sys
from so8t_engine.training.importing import import_trainer, load_torch_libraries
load_torch_libraries()
assert "torch" not in sys.modules
assert "libtorch_cpu.so" in open("/proc/self/maps").read()
run_training = import_trainer()
import torch
assert run_training.__name__ == "run_training" and torch.ones(2).sum() == 2
assert gc.isenabled() and gc.get_freeze_count() > 100_000
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_libraries_come_first_and_the_trainer_works() -> None:
    ended = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
