"""The compiled loops that build an index."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ospo_cli.retrievers.lexical.arrays import BLOCK, BLOCK_BITS


@njit(nogil=True, cache=True)
def invert(forward: Any, catalogue_of: Any, starts: Any, documents: Any, weights: Any) -> None:
    """Fill documents (places) and weights of each term's postings from `forward`: starts, terms and weights by document."""
    forward_starts, forward_terms, forward_weights = forward
    cursor = starts[:-1].copy()
    for place in range(catalogue_of.shape[0]):
        document = catalogue_of[place]
        for e in range(forward_starts[document], forward_starts[document + 1]):
            term = forward_terms[e]
            documents[cursor[term]] = place
            weights[cursor[term]] = forward_weights[e]
            cursor[term] += 1


@njit(nogil=True, cache=True)
def summarise_blocks(starts: Any, documents: Any, weights: Any, terms: Any, block_starts: Any, block_bounds: Any, block_bits: Any) -> None:
    """Fill where each block of the frequent terms' postings begins, and its largest weight."""
    blocks = block_bounds.shape[1]
    for row in range(terms.shape[0]):
        p = starts[terms[row]]
        last = starts[terms[row] + 1]
        for r in range(blocks):
            block_starts[row, r] = p
            bound = 0
            bits = np.uint64(0)
            while p < last and documents[p] < (r + 1) << BLOCK_BITS:
                bound = max(bound, weights[p])
                bits |= np.uint64(1) << np.uint64(documents[p] & (BLOCK - 1))
                p += 1
            block_bits[row, r] = bits
            block_bounds[row, r] = bound
        block_starts[row, blocks] = p
