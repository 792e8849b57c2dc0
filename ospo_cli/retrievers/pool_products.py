"""Rankings of coalitions over small pools as products of two tables: the same integers as the compiled loops, and nothing to load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

# Cells (coalitions × candidates) of one table of scores; bounds memory.
CELLS = 1 << 20
# Sums below are exact in float64, whatever their order; a score and a place among the candidates fit in 63 bits.
LARGEST_SUM = 1 << 50
LARGEST_KEY = 1 << 62


def fits(longest: int, largest_weight: int, largest_pool: int) -> bool:
    """Tell whether every score, of at most `longest` words, is exact here."""
    largest = longest * largest_weight
    return largest < LARGEST_SUM and (largest + 1) * (largest_pool + 1) < LARGEST_KEY


def rank_groups(
    arrays: Mapping[str, NDArray[np.generic]],
    bags: Sequence[NDArray[np.int32]],
    member_starts: NDArray[np.int64],
    members: NDArray[np.int32],
    groups: NDArray[np.int64],
    pools: Sequence[NDArray[np.int64]],
    k: int,
    is_distinct: bool,
    slot_of: NDArray[np.int32],
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Return documents int64[coalitions, k] (−1 where nothing more is retrieved), scores int64[coalitions, k] and postings read.

    Order: score descending, then catalogue index ascending. Arguments as those of the compiled `lexical_kernel.rank_groups`; `slot_of`
    holds −1 alone, and does so again when this returns.
    """
    count = len(member_starts) - 1
    documents, scores = np.full((count, k), -1, dtype=np.int64), np.zeros((count, k), dtype=np.int64)
    read, group = 0, 0
    while group < len(pools):
        pool, last = pools[group], group + 1
        while last < len(pools) and pools[last] is pool and (groups[last + 1] - groups[group]) * max(1, len(pool)) <= CELLS:
            last += 1
        rows = slice(int(groups[group]), int(groups[last]))
        own = member_starts[rows.start : rows.stop + 1]
        chosen = members[own[0] : own[-1]]
        if len(pool) and len(chosen):
            counts, weights, entries = _tables(arrays, bags, own - own[0], chosen, pool, slot_of)
            read += entries
            if is_distinct:
                np.minimum(counts, 1.0, out=counts)
            width = min(k, len(pool))
            # Ascending: the best score first, and of equal ones the document that comes first in the catalogue.
            keys = np.arange(len(pool)) - (counts @ weights).astype(np.int64) * len(pool)
            if width < len(pool):
                keys = np.partition(keys, width - 1, axis=1)[:, :width]
            keys.sort(axis=1)
            found, places = np.divmod(keys, len(pool))
            scores[rows, :width] = -found
            documents[rows, :width] = np.where(found < 0, pool[places], -1)
        group = last
    return documents, scores, read


def _tables(
    arrays: Mapping[str, NDArray[np.generic]],
    bags: Sequence[NDArray[np.int32]],
    starts: NDArray[np.int64],
    members: NDArray[np.int32],
    pool: NDArray[np.int64],
    slot_of: NDArray[np.int32],
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    # How often each coalition holds each term, and what each term weighs in each candidate; entries of the candidates.
    first = int(members.min())
    parts = bags[first : int(members.max()) + 1]
    sizes = np.fromiter(map(len, parts), dtype=np.int64, count=len(parts))
    terms, slots = np.unique(np.concatenate(parts), return_inverse=True)
    held = np.bincount(np.repeat(np.arange(len(parts)), sizes) * max(1, len(terms)) + slots, minlength=len(parts) * len(terms))
    rows = np.repeat(np.arange(len(starts) - 1), starts[1:] - starts[:-1])
    present = np.bincount(rows * len(parts) + (members - first), minlength=(len(starts) - 1) * len(parts))
    counts = present.reshape(-1, len(parts)).astype(np.float64) @ held.reshape(len(parts), -1).astype(np.float64)
    forward_starts, forward_terms, forward_weights = (arrays[name] for name in ("forward_starts", "forward_terms", "forward_weights"))
    begins = forward_starts[pool]
    lengths = forward_starts[pool + 1] - begins
    ends = np.cumsum(lengths)
    entries = np.arange(int(ends[-1])) + np.repeat(begins - (ends - lengths), lengths)
    weights = np.zeros((len(terms), len(pool)))
    slot_of[terms] = np.arange(len(terms), dtype=np.int32)
    places = slot_of[forward_terms[entries]]
    slot_of[terms] = -1
    known = np.flatnonzero(places >= 0)
    weights[places[known], np.repeat(np.arange(len(pool)), lengths)[known]] = forward_weights[entries[known]]
    return counts, weights, len(entries)
