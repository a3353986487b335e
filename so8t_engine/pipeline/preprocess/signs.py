"""What kinds of signs texts are made of, counted for many texts in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

ALNUM, DIGIT, LETTER, KANA, HAN = (1 << bit for bit in range(5))
#: The planes with letters in common use and all emoji; what lies above is asked one by one.
_TABLE = 0x20000
_KANA = ((0x3041, 0x3096), (0x30A1, 0x30FA), (0xFF66, 0xFF9D))
_HAN = (0x4E00, 0x9FFF)
#: Bits of each kind's counter; all five are summed as one number.
_FIELD = 12


def kinds(sign: str) -> int:
    """The flags of one sign, as `str` and `re` see it: a letter is a word sign but no decimal."""
    code = ord(sign)
    found = ALNUM if sign.isalnum() else 0
    found |= DIGIT if sign.isdigit() else 0
    found |= LETTER if sign.isalnum() and not sign.isdecimal() else 0
    found |= KANA if any(low <= code <= high for low, high in _KANA) else 0
    return found | (HAN if _HAN[0] <= code <= _HAN[1] else 0)


@cache
def _table() -> NDArray[np.uint64]:
    flags = np.fromiter((kinds(chr(code)) for code in range(_TABLE)), np.uint64, _TABLE)
    return _spread(flags)


def _spread(flags: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each flag as a one in its counter."""
    return sum(((flags >> np.uint64(bit)) & np.uint64(1)) << np.uint64(bit * _FIELD) for bit in range(5))  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class Signs:
    """How many signs of each kind stand in a text, in its first `Signs.look` signs."""

    looked: int
    alnum: int
    digits: int
    letters: int
    kana: int
    han: int


def count_signs(texts: Sequence[str], look: int) -> list[Signs]:
    """The signs of each text's first ``look``, at most 4,095."""
    assert look < 1 << _FIELD
    samples = [text[:look] for text in texts]
    sizes = np.array([len(sample) for sample in samples], np.int64)
    codes = np.frombuffer("".join(samples).encode("utf-32-le", "surrogatepass"), "<u4")
    running = np.zeros(codes.size + 1, np.uint64)
    ones = np.take(_table(), codes, mode="clip", out=running[1:])
    if codes.size and int(codes.max()) >= _TABLE:
        for at in np.flatnonzero(codes >= _TABLE).tolist():
            ones[at] = _spread(np.array([kinds(chr(int(codes[at])))], np.uint64))[0]
    np.cumsum(ones, out=ones)  # it may overflow; differences of it are right all the same
    ends = np.cumsum(sizes)
    counted = running[ends] - running[ends - sizes]
    mask = np.uint64((1 << _FIELD) - 1)
    counts = [((counted >> np.uint64(bit * _FIELD)) & mask).tolist() for bit in range(5)]
    return [Signs(*row) for row in zip(sizes.tolist(), *counts, strict=True)]
