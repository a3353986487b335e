"""Memory that runs out during a step: the step is done again in smaller pieces, and nothing is lost.

The losses of a step are shares that add up however the step is cut into forward passes (`StepTotals`), so a
step repeated in smaller pieces has the same loss and, dropout aside, the same gradient: the effective batch
stays. What was learned before is untouched, because the optimizer acts at the end of a step.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import torch

from so8t_engine.data.packed import ROW_INDEX, cut_packed
from so8t_engine.errors import MemoryLimitError
from so8t_engine.i18n import _
from so8t_engine.model.so8t_model import Batch, SO8TModel

SMALLEST_CHUNK = 32


def cut(batch: Batch, rows: int | None) -> Iterator[Batch]:
    """``batch`` in pieces of at most ``rows`` rows, each without columns that only hold padding.

    Yields the batch itself where ``rows`` is None.
    """
    if rows is None:
        yield batch
        return
    if ROW_INDEX in batch:
        yield from cut_packed(batch, rows)
        return
    for start in range(0, len(batch["task_N"]), rows):
        piece = {name: tensor[start : start + rows] for name, tensor in batch.items()}
        used = piece["attention_mask_NT"].any(0).nonzero()
        width = int(used.max()) + 1 if used.numel() else 1
        yield {name: tensor[:, :width] if name.endswith("_NT") else tensor for name, tensor in piece.items()}


class Recovery:
    """What has been changed since the start so that a step fits, and what can be changed still.

    Args:
        model: whose loss chunk and checkpointing are changed.
    """

    def __init__(self, model: SO8TModel) -> None:
        self._model = model
        self.rows: int | None = None

    def state(self) -> dict[str, Any]:
        """What was changed, for a checkpoint."""
        return {
            "rows": self.rows,
            "loss_chunk": self._model.loss_chunk,
            "checkpointing": self._model.checkpointing,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Change what had been changed when `state` was called. A limit raised since is not lowered."""
        self.rows = state["rows"]
        self._model.loss_chunk = min(self._model.loss_chunk, int(state["loss_chunk"]))
        if state["checkpointing"] and not self._model.checkpointing:
            self._model.enable_checkpointing()

    def pieces(self, batch: Batch) -> list[Batch]:
        """The passes that a micro-batch takes at present."""
        return list(cut(batch, self.rows))

    def change(self, largest: int) -> str:
        """Make the next attempt need less memory; the change that costs least comes first.

        Args:
            largest: rows of the step's largest micro-batch.

        Returns:
            What was changed, as a sentence for a person.

        Raises:
            MemoryLimitError: there is nothing left to change.
        """
        rows = min(self.rows or largest, largest)
        if rows > 1:
            self.rows = -(-rows // 2)
            return _("%(rows)d rows are computed at a time from now on; the effective batch stays.") % {
                "rows": self.rows
            }
        self.rows = 1
        if self._model.loss_chunk > SMALLEST_CHUNK and self._model.checkpointing:
            self._model.loss_chunk = max(SMALLEST_CHUNK, self._model.loss_chunk // 4)
            return _("The loss is computed in chunks of %(count)d tokens from now on.") % {
                "count": self._model.loss_chunk
            }
        if not self._model.checkpointing:
            self._model.enable_checkpointing()
            return _("Gradient checkpointing is on from now on: about a third more time.")
        raise MemoryLimitError(
            _("One row does not fit into the memory limit, with everything that saves memory switched on."),
            _("The last checkpoint continues the run: shorten the sequence or raise the memory limit."),
        )


def release_memory() -> None:
    """Give back what a failed pass held. Call it outside the exception's handler, which keeps frames."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
