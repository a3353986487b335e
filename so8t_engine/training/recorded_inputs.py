"""What a recorded pass reads: tensors of one shape for all batches that it serves, filled before a replay."""

from __future__ import annotations

import torch
from torch import Tensor

from so8t_engine.data.packed import CUMULATIVE, ROW_INDEX
from so8t_engine.model.so8t_model import Batch
from so8t_engine.so8t.losses import IGNORE

#: Ends of packed rows in addition to one a row: the first row's beginning, the end of a batch's own filling,
#: and the end of what fills it up to the recording's length.
MORE_ENDS = 3


def empty_inputs(batch: Batch, rows: int, length: int, device: torch.device) -> Batch:
    """Tensors for batches like ``batch`` of so many rows and tokens; their values are not set.

    Args:
        rows: that the batch has; where rows are packed, the most that a pack has.
        length: tokens of a row, or of a pack.
    """
    sequences = sequences_of(batch, rows)

    def shape(name: str) -> tuple[int, ...]:
        if name == CUMULATIVE:
            return (rows + MORE_ENDS,)
        return (sequences, length) if name.endswith("_NT") else (rows,)

    return {name: torch.empty(shape(name), dtype=one.dtype, device=device) for name, one in batch.items()}


def sequences_of(batch: Batch, rows: int) -> int:
    """How many sequences hold so many rows: one where they are packed."""
    return 1 if ROW_INDEX in batch else rows


def fill(inputs: Batch, batch: Batch, pad_token_id: int) -> None:
    """Copy a batch into a recording's tensors, and fill what is left without labels.

    Of packed rows, the first end that is added makes the filling a row of its own; the others are rows
    without tokens.
    """
    filling = {
        "input_ids_NT": pad_token_id, "labels_NT": IGNORE, "task_N": IGNORE, "safety_N": IGNORE,
        ROW_INDEX: -1, CUMULATIVE: inputs["input_ids_NT"].shape[1],
    }  # fmt: skip
    for name, target in inputs.items():
        target.fill_(filling.get(name, 0))
        source: Tensor = batch[name]
        target[..., : source.shape[-1]].copy_(source, non_blocking=True)
