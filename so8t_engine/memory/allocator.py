"""Settings of the allocators: PyTorch's must stand before it is first used. Imports no torch."""

from __future__ import annotations

import ctypes
import os
import sys

_NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


def prefer_expandable_segments() -> bool:
    """Let the allocator's segments grow instead of adding new ones: what is reserved stays near what is used.

    Without effect where a person has set the allocator's variables, and on Windows, whose driver interface
    PyTorch does not use for it.

    Returns:
        Whether segments will be expandable.
    """
    given = next((os.environ[name] for name in _NAMES if os.environ.get(name)), None)
    if given is not None:
        return "expandable_segments:True" in given
    if sys.platform == "win32":
        return False
    os.environ[_NAMES[1]] = "expandable_segments:True"
    return True


#: glibc's numbers of what `mallopt` sets (malloc.h), and its largest threshold for blocks of their own.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _LARGEST = -1, -3, 32 << 20
_OWN_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory(limit: int = 1 << 30) -> bool:
    """Have glibc keep what a training step on the CPU frees for the next step, for the whole process.

    Otherwise a step's tensors of some megabytes go back to the system and come again page by page: 12,000
    page faults a step of the demonstration.

    Args:
        limit: bytes that stay unused at most.

    Returns:
        Whether it does; not with another C library, nor where a person has set glibc's variables.
    """
    if not sys.platform.startswith("linux") or any(os.environ.get(name) for name in _OWN_SETTINGS):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, limit))
