"""Importing torch and the trainer so that other threads of the process go on meanwhile.

The thread that hears a stop needs the interpreter's lock. Loading torch's libraries with it and collecting
garbage over a million new objects kept the lock for half a second at a time on a busy machine.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def import_trainer() -> Callable[..., int]:
    """`run_training`, imported. For a process whose purpose is the run: what exists by then is kept for good.

    A fifth of the processor time is saved besides, and later collections pass over what was imported: a full
    one of 0.6 to 1 s takes milliseconds.
    """
    load_torch_libraries()
    collected = gc.isenabled()
    gc.disable()
    try:
        from so8t_engine.training.run import run_training
    finally:
        gc.freeze()
        if collected:
            gc.enable()
    return run_training


def load_torch_libraries() -> None:
    """Load torch's shared libraries as ``import torch`` does, but without the interpreter's lock.

    On Linux only: elsewhere torch loads them itself through ctypes, which gives the lock up. What cannot be
    loaded here is left to torch, which knows further places and says what is missing.
    """
    if not sys.platform.startswith("linux") or "torch" in sys.modules:
        return
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return
    folder = Path(spec.origin).parent / "lib"
    dlopen: Any = getattr(ctypes.CDLL(None), "dlopen", None)
    if dlopen is None:
        return
    dlopen.argtypes, dlopen.restype = [ctypes.c_char_p, ctypes.c_int], ctypes.c_void_p
    # torch makes the first one's symbols visible to all; the others are what its extension module needs.
    for name, scope in (("libtorch_global_deps.so", os.RTLD_GLOBAL), ("libtorch.so", os.RTLD_LOCAL)):
        if not dlopen(os.fsencode(folder / name), os.RTLD_NOW | scope):
            log.debug("%s is left to torch", name)
            return
