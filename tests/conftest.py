"""Settings that hold for every test."""

from __future__ import annotations

import os
import tempfile

from hypothesis import HealthCheck, settings

# The tensors of tests are small: a second thread costs more than it brings, and two OpenMP runtimes
# (PyTorch's and bitsandbytes') would compete for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Nothing in a test may ask the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# What this person probed before is none of a test's business.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="so8t-tests-cache-")
os.environ["XDG_DATA_HOME"] = tempfile.mkdtemp(prefix="so8t-tests-data-")

# How long an example takes says more about the machine than about the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
