"""A tape of what is allocated and freed, in the order in which a training step does it. Imports no torch.

The estimate does not add up guesses: it goes through the same allocations as the code, in the same order,
with sizes from the configuration, and notes the highest moment.
"""

from __future__ import annotations

#: The allocator hands out multiples of this (c10/cuda/CUDACachingAllocator.cpp, kMinBlockSize).
BLOCK = 512
Held = tuple[str, int]


def rounded(count: float) -> int:
    """``count`` bytes as the allocator hands them out."""
    return -(-int(count) // BLOCK) * BLOCK


class Tape:
    """Bytes that are alive, and what they were at the highest moment.

    Attributes:
        now, peak: bytes. at_peak: term → bytes, at the first highest moment.
    """

    __slots__ = ("_terms", "at_peak", "now", "peak")

    def __init__(self) -> None:
        self.now = self.peak = 0
        self._terms: dict[str, int] = {}
        self.at_peak: dict[str, int] = {}

    def add(self, term: str, count: float) -> Held:
        """Allocate one tensor."""
        size = -(-int(count) // BLOCK) * BLOCK
        self._terms[term] = self._terms.get(term, 0) + size
        self.now += size
        if self.now > self.peak:
            self.peak, self.at_peak = self.now, dict(self._terms)
        return term, size

    def many(self, term: str, count: float, times: int) -> Held:
        """Allocate ``times`` tensors of one size, as one."""
        return self.add(term, rounded(count) * times)

    def drop(self, *held: Held | None) -> None:
        """Free tensors; None is nothing."""
        for one in held:
            if one is not None:
                self._terms[one[0]] -= one[1]
                self.now -= one[1]

    def forget_peak(self) -> None:
        """From here on a new highest moment is looked for."""
        self.peak, self.at_peak = self.now, dict(self._terms)
