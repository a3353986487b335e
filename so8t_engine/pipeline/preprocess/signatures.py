"""MinHash of many texts at once: rensa's signatures over hashed character 5-grams, and their LSH bands.

What counts as alike is defined in `so8t_engine.data.similarity`; here are only candidates. 32 bands of 4 find
a pair of similarity s with probability 1 - (1 - s^4)^32: 0.98 at 0.6, 1.0 - 5e-8 at 0.8.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from so8t_engine.data.similarity import _BASE, SHINGLE, Shingles, _mixed, shingles
from so8t_engine.data.similarity import normalise as measured

BANDS = 32
ROWS = 4
PERMUTATIONS = BANDS * ROWS


def token_hashes(texts: Sequence[str]) -> tuple[Shingles, NDArray[np.uint64]]:
    """Hashes of all texts' 5-grams one after the other (repeats and all), and where each text begins."""
    parts: list[Shingles] = []
    codes = [
        np.frombuffer(measured(text).encode("utf-32-le", "surrogatepass"), dtype="<u4") for text in texts
    ]
    joined = np.concatenate([*codes, np.zeros(SHINGLE, "<u4")]).astype(np.uint64)
    hashed = np.zeros(max(0, joined.size - SHINGLE + 1), dtype=np.uint64)
    for offset in range(SHINGLE):
        hashed = hashed * _BASE + joined[offset : offset + hashed.size] + np.uint64(1)
    hashed = _mixed(hashed)
    offsets = np.zeros(len(texts) + 1, dtype=np.uint64)
    start = total = 0
    for i, one in enumerate(codes):
        part = hashed[start : start + one.size - SHINGLE + 1] if one.size >= SHINGLE else shingles(texts[i])
        parts.append(part)
        start += one.size
        total += part.size
        offsets[i + 1] = total
    return np.ascontiguousarray(np.concatenate(parts)) if parts else hashed[:0], offsets


def signatures(texts: Sequence[str], seed: int) -> NDArray[np.uint32]:
    """(len(texts), 128) MinHash values."""
    from rensa import RMinHash

    hashes, offsets = token_hashes(texts)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, PERMUTATIONS, seed)
    return np.array(matrix.to_rows(), dtype=np.uint32).reshape(len(texts), PERMUTATIONS)


def band_keys(signatures_NP: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """(BANDS, N): equal where a band's four values are."""
    wide = signatures_NP.astype(np.uint64).reshape(-1, BANDS, ROWS)
    first = (wide[:, :, 0] << np.uint64(32)) | wide[:, :, 1]
    second = (wide[:, :, 2] << np.uint64(32)) | wide[:, :, 3]
    keys: NDArray[np.uint64] = _mixed(_mixed(first) * _BASE + second).T
    return np.ascontiguousarray(keys)


def sketch(signatures_NP: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """The lowest byte of each value: enough to estimate a similarity (Li and König 2010, b-bit MinHash)."""
    return (signatures_NP & np.uint32(0xFF)).astype(np.uint8)


def estimated(a_NP: NDArray[np.uint8], b_NP: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Similarity of each pair of rows from their sketches; standard deviation at most 0.045."""
    equal = (a_NP == b_NP).mean(axis=1)
    result: NDArray[np.float64] = (equal - 1 / 256) / (1 - 1 / 256)
    return result
