"""Which rows form which batch: a function of seed and epoch alone, so that a resumed run repeats it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler


class EpochBatches(Sampler[list[int]]):
    """Shuffled batches of row numbers.

    Args:
        lengths: tokens of each row.
        batch_size: rows a batch; the last one may be smaller.
        seed: with the epoch's number it decides the order.
        group_by_length: batches hold rows of like length, in shuffled order: less padding.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, group_by_length: bool) -> None:
        self._lengths = lengths
        self.batch_size = batch_size
        self._seed = seed
        self._group = group_by_length
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of epoch number ``epoch``."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self._lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self.epoch)
        order: list[int] = torch.randperm(len(self._lengths), generator=generator).tolist()
        size = self.batch_size
        if not self._group:
            yield from (order[i : i + size] for i in range(0, len(order), size))
            return
        # Sorted within pools of 50 batches: rows still meet different ones in each epoch.
        pool = size * 50
        batches: list[list[int]] = []
        for start in range(0, len(order), pool):
            part = sorted(order[start : start + pool], key=lambda row: self._lengths[row])
            batches += [part[i : i + size] for i in range(0, len(part), size)]
        for index in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[index]
