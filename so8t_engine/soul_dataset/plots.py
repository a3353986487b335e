"""Pictures of a soul dataset: α and g along the schedule, commutator, orthogonality, phases of the splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from so8t_engine.plotting import figure, save_svg
from so8t_engine.soul_dataset.records import PHASES, SoulRecords
from so8t_engine.soul_dataset.rotations import orthogonality_error

_COLOURS = ("#4477aa", "#ee7733", "#228833")


def draw(folder: Path, records: SoulRecords, stats: dict[str, Any]) -> list[str]:
    """Write the SVG files into ``folder`` and return their names."""
    _gate(folder / "gate.svg", records)
    _commutator(folder / "commutator.svg", records)
    _orthogonality(folder / "orthogonality.svg", records)
    _phases(folder / "phases.svg", stats)
    return ["gate.svg", "commutator.svg", "orthogonality.svg", "phases.svg"]


def _gate(file: Path, records: SoulRecords) -> None:
    plot = figure(6.4, 3.6)
    axes = plot.subplots()
    order = np.argsort(records.step_N, kind="stable")
    step = records.step_N[order]
    thin = max(1, len(step) // 500)  # a curve of five thousand points looks no different
    axes.plot(step[::thin], records.alpha_N[order][::thin], color="#222222", label="α")
    axes.set_xlabel(f"step of {records.of}")
    axes.set_ylabel(f"α ({records.alpha_source})")
    right = axes.twinx()
    right.plot(step[::thin], records.gate_N[order][::thin], color=_COLOURS[0], linestyle="--")
    right.set_ylabel("g = σ(α), dashed", color=_COLOURS[0])
    right.set_ylim(0.0, 1.0)
    save_svg(plot, file)


def _commutator(file: Path, records: SoulRecords) -> None:
    plot = figure(6.4, 3.6)
    axes = plot.subplots()
    top = max(float(records.commutator_N.max()), 1e-6)
    edges = np.linspace(0.0, top, 51)
    for index, phase in enumerate(PHASES):
        values = records.commutator_N[records.phase_N == index]
        if len(values):
            axes.hist(values, edges, histtype="step", color=_COLOURS[index], label=f"{phase} ({len(values)})")
    axes.set_xlabel("commutator ‖R_cmd R_safe − R_safe R_cmd‖ / (2√8)")
    axes.set_ylabel("records")
    axes.set_yscale("log")
    axes.legend(frameon=False)
    save_svg(plot, file)


def _orthogonality(file: Path, records: SoulRecords) -> None:
    plot = figure(6.4, 3.6)
    axes = plot.subplots()
    for name, matrix, colour in (
        ("R_safe", records.safe_N88, _COLOURS[0]),
        ("R_cmd", records.cmd_N88, _COLOURS[1]),
        ("M", records.total_N88, _COLOURS[2]),
    ):
        axes.hist(orthogonality_error(matrix), bins=40, histtype="step", color=colour, label=name)
    axes.set_xlabel("max |RᵀR − I|, as stored in float32")
    axes.set_ylabel("records")
    axes.legend(frameon=False)
    save_svg(plot, file)


def _phases(file: Path, stats: dict[str, Any]) -> None:
    plot = figure(6.4, 2.4)
    axes = plot.subplots()
    for row, counts in enumerate(stats["split_phases"].values()):
        total, left = max(sum(counts.values()), 1), 0.0
        for index, phase in enumerate(PHASES):
            share = counts[phase] / total
            axes.barh(row, share, left=left, color=_COLOURS[index], label=phase if row == 0 else None)
            if share > 0.06:
                axes.text(left + share / 2, row, str(counts[phase]), ha="center", va="center", color="white")
            left += share
    axes.set_yticks(range(len(stats["split_phases"])), list(stats["split_phases"]))
    axes.set_xlim(0.0, 1.0)
    axes.invert_yaxis()
    axes.set_xlabel("share of the split's records")
    axes.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    save_svg(plot, file)
