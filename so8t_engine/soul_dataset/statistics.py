"""dataset_stats.json: what the records are, in figures."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from so8t_engine.soul_dataset.records import PHASES, SoulRecords
from so8t_engine.soul_dataset.rotations import Floats, orthogonality_error
from so8t_engine.soul_dataset.splitting import Indices

SPLITS = ("train", "validation", "test")


def summary(values_N: Floats) -> dict[str, float] | None:
    """Mean, spread and quantiles; None where every value is missing."""
    known = values_N[~np.isnan(values_N)]
    if not len(known):
        return None
    low, quarter, median, three, high = np.quantile(known, (0.0, 0.25, 0.5, 0.75, 1.0)).tolist()
    return {
        "mean": float(known.mean()), "std": float(known.std()),
        "min": low, "q25": quarter, "median": median, "q75": three, "max": high,
        "count": len(known),
    }  # fmt: skip


def determinants(records: SoulRecords) -> Floats:
    """Every determinant of R_safe, R_cmd and M as stored, (3N,)."""
    found = [
        np.linalg.det(m.astype(np.float64)) for m in (records.safe_N88, records.cmd_N88, records.total_N88)
    ]
    return np.concatenate(found)


def statistics(
    records: SoulRecords, splits: list[Indices], settings: dict[str, Any], asked: int
) -> dict[str, Any]:
    """Counts, phases of each split, α, g, commutator, orthogonality and determinant."""
    errors = {
        name: orthogonality_error(matrix)
        for name, matrix in (
            ("r_safe", records.safe_N88), ("r_cmd", records.cmd_N88), ("r_total", records.total_N88),
        )
    }  # fmt: skip
    det_3N = determinants(records)
    phases = Counter(PHASES[int(p)] for p in records.phase_N)
    split_phases = {
        name: {phase: int((records.phase_N[rows] == i).sum()) for i, phase in enumerate(PHASES)}
        for name, rows in zip(SPLITS, splits, strict=True)
    }
    lora = [entry for entry in records.lora if entry]
    return {
        "schema_version": 1,
        "source": records.source,
        "settings": settings,
        "records": len(records),
        "records_asked": asked,
        "splits": {name: len(rows) for name, rows in zip(SPLITS, splits, strict=True)},
        "phases": dict(phases),
        "split_phases": split_phases,
        "alpha_source": records.alpha_source,
        "alpha_gate": summary(records.alpha_N),
        "g": summary(records.gate_N),
        "commutator": summary(records.commutator_N),
        "commutator_by_phase": {
            phase: summary(records.commutator_N[records.phase_N == i]) for i, phase in enumerate(PHASES)
        },
        "orthogonality_max": {name: float(error.max()) for name, error in errors.items()},
        "determinant": {"min": float(det_3N.min()), "max": float(det_3N.max())},
        "heads_source": dict(Counter(records.heads_source)),
        "pet": summary(records.pet_N),
        "pet_source": records.pet_source,
        "lora_records": len(lora),
        "notes": records.notes,
    }
