"""Records as columns: one array a field, so that five thousand or a million of them stay small."""

# ruff: noqa: N815  (fields of the dataclass carry their shapes)

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from so8t_engine.soul_dataset.rotations import Floats

Float32 = NDArray[np.float32]
PHASES = ("latent", "transition", "stable")


@dataclass
class SoulRecords:
    """N records of one source.

    Attributes:
        source: ``schedule`` or ``checkpoint``.
        sample_id, timestamp: texts; a timestamp is None where no time was measured.
        step, of: optimizer step and how many the schedule or run has.
        phase: index into `PHASES`.
        alpha, gate: α and g = σ(α). commutator: in [0, 1].
        safe, cmd, total: float32, M = R_cmd R_safe (safety acts first).
        safety, task, dual: what `heads_source` says; NaN where missing.
        heads_source: ``target`` (one-hot of a drawn class, not learned), ``weight_norm`` (of the class's
            weights on this block), or ``missing``, per record.
        pet: what `pet_source` says; NaN where missing.
        pet_source: ``scheduled_weight`` (λ) or ``measured`` (the step's unweighted PET term).
        lora: per record, module → shape, rank and Frobenius norm of B A; None where no weights were read.
        notes: facts for dataset_stats.json.
    """

    source: str
    sample_id: list[str]
    timestamp: list[str | None]
    step_N: NDArray[np.int64]
    of: int
    phase_N: NDArray[np.int64]
    alpha_N: Floats
    gate_N: Floats
    alpha_source: str
    commutator_N: Floats
    safe_N88: Float32
    cmd_N88: Float32
    total_N88: Float32
    safety_N2: Float32
    task_N4: Float32
    dual_N22: Float32
    heads_source: list[str]
    pet_N: Floats
    pet_source: str
    lora: list[dict[str, Any] | None]
    block_N: NDArray[np.int64] | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.sample_id)

    def tensors(self, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """The arrays of some records, as a shard holds them."""
        return {
            "r_safe": self.safe_N88[rows],
            "r_cmd": self.cmd_N88[rows],
            "r_total": self.total_N88[rows],
            "alpha_gate": self.alpha_N[rows],
            "g": self.gate_N[rows],
            "commutator": self.commutator_N[rows],
            "safety_head": self.safety_N2[rows],
            "task_head": self.task_N4[rows],
            "dual_heads": self.dual_N22[rows],
            "pet": self.pet_N[rows],
        }

    def scalars(self, row: int) -> dict[str, Any]:
        """The index's part of a record; what is missing is None."""
        pet = float(self.pet_N[row])
        return {
            "sample_id": self.sample_id[row],
            "timestamp": self.timestamp[row],
            "source": self.source,
            "step": int(self.step_N[row]),
            "of": self.of,
            "block": None if self.block_N is None else int(self.block_N[row]),
            "phase": PHASES[int(self.phase_N[row])],
            "alpha_gate": float(self.alpha_N[row]),
            "alpha_source": self.alpha_source,
            "g": float(self.gate_N[row]),
            "commutator": float(self.commutator_N[row]),
            "heads_source": self.heads_source[row],
            "pet": None if np.isnan(pet) else pet,
            "pet_source": self.pet_source if not np.isnan(pet) else "missing",
            "lora": self.lora[row],
        }
