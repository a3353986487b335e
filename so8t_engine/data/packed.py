"""Rows laid end to end in one sequence without padding, and pieces of such a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from so8t_engine.data.tokenize import IGNORED, Encoded

if TYPE_CHECKING:
    import torch

#: Named in a packed batch alone: tells it from a padded one.
ROW_INDEX = "row_index_NT"
#: Where each row begins and the last one ends.
CUMULATIVE = "cumulative_S"


class PackedCollator:
    """Whole rows in one sequence, each with its own positions from 0.

    Args:
        pad_token_id: fills the few tokens up to ``multiple_of``; they belong to no row.
        multiple_of: the sequence's length is rounded up to it, so that fewer shapes occur.
    """

    def __init__(self, pad_token_id: int, multiple_of: int = 8) -> None:
        self.pad_token_id = pad_token_id
        self.multiple_of = multiple_of

    def __call__(self, rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        """The tensors of `Collator` with N = 1 in ``…_NT`` and one entry per row in ``…_N``, and besides:

        ``position_ids_NT``: from 0 in every row. ``row_index_NT``: which row a token belongs to, −1 for the
        filling. ``cumulative_S``: int32, where each row begins and the last ends, the filling counted as a
        row. ``pool_index_N`` counts from the beginning of the sequence. A row's first token carries no label:
        the token before it belongs to another row and must not predict it.
        """
        import torch

        ids: list[int] = []
        labels: list[int] = []
        positions: list[int] = []
        index: list[int] = []
        pooled: list[int] = []
        ends = [0]
        for number, row in enumerate(rows):
            pooled.append(len(ids) + row.prompt_end)
            ids += row.input_ids
            labels += [IGNORED, *row.labels[1:]]
            positions += range(len(row.input_ids))
            index += [number] * len(row.input_ids)
            ends.append(len(ids))
        if fill := -len(ids) % self.multiple_of:
            ids += [self.pad_token_id] * fill
            labels += [IGNORED] * fill
            positions += range(fill)
            index += [-1] * fill
            ends.append(len(ids))

        def whole(values: list[int]) -> torch.Tensor:
            return torch.tensor([values], dtype=torch.int64)

        def each(values: list[int | None]) -> torch.Tensor:
            return torch.tensor([IGNORED if one is None else one for one in values], dtype=torch.int64)

        row_index_NT = whole(index)
        return {
            "input_ids_NT": whole(ids),
            "attention_mask_NT": (row_index_NT >= 0).long(),
            "labels_NT": whole(labels),
            "position_ids_NT": whole(positions),
            ROW_INDEX: row_index_NT,
            CUMULATIVE: torch.tensor(ends, dtype=torch.int32),
            "pool_index_N": torch.tensor(pooled, dtype=torch.int64),
            "task_N": each([row.task for row in rows]),
            "safety_N": each([row.safety for row in rows]),
        }


def cut_packed(batch: dict[str, torch.Tensor], rows: int) -> Iterator[dict[str, torch.Tensor]]:
    """A packed batch in pieces of at most ``rows`` whole rows, each without the filling."""
    count = len(batch["task_N"])
    ends: list[int] = batch[CUMULATIVE].tolist()
    for first in range(0, count, rows):
        last = min(first + rows, count)
        begin, end = ends[first], ends[last]
        piece = {name: value[:, begin:end] for name, value in batch.items() if name.endswith("_NT")}
        piece |= {name: value[first:last] for name, value in batch.items() if name.endswith("_N")}
        piece[ROW_INDEX] = piece[ROW_INDEX] - first
        piece["pool_index_N"] = piece["pool_index_N"] - begin
        piece[CUMULATIVE] = batch[CUMULATIVE][first : last + 1] - begin
        yield piece
