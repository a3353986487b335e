"""Near-duplicates: Jaccard similarity over character 5-gram shingles, exactly or by MinHash.

Two texts are near-duplicates when the Jaccard similarity of their shingle sets is at least
`THRESHOLD`. Up to `EXACT_LIMIT` texts every such pair is found: products of sparse matrices count what
any two share. Above it, candidates come from MinHash with banding (Broder 1997) and are verified
exactly: no false pair, and a pair at similarity s is found with probability
``1 - (1 - s**ROWS_PER_BAND)**BANDS``.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHINGLE = 5
THRESHOLD = 0.6
EXACT_LIMIT = 6_000
BANDS = 32
ROWS_PER_BAND = 4
_SMALL_BUCKET = 32
#: Rows of a product of sparse matrices at a time.
_BLOCK = 512
_CHUNK_SHINGLES = 2_000_000
_BASE = np.uint64(0x9E3779B97F4A7C15)

Shingles = NDArray[np.uint64]


def normalise(text: str) -> str:
    """``text`` under NFKC and case folding, white space collapsed: what the measure looks at."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def _mixed(values: Shingles) -> Shingles:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014), a bijection of 64-bit words."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def shingles(text: str) -> Shingles:
    """The sorted distinct 64-bit hashes of all character 5-grams of the normalised text.

    A text shorter than five characters is one shingle; an empty text has none. The hash does not
    depend on the process, so that seeded splits repeat.
    """
    codes = np.frombuffer(normalise(text).encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    if codes.size == 0:
        return codes
    width = min(SHINGLE, int(codes.size))
    hashed = np.zeros(codes.size - width + 1, dtype=np.uint64)
    for offset in range(width):
        hashed = hashed * _BASE + codes[offset : offset + hashed.size] + np.uint64(1)
    return np.unique(_mixed(hashed))


def jaccard(a: Shingles, b: Shingles) -> float:
    """``|a ∩ b| / |a ∪ b|``; two empty sets are alike (1.0)."""
    if a.size == 0 and b.size == 0:
        return 1.0
    shared = np.intersect1d(a, b, assume_unique=True).size
    return float(shared / (a.size + b.size - shared))


def similarity(a: str, b: str) -> float:
    """Jaccard similarity of the two texts' shingle sets, in [0, 1]."""
    return jaccard(shingles(a), shingles(b))


def _incidence(sets: Sequence[Shingles]) -> tuple[NDArray[np.int64], Any]:
    """The sets' sizes (N,) and a sparse matrix (N, distinct shingles) with a one for each member."""
    from scipy.sparse import csr_array

    sizes = np.array([one.size for one in sets], np.int64)
    known, columns = np.unique(np.concatenate([np.empty(0, np.uint64), *sets]), return_inverse=True)
    ends = np.concatenate([[0], np.cumsum(sizes)])
    return sizes, csr_array((np.ones(len(columns), np.int32), columns, ends), shape=(len(sets), len(known)))


def _similarities(
    rows: Any,  # noqa: ANN401  (scipy's sparse arrays have no types)
    others: Any,  # noqa: ANN401
    sizes: NDArray[np.int64],
    first: int,
    start: int,
) -> tuple[Any, Any, Any]:
    """Set numbers i and j, and their Jaccard similarity, of all pairs that share a shingle.

    Args:
        rows: sets from number ``first`` on, as `_incidence` has them.
        others: those from number ``start`` on, transposed.
    """
    shared = (rows @ others).tocoo()
    one, other = shared.coords[0] + first, shared.coords[1] + start
    return one, other, shared.data / (sizes[one] + sizes[other] - shared.data)


def _exact_pairs(sets: Sequence[Shingles], threshold: float) -> list[tuple[int, int, float]]:
    """Every pair (i, j), i < j, with Jaccard >= ``threshold`` > 0, and empty sets with their neighbours."""
    sizes, has = _incidence(sets)
    found = [(i, j, 1.0) for i, j in itertools.pairwise(np.flatnonzero(sizes == 0).tolist())]
    for first in range(0, len(sets), _BLOCK):
        rows, others = has[first : first + _BLOCK], has[first:].T.tocsr()
        one, other, values = _similarities(rows, others, sizes, first, first)
        alike = (one < other) & (values >= threshold)
        found += zip(one[alike].tolist(), other[alike].tolist(), values[alike].tolist(), strict=True)
    return sorted(found)


def _minhash_pairs(sets: Sequence[Shingles], seed: int) -> Iterator[tuple[int, int]]:
    """Candidate pairs (i, j), i < j, by MinHash banding.

    In a bucket of more than `_SMALL_BUCKET`, whose members are mostly copies of one text, each is paired with
    its neighbour and with the first only: enough to join copies into one component.
    """
    rng = np.random.default_rng(seed)
    salts = rng.integers(1, 2**63, size=BANDS * ROWS_PER_BAND, dtype=np.uint64)
    filled = [i for i in range(len(sets)) if sets[i].size]
    signatures = np.empty((len(filled), salts.size), dtype=np.uint64)
    start = 0
    while start < len(filled):
        stop, total = start, 0
        while stop < len(filled) and (stop == start or total + sets[filled[stop]].size <= _CHUNK_SHINGLES):
            total += int(sets[filled[stop]].size)
            stop += 1
        joined = np.concatenate([sets[i] for i in filled[start:stop]])
        lengths = np.array([0, *(sets[i].size for i in filled[start : stop - 1])])
        offsets = np.cumsum(lengths)
        for column, salt in enumerate(salts):
            # Odd multipliers permute 64-bit words; the high half of the product is the rank.
            ranked = (joined * (salt | np.uint64(1))) >> np.uint64(16)
            signatures[start:stop, column] = np.minimum.reduceat(ranked, offsets)
        start = stop
    for band in range(BANDS):
        key = np.zeros(len(filled), dtype=np.uint64)
        for column in range(band * ROWS_PER_BAND, (band + 1) * ROWS_PER_BAND):
            key = _mixed(key * _BASE + signatures[:, column])
        order = np.argsort(key, kind="stable")
        ordered = key[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        for begin, end in zip(starts, np.r_[starts[1:], ordered.size], strict=True):
            members = [filled[k] for k in order[begin:end].tolist()]
            if len(members) <= _SMALL_BUCKET:
                yield from itertools.combinations(members, 2)
                continue
            for previous, current in itertools.pairwise(members):
                yield previous, current
                yield members[0], current
    empty = [i for i in range(len(sets)) if sets[i].size == 0]
    yield from itertools.pairwise(empty)


def near_duplicate_pairs(
    sets: Sequence[Shingles], threshold: float = THRESHOLD, *, seed: int = 0
) -> list[tuple[int, int, float]]:
    """Pairs (i, j, similarity) with i < j at or above ``threshold``, each verified exactly.

    Complete up to `EXACT_LIMIT` sets; above it found by MinHash (see the module's text).
    """
    if len(sets) <= EXACT_LIMIT:
        return _exact_pairs(sets, threshold)
    candidates = set(_minhash_pairs(sets, seed))
    found = ((i, j, jaccard(sets[i], sets[j])) for i, j in sorted(candidates))
    return [pair for pair in found if pair[2] >= threshold]


def components(count: int, pairs: Sequence[tuple[int, int, float]]) -> list[list[int]]:
    """Connected components of ``count`` nodes joined by ``pairs``, each sorted, by first node."""
    parent = list(range(count))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for i, j, _similarity in pairs:
        a, b = root(i), root(j)
        parent[max(a, b)] = min(a, b)
    grouped: defaultdict[int, list[int]] = defaultdict(list)
    for node in range(count):
        grouped[root(node)].append(node)
    return list(grouped.values())


def max_cross_similarity(groups: Sequence[Sequence[str]]) -> tuple[float, str, str]:
    """The largest similarity between texts of two different groups, with the two texts; exact.

    Every cross-group pair is covered.
    """
    texts = [text for group in groups for text in group]
    bounds = np.cumsum([0, *(len(group) for group in groups)])
    sets = [shingles(text) for text in texts]
    sizes, has = _incidence(sets)
    nothing = [index for index, size in enumerate(sizes) if size == 0]
    if len({int(np.searchsorted(bounds, index, side="right")) for index in nothing}) > 1:
        return 1.0, texts[nothing[0]], texts[nothing[-1]]  # texts without a shingle are alike
    best = (0.0, "", "")
    for low, high in itertools.pairwise(bounds[:-1]):
        others = has[high:].T.tocsr()  # a pair is looked at from its earlier group
        for first in range(low, high, _BLOCK):
            rows = has[first : min(first + _BLOCK, high)]
            one, other, values = _similarities(rows, others, sizes, first, high)
            if not len(values):
                continue
            top = int(values.argmax())
            if values[top] > best[0]:
                best = (float(values[top]), texts[one[top]], texts[other[top]])
    return best
