"""What a run ran on: versions, machine, card. Written once, for whoever compares runs later."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

from so8t_engine.files import write_atomically

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "accelerate",
    "safetensors",
    "tokenizers",
    "numpy",
)


def physical_cores() -> int:
    """Physical cores that this process may use; logical ones where the system does not say."""
    physical = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else physical
    return max(1, min(physical, usable))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def environment() -> dict[str, Any]:
    """Versions and hardware; a reading that is not to be had is None."""
    card: dict[str, Any] | None = None
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        card = {
            "name": properties.name,
            "total_bytes": properties.total_memory,
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
        }
    return {
        "so8t": _version("so8t-control-panel"),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": platform.processor() or None,
        "cores": physical_cores(),
        "threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "card": card,
        "packages": {name: _version(name) for name in PACKAGES},
    }


def write_environment(path: Path) -> None:
    """Write `environment` as JSON."""
    write_atomically(path, json.dumps(environment(), indent=1))
