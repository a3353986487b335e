"""From allocations to what a device must hold: allocator, libraries and driver, at three levels of luck."""

from __future__ import annotations

from dataclasses import dataclass, replace

from so8t_engine.config import Config
from so8t_engine.memory.geometry import ModelGeometry
from so8t_engine.memory.lean_terms import lean_phases, may_record, runs_lean
from so8t_engine.memory.machine import Machine
from so8t_engine.memory.plain_terms import ASSUMED_LEVELS, plain_phases
from so8t_engine.memory.terms import MIB, Phase

#: What the driver holds for one recorded pass outside the allocator (measured: 88 MB for a Phi-3.5-mini).
RECORDING_BYTES = 100_000_000
#: And the allocator in addition, what a recording cannot use of what is there before it. With ``on`` within
#: 12 MB of nothing in the three measured of the calibration half; 17 leave a margin. With ``auto`` ordinary
#: passes come first: a run of a preset from disk then reserved 57 MB more than one that never recorded.
BESIDE_RECORDINGS = {"off": 0, "on": 17_000_000, "auto": 102_000_000}


@dataclass(frozen=True, slots=True)
class Level:
    """What neither configuration nor code says.

    Attributes:
        fragmentation: part of the short-lived tensors that the allocator holds in addition.
        fixed: bytes that it holds in addition in any case: pages that are partly used.
        heap: part of all activations that the C library's heap holds in addition; CPU runs only.
        kept: part of activations that are not recomputed that the allocator holds in addition.
        context: driver context and libraries outside the allocator; on the CPU interpreter and libraries.
    """

    fragmentation: float
    fixed: int
    heap: float
    context: int
    kept: float = 0.0


#: Segments that grow in place, lean layers, weights side by side: least squares over the calibration half of
#: tests/gpu/grid_results.jsonl (0.0203, 29 MiB, 0.0383), and 18 MiB more to be rather above than below.
EXPANDABLE = (
    Level(0.0, 0, 0.0, 450_000_000),
    Level(0.0203, 47 * MIB, 0.0, 970_000_000, 0.0383),
    Level(0.045, 84 * MIB, 0.0, 1_050_000_000, 0.055),
)
#: With transformers' own layers, of which few were measured: a margin that covers all of them.
PLAIN_EXPANDABLE = (
    Level(0.0, 0, 0.0, 450_000_000),
    Level(0.02, 84 * MIB, 0.0, 970_000_000, 0.03),
    Level(0.08, 128 * MIB, 0.0, 1_050_000_000, 0.06),
)
#: Segments of a fixed size each, as on Windows: a freed large block is rarely refilled exactly.
FIXED_SIZE = (
    Level(0.10, 0, 0.0, 450_000_000),
    Level(0.35, 40 * MIB, 0.0, 970_000_000),
    Level(0.75, 120 * MIB, 0.0, 1_050_000_000),
)
#: 0.52 GB are resident after importing torch, transformers, peft and bitsandbytes, to which the rows come.
#: glibc's heap keeps what was freed (`allocator.keep_freed_memory`). Six steps of the demonstration with 4,
#: 8, 24 and 64 rows peaked at 0.862, 0.886, 1.163 and 1.899 GB resident, all its 726 steps with 8 at 0.948:
#: chosen so that none of the short ones is above what is said, and the whole one hardly is (0.940).
ON_CPU = (
    Level(0.0, 0, 0.1, 500_000_000),
    Level(0.0, 0, 0.75, 760_000_000),
    Level(0.0, 0, 1.1, 1_200_000_000),
)


@dataclass(frozen=True, slots=True)
class Needed:
    """One level of luck.

    Attributes:
        terms: at the highest moment of all phases. moment: which that is.
        phases: phase → bytes that the allocator reserves. plain: the highest of them without corrections.
    """

    terms: dict[str, int]
    moment: str
    phases: dict[str, int]
    plain: int
    cpu: bool


def _levels(machine: Machine, cpu: bool, lean: bool) -> tuple[Level, Level, Level]:
    grows = EXPANDABLE if lean else PLAIN_EXPANDABLE
    levels = ON_CPU if cpu else grows if machine.expandable else FIXED_SIZE
    context = machine.calibration.context
    if cpu or context is None:
        return levels
    low, expected, high = (
        replace(level, context=int(context * factor))
        for level, factor in zip(levels, (0.95, 1.0, 1.05), strict=True)
    )
    return low, expected, high


def _whole(
    phase: Phase, level: Level, machine: Machine, cpu: bool, factor: float, recorded: str
) -> tuple[dict[str, int], int]:
    """A phase's terms with what comes on top, and what the allocator reserves without corrections."""
    terms = dict(phase.terms)
    short = phase.short_lived
    terms["fragmentation"] = terms.get("fragmentation", 0) + int(
        level.fragmentation * short
        + level.fixed
        + level.heap * short
        + level.kept * phase.kept
        + phase.apart
        + BESIDE_RECORDINGS[recorded]
    )
    terms["libraries"] = 0 if cpu else machine.workspace
    terms["context"] = level.context + (RECORDING_BYTES if recorded != "off" else 0)
    outside = terms.get("optimizer_paged", 0) + (0 if cpu else terms["context"])
    plain = sum(terms.values()) - outside
    terms["fragmentation"] = max(0, terms["fragmentation"] + int((factor - 1.0) * plain))
    return terms, plain


def needed(
    config: Config, geometry: ModelGeometry, machine: Machine, *, cpu: bool, compute: int
) -> tuple[int, Needed, int]:
    """Bytes on the device with luck, what is expected, and bytes without luck.

    Raises:
        ModelError: a LoRA target or a layer of the gate does not exist.
    """
    factor = machine.calibration.factor
    found = []
    lean = runs_lean(config, geometry)
    # One at least; more are made only where the limit leaves room for them.
    records = lean and not cpu and may_record(config)
    recorded = config.training.recorded_passes if records else "off"
    shared = lean_phases(config, geometry, cpu=cpu, compute=compute) if lean else {}
    for index, level in enumerate(_levels(machine, cpu, lean)):
        phases = shared
        if not lean:
            phases = plain_phases(
                config, geometry, ASSUMED_LEVELS[index], cpu=cpu, compute=compute,
                expandable=machine.expandable,
            )  # fmt: skip
        wholes = {
            name: _whole(phase, level, machine, cpu, factor, recorded) for name, phase in phases.items()
        }
        totals = {name: sum(terms.values()) for name, (terms, _plain) in wholes.items()}
        highest = max(totals, key=lambda name: totals[name])
        terms, plain = wholes[highest]
        outside = ("optimizer_paged",) if cpu else ("optimizer_paged", "context")
        reserved = {
            name: sum(size for term, size in whole.items() if term not in outside)
            for name, (whole, _plain) in wholes.items()
        }
        found.append(Needed(terms, phases[highest].moment, reserved, plain, cpu))
    low, expected, high = found
    return sum(low.terms.values()), expected, sum(high.terms.values())
