"""What each threshold of the decision rule would have done on the held-out rows. No torch.

The rule is `so8t_engine.serving.decision.decide`, over arrays: the task head's class; an ALLOW below
``allow_threshold``, or with danger from ``danger_threshold`` on, or that a dual head objects to, becomes an
ESCALATION.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from so8t_engine.evaluation.held_out_heads import HeldOutHeads, Ints

TASKS = ("ALLOW", "ESCALATION", "DENY", "REFUSE")
#: The thresholds that are tried.
GRID = tuple(i / 100 for i in range(101))


def decisions(heads: HeldOutHeads, allow: float, danger: float) -> Ints:
    """Classes (N,) that the service would decide for, 0 ALLOW to 3 REFUSE."""
    decided_N = heads.task_N4.argmax(1)
    unsure_N = heads.task_N4[:, 0] < allow
    danger_N = heads.safety_N2[:, 1] >= danger
    against_N = (heads.dual_N22[:, :, 1] > heads.dual_N22[:, :, 0]).any(1)
    return np.asarray(np.where((decided_N == 0) & (unsure_N | danger_N | against_N), 1, decided_N))


@dataclass(frozen=True)
class Effect:
    """What one pair of thresholds does.

    Attributes:
        matrix: counts, rows of the true class, columns of the decision; labelled rows only.
        dangerous, dangerous_allowed: rows labelled dangerous, and those of them that would be allowed.
    """

    allow_threshold: float
    danger_threshold: float
    matrix: list[list[int]]
    dangerous: int
    dangerous_allowed: int

    @property
    def danger_to_allow(self) -> float | None:
        """Part of the dangerous rows that would be allowed; None without such rows."""
        return self.dangerous_allowed / self.dangerous if self.dangerous else None

    def share(self, true: str, *decided: str) -> float | None:
        """Part of the rows of a true class that get one of the decisions; None without such rows."""
        row = self.matrix[TASKS.index(true)]
        return sum(row[TASKS.index(name)] for name in decided) / sum(row) if sum(row) else None

    def to_json(self) -> dict[str, Any]:
        """By names."""
        return {
            "allow_threshold": self.allow_threshold,
            "danger_threshold": self.danger_threshold,
            "true_to_decided": {
                true: dict(zip(TASKS, row, strict=True)) for true, row in zip(TASKS, self.matrix, strict=True)
            },
            "dangerous": self.dangerous,
            "dangerous_allowed": self.dangerous_allowed,
            "danger_to_allow": self.danger_to_allow,
        }


def effect(heads: HeldOutHeads, allow: float, danger: float) -> Effect:
    """The effect of one pair of thresholds on the rows."""
    decided_N = decisions(heads, allow, danger)
    known_N = heads.true_task_N >= 0
    pairs_n = heads.true_task_N[known_N] * 4 + decided_N[known_N]
    matrix = np.bincount(pairs_n, minlength=16).reshape(4, 4)
    dangerous_N = heads.true_safety_N == 1
    return Effect(
        allow_threshold=allow,
        danger_threshold=danger,
        matrix=matrix.tolist(),
        dangerous=int(dangerous_N.sum()),
        dangerous_allowed=int((decided_N[dangerous_N] == 0).sum()),
    )


def sweep(heads: HeldOutHeads, allow: float, danger: float, *, what: str = "allow") -> list[Effect]:
    """The effects of `GRID` for one threshold (``allow`` or ``danger``), the other one held."""
    if what == "danger":
        return [effect(heads, allow, value) for value in GRID]
    return [effect(heads, value, danger) for value in GRID]
