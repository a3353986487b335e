"""Memory readings at 1 Hz from a thread of the trainer: allocator, card (NVML), process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import psutil
import torch

from so8t_engine.memory.nvml import NvmlReading, read_memory
from so8t_engine.training.events import MemoryEvent

log = logging.getLogger(__name__)

PERIOD_S = 1.0


def memory_event(on_card: bool) -> MemoryEvent:
    """One reading. What cannot be read is None; no CUDA context is made for it."""
    rss = psutil.Process().memory_info().rss
    if not on_card:
        return MemoryEvent(process_rss=rss)
    device = read_memory(torch.cuda.current_device())
    return MemoryEvent(
        allocated=torch.cuda.memory_allocated(),
        reserved=torch.cuda.memory_reserved(),
        peak_allocated=torch.cuda.max_memory_allocated(),
        peak_reserved=torch.cuda.max_memory_reserved(),
        device_used=device.used if isinstance(device, NvmlReading) else None,
        device_total=device.total if isinstance(device, NvmlReading) else None,
        process_rss=rss,
        source="nvml" if isinstance(device, NvmlReading) else "none",
    )


class MemorySampler:
    """Emits a `MemoryEvent` each second until closed."""

    def __init__(self, emit: Callable[[MemoryEvent], object], on_card: bool) -> None:
        self._emit = emit
        self._on_card = on_card
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="so8t-memory", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while not self._closing.is_set():
            try:
                self._emit(memory_event(self._on_card))
            except (OSError, RuntimeError, psutil.Error):
                log.exception("no memory reading")
            self._closing.wait(PERIOD_S)

    def close(self) -> None:
        self._closing.set()
        self._thread.join(timeout=2.0)
