"""The compiled loops that rank the whole catalogue for one text after the other: postings -> exact top k.

All sums are integers, so that no order of additions, batch or thread changes a bit. Documents have two numbers: the place in the index
(by length, short ones first, so that good scores come early) and the index in the catalogue, by which ties are broken.

A document is looked at if it holds a rare term of the text, or if it lies in a super-block whose bounds say that frequent terms alone may
bring it into the list. Bits say which documents of a block of 64 hold a frequent term: counting those below a document's finds its weight.

Arrays that belong together go through the functions as one named tuple (arrays.py). Each function takes out those that its loops read,
since doing so within a loop counts references. The loops are one file: numba's cache asks after the file of the outermost function alone.

Source: Turtle & Flood, "Query evaluation: strategies and optimizations" (1995), MaxScore; Ding & Suel, "Faster top-k document retrieval
using block-max indexes" (2011).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ospo_cli.retrievers.lexical.arrays import BLOCK, BLOCK_BITS, SUPER, Room

SUPER_BITS = BLOCK_BITS + SUPER.bit_length() - 1
# Rows of what is known of a rare term (its next posting, the one behind its last) and of a frequent one; occurrences in the text.
NEXT, END = 0, 1
ROW = 0
TIMES = 2
# Rows of the terms of a text.
TERM, OCCURRENCES = 0, 1
# The state of a list: its length, the lowest score that enters, the last document that enters with it; whether the text holds rare terms.
COUNT, THETA, LAST, HAS_RARE = 0, 1, 2, 3
ANY = 1 << 40
# Rows of `Room.bits`: five digits of each document's sum, the documents that may enter, those whose sum is 32 or more.
DIGITS, MAY_ENTER, REACHED = 5, 5, 6
# Weights of a block that are looked up one by one; where more may be needed, all of its postings are added up.
FEW = 8


@njit(nogil=True, inline="always")
def _ones(bits: Any) -> Any:
    # How many bits are set; LLVM makes one instruction of it.
    bits = bits - ((bits >> np.uint64(1)) & np.uint64(0x5555555555555555))
    bits = (bits & np.uint64(0x3333333333333333)) + ((bits >> np.uint64(2)) & np.uint64(0x3333333333333333))
    bits = (bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((bits * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit(nogil=True, cache=True)
def _insert(document: Any, score: Any, state: Any, documents: Any, scores: Any) -> None:
    # Keep the list ordered by score descending, then catalogue index ascending.
    k = scores.shape[0]
    place = state[COUNT]
    if place == k:
        if score == state[THETA] and document > state[LAST]:
            return
        place -= 1
    else:
        state[COUNT] += 1
    while place > 0 and (scores[place - 1] < score or (scores[place - 1] == score and documents[place - 1] > document)):
        scores[place] = scores[place - 1]
        documents[place] = documents[place - 1]
        place -= 1
    scores[place] = score
    documents[place] = document
    if state[COUNT] == k:
        state[THETA] = scores[k - 1]
        state[LAST] = documents[k - 1]


@njit(nogil=True, cache=True)
def _insert_new(document: Any, score: Any, state: Any, documents: Any, scores: Any) -> None:
    # A document that holds a rare term too scores more than this. If that is enough, it is in the list already.
    if state[HAS_RARE]:
        for c in range(state[COUNT]):
            if documents[c] == document:
                return
    _insert(document, score, state, documents, scores)


@njit(nogil=True, inline="always")
def _frequent_score(r: Any, bit: Any, block_bits: Any, block_starts: Any, weights: Any, frequent: Any) -> Any:
    # The sum of the frequent terms' weights in one document of block r.
    total = np.int64(0)
    for i in range(frequent.shape[1]):
        held = block_bits[frequent[ROW, i], r]
        if held & bit:
            total += frequent[TIMES, i] * weights[block_starts[frequent[ROW, i], r] + _ones(held & (bit - np.uint64(1)))]
    return total


@njit(nogil=True, inline="always")
def _super_bounds(group: Any, super_bounds: Any, frequent: Any, bounds: Any) -> Any:
    # Fill in what each frequent term weighs at most in a super-block; return the sum.
    total = np.int64(0)
    for i in range(frequent.shape[1]):
        bounds[i] = frequent[TIMES, i] * np.int64(super_bounds[frequent[ROW, i], group])
        total += bounds[i]
    return total


@njit(nogil=True, inline="always")
def _add_rare(low: Any, places: Any, weights: Any, rare: Any, sums: Any, touched: Any) -> Any:
    # Add up the rare terms' postings of a super-block and move on behind them; return how many documents these touch.
    found = 0
    for i in range(rare.shape[1]):
        p, last, times = rare[NEXT, i], rare[END, i], rare[TIMES, i]
        while p < last and places[p] < low + BLOCK * SUPER:
            local = places[p] - low
            touched[found] = local
            found += sums[local] == 0
            sums[local] += times * weights[p]
            p += 1
        rare[NEXT, i] = p
    return found


@njit(nogil=True, cache=True)
def _rank_rare(index: Any, rare: Any, frequent: Any, room: Any, state: Any, documents: Any, scores: Any) -> None:
    # Every document that holds a rare term.
    places, weights, catalogue_of, super_bounds = index.documents, index.weights, index.catalogue_of, index.super_bounds
    block_bits, block_starts = index.block_bits, index.block_starts
    sums, touched, bounds, own, most = room.sums, room.touched, room.bounds, room.own, room.most
    end = catalogue_of.shape[0]
    while True:
        place = end
        for i in range(rare.shape[1]):
            if rare[NEXT, i] < rare[END, i]:
                place = min(place, places[rare[NEXT, i]])
        if place == end:
            return
        group = place >> SUPER_BITS
        low, first = group << SUPER_BITS, group * SUPER
        found = _add_rare(low, places, weights, rare, sums, touched)
        total = _super_bounds(group, super_bounds, frequent, bounds)
        # Without branches: what cannot reach the list falls out of `touched`, first by its sum, then term by term.
        theta = state[THETA]
        kept = 0
        for j in range(found):
            local = touched[j]
            score = sums[local]
            sums[local] = 0
            own[local], most[local] = score, score + total
            touched[kept] = local
            kept += score + total >= theta
        for i in range(frequent.shape[1]):
            row, bound = frequent[ROW, i], bounds[i]
            found, kept = kept, 0
            for j in range(found):
                local = touched[j]
                is_held = block_bits[row, first + (local >> BLOCK_BITS)] >> np.uint64(local & (BLOCK - 1)) & np.uint64(1)
                most[local] -= bound & (np.int64(is_held) - 1)
                touched[kept] = local
                kept += most[local] >= theta
        for j in range(kept):
            local = touched[j]
            bit = np.uint64(1) << np.uint64(local & (BLOCK - 1))
            score = own[local] + _frequent_score(first + (local >> BLOCK_BITS), bit, block_bits, block_starts, weights, frequent)
            if score >= state[THETA]:
                _insert(catalogue_of[low + local], score, state, documents, scores)


@njit(nogil=True, inline="always")
def _can_matter(bound: Any, first_document: Any, state: Any) -> Any:
    return bound > state[THETA] or (bound == state[THETA] and first_document <= state[LAST])


@njit(nogil=True, inline="always")
def _digit(held: Any, units: Any, digit: Any) -> Any:
    return held & (np.uint64(0) - ((units >> np.uint64(digit)) & np.uint64(1)))


@njit(nogil=True, inline="always")
def _add_units(scale: Any, bits: Any, bounds: Any, first: Any, sums: Any) -> None:
    # Add a term's bounds, in units rounded up, to the sums of the documents that hold it: binary digits of 64 documents at once.
    for j in range(SUPER):
        held = bits[first + j]
        units = np.uint64(np.int32(min(scale * np.float32(bounds[first + j]), np.float32(31.5)))) + np.uint64(1)
        p0, p1, p2, p3, p4 = sums[0, j], sums[1, j], sums[2, j], sums[3, j], sums[4, j]
        a = _digit(held, units, 0)
        carry = p0 & a
        sums[0, j] = p0 ^ a
        a = _digit(held, units, 1)
        sums[1, j] = p1 ^ a ^ carry
        carry = (p1 & a) | (carry & (p1 ^ a))
        a = _digit(held, units, 2)
        sums[2, j] = p2 ^ a ^ carry
        carry = (p2 & a) | (carry & (p2 ^ a))
        a = _digit(held, units, 3)
        sums[3, j] = p3 ^ a ^ carry
        carry = (p3 & a) | (carry & (p3 ^ a))
        a = _digit(held, units, 4)
        sums[4, j] = p4 ^ a ^ carry
        carry = (p4 & a) | (carry & (p4 ^ a))
        sums[REACHED, j] |= carry | _digit(held, units, 5)


@njit(nogil=True, cache=True)
def _find(first: Any, total: Any, theta: Any, index: Any, frequent: Any, room: Any) -> Any:
    # Find the documents of a super-block whose terms' bounds reach theta (`total`: the sum of all bounds); return whether there are any.
    # They hold all terms without which theta is not reached. The rest is counted in 32nds of what is missing then.
    block_bits, block_bounds, bounds, sums = index.block_bits, index.block_bounds, room.bounds, room.bits
    missing = theta
    found = np.uint64(0)
    sums[MAY_ENTER] = ~found
    for i in range(frequent.shape[1]):
        if total - bounds[i] < theta:
            missing -= bounds[i]
            bits = block_bits[frequent[ROW, i]]
            for j in range(SUPER):
                sums[MAY_ENTER, j] &= bits[first + j]
    for j in range(SUPER):
        found |= sums[MAY_ENTER, j]
    if missing <= 0 or found == 0:
        return found != 0
    sums[:DIGITS] = 0
    sums[REACHED] = 0
    # A little more, for the roundings of float32.
    scale = np.float32(32.0 / missing * (1.0 + 2.0**-20))
    for i in range(frequent.shape[1]):
        if total - bounds[i] >= theta:
            row = frequent[ROW, i]
            _add_units(np.float32(frequent[TIMES, i]) * scale, block_bits[row], block_bounds[row], first, sums)
    found = np.uint64(0)
    for j in range(SUPER):
        sums[MAY_ENTER, j] &= sums[REACHED, j]
        found |= sums[MAY_ENTER, j]
    return found != 0


@njit(nogil=True, cache=True)
def _offer_block(r: Any, index: Any, frequent: Any, sums: Any, state: Any, documents: Any, scores: Any) -> int:
    # Add up the postings of a block and offer its documents; return how many postings these are.
    places, weights, catalogue_of, block_starts = index.documents, index.weights, index.catalogue_of, index.block_starts
    low = r * BLOCK
    read = 0
    for i in range(frequent.shape[1]):
        row, times = frequent[ROW, i], frequent[TIMES, i]
        for p in range(block_starts[row, r], block_starts[row, r + 1]):
            sums[places[p] - low] += times * weights[p]
        read += block_starts[row, r + 1] - block_starts[row, r]
    for local in range(BLOCK):
        if sums[local] >= state[THETA]:
            _insert_new(catalogue_of[low + local], sums[local], state, documents, scores)
        sums[local] = 0
    return read


@njit(nogil=True, cache=True)
def _rank_frequent(index: Any, frequent: Any, room: Any, state: Any, documents: Any, scores: Any) -> int:
    # The documents that frequent terms alone can bring into the list; return the postings read.
    weights, catalogue_of, block_first = index.weights, index.catalogue_of, index.block_first
    block_bits, block_starts, block_bounds = index.block_bits, index.block_starts, index.block_bounds
    super_bounds, super_first = index.super_bounds, index.super_first
    sums, bits, bounds = room.sums, room.bits, room.bounds
    frequents = frequent.shape[1]
    read = 0
    for group in range(super_first.shape[0]):
        total = _super_bounds(group, super_bounds, frequent, bounds)
        if not _can_matter(total, super_first[group], state):
            continue
        if not _find(group * SUPER, total, state[THETA], index, frequent, room):
            continue
        for j in range(SUPER):
            some = bits[MAY_ENTER, j]
            if some == 0:
                continue
            r = group * SUPER + j
            bound = np.int64(0)
            for i in range(frequents):
                bound += frequent[TIMES, i] * np.int64(block_bounds[frequent[ROW, i], r])
            if not _can_matter(bound, block_first[r], state):
                continue
            lookups = _ones(some) * frequents
            if lookups > FEW:
                read += _offer_block(r, index, frequent, sums, state, documents, scores)
                continue
            read += lookups
            while some:
                below = (some - np.uint64(1)) & ~some
                bit = below + np.uint64(1)
                some &= ~bit
                score = _frequent_score(r, bit, block_bits, block_starts, weights, frequent)
                if score >= state[THETA]:
                    _insert_new(catalogue_of[r * BLOCK + _ones(below)], score, state, documents, scores)
    return read


@njit(nogil=True, cache=True)
def _count_terms(c: Any, asked: Any, slot_of: Any, found: Any) -> int:
    # The distinct terms of a text and how often each occurs; return how many they are.
    count = 0
    for m in range(asked.member_starts[c], asked.member_starts[c + 1]):
        part = asked.members[m]
        for t in range(asked.part_starts[part], asked.part_starts[part + 1]):
            term = asked.part_terms[t]
            if slot_of[term] < 0:
                slot_of[term] = count
                found[TERM, count], found[OCCURRENCES, count] = term, 0
                count += 1
            found[OCCURRENCES, slot_of[term]] += 1
    for s in range(count):
        slot_of[found[TERM, s]] = -1
    return count


@njit(nogil=True, cache=True)
def _sort_terms(found: Any, index: Any, is_distinct: Any, rare: Any, frequent: Any) -> Any:
    # Rare and frequent terms apart; of these the one that can weigh most comes first. Return how many they are.
    best_weights, starts = index.best_weights, index.starts
    rares = frequents = 0
    for s in range(found.shape[1]):
        term, times = found[TERM, s], 1 if is_distinct else found[OCCURRENCES, s]
        row = index.frequent_row[term]
        if row < 0:
            rare[NEXT, rares], rare[END, rares], rare[TIMES, rares] = starts[term], starts[term + 1], times
            rares += 1
            continue
        i = frequents
        while i > 0 and frequent[TIMES, i - 1] * best_weights[frequent[ROW, i - 1], 0] < times * best_weights[row, 0]:
            frequent[:, i] = frequent[:, i - 1]
            i -= 1
        frequent[ROW, i], frequent[TIMES, i] = row, times
        frequents += 1
    return rares, frequents


@njit(nogil=True, inline="always")
def _holds(c: Any, other: Any, asked: Any) -> Any:
    # Whether coalition c holds all parts of the other one; parts ascend.
    member_starts, members = asked.member_starts, asked.members
    m, last = member_starts[c], member_starts[c + 1]
    for o in range(member_starts[other], member_starts[other + 1]):
        while m < last and members[m] < members[o]:
            m += 1
        if m == last or members[m] != members[o]:
            return False
    return True


@njit(nogil=True, cache=True)
def _first_theta(c: Any, begin: Any, index: Any, asked: Any, frequent: Any, all_scores: Any) -> Any:
    # A lower bound of the k-th score: that of one frequent term alone, or of a coalition from `begin` on whose parts are all in this one.
    best_weights = index.best_weights
    k = all_scores.shape[1]
    theta = np.int64(1)
    for i in range(frequent.shape[1]):
        theta = max(theta, frequent[TIMES, i] * np.int64(best_weights[frequent[ROW, i], k - 1]))
    for other in range(begin, c):
        if all_scores[other, k - 1] > theta and _holds(c, other, asked):
            theta = all_scores[other, k - 1]
    return theta


@njit(nogil=True, cache=True)
def rank_catalogue(index: Any, asked: Any, share: Any, is_distinct: Any, slot_of: Any, top: Any) -> int:
    """Fill in `top`: of every coalition of the groups share[0] to share[1] - 1 the first k documents of the catalogue, by score
    descending, then by catalogue index ascending. `slot_of` int32[terms] is -1 before and after. Return the postings read.
    """
    longest = 0
    first, last = asked.group_starts[share[0]], asked.group_starts[share[1]]
    for c in range(first, last):
        words = 0
        for m in range(asked.member_starts[c], asked.member_starts[c + 1]):
            words += asked.part_starts[asked.members[m] + 1] - asked.part_starts[asked.members[m]]
        longest = max(longest, words)
    numbers, window = np.empty((8, longest), dtype=np.int64), np.empty((3, BLOCK * SUPER + 1), dtype=np.int64)
    found, rares, frequents = numbers[:2], numbers[2:5], numbers[5:]
    bits = np.empty((REACHED + 1, SUPER), dtype=np.uint64)
    room = Room(np.zeros(BLOCK * SUPER, dtype=np.int64), window[0], window[1], window[2], np.empty(longest, dtype=np.int64), bits)
    state = np.zeros(4, dtype=np.int64)
    read = 0
    for g in range(share[0], share[1]):
        for c in range(asked.group_starts[g], asked.group_starts[g + 1]):
            count = _count_terms(c, asked, slot_of, found)
            rare_count, frequent_count = _sort_terms(found[:, :count], index, is_distinct, rares, frequents)
            rare, frequent = rares[:, :rare_count], frequents[:, :frequent_count]
            documents, scores = top.documents[c], top.scores[c]
            state[COUNT], state[LAST], state[HAS_RARE] = 0, ANY, rare_count > 0
            state[THETA] = _first_theta(c, asked.group_starts[g], index, asked, frequent, top.scores)
            for i in range(rare_count):
                read += rare[END, i] - rare[NEXT, i]
            if rare_count > 0:
                _rank_rare(index, rare, frequent, room, state, documents, scores)
            if frequent_count > 0:
                read += _rank_frequent(index, frequent, room, state, documents, scores)
            documents[state[COUNT] :] = -1
            scores[state[COUNT] :] = 0
    return read
