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

SMALLEST_CHUNK, SMALLEST_TILE = 32, 256


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
        model: whose loss chunk, checkpointing and lean layers are changed.

    Attributes:
        rows: that are computed at a time; None are all of a micro-batch.
        changes: a sentence for each change, in order.
        given_up: of what was kept to save time: ``weights``, ``layers``, ``attention``.
    """

    def __init__(self, model: SO8TModel) -> None:
        self._model = model
        self.rows: int | None = None
        self.changes: list[str] = []
        self.given_up: list[str] = []

    def state(self) -> dict[str, Any]:
        """What was changed, for a checkpoint."""
        lean = self._model.lean
        own = None if lean is None else {
            "kept_layers": lean.kept_layers, "offload": lean.offloads, "tile": lean.tile
        }  # fmt: skip
        return {
            "rows": self.rows,
            "loss_chunk": self._model.loss_chunk,
            "checkpointing": self._model.checkpointing,
            "lean": own,
            "changes": list(self.changes),
            "given_up": list(self.given_up),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Change what had been changed when `state` was called. A limit raised since is not lowered."""
        self.rows = state["rows"]
        self.changes = [str(change) for change in state.get("changes", [])]
        self._model.loss_chunk = min(self._model.loss_chunk, int(state["loss_chunk"]))
        if state["checkpointing"] and not self._model.checkpointing:
            self._model.enable_checkpointing()
        lean, own = self._model.lean, state.get("lean")
        if lean is not None and own is not None:
            for what in state.get("given_up", () if own["kept_layers"] else ("layers",)):
                self._give_up(str(what))
            lean.tile = min(lean.tile, int(own["tile"]))
            if own["offload"]:
                lean.start_offload()

    def pieces(self, batch: Batch) -> list[Batch]:
        """The passes that a micro-batch takes at present."""
        return list(cut(batch, self.rows))

    def change(self, largest: int, tokens: int) -> str:
        """Make the next attempt need less memory; the change that costs least comes first.

        Args:
            largest: rows of the step's largest micro-batch.
            tokens: of the largest micro-batch, padding included.

        Returns:
            What was changed, as a sentence for a person.

        Raises:
            MemoryLimitError: there is nothing left to change.
        """
        rows = min(self.rows or largest, largest)
        if (change := self._giving_up()) is not None:
            pass  # what only saves time goes first
        elif rows > 1:
            self.rows = -(-rows // 2)
            change = _("%(rows)d rows are computed at a time from now on; the effective batch stays.") % {
                "rows": self.rows
            }
        else:
            self.rows = 1
            change = self._saving(tokens)
        self.changes.append(change)
        return change

    def _giving_up(self) -> str | None:
        """Give up what is kept to save time, the dearest in memory first; None where nothing is kept."""
        lean = self._model.lean
        if lean is not None and lean.kept_weights:
            self._give_up("weights")
            return _("All weights are dequantised for the moment of use from now on.")
        if lean is not None and lean.recomputed and (lean.kept_layers or lean.kept_shorter):
            self._give_up("layers")
            return _("The activations of all layers are recomputed from now on.")
        if lean is not None and lean.recomputed and lean.offloads and lean.everything:
            self._give_up("everything")
            return _("Layers that waited as a whole are computed again from now on.")
        if lean is not None and lean.recomputed and lean.keep_attention and not lean.offloads:
            self._give_up("attention")
            return _("Attention is computed again for the backward pass from now on.")
        return None

    def _give_up(self, what: str) -> None:
        lean = self._model.lean
        assert lean is not None
        if what == "weights":
            lean.kept_weights = 0
        elif what == "everything":
            lean.everything = 0.0
        elif what == "attention":
            lean.keep_attention = False
        else:
            lean.kept_layers, lean.kept_shorter = 0, ()
        if what not in self.given_up:
            self.given_up.append(what)

    def _saving(self, tokens: int) -> str:
        """Another way through the model that keeps less at a time; the result is the same."""
        model, lean = self._model, self._model.lean
        if not model.checkpointing:
            model.enable_checkpointing()
            return _("Gradient checkpointing is on from now on: about a third more time.")
        if lean is not None and not lean.offloads and lean.start_offload():
            return _("The layers' inputs wait in system memory from now on.")
        chunk = min(model.loss_chunk, tokens)
        if chunk > SMALLEST_CHUNK:
            model.loss_chunk = max(SMALLEST_CHUNK, chunk // 4)
            return _("The loss is computed in chunks of %(count)d tokens from now on.") % {
                "count": model.loss_chunk
            }
        if lean is not None and (tile := min(lean.tile, tokens)) > SMALLEST_TILE:
            lean.tile = max(SMALLEST_TILE, tile // 2)
            return _("%(count)d tokens pass through an MLP at a time from now on.") % {"count": lean.tile}
        raise MemoryLimitError(
            _("One row does not fit into the memory limit, with everything that saves memory switched on."),
            _("The last checkpoint continues the run: shorten the sequence or raise the memory limit."),
        )


def release_memory() -> None:
    """Give back what a failed pass held. Call it outside the exception's handler, which keeps frames."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
