"""OpenMP's waiting, set before torch is imported.

PyTorch and bitsandbytes bring an OpenMP runtime each. Threads that spin while they wait take the other's
cores, and those of anything else on the machine: on two busy cores a training step was measured three
times slower with spinning than without.
"""

from __future__ import annotations

import os


def wait_passively(environment: dict[str, str] | None = None) -> dict[str, str]:
    """Put ``OMP_WAIT_POLICY=PASSIVE`` into ``environment`` (by default this process's), unless it is set."""
    target = os.environ if environment is None else environment
    target.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return dict(target)
