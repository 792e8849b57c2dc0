"""The arrays that the compiled loops of the lexical engine work on, by what belongs together."""

from __future__ import annotations

from typing import Any, NamedTuple

# Documents of a block: its scores live in the first level cache.
BLOCK_BITS = 6
BLOCK = 1 << BLOCK_BITS
# Blocks of a super-block, whose bounds are looked at first.
SUPER = 16

Array = Any  # numba knows the types of elements; those of the arrays are said beside each field


class Index(NamedTuple):
    """The inverted index. Frequent terms, and they alone, have bounds per block of documents."""

    starts: Array  # int64[terms + 1]
    documents: Array  # int32[postings] places, ascending within a term
    weights: Array  # int32[postings]
    catalogue_of: Array  # int32[documents] catalogue index of each place
    forward_starts: Array  # int64[documents + 1] by catalogue index
    forward_terms: Array  # int32[postings]
    forward_weights: Array  # int32[postings]
    frequent_row: Array  # int32[terms] row in the tables of frequent terms, else -1
    block_starts: Array  # int64[frequent, blocks + 1]
    block_bounds: Array  # int32[frequent, blocks] largest weight in the block
    super_bounds: Array  # int32[frequent, super-blocks]
    best_weights: Array  # int32[frequent, largest k] descending
    block_first: Array  # int32[blocks] smallest catalogue index in the block
    super_first: Array  # int32[super-blocks]


class Asked(NamedTuple):
    """Coalitions of parts, in groups that are ranked together; of each group a pool, or of none."""

    part_starts: Array  # int64[parts + 1]
    part_terms: Array  # int32[.]
    member_starts: Array  # int64[coalitions + 1]
    members: Array  # int32[.] parts of each coalition
    group_starts: Array  # int64[groups + 1] coalitions of each group
    pool_starts: Array  # int64[groups + 1]
    pool: Array  # int32[.] catalogue indices


class Options(NamedTuple):
    """How it is asked for."""

    is_pooled: bool
    is_distinct: bool
    infinity: Any  # largest integer of the sums' type


class Marks(NamedTuple):
    """Memory of a thread that every call leaves as it found it."""

    slot_of: Array  # int32[terms] all -1
    seen: Array  # uint8[documents] all 0


class Top(NamedTuple):
    """Documents and scores of coalitions, -1 and 0 where nothing more is retrieved."""

    documents: Array  # int32[coalitions, k]
    scores: Array  # [coalitions, k] of the sums' type


class Lists(NamedTuple):
    """The coalitions of a group and their best documents so far; lanes from the last coalition to the width are nobody's."""

    multiplicity: Array  # [terms, width] how often a coalition holds a term
    lanes: Array  # [3, width] scratch; the lowest score that enters a list, infinity in lanes that are nobody's; documents in the list
    documents: Array  # int32[lanes, k]
    scores: Array  # [lanes, k]


class Terms(NamedTuple):
    """The terms of a group by slot, and the slots of rare and of frequent ones."""

    term_of: Array  # int64[slots]
    rows: Array  # int64[slots] row in the tables of frequent terms
    position: Array  # int64[slots] the next posting that was not read
    of_term: Array  # [2, slots] the largest multiplicity; the lowest score that matters to a coalition with the term
    pair_floor: Array  # [slots, slots] and to one with both terms
    rare: Array  # int64[.]
    frequent: Array  # int64[.]


class Block(NamedTuple):
    """Scratch: the postings of a block of documents, and the terms of one document."""

    table: Array  # [documents, slots] weights where `held` says so
    held: Array  # uint64[documents, words] bit per slot
    sums: Array  # int64[2, documents] the most that any coalition can give the document; the lowest score that matters
    candidates: Array  # int64[documents + 1]
    own: Array  # [2, slots + 1] slots of a document's terms; their weights
    is_done: Array  # uint8[blocks] read as a whole
    pace: Array  # int64[2] until floors are found anew, and how long that was
