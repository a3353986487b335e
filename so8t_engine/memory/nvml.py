"""Readings of the card from the driver's management library. Never a CUDA context, never process lists."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from so8t_engine.i18n import N_, _


@dataclass(frozen=True, slots=True)
class NvmlReading:
    """One look at one card. A sub-reading that the driver does not give is None, not 0.

    Attributes:
        used, total, free: bytes on the whole card, all processes together.
        name: the card's name, as the driver says it.
        temperature_c: degrees Celsius.
        utilisation: part of the last sample period in which a kernel ran, 0 to 1.
        power_w: watts.
        throttled: why the clocks are held down now, as the driver's bits name it; empty when they are not.
    """

    used: int
    total: int
    free: int
    name: str
    temperature_c: float | None = None
    utilisation: float | None = None
    power_w: float | None = None
    throttled: tuple[str, ...] | None = None


#: Bits of nvmlDeviceGetCurrentClocksThrottleReasons that mean less speed (NVML API reference).
_THROTTLING = {
    0x4: N_("power limit"),
    0x8: N_("hardware slowdown"),
    0x20: N_("heat (driver)"),
    0x40: N_("heat (hardware)"),
    0x80: N_("power brake"),
}


@dataclass(frozen=True, slots=True)
class NvmlMissing:
    """There is no reading, and why; one sentence for a person."""

    reason: str


_lock = threading.Lock()
_library: Any = None
_failure: NvmlMissing | None = None
_handles: dict[int, tuple[Any, str]] = {}
_capabilities: dict[int, tuple[int, int]] = {}


def _load() -> Any:  # noqa: ANN401  (pynvml carries no types)
    """pynvml, initialised; None where it cannot be, with `_failure` set. Tried once per process."""
    global _library, _failure
    with _lock:
        if _library is not None or _failure is not None:
            return _library
        try:
            if sys.platform == "linux" and "pynvml" not in sys.modules:
                # Where no driver is, half a millisecond instead of fifteen for pynvml's six thousand lines.
                ctypes.CDLL("libnvidia-ml.so.1")
            import pynvml

            pynvml.nvmlInit()
        except ImportError:
            _failure = NvmlMissing(_("The package nvidia-ml-py is not installed."))
        except Exception as error:  # noqa: BLE001  (NVMLError is only known once pynvml is there)
            _failure = NvmlMissing(_("No NVIDIA card answers here (%(reason)s).") % {"reason": error})
        else:
            _library = pynvml
        return _library


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _optional(read: Callable[[], float]) -> float | None:
    """``read()``, or None where the driver has no such reading (WSL2, passive cards, permissions)."""
    with contextlib.suppress(Exception):
        return float(read())
    return None


def _throttling(nvml: Any, handle: Any) -> tuple[str, ...] | None:  # noqa: ANN401
    bits = _optional(lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
    return None if bits is None else tuple(name for bit, name in _THROTTLING.items() if int(bits) & bit)


def read_memory(index: int = 0) -> NvmlReading | NvmlMissing:
    """Memory, temperature, utilisation and power of card ``index``. Takes some ten microseconds.

    Memory is NVML's version 2, whose ``used`` leaves the driver's own reserve out. Never raises.
    """
    nvml = _load()
    if nvml is None:
        return _failure or NvmlMissing(_("No NVIDIA card answers here."))
    try:
        with _lock:
            if index not in _handles:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                _handles[index] = (handle, _text(nvml.nvmlDeviceGetName(handle)))
            handle, name = _handles[index]
        memory = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
    except Exception as error:  # noqa: BLE001  (a lost card, a driver update under way)
        _handles.pop(index, None)
        return NvmlMissing(_("The NVIDIA card gives no reading (%(reason)s).") % {"reason": error})
    return NvmlReading(
        used=int(memory.used),
        total=int(memory.total),
        free=int(memory.free),
        name=name,
        temperature_c=_optional(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        utilisation=_optional(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100.0),
        power_w=_optional(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000.0),
        throttled=_throttling(nvml, handle),
    )


def index_of(uuid: str) -> int | None:
    """NVML's number of the card with this UUID, with or without ``GPU-``; None where there is none."""
    nvml = _load()
    if nvml is None:
        return None
    with contextlib.suppress(Exception):
        for index in range(int(nvml.nvmlDeviceGetCount())):
            found = _text(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(index)))
            if found.removeprefix("GPU-") == uuid.removeprefix("GPU-"):
                return index
    return None


def card_total(index: int = 0) -> int | None:
    """Bytes of memory on card ``index``, or None where there is no NVIDIA card."""
    reading = read_memory(index)
    return reading.total if isinstance(reading, NvmlReading) else None


def card_name(index: int = 0) -> str | None:
    """The driver's name of card ``index``, or None where there is no NVIDIA card."""
    reading = read_memory(index)
    return reading.name if isinstance(reading, NvmlReading) else None


def card_capability(index: int = 0) -> tuple[int, int] | None:
    """CUDA compute capability of card ``index``, or None where the driver does not tell."""
    if not isinstance(read_memory(index), NvmlReading):
        return None
    if index not in _capabilities:
        with contextlib.suppress(Exception):
            major, minor = _library.nvmlDeviceGetCudaComputeCapability(_handles[index][0])
            _capabilities[index] = (int(major), int(minor))
    return _capabilities.get(index)
