"""Memory readings at 2 Hz from a thread of the trainer: allocator, card (NVML), process."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import psutil
import torch

from so8t_engine.config import Config
from so8t_engine.errors import ModelError
from so8t_engine.i18n import _
from so8t_engine.memory.budget import Estimate, estimate
from so8t_engine.memory.calibration import Finished, remember
from so8t_engine.memory.nvml import NvmlReading, index_of, read_memory
from so8t_engine.training.events import Event, MemoryEvent, WarningEvent
from so8t_engine.training.optimizer_state import cuda_in_use

log = logging.getLogger(__name__)

PERIOD_S = 0.5
#: Degrees Celsius, and part of the card's memory, from which on a person is told.
HOT_C, FULL = 75.0, 0.95


def card_index() -> int | None:
    """NVML's number of the card that this process computes on, which need not be CUDA's; None if unknown."""
    own = torch.cuda.current_device()
    uuid = getattr(torch.cuda.get_device_properties(own), "uuid", None)
    found = None if uuid is None else index_of(str(uuid))
    # Without a choice of visible cards both count alike.
    return own if found is None and "CUDA_VISIBLE_DEVICES" not in os.environ else found


def allocator_figures() -> dict[str, int]:
    """Bytes that PyTorch's allocator holds in this process; empty without a card."""
    if not cuda_in_use():
        return {}
    return {
        "allocated": torch.cuda.memory_allocated(),
        "reserved": torch.cuda.memory_reserved(),
        "peak_reserved": torch.cuda.max_memory_reserved(),
    }


def other_cards(cards: Mapping[int, Mapping[str, int]]) -> dict[str, float] | None:
    """Readings of other processes' cards as `MemoryEvent.cards`; None where there are none.

    Args:
        cards: `World.cards`.
    """
    found: dict[str, float] = {}
    for rank, known in sorted(cards.items()):
        if "index" not in known:
            continue
        values: dict[str, float | None] = {k: v for k, v in known.items() if k != "index"}
        reading = read_memory(known["index"])
        if isinstance(reading, NvmlReading):
            values |= {"device_used": reading.used, "device_total": reading.total}
            values |= {name: getattr(reading, name) for name in ("temperature_c", "utilisation", "power_w")}
        found |= {f"{rank}.{name}": float(value) for name, value in values.items() if value is not None}
    return found or None


def memory_event(on_card: bool, cards: Mapping[int, Mapping[str, int]] | None = None) -> MemoryEvent:
    """One reading. What cannot be read is None; no CUDA context is made for it."""
    rss = psutil.Process().memory_info().rss
    if not on_card:
        return MemoryEvent(process_rss=rss)
    index = card_index()
    device = None if index is None else read_memory(index)
    return MemoryEvent(
        allocated=torch.cuda.memory_allocated(),
        reserved=torch.cuda.memory_reserved(),
        peak_allocated=torch.cuda.max_memory_allocated(),
        peak_reserved=torch.cuda.max_memory_reserved(),
        device_used=device.used if isinstance(device, NvmlReading) else None,
        device_total=device.total if isinstance(device, NvmlReading) else None,
        process_rss=rss,
        source="nvml" if isinstance(device, NvmlReading) else "none",
        temperature_c=device.temperature_c if isinstance(device, NvmlReading) else None,
        utilisation=device.utilisation if isinstance(device, NvmlReading) else None,
        power_w=device.power_w if isinstance(device, NvmlReading) else None,
        throttled=list(device.throttled)
        if isinstance(device, NvmlReading) and device.throttled is not None
        else None,
        cards=other_cards(cards or {}),
    )


class CardWarnings:
    """Warns once when the card gets hot or full, and again only after it has clearly recovered."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def of(self, event: MemoryEvent) -> list[WarningEvent]:
        """The warnings that a reading gives rise to."""
        part = event.device_used / event.device_total if event.device_used and event.device_total else None
        found: list[WarningEvent] = []
        if self._crossed("heat", event.temperature_c, HOT_C, HOT_C - 5):
            sentence = _("The card is at %(degrees).0f °C.") % {"degrees": event.temperature_c}
            mend = _("Look at fans and dust; the card slows down by itself before it takes harm.")
            found.append(WarningEvent(kind="heat", sentence=sentence, mend=mend))
        if self._crossed("full", part, FULL, FULL - 0.03):
            sentence = _("%(part).0f %% of the card's memory is in use.") % {"part": 100 * (part or 0.0)}
            mend = _("Close other programs that use the card; beyond its memory everything gets very slow.")
            found.append(WarningEvent(kind="memory", sentence=sentence, mend=mend))
        return found

    def _crossed(self, name: str, value: float | None, limit: float, recovered: float) -> bool:
        if value is None:
            return False
        if value < recovered:
            self._told.discard(name)
        if value < limit or name in self._told:
            return False
        self._told.add(name)
        return True


class MemorySampler:
    """Emits a `MemoryEvent` twice a second until closed."""

    def __init__(
        self,
        emit: Callable[[Event], object],
        on_card: bool,
        cards: Mapping[int, Mapping[str, int]] | None = None,
    ) -> None:
        self._emit = emit
        self._cards = cards
        self._warnings = CardWarnings()
        self._on_card = on_card
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="so8t-memory", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while not self._closing.is_set():
            try:
                reading = memory_event(self._on_card, self._cards)
                self._emit(reading)
                for warning in self._warnings.of(reading):
                    self._emit(warning)
            except (OSError, RuntimeError, psutil.Error):
                log.exception("no memory reading")
            self._closing.wait(PERIOD_S)

    def close(self) -> None:
        self._closing.set()
        self._thread.join(timeout=2.0)


def predict(config: Config) -> Estimate | None:
    """The estimate of a run's memory; None where none can be made."""
    try:
        return estimate(config)
    except ModelError as error:
        log.info("no prediction of memory: %s", error)
        return None


def memory_facts(found: Estimate | None) -> dict[str, int | str]:
    """Limit and prediction of a run's memory, in bytes; empty without a prediction."""
    if found is None:
        return {}
    return {
        "memory_limit": found.budget_bytes,
        "memory_predicted": found.needed_bytes,
        "memory_predicted_by": found.source,
    }


def peak_facts(on_card: bool) -> dict[str, int | None]:
    """What the run needed at its peak, in bytes: of the allocator on a card, of the process elsewhere.

    The process's peak is the system's own record, None where it keeps none (Windows keeps one, too).
    """
    if on_card:
        return {
            "peak_allocated": torch.cuda.max_memory_allocated(),
            "peak_reserved": torch.cuda.max_memory_reserved(),
        }
    return {"peak_process_rss": _peak_rss()}


def card_used() -> int | None:
    """Bytes that all programs hold on the card together; None without an NVIDIA card."""
    index = card_index() if torch.cuda.is_initialized() else 0  # type: ignore[no-untyped-call]
    reading = read_memory(index or 0)
    return reading.used if isinstance(reading, NvmlReading) else None


def remember_run(
    name: str, found: Estimate | None, peaks: dict[str, int | None], *, fills: bool, before: int | None
) -> None:
    """Keep a finished run's prediction and measurement for the estimates to come.

    Args:
        found: its estimate. peaks: of `peak_facts`.
        fills: its longest row filled the sequence length, and nothing was changed under way.
        before: `card_used` before this process touched the card; what is used beyond, less what the
            allocator holds, is this process's context.
    """
    measured = peaks.get("peak_process_rss" if "peak_process_rss" in peaks else "peak_reserved")
    if found is None or not measured:
        return
    on_card, context = "peak_reserved" in peaks, None
    if on_card and before is not None and (used := card_used()) is not None:
        outside = used - before - torch.cuda.memory_reserved()
        context = outside if outside > 0 else None
    remember(
        Finished(
            device=torch.cuda.get_device_name() if on_card else "cpu",
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            name=name,
            predicted=found.peak_reserved_bytes if on_card else found.device_bytes,
            plain=found.plain_bytes,
            measured=measured,
            fills=fills,
            context=context,
            source=found.source,
        )
    )


def _peak_rss() -> int | None:
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    # Linux counts kibibytes, macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
