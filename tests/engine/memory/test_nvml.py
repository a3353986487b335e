"""NVML readings: absent, partial and complete."""

from __future__ import annotations

import sys
import types

import pytest

from so8t_engine.memory import nvml
from so8t_engine.memory.nvml import NvmlMissing, NvmlReading, read_memory


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module as at the start of a process."""
    monkeypatch.setattr(nvml, "_library", None)
    monkeypatch.setattr(nvml, "_failure", None)
    monkeypatch.setattr(nvml, "_handles", {})


class FaultyDriver(types.ModuleType):
    """A driver of which chosen calls fail, as on WSL2 or a passively cooled card."""

    NVML_TEMPERATURE_GPU = 0
    nvmlMemory_v2 = 0x2000028  # noqa: N815  (pynvml's own name)

    def __init__(self, failing: set[str]) -> None:
        super().__init__("pynvml")
        self.failing, self.inits = failing, 0

    def _give(self, name: str, value: object) -> object:
        if name in self.failing:
            raise RuntimeError(f"{name}: Not Supported")
        return value

    def nvmlInit(self) -> None:
        self.inits += 1
        self._give("init", None)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> object:
        return self._give("handle", index)

    def nvmlDeviceGetName(self, handle: object) -> object:
        return b"NVIDIA GeForce RTX 3060"

    def nvmlDeviceGetMemoryInfo(self, handle: object, version: int) -> object:
        assert version == self.nvmlMemory_v2
        return self._give("memory", types.SimpleNamespace(used=3, total=8, free=5))

    def nvmlDeviceGetTemperature(self, handle: object, kind: int) -> object:
        return self._give("temperature", 61)

    def nvmlDeviceGetUtilizationRates(self, handle: object) -> object:
        return self._give("utilisation", types.SimpleNamespace(gpu=50))

    def nvmlDeviceGetPowerUsage(self, handle: object) -> object:
        return self._give("power", 120_500)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: object) -> object:
        return self._give("throttle", 0x1 | 0x4 | 0x20)  # idle is no throttling


@pytest.mark.usefixtures("fresh")
def test_a_missing_sub_reading_is_none_and_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FaultyDriver({"temperature", "power", "throttle"})
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    for _ in range(3):
        reading = read_memory()
    assert reading == NvmlReading(3, 8, 5, "NVIDIA GeForce RTX 3060", None, 0.5, None)
    assert driver.inits == 1


@pytest.mark.usefixtures("fresh")
def test_a_complete_reading_names_what_holds_the_clocks_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FaultyDriver(set()))
    reading = read_memory()
    assert isinstance(reading, NvmlReading)
    assert (reading.temperature_c, reading.power_w) == (61.0, 120.5)
    assert reading.throttled == ("power limit", "heat (driver)")


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("call", ["init", "handle", "memory"])
def test_a_failing_driver_is_a_reason_not_an_exception(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FaultyDriver({call}))
    reading = read_memory()
    assert isinstance(reading, NvmlMissing)
    assert "Not Supported" in reading.reason


@pytest.mark.usefixtures("fresh")
def test_a_missing_package_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    reading = read_memory()
    assert isinstance(reading, NvmlMissing)
    assert "nvidia-ml-py" in reading.reason


def test_this_machine_gives_a_reading_or_a_reason() -> None:
    reading = read_memory()
    if isinstance(reading, NvmlMissing):
        assert reading.reason
    else:
        assert 0 < reading.used <= reading.total
