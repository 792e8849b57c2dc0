"""The arrays that the compiled loops of the lexical engine work on, by what belongs together."""

from __future__ import annotations

from typing import Any, NamedTuple

# Documents of a block: as many as a word has bits.
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
    frequent_row: Array  # int32[terms] row in the tables of frequent terms, else -1
    block_starts: Array  # int64[frequent, blocks + 1] in whole super-blocks; blocks behind the last document are empty
    block_bounds: Array  # int32[frequent, blocks] largest weight in the block
    block_bits: Array  # uint64[frequent, blocks] the documents of the block that hold the term
    super_bounds: Array  # int32[frequent, super-blocks]
    best_weights: Array  # int32[frequent, largest k] descending
    block_first: Array  # int32[blocks] smallest catalogue index in the block
    super_first: Array  # int32[super-blocks]


class Forward(NamedTuple):
    """Each document's own terms, for pools."""

    forward_starts: Array  # int64[documents + 1] by catalogue index
    forward_terms: Array  # int32[postings]
    forward_weights: Array  # int32[postings]


class Asked(NamedTuple):
    """Coalitions of parts, in groups: of texts of one pool that are ranked together, or of one answer over the catalogue."""

    part_starts: Array  # int64[parts + 1]
    part_terms: Array  # int32[.]
    member_starts: Array  # int64[coalitions + 1]
    members: Array  # int32[.] parts of each coalition
    group_starts: Array  # int64[groups + 1] coalitions of each group


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
    """The terms of a group by slot."""

    term_of: Array  # int64[slots]
    of_term: Array  # [2, slots] the largest multiplicity; the lowest score that matters to a coalition with the term
    pair_floor: Array  # [slots, slots] and to one with both terms


class Room(NamedTuple):
    """Scratch of the loops over the catalogue; documents are those of a super-block, counted from its first."""

    sums: Array  # int64[documents] all 0 between uses
    touched: Array  # int64[documents + 1] the documents with a rare term
    own: Array  # int64[documents + 1] their sums over rare terms
    most: Array  # int64[documents + 1] and the most that frequent terms can make of these
    bounds: Array  # int64[terms] of frequent terms in the super-block
    bits: Array  # uint64[7, blocks]
