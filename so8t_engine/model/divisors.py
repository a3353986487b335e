"""What the sums of a forward pass are divided by."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Divisors:
    """`StepTotals`, none of them 0: numbers, or 0-dim tensors where a pass is recorded and replayed.

    Attributes:
        task, safety: whether the step has such a term.
    """

    tokens: float | Tensor
    rows: float | Tensor
    task_rows: float | Tensor
    safety_rows: float | Tensor
    micro_batches: float | Tensor
    task: bool
    safety: bool
