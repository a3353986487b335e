"""Which rows share a packed sequence: a function of seed and epoch, so that a resumed run repeats it."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from so8t_engine.errors import DataError
from so8t_engine.i18n import _


def pack_lengths(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Groups of lengths, each adding up to at most ``capacity``: best fit, the longest first.

    Best fit decreasing needs at most 11/9 of the fewest groups possible, plus 4 (Johnson 1973).

    Raises:
        DataError: a length is greater than ``capacity``.
    """
    packs: list[list[int]] = []
    free: list[tuple[int, int]] = []  # room left and the pack that has it, ascending
    for length in sorted(lengths, reverse=True):
        if length > capacity:
            raise DataError(
                _("A row of %(length)d tokens does not fit into %(capacity)d.")
                % {"length": length, "capacity": capacity},
                _("Raise the sequence length."),
            )
        place = bisect_left(free, (length, -1))
        if place == len(free):
            packs.append([length])
            room, pack = capacity - length, len(packs) - 1
        else:
            found, pack = free.pop(place)
            packs[pack].append(length)
            room = found - length
        if room:
            insort(free, (room, pack))
    return packs


class PackedBatches(Sampler[list[int]]):
    """Shuffled packs of row numbers, as many in every epoch.

    The lengths that share a pack are chosen once; which row of such a length comes there, and the order of
    the packs, change with the epoch.

    Args:
        lengths: tokens of each row.
        capacity: tokens of a pack.
        seed: with the epoch's number it decides the order.

    Raises:
        DataError: a row is longer than ``capacity``.
    """

    def __init__(self, lengths: Sequence[int], capacity: int, seed: int) -> None:
        self._lengths = torch.tensor(lengths, dtype=torch.int64)
        packs = pack_lengths(lengths, capacity)
        slots = sorted((length, pack) for pack, members in enumerate(packs) for length in members)
        self._slot_packs = [pack for _length, pack in slots]
        self._packs = len(packs)
        #: No pack holds more rows, in any epoch.
        self.most_rows = max(map(len, packs), default=0)
        self._seed = seed
        # Each pack is a batch: accelerate asks for the size of one.
        self.batch_size = 1
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of epoch number ``epoch``."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._packs

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self._lengths), generator=generator)
        # By length, and among rows of one length as shuffled: the slots stand in the same order.
        order = order[torch.argsort(self._lengths[order], stable=True)]
        packs: list[list[int]] = [[] for _pack in range(self._packs)]
        for row, pack in zip(order.tolist(), self._slot_packs, strict=True):
            packs[pack].append(row)
        for pack in torch.randperm(self._packs, generator=generator).tolist():
            yield packs[pack]
