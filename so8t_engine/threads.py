"""Who waits for whom on the processors: OpenMP's waiting, set before torch is imported, and priorities.

PyTorch and bitsandbytes bring an OpenMP runtime each. Threads that spin while they wait take the other's
cores, and those of anything else on the machine: on two busy cores a training step was measured three
times slower with spinning than without.
"""

from __future__ import annotations

import contextlib
import os


def wait_passively(environment: dict[str, str] | None = None) -> dict[str, str]:
    """Put ``OMP_WAIT_POLICY=PASSIVE`` into ``environment`` (by default this process's), unless it is set."""
    target = os.environ if environment is None else environment
    target.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return dict(target)


def give_way(steps: int = 5) -> None:
    """Let other programs come first where processors are short; threads started later do the same.

    Args:
        steps: of 19; on Windows there is one step below the usual.
    """
    import psutil  # not at start-up

    low = getattr(psutil, "BELOW_NORMAL_PRIORITY_CLASS", steps)
    with contextlib.suppress(psutil.Error, OSError):
        psutil.Process().nice(low)
