"""The machine that an estimate is for: its card, its allocator, and what earlier runs on it have taught."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from so8t_engine.config import Config
from so8t_engine.memory.calibration import Calibration, calibration_for
from so8t_engine.memory.nvml import NvmlReading, card_capability, read_memory

#: What is assumed where no card answers: the one the presets are for (RTX 3060).
ASSUMED_CAPABILITY = (8, 6)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a run will be.

    Attributes:
        card: its name; empty where no NVIDIA card answers. total: its bytes.
        used: bytes that all programs together hold on it now.
        capability: CUDA compute capability.
        expandable: PyTorch's segments grow in place, so that little is lost between tensors.
        calibration: from finished runs on this card.
    """

    card: str
    total: int | None
    used: int | None
    capability: tuple[int, int]
    expandable: bool
    calibration: Calibration

    @property
    def workspace(self) -> int:
        """Bytes that cuBLAS keeps for each of two threads (aten/src/ATen/cuda/CUDABlas, default sizes)."""
        mib = 1024**2
        return 2 * (32 * mib if self.capability[0] == 9 else 8 * mib + 128 * 1024)


def segments_expand() -> bool:
    """Whether the engine's process will have expandable segments: not on Windows, nor where a person said."""
    given = os.environ.get("PYTORCH_ALLOC_CONF") or os.environ.get("PYTORCH_CUDA_ALLOC_CONF")
    if given:
        return "expandable_segments:True" in given
    return sys.platform != "win32"


def this_machine(on_cpu: bool = False) -> Machine:
    """The machine that this process runs on. Takes some ten microseconds after the first call."""
    reading = None if on_cpu else read_memory()
    if not isinstance(reading, NvmlReading):
        name = "cpu" if on_cpu else ""
        return Machine(name, None, None, ASSUMED_CAPABILITY, segments_expand(), calibration_for(name))
    return Machine(
        card=reading.name,
        total=reading.total,
        used=reading.used,
        capability=card_capability() or ASSUMED_CAPABILITY,
        expandable=segments_expand(),
        calibration=calibration_for(reading.name),
    )


def free_system_memory() -> int:
    """Bytes of system memory that are free for a run."""
    try:
        # What psutil reads too; importing it takes longer than an estimate.
        with Path("/proc/meminfo").open(encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        import psutil

        return int(psutil.virtual_memory().available)


def may_wait(free: int) -> int:
    """Bytes of the ``free`` system memory that what only saves time may take: half of it."""
    return free // 2


def crowds(count: int, free: int) -> bool:
    """Whether ``count`` bytes that only save time would take more of it than they may."""
    return count > may_wait(free)


def other_programs(config: Config) -> int | None:
    """Bytes that other programs hold on the card now; None on the CPU or where no card answers.

    Only while no run of this program is live.
    """
    if config.model.device == "cpu":
        return None
    reading = read_memory()
    return reading.used if isinstance(reading, NvmlReading) else None
