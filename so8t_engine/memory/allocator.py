"""Settings of PyTorch's allocator that must stand before it is first used. Imports no torch."""

from __future__ import annotations

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
