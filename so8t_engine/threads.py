"""What torch and the libraries on it find in the environment; set before they are imported.

OpenMP's waiting: PyTorch and bitsandbytes bring an OpenMP runtime each. Threads that spin while they wait
take the other's cores, and those of anything else on the machine: on two busy cores a training step was
measured three times slower with spinning than without.

No torch.compile: nothing here is compiled by it, but bitsandbytes wraps functions of its CPU path in it,
which imports all of torch's inductor: a fifth of the time until a trainer can begin.
"""

from __future__ import annotations

import os


def prepare_for_torch(environment: dict[str, str] | None = None) -> dict[str, str]:
    """Put these settings into ``environment`` (by default this process's), unless they are set."""
    target = os.environ if environment is None else environment
    target.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    target.setdefault("TORCHDYNAMO_DISABLE", "1")
    return dict(target)
