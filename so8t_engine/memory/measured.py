"""What probes measured, kept per configuration and device, so that the estimate can say so. No torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from so8t_engine.config import Config
from so8t_engine.files import write_atomically
from so8t_engine.memory.geometry import ModelGeometry

_TRAINING = {
    "batch_size", "accumulation", "optimizer", "gradient_checkpointing", "packing", "recorded_passes",
}  # fmt: skip
#: Phases whose peaks a probe tells apart, in the order of a run.
PHASES = ("loading", "evaluation", "step", "save")


@dataclass(frozen=True, slots=True)
class PhasePeak:
    """Memory at one phase's peak, in bytes; None where it is not measured on this device.

    Attributes:
        allocated, reserved: of PyTorch's allocator on the card.
        device_used: of the whole card, all processes together, at the phase's end (NVML).
        process_rss: resident system memory of the process, sampled.
    """

    allocated: int | None = None
    reserved: int | None = None
    device_used: int | None = None
    process_rss: int | None = None


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """A probe of one configuration.

    Attributes:
        device: the card's name, or ``cpu``.
        phases: phase → its peak.
        context: bytes of this process on the card outside the allocator; None on the CPU.
        longest_row: tokens of the longest row that was used.
        rows_fill: whether the longest row fills the sequence length; if not, longer ones would need more.
        step_s: seconds of the second step.
        measured_at: ISO date and time, UTC.
    """

    device: str
    phases: dict[str, PhasePeak]
    context: int | None
    longest_row: int
    rows_fill: bool
    step_s: float
    measured_at: str

    @property
    def peak_bytes(self) -> int:
        """Everything of this process on the device at the peak."""
        if self.device == "cpu":
            return max(peak.process_rss or 0 for peak in self.phases.values())
        return max(peak.reserved or 0 for peak in self.phases.values()) + (self.context or 0)

    @property
    def peak_phase(self) -> str:
        """The phase that needs most."""
        own = "process_rss" if self.device == "cpu" else "reserved"
        return max(self.phases, key=lambda name: getattr(self.phases[name], own) or 0)


@cache
def _versions() -> str:
    # Reading packages' metadata takes a tenth of an estimate and is needed only where something was measured.
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for package in ("torch", "bitsandbytes", "transformers", "peft"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} -")
    return ", ".join(found)


def memory_digest(config: Config, geometry: ModelGeometry, device: str) -> str:
    """SHA-256 over everything that decides a run's memory: settings, shape, device, library versions."""
    content = {
        "model": config.model.model_dump(mode="json", exclude={"path", "revision"}),
        "geometry": asdict(geometry),
        "data": {"max_length": config.data.max_length, "train": config.data.train},
        "lora": config.lora.model_dump(mode="json"),
        "so8t": config.so8t.model_dump(mode="json"),
        "memory": config.memory.model_dump(mode="json"),
        "training": config.training.model_dump(mode="json", include=_TRAINING),
        "device": device,
        "versions": _versions(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _folder() -> Path:
    return user_cache_path("so8t") / "probes"


def _file(digest: str) -> Path:
    return _folder() / f"{digest}.json"


def store(digest: str, result: ProbeResult) -> Path:
    """Keep ``result``. Raises `OSError` where the cache cannot be written."""
    file = _file(digest)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(asdict(result), indent=1))
    return file


def find_for(config: Config, geometry: ModelGeometry, device: str) -> ProbeResult | None:
    """What was measured for this run; see `find`."""
    if not any(_folder().glob("*.json")):
        return None
    return find(memory_digest(config, geometry, device))


def find(digest: str) -> ProbeResult | None:
    """What was measured for this digest; None where nothing was, or where the file is damaged."""
    try:
        values: dict[str, Any] = json.loads(_file(digest).read_text(encoding="utf-8"))
        phases = {name: PhasePeak(**peak) for name, peak in values.pop("phases").items() if name in PHASES}
        result = ProbeResult(phases=phases, **values)
        return result if phases and result.peak_bytes > 0 else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
