"""The present estimate against what the grid measured, as Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from so8t_engine.memory.budget import estimate
from so8t_engine.memory.calibration import Calibration
from so8t_engine.memory.machine import Machine
from tests.gpu.grid import CAP_GIB, configuration, done, held_out, reserved, supported


@dataclass(frozen=True, slots=True)
class Row:
    """One configuration: bytes that the allocator reserves at the peak, estimated and measured.

    ``loaded`` is what loading had left open between the weights, measured before the run began; in results
    of the time before weights were laid side by side it is a part of what was reserved.
    """

    name: str
    predicted: int
    measured: int
    low: int
    high: int
    capped: bool | None
    loaded: int

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1

    @property
    def error_after_loading(self) -> float:
        """As `error`, for one who knows what loading had left open."""
        return (self.predicted + self.loaded) / self.measured - 1

    @property
    def verdict(self) -> str:
        """Whether the estimate said rightly that it fits under the cap; empty where that was not tried."""
        cap = CAP_GIB * 2**30
        fits = self.measured <= cap if self.capped is None else self.capped
        if (self.predicted <= cap) == fits:
            return "right"
        return "in the band" if self.low <= cap <= self.high else "WRONG"


def rows(results: Path, cache: Path) -> list[Row]:
    """Every measured configuration whose settings this version knows."""
    found = []
    for name, record in done(results).items():
        settings: dict[str, Any] = record.get("settings", {})
        if not settings or not supported(settings, cache):
            continue
        predicted = estimate(configuration(settings, cache), machine_of(record))
        outside = predicted.device_bytes - predicted.peak_reserved_bytes
        low, high = predicted.low_bytes - outside, predicted.high_bytes - outside
        phases = dict(predicted.phases)
        if not settings.get("evaluation", True):
            phases.pop("evaluation", None)
        capped = record.get("capped", {}).get("fits")
        loaded = record["before"]["reserved"] - record["before"]["allocated"]
        found.append(Row(name, max(phases.values()), reserved(record), low, high, capped, loaded))
    return sorted(found, key=lambda row: row.measured)


def machine_of(record: dict[str, Any]) -> Machine:
    """The card that was measured on, without corrections from earlier runs."""
    capability = (9, 0) if "H100" in record["card"] or "H200" in record["card"] else (8, 6)
    expandable = "expandable_segments:True" in record["allocator"]
    return Machine(record["card"], 2**37, None, capability, expandable, Calibration())


def summary(title: str, errors: list[float]) -> str:
    """Mean, worst and lowest error."""
    if not errors:
        return f"{title}: none\n"
    mean = sum(map(abs, errors)) / len(errors)
    return (
        f"{title}: {len(errors)}, MAPE {mean:.2%}, worst {max(errors, key=abs):+.2%}, "
        f"largest underestimate {min(min(errors), 0):+.2%}\n"
    )


def report(results: Path, cache: Path) -> str:
    """A table and the summary lines."""
    found = rows(results, cache)
    text = "| configuration | predicted GB | measured GB | error | fits | |\n|---|---|---|---|---|---|\n"
    for row in found:
        text += (
            f"| {row.name} | {row.predicted / 1e9:.3f} | {row.measured / 1e9:.3f} | {row.error:+.1%} "
            f"| {row.verdict} | {'held out' if held_out(row.name) else ''} |\n"
        )
    text += "\n"
    for title, wanted in (("calibration", False), ("held out", True)):
        some = [row for row in found if held_out(row.name) == wanted]
        text += summary(title, [row.error for row in some])
        text += summary(f"{title}, with what loading had left open", [r.error_after_loading for r in some])
    wrong = [row.name for row in found if row.verdict == "WRONG"]
    text += f"fits under {CAP_GIB} GiB: {len(found) - len(wrong)} of {len(found)} right or inside the band\n"
    return text + "".join(f"wrong: {name}\n" for name in wrong)
