"""What the heads said of each held-out row, kept with a run to try thresholds on. No torch."""

# ruff: noqa: N815  (fields carry their shapes)

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from so8t_engine.errors import DataError
from so8t_engine.i18n import _

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
FILE = "decisions.json"
MANIFEST = "MANIFEST.json"
DIGITS = 9


@dataclass(frozen=True)
class HeldOutHeads:
    """Probabilities of N rows, in the rows' order.

    Attributes:
        task_N4, safety_N2: of the task and the safety head. dual_N22: row, side (R_safe h, M h), class.
        true_task_N, true_safety_N: labels, −1 where a row has none.
    """

    split: str
    step: int | None
    task_N4: Floats
    safety_N2: Floats
    dual_N22: Floats
    true_task_N: Ints
    true_safety_N: Ints

    def __len__(self) -> int:
        return len(self.task_N4)

    def to_json(self) -> dict[str, Any]:
        """Plain lists."""
        return {
            "schema_version": 1,
            "split": self.split,
            "step": self.step,
            "task": self.task_N4.round(DIGITS).tolist(),
            "safety": self.safety_N2.round(DIGITS).tolist(),
            "dual": self.dual_N22.round(DIGITS).tolist(),
            "true_task": self.true_task_N.tolist(),
            "true_safety": self.true_safety_N.tolist(),
        }

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> HeldOutHeads:
        """Raises `DataError`: a part is missing, of another length, or no probability."""
        try:
            found = cls(
                split=str(told["split"]),
                step=None if told["step"] is None else int(told["step"]),
                task_N4=np.asarray(told["task"], np.float64).reshape(-1, 4),
                safety_N2=np.asarray(told["safety"], np.float64).reshape(-1, 2),
                dual_N22=np.asarray(told["dual"], np.float64).reshape(-1, 2, 2),
                true_task_N=np.asarray(told["true_task"], np.int64).reshape(-1),
                true_safety_N=np.asarray(told["true_safety"], np.int64).reshape(-1),
            )
            sizes = {len(found), len(found.safety_N2), len(found.dual_N22)}
            sizes |= {len(found.true_task_N), len(found.true_safety_N)}
            if len(sizes) != 1:
                raise ValueError("lengths differ")
            for values in (found.task_N4, found.safety_N2, found.dual_N22):
                if not bool(((values >= 0) & (values <= 1)).all()):
                    raise ValueError("a probability is none")
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                _("The stored decisions cannot be read: %(reason)s.") % {"reason": error},
                _("Make them anew with: so8t thresholds RUN --again"),
            ) from error
        return found


def final_digest(run: Path) -> str:
    """SHA-256 of the manifest of a run's result; empty where there is none."""
    path = run / "final" / MANIFEST
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def stored_heads(run: Path) -> HeldOutHeads | None:
    """What a run wrote at its end, or `so8t thresholds` for the same result later; None without either.

    Raises:
        DataError: the file is damaged.
    """
    for path in (run / "final" / FILE, run / "evaluation" / FILE):
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
        except OSError:
            continue
        except ValueError as error:
            raise DataError(
                _("%(path)s cannot be read: %(reason)s.") % {"path": path, "reason": error},
                _("Make it anew with: so8t thresholds RUN --again"),
            ) from error
        if not isinstance(told, dict):
            continue
        if path.parent.name == "evaluation" and told.get("final") != final_digest(run):
            continue  # of an earlier result
        return HeldOutHeads.from_json(told)
    return None
