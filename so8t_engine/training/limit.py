"""PyTorch's allocator held below the run's memory limit."""

from __future__ import annotations

import torch


def cap_allocator(limit_gib: float) -> None:
    """Make PyTorch's allocator fail at the limit instead of letting the driver spill to system memory.

    The limit is for everything of this process on the card; its context and libraries, which the
    allocator does not see, are measured here and taken off.
    """
    free, total = torch.cuda.mem_get_info()
    outside = max(0, total - free - torch.cuda.memory_reserved())
    allowed = max(0.05, (limit_gib * 2**30 - min(outside, 1.2 * 2**30)) / total)
    if allowed < 1.0:
        torch.cuda.set_per_process_memory_fraction(allowed)
