"""Rankings of coalitions over small pools as products of tables: the same integers as the compiled loops, and nothing to load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ospo_cli.retrievers.lexical.arrays import Asked, Forward

# Cells (coalitions × candidates) of one table of scores: what a core's cache holds.
CELLS = 1 << 17
# Sums below are exact in float64, whatever their order; a score and a place among the candidates fit in 63 bits.
LARGEST_SUM = 1 << 50
LARGEST_KEY = 1 << 62


def fits(longest: int, largest_weight: int, largest_pool: int) -> bool:
    """Tell whether every score, of at most `longest` words, is exact here."""
    largest = longest * largest_weight
    return largest < LARGEST_SUM and (largest + 1) * (largest_pool + 1) < LARGEST_KEY


@dataclass(frozen=True)
class _Block:
    # Coalitions first to last of answers that share a pool, and their terms.
    first: int
    last: int
    pool: NDArray[np.int64]


def rank_groups(
    forward: Forward, asked: Asked, pools: Sequence[NDArray[np.int64]], k: int, is_distinct: bool, slot_of: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Return documents int64[coalitions, k] (−1 where nothing more is retrieved), scores int64[coalitions, k] and postings read.

    Order: score descending, then catalogue index ascending. `slot_of` holds −1 alone, and does so again when this returns.
    """
    count = len(asked.member_starts) - 1
    documents, scores = np.full((count, k), -1, dtype=np.int64), np.zeros((count, k), dtype=np.int64)
    read = 0
    for blocks in _batches(_blocks(asked.group_starts, pools)):
        rows = slice(blocks[0].first, blocks[-1].last)
        sizes = np.array([len(block.pool) for block in blocks])
        lanes = np.array([block.last - block.first for block in blocks])
        table, entries = _scores(forward, asked, blocks, is_distinct, slot_of)
        read += entries
        # Ascending: the best score first, and of equal ones the document that comes first in the catalogue. What scores 0, and so what
        # lies behind a smaller pool, is not below 0 and is not retrieved.
        keys = table.astype(np.int64)
        stride = sizes[0] if (sizes == sizes[0]).all() else np.repeat(sizes, lanes)[:, None]
        keys *= -stride
        keys += np.arange(keys.shape[1])
        width = min(k, keys.shape[1])
        if width < keys.shape[1]:
            keys = np.partition(keys, width - 1, axis=1)[:, :width]
        keys.sort(axis=1)
        found, places = np.divmod(keys, stride)
        is_retrieved = found < 0
        scores[rows, :width] = np.where(is_retrieved, -found, 0)
        starts = np.cumsum(sizes) - sizes
        catalogue = np.concatenate([block.pool for block in blocks])
        places += np.repeat(starts, lanes)[:, None]
        documents[rows, :width] = np.where(is_retrieved, catalogue[np.where(is_retrieved, places, 0)], -1)
    return documents, scores, read


def _blocks(groups: NDArray[np.int64], pools: Sequence[NDArray[np.int64]]) -> Iterator[_Block]:
    # Neighbouring groups of one pool belong together, as far as their table stays small.
    bounds, group = groups.tolist(), 0
    while group < len(pools):
        pool, last = pools[group], group + 1
        while last < len(pools) and pools[last] is pool and (bounds[last + 1] - bounds[group]) * len(pool) <= CELLS:
            last += 1
        if len(pool) and bounds[last] > bounds[group]:
            yield _Block(bounds[group], bounds[last], pool)
        group = last


def _batches(blocks: Iterator[_Block]) -> Iterator[list[_Block]]:
    # Blocks that follow each other without a gap and whose table stays small; calls are then few.
    batch: list[_Block] = []
    widest = 0
    for block in blocks:
        widest = max(widest, len(block.pool))
        if batch and (block.first != batch[-1].last or (block.last - batch[0].first) * widest > CELLS):
            yield batch
            batch, widest = [], len(block.pool)
        batch.append(block)
    if batch:
        yield batch


def _scores(
    forward: Forward, asked: Asked, blocks: Sequence[_Block], is_distinct: bool, slot_of: NDArray[np.int32]
) -> tuple[NDArray[np.float64], int]:
    # Scores float64[coalitions, largest pool] of the blocks' coalitions (0 behind a block's own pool), and how many entries were read.
    first, last = blocks[0].first, blocks[-1].last
    sizes, lanes = [len(block.pool) for block in blocks], [block.last - block.first for block in blocks]
    result = np.zeros((last - first, max(sizes)))
    rows, terms = _words(asked, first, last)
    if not len(rows):
        return result, 0
    entries, columns, bounds = _entries(forward.forward_starts, [block.pool for block in blocks])
    entry_terms, entry_weights = forward.forward_terms[entries], forward.forward_weights[entries]
    ends = np.searchsorted(rows, np.cumsum(lanes))
    row = word = 0
    for count, size, end, (start, stop) in zip(lanes, sizes, ends.tolist(), bounds, strict=True):
        own = terms[word:end]
        # Each term's column is the place where it was seen last: a number for each, and no sorting.
        slot_of[own] = np.arange(len(own), dtype=np.int32)
        slots, places = slot_of[own], slot_of[entry_terms[start:stop]]
        slot_of[own] = -1
        is_column = np.zeros(len(own) + 1, dtype=bool)
        is_column[slots] = True
        column = np.cumsum(is_column) - 1
        width = int(column[-1]) + 1
        known = (places >= 0).nonzero()[0]
        weights = np.zeros((width, size))
        weights[column[places[known]], columns[start:stop][known]] = entry_weights[start:stop][known]
        cells = (rows[word:end] - row) * width + column[slots]
        if is_distinct:
            counts = np.zeros(count * width)
            counts[cells] = 1.0
        else:
            counts = np.bincount(cells, minlength=count * width).astype(np.float64)
        np.matmul(counts.reshape(count, width), weights, out=result[row : row + count, :size])
        row, word = row + count, end
    return result, len(entries)


def _words(asked: Asked, first: int, last: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    # A word each: its coalition, from `first` on, and its term.
    starts = asked.member_starts[first : last + 1]
    chosen = asked.members[starts[0] : starts[-1]]
    lengths = asked.part_starts[chosen + 1] - asked.part_starts[chosen]
    rows = np.repeat(np.repeat(np.arange(last - first), starts[1:] - starts[:-1]), lengths)
    places = np.arange(len(rows)) + np.repeat(asked.part_starts[chosen] - (np.cumsum(lengths) - lengths), lengths)
    return rows, asked.part_terms[places]


def _entries(
    forward_starts: NDArray[np.int64], pools: Sequence[NDArray[np.int64]]
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[tuple[int, int]]]:
    # Where the forward index holds the candidates' terms, pool after pool; each one's place in its pool; where a pool's own begin and end.
    candidates = np.concatenate(pools)
    begins = forward_starts[candidates]
    lengths = forward_starts[candidates + 1] - begins
    ends = np.cumsum(lengths)
    entries = np.arange(int(ends[-1])) + np.repeat(begins - (ends - lengths), lengths)
    places = np.concatenate([np.arange(len(pool)) for pool in pools])
    bounds = np.concatenate(([0], ends))[np.cumsum([0, *map(len, pools)])].tolist()
    return entries, np.repeat(places, lengths), list(pairwise(bounds))
