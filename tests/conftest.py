"""Settings that hold for every test."""

from __future__ import annotations

import os
import subprocess
import tempfile

import psutil
import pytest
from hypothesis import HealthCheck, settings

from tests import warm

# The tensors of tests are small: a second thread costs more than it brings, and two OpenMP runtimes
# (PyTorch's and bitsandbytes') would compete for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# bitsandbytes wraps functions of its CPU path in torch.compile, which imports all of torch's inductor in each
# process that loads it. CI's demonstration runs without this.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
# Processes that tests start would each compile the program anew where nothing compiled may be kept.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Nothing in a test may ask the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# What this person probed before is none of a test's business.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="so8t-tests-cache-")
os.environ["XDG_DATA_HOME"] = tempfile.mkdtemp(prefix="so8t-tests-data-")

# How long an example takes says more about the machine than about the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


#: Half a minute and more.
LONGEST = ("test_xvfb", "test_load", "test_cycles")


@pytest.fixture
def warm_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainers and commands that the test starts need not import torch again: see `tests.warm`."""
    if hasattr(os, "fork"):
        monkeypatch.setattr(subprocess, "Popen", warm.Popen)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests first: at the end one of two processes would wait for the other."""
    items.sort(key=lambda item: not any(name in item.nodeid for name in LONGEST))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the processes that a failed test left behind: a thread that follows one would hold up the exit."""
    if getattr(session.config.option, "numprocesses", None):
        return  # pytest-xdist's own process: its children are the workers, which do the same
    for child in psutil.Process().children(recursive=True):
        try:
            # The warm server ends with this process, and takes its socket's folder away.
            if child.pid != warm.server_pid() and "multiprocessing" not in " ".join(child.cmdline()):
                child.kill()
        except psutil.NoSuchProcess:
            continue
