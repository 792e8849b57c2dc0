"""The compiled loops of the lexical engine: postings -> exact top k of every coalition of a group.

All sums are integers, so that no order of additions, batch or thread changes a bit. Documents have two numbers: the place in the index
(by length, short ones first, so that good scores come early) and the index in the catalogue, by which ties are broken.

Arrays that belong together go through the functions as one named tuple (arrays.py), which costs nothing once compiled. The loops are one
file, since numba's cache asks after the file of the outermost function alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ospo_cli.retrievers.lexical.arrays import BLOCK, BLOCK_BITS, SUPER, Block, Lists, Terms

# Rows of `Lists.lanes`, `Terms.of_term`, `Block.sums` and `Block.own`.
TOTAL, THETA, COUNT = 0, 1, 2
MOST, FLOOR = 0, 1
BOUND, LEAST = 0, 1
SLOT, WEIGHT = 0, 1
# Coalitions that one step of the processor adds up: lists come in multiples of so many.
LANES = 16
# Documents between two looks at which scores still matter: doubled from look to look, up to so many blocks, or without end in pools.
FIRST_WAIT_IN_POOL = 16
LONGEST_WAIT = 32
ENDLESS = 1 << 62


@njit(nogil=True, cache=True)
def _insert(c: Any, document: Any, score: Any, lanes: Any, documents: Any, scores: Any) -> None:
    # Keep top lists ordered by score descending, then catalogue index ascending.
    k = scores.shape[1]
    count = lanes[COUNT, c]
    if count == k:
        if score == scores[c, k - 1] and document > documents[c, k - 1]:
            return
        place = k - 1
    else:
        place = count
        lanes[COUNT, c] = count + 1
    while place > 0 and (scores[c, place - 1] < score or (scores[c, place - 1] == score and documents[c, place - 1] > document)):
        scores[c, place] = scores[c, place - 1]
        documents[c, place] = documents[c, place - 1]
        place -= 1
    scores[c, place] = score
    documents[c, place] = document
    if lanes[COUNT, c] == k and scores[c, k - 1] > lanes[THETA, c]:
        lanes[THETA, c] = scores[c, k - 1]


@njit(nogil=True, cache=True)
def _offer(document: Any, size: Any, own: Any, multiplicity: Any, lanes: Any, documents: Any, scores: Any) -> None:
    # Offer one document, given its weights in the group's terms, to every coalition.
    width = lanes.shape[1]
    slot, weight = own[SLOT, 0], own[WEIGHT, 0]
    for c in range(width):
        lanes[TOTAL, c] = multiplicity[slot, c] * weight
    for i in range(1, size):
        slot, weight = own[SLOT, i], own[WEIGHT, i]
        for c in range(width):
            lanes[TOTAL, c] += multiplicity[slot, c] * weight
    hits = 0
    for c in range(width):
        hits += lanes[TOTAL, c] >= lanes[THETA, c]
    if hits > 0:
        for c in range(scores.shape[0]):
            if lanes[TOTAL, c] >= lanes[THETA, c]:
                _insert(c, document, lanes[TOTAL, c], lanes, documents, scores)


@njit(nogil=True, cache=True)
def _can_enter(size: Any, bound: Any, own: Any, of_term: Any, pair_floor: Any, infinity: Any) -> Any:
    # A coalition holds one of the document's terms, which then weighs enough alone, or two of them at least.
    lowest = infinity
    for i in range(size):
        slot = own[SLOT, i]
        if own[WEIGHT, i] * of_term[MOST, slot] >= of_term[FLOOR, slot]:
            return True
        for j in range(i):
            lowest = min(lowest, pair_floor[slot, own[SLOT, j]])
    return size > 1 and bound >= lowest


@njit(nogil=True, cache=True)
def _refresh(terms: Any, lists: Any, infinity: Any) -> None:
    # The lowest score that matters to any coalition which holds a term, and to any which holds two.
    multiplicity, lanes, of_term, pair_floor = lists.multiplicity, lists.lanes, terms.of_term, terms.pair_floor
    for s in range(terms.term_of.shape[0]):
        lowest = infinity
        for c in range(lanes.shape[1]):
            lowest = min(lowest, lanes[THETA, c] if multiplicity[s, c] > 0 else infinity)
        of_term[FLOOR, s] = lowest
        for other in range(s):
            lowest = infinity
            for c in range(lanes.shape[1]):
                lowest = min(lowest, lanes[THETA, c] if multiplicity[s, c] > 0 and multiplicity[other, c] > 0 else infinity)
            pair_floor[s, other] = lowest
            pair_floor[other, s] = lowest


@njit(nogil=True, cache=True)
def _is_due(pace: Any, longest: Any) -> bool:
    # Whether it is time for _refresh: after one document or block, then after twice as many from time to time.
    pace[0] -= 1
    if pace[0] > 0:
        return False
    pace[1] = min(2 * pace[1], longest)
    pace[0] = pace[1]
    return True


@njit(nogil=True, inline="always")
def _add(local: Any, s: Any, weight: Any, table: Any, held: Any, sums: Any, of_term: Any) -> None:
    # Add a posting to its block's table.
    table[local, s] = weight
    held[local, s >> 6] |= np.uint64(1) << np.uint64(s & 63)
    sums[BOUND, local] += of_term[MOST, s] * weight
    sums[LEAST, local] = min(sums[LEAST, local], of_term[FLOOR, s])


@njit(nogil=True, cache=True)
def _add_frequent(r: Any, index: Any, terms: Any, block: Any) -> int:
    # Add the frequent terms' postings of a block to its table; return how many they are.
    documents, weights, block_starts, of_term = index.documents, index.weights, index.block_starts, terms.of_term
    table, held, sums = block.table, block.held, block.sums
    low = r << BLOCK_BITS
    added = 0
    for i in range(terms.frequent.shape[0]):
        s = terms.frequent[i]
        row = terms.rows[s]
        added += block_starts[row, r + 1] - block_starts[row, r]
        for p in range(block_starts[row, r], block_starts[row, r + 1]):
            _add(documents[p] - low, s, weights[p], table, held, sums, of_term)
    return added


@njit(nogil=True, cache=True)
def _add_rare(low: Any, index: Any, terms: Any, block: Any) -> int:
    # Add the rare terms' postings of a block to its table, and move on behind them; return how many they are.
    documents, weights, starts, position, of_term = index.documents, index.weights, index.starts, terms.position, terms.of_term
    table, held, sums = block.table, block.held, block.sums
    added = 0
    for i in range(terms.rare.shape[0]):
        s = terms.rare[i]
        p = position[s]
        last = starts[terms.term_of[s] + 1]
        while p < last and documents[p] < low + BLOCK:
            _add(documents[p] - low, s, weights[p], table, held, sums, of_term)
            p += 1
        added += p - position[s]
        position[s] = p
    return added


@njit(nogil=True, cache=True)
def _look_up_frequent(r: Any, index: Any, terms: Any, block: Any, seen: Any) -> None:
    # Find the frequent terms of the block's documents that hold a rare one, and mark these as seen.
    documents, weights, block_starts, of_term = index.documents, index.weights, index.block_starts, terms.of_term
    table, held, sums = block.table, block.held, block.sums
    low = r << BLOCK_BITS
    for i in range(terms.frequent.shape[0]):
        s = terms.frequent[i]
        row = terms.rows[s]
        for local in range(BLOCK):
            if sums[BOUND, local] == 0 or low + local >= seen.shape[0]:
                continue
            seen[low + local] = 1
            below = block_starts[row, r]
            above = block_starts[row, r + 1]
            while below < above:
                middle = (below + above) >> 1
                if documents[middle] < low + local:
                    below = middle + 1
                else:
                    above = middle
            if below < block_starts[row, r + 1] and documents[below] == low + local:
                _add(local, s, weights[below], table, held, sums, of_term)


@njit(nogil=True, cache=True)
def _offer_block(low: Any, catalogue_of: Any, terms: Any, lists: Any, block: Any, seen: Any, infinity: Any) -> None:
    # Offer the documents of a block whose sum over all terms of the group can matter, but for those seen (none: an empty array); clear
    # the block's sums and marks.
    table, held, sums, candidates, own = block.table, block.held, block.sums, block.candidates, block.own
    of_term, pair_floor, multiplicity, lanes = terms.of_term, terms.pair_floor, lists.multiplicity, lists.lanes
    documents, scores = lists.documents, lists.scores
    count = terms.term_of.shape[0]
    words = (count + 63) // 64
    found = 0
    for local in range(BLOCK):
        candidates[found] = local
        found += sums[BOUND, local] >= sums[LEAST, local]
    for candidate in range(found):
        local = candidates[candidate]
        if seen.shape[0] > 0 and seen[low + local]:
            continue
        size: Any = 0
        for word in range(words):
            bits = held[local, word]
            if bits == 0:
                continue
            for s in range(word * 64, min(count, word * 64 + 64)):
                is_held = (bits >> np.uint64(s & 63)) & np.uint64(1)
                own[SLOT, size] = s
                own[WEIGHT, size] = table[local, s]
                size += np.int64(is_held)
        if _can_enter(size, sums[BOUND, local], own, of_term, pair_floor, infinity):
            _offer(catalogue_of[low + local], size, own, multiplicity, lanes, documents, scores)
    for local in range(BLOCK):
        sums[BOUND, local] = 0
        sums[LEAST, local] = infinity
    for local in range(BLOCK):
        for word in range(words):
            held[local, word] = 0


@njit(nogil=True, cache=True)
def _can_matter(bounds: Any, place: Any, first_document: Any, terms: Any, lists: Any) -> bool:
    # Whether a document of these blocks that holds frequent terms alone can enter any coalition's list.
    lanes, multiplicity, rows, frequent = lists.lanes, lists.multiplicity, terms.rows, terms.frequent
    width = lanes.shape[1]
    for c in range(width):
        lanes[TOTAL, c] = 0
    for i in range(frequent.shape[0]):
        s = frequent[i]
        weight = bounds[rows[s], place]
        if weight > 0:
            for c in range(width):
                lanes[TOTAL, c] += multiplicity[s, c] * weight
    hits = 0
    for c in range(width):
        hits += lanes[TOTAL, c] >= lanes[THETA, c]
    if hits == 0:
        return False
    k = lists.scores.shape[1]
    for c in range(lists.scores.shape[0]):
        theta = lanes[THETA, c]
        if lanes[TOTAL, c] > theta or (
            lanes[TOTAL, c] == theta
            and not (lanes[COUNT, c] == k and lists.scores[c, k - 1] == theta and lists.documents[c, k - 1] < first_document)
        ):
            return True
    return False


@njit(nogil=True, cache=True)
def _rank_pool(pool: Any, index: Any, slot_of: Any, terms: Any, lists: Any, block: Any, infinity: Any) -> int:
    # Every document of the pool by its own terms; return the entries read.
    forward_starts, forward_terms, forward_weights = index.forward_starts, index.forward_terms, index.forward_weights
    own, pace, of_term, pair_floor = block.own, block.pace, terms.of_term, terms.pair_floor
    multiplicity, lanes, documents, scores = lists.multiplicity, lists.lanes, lists.documents, lists.scores
    read = 0
    pace[:] = FIRST_WAIT_IN_POOL
    for i in range(pool.shape[0]):
        document = pool[i]
        size = 0
        for e in range(forward_starts[document], forward_starts[document + 1]):
            s = slot_of[forward_terms[e]]
            if s >= 0:
                own[SLOT, size] = s
                own[WEIGHT, size] = forward_weights[e]
                size += 1
        read += forward_starts[document + 1] - forward_starts[document]
        bound = np.int64(0)
        for j in range(size):
            bound += of_term[MOST, own[SLOT, j]] * own[WEIGHT, j]
        if size > 0 and _can_enter(size, bound, own, of_term, pair_floor, infinity):
            _offer(document, size, own, multiplicity, lanes, documents, scores)
        if _is_due(pace, ENDLESS):
            _refresh(terms, lists, infinity)
    return read


@njit(nogil=True, cache=True)
def _rank_rare(index: Any, seen: Any, terms: Any, lists: Any, block: Any, infinity: Any) -> tuple[int, bool]:
    # Every document that holds a rare term; its frequent terms are looked up, or the block is taken as a whole. Return the postings read,
    # and whether documents were marked as seen.
    read = 0
    has_seen = False
    end = seen.shape[0] + BLOCK
    block.pace[:] = 1
    while True:
        place = end
        for i in range(terms.rare.shape[0]):
            s = terms.rare[i]
            if terms.position[s] < index.starts[terms.term_of[s] + 1]:
                place = min(place, index.documents[terms.position[s]])
        if place == end:
            return read, has_seen
        r = place >> BLOCK_BITS
        low = r << BLOCK_BITS
        entries = _add_rare(low, index, terms, block)
        in_block = 0
        for i in range(terms.frequent.shape[0]):
            row = terms.rows[terms.frequent[i]]
            in_block += index.block_starts[row, r + 1] - index.block_starts[row, r]
        if in_block <= entries * terms.frequent.shape[0] * 6:
            block.is_done[r] = 1
            entries += _add_frequent(r, index, terms, block)
        else:
            has_seen = True
            _look_up_frequent(r, index, terms, block, seen)
        read += entries
        _offer_block(low, index.catalogue_of, terms, lists, block, seen[:0], infinity)
        if _is_due(block.pace, LONGEST_WAIT):
            _refresh(terms, lists, infinity)


@njit(nogil=True, cache=True)
def _rank_frequent(index: Any, seen: Any, terms: Any, lists: Any, block: Any, infinity: Any) -> int:
    # The blocks where a document of frequent terms alone can still matter; return the postings read.
    read = 0
    _refresh(terms, lists, infinity)
    block.pace[:] = 1
    blocks = index.block_first.shape[0]
    for group in range(index.super_first.shape[0]):
        if not _can_matter(index.super_bounds, group, index.super_first[group], terms, lists):
            continue
        for r in range(group * SUPER, min(blocks, group * SUPER + SUPER)):
            if block.is_done[r] or not _can_matter(index.block_bounds, r, index.block_first[r], terms, lists):
                continue
            read += _add_frequent(r, index, terms, block)
            _offer_block(r << BLOCK_BITS, index.catalogue_of, terms, lists, block, seen, infinity)
            if _is_due(block.pace, LONGEST_WAIT):
                _refresh(terms, lists, infinity)
    return read


@njit(nogil=True, cache=True)
def _fill_slots(g: Any, asked: Any, slot_of: Any) -> int:
    # Give the group's terms their slots; return how many there are.
    count = 0
    for m in range(asked.member_starts[asked.group_starts[g]], asked.member_starts[asked.group_starts[g + 1]]):
        part = asked.members[m]
        for t in range(asked.part_starts[part], asked.part_starts[part + 1]):
            if slot_of[asked.part_terms[t]] < 0:
                slot_of[asked.part_terms[t]] = count
                count += 1
    return count


@njit(nogil=True, cache=True)
def _count_terms(first: Any, asked: Any, is_distinct: Any, slot_of: Any, lists: Any, term_of: Any) -> None:
    # The term of each slot, and how often each coalition, from the group's first on, holds it.
    multiplicity = lists.multiplicity
    for lane in range(lists.scores.shape[0]):
        for m in range(asked.member_starts[first + lane], asked.member_starts[first + lane + 1]):
            part = asked.members[m]
            for t in range(asked.part_starts[part], asked.part_starts[part + 1]):
                s = slot_of[asked.part_terms[t]]
                term_of[s] = asked.part_terms[t]
                multiplicity[s, lane] = 1 if is_distinct else multiplicity[s, lane] + 1


@njit(nogil=True, cache=True)
def _sort_terms(term_of: Any, index: Any, lists: Any) -> Any:
    # The group's terms, rare and frequent ones apart.
    count, dtype = term_of.shape[0], lists.scores.dtype
    rows, position, of_term = np.zeros_like(term_of), np.zeros_like(term_of), np.zeros((2, count), dtype=dtype)
    rare, frequent = np.zeros_like(term_of), np.zeros_like(term_of)
    rare_count = frequent_count = 0
    for s in range(count):
        highest = lists.multiplicity[s, 0]
        for c in range(1, lists.scores.shape[0]):
            highest = max(highest, lists.multiplicity[s, c])
        of_term[MOST, s] = highest
        rows[s] = index.frequent_row[term_of[s]]
        position[s] = index.starts[term_of[s]]
        if rows[s] >= 0:
            frequent[frequent_count] = s
            frequent_count += 1
        else:
            rare[rare_count] = s
            rare_count += 1
    pair_floor = np.zeros((count, count), dtype=dtype)
    return Terms(term_of, rows, position, of_term, pair_floor, rare[:rare_count], frequent[:frequent_count])


@njit(nogil=True, cache=True)
def _raise_theta(index: Any, terms: Any, lists: Any) -> None:
    # The k-th best document of one frequent term alone has this score at least, and so has the k-th of every coalition that holds it.
    lanes, k = lists.scores.shape
    for i in range(terms.frequent.shape[0]):
        s = terms.frequent[i]
        best = index.best_weights[terms.rows[s], k - 1]
        for c in range(lanes):
            lists.lanes[THETA, c] = max(lists.lanes[THETA, c], best * lists.multiplicity[s, c])


@njit(nogil=True, cache=True)
def _rank_catalogue(index: Any, seen: Any, terms: Any, lists: Any, block: Any, infinity: Any) -> int:
    # The whole catalogue; return the postings read.
    read, has_seen = _rank_rare(index, seen, terms, lists, block, infinity)
    if terms.frequent.shape[0] > 0:
        read += _rank_frequent(index, seen if has_seen else seen[:0], terms, lists, block, infinity)
    for i in range(terms.rare.shape[0] if has_seen else 0):
        term = terms.term_of[terms.rare[i]]
        for p in range(index.starts[term], index.starts[term + 1]):
            seen[index.documents[p]] = 0
    return read


@njit(nogil=True, cache=True)
def _open_block(count: Any, blocks: Any, infinity: Any, scores: Any) -> Any:
    # Memory for the blocks of a group of so many terms; sums are of the type of the scores.
    table, held = np.zeros((BLOCK, count), dtype=scores.dtype), np.zeros((BLOCK, (count + 63) // 64), dtype=np.uint64)
    sums, candidates = np.zeros((2, BLOCK), dtype=np.int64), np.zeros(BLOCK + 1, dtype=np.int64)
    sums[LEAST] = infinity
    own, is_done = np.zeros((2, count + 1), dtype=scores.dtype), np.zeros(blocks, dtype=np.uint8)
    return Block(table, held, sums, candidates, own, is_done, np.zeros(2, dtype=np.int64))


@njit(nogil=True, cache=True)
def rank_groups(index: Any, asked: Any, share: Any, options: Any, marks: Any, top: Any) -> int:
    """Fill in `top`: of every coalition of the groups share[0] to share[1] - 1 the first k documents, by score descending, then by
    catalogue index ascending. Return the postings read. Arguments are the tuples of arrays.py of these names."""
    infinity, slot_of = options.infinity, marks.slot_of
    blocks = 0 if options.is_pooled else index.block_first.shape[0]
    read = 0
    for g in range(share[0], share[1]):
        first, last = asked.group_starts[g], asked.group_starts[g + 1]
        count = _fill_slots(g, asked, slot_of)
        # More lanes than coalitions, a multiple of LANES: the last one is nobody's.
        width = ((last - first) // LANES + 1) * LANES
        multiplicity, lanes = np.zeros((count, width), dtype=top.scores.dtype), np.zeros((3, width), dtype=top.scores.dtype)
        lists = Lists(multiplicity, lanes, top.documents[first:last], top.scores[first:last])
        lanes[THETA, : last - first] = 1
        lanes[THETA, last - first :] = infinity
        term_of = np.zeros(count, dtype=np.int64)
        _count_terms(first, asked, options.is_distinct, slot_of, lists, term_of)
        terms, block = _sort_terms(term_of, index, lists), _open_block(count, blocks, infinity, top.scores)
        if not options.is_pooled:
            _raise_theta(index, terms, lists)
        _refresh(terms, lists, infinity)
        if options.is_pooled:
            pool = asked.pool[asked.pool_starts[g] : asked.pool_starts[g + 1]]
            read += _rank_pool(pool, index, slot_of, terms, lists, block, infinity)
        else:
            read += _rank_catalogue(index, marks.seen, terms, lists, block, infinity)
        for s in range(count):
            slot_of[term_of[s]] = -1
        for c in range(last - first):
            lists.documents[c, lanes[COUNT, c] :] = -1
            lists.scores[c, lanes[COUNT, c] :] = 0
    return read
