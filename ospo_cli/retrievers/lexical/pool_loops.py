"""The compiled loops that rank pools: the candidates' own terms -> exact top k of every coalition of a group.

All sums are integers, so that no order of additions, batch or thread changes a bit. Arrays that belong together go through the functions
as one named tuple (arrays.py), which costs nothing once compiled. The loops are one file: numba's cache asks after the file of the
outermost function alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ospo_cli.retrievers.lexical.arrays import Lists, Terms

# Rows of `Lists.lanes`, `Terms.of_term` and of a document's own terms.
TOTAL, THETA, COUNT = 0, 1, 2
MOST, FLOOR = 0, 1
SLOT, WEIGHT = 0, 1
# Coalitions that one step of the processor adds up: lists come in multiples of so many.
LANES = 16
# Documents before the first look at which scores still matter; twice as many before each next one.
FIRST_WAIT = 16


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
def _rank_pool(pool: Any, forward: Any, slot_of: Any, terms: Any, lists: Any, own: Any, infinity: Any) -> int:
    # Every document of the pool by its own terms; return the entries read.
    forward_starts, forward_terms, forward_weights = forward
    of_term, pair_floor = terms.of_term, terms.pair_floor
    multiplicity, lanes, documents, scores = lists.multiplicity, lists.lanes, lists.documents, lists.scores
    read = 0
    wait = pace = FIRST_WAIT
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
        wait -= 1
        if wait == 0:
            pace *= 2
            wait = pace
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
def _open_terms(term_of: Any, lists: Any) -> Any:
    # The group's terms with their largest multiplicities.
    count, dtype = term_of.shape[0], lists.scores.dtype
    of_term = np.zeros((2, count), dtype=dtype)
    for s in range(count):
        highest = lists.multiplicity[s, 0]
        for c in range(1, lists.scores.shape[0]):
            highest = max(highest, lists.multiplicity[s, c])
        of_term[MOST, s] = highest
    return Terms(term_of, of_term, np.zeros((count, count), dtype=dtype))


@njit(nogil=True, cache=True)
def rank_groups(forward: Any, asked: Any, pools: Any, share: Any, is_distinct: Any, slot_of: Any, top: Any) -> int:
    """Fill in `top`: of every coalition of the groups share[0] to share[1] - 1 the first k documents of its pool, by score descending,
    then by catalogue index ascending. `pools`: where each group's begins, int64[groups + 1], catalogue indices, int32[.], and the largest
    integer of the sums' type; `slot_of` int32[terms] is -1 before and after. Return the entries read.
    """
    pool_starts, members, infinity = pools
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
        _count_terms(first, asked, is_distinct, slot_of, lists, term_of)
        terms, own = _open_terms(term_of, lists), np.zeros((2, count + 1), dtype=top.scores.dtype)
        _refresh(terms, lists, infinity)
        pool = members[pool_starts[g] : pool_starts[g + 1]]
        read += _rank_pool(pool, forward, slot_of, terms, lists, own, infinity)
        for s in range(count):
            slot_of[term_of[s]] = -1
        for c in range(last - first):
            lists.documents[c, lanes[COUNT, c] :] = -1
            lists.scores[c, lanes[COUNT, c] :] = 0
    return read
