"""Which rows of an optimizer step each process computes. The step itself is the one of a single process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor
from torch.utils.data import Sampler

from so8t_engine.data.packed import PackedCollator
from so8t_engine.data.tokenize import Collator, Encoded
from so8t_engine.training.batches import EpochBatches
from so8t_engine.training.packing import PackedBatches

#: A micro-batch of which this process computes nothing.
IDLE = "idle"


def passes_of(accumulation: int, size: int) -> int:
    """Most forward passes of a process in a step of up to ``accumulation`` micro-batches.

    An epoch's last step may hold fewer, and more of those may have to be cut.
    """
    return max(count // size + count % size for count in range(1, accumulation + 1))


def share_of(step: Sequence[Sequence[int]], rank: int, size: int, passes: int) -> list[list[int]]:
    """This process's micro-batches of a step, ``passes`` of them; some may be empty.

    Whole micro-batches are dealt out in turn. Of what is left, fewer than there are processes, each is cut
    into as many parts of neighbouring rows; who gets the first part changes from one to the next.

    Args:
        step: row numbers of every micro-batch of the step.
    """
    whole = len(step) // size * size
    own = [list(batch) for batch in step[rank:whole:size]]
    for number, batch in enumerate(step[whole:]):
        part, count = (rank - number) % size, len(batch)
        own.append(list(batch[-(-part * count // size) : -(-(part + 1) * count // size)]))
    return own + [[] for _pass in range(passes - len(own))]


class RankBatches(Sampler[list[int]]):
    """The micro-batches of one process, ``passes`` for every optimizer step.

    Args:
        batches: of the whole run; decides the order, whatever the number of processes.
        accumulation: micro-batches of a step.
        rank, size: of the process and their number.
    """

    def __init__(
        self, batches: EpochBatches | PackedBatches, accumulation: int, rank: int, size: int
    ) -> None:
        self._batches, self._accumulation = batches, accumulation
        self._rank, self._size = rank, size
        self.passes = passes_of(accumulation, size)
        self.batch_size = batches.batch_size

    def __len__(self) -> int:
        return -(-len(self._batches) // self._accumulation) * self.passes

    def __iter__(self) -> Iterator[list[int]]:
        order = iter(self._batches)
        while step := list(islice(order, self._accumulation)):
            yield from share_of(step, self._rank, self._size, self.passes)


class ShareCollator:
    """Collates a process's part of a micro-batch, of which nothing may be left."""

    def __init__(self, collate: Collator | PackedCollator) -> None:
        self._collate = collate

    def __call__(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        return self._collate(rows) if rows else {IDLE: torch.zeros(())}
