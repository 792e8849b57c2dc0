"""The compiled loops of the lexical engine: postings -> exact top k of every coalition of a group, and the building of an index.

All sums are integers, so that no order of additions, batch or thread changes a bit. Documents have two numbers: the place in the index
(by length, short ones first, so that good scores come early) and the index in the catalogue, by which ties are broken.
"""

from __future__ import annotations

import numpy as np
from numba import njit

# Documents of a block: its scores live in the first level cache.
BLOCK_BITS = 6
# Blocks of a super-block, whose bounds are looked at first.
SUPER = 16
LANES = 16


@njit(nogil=True, cache=True)
def _insert(c, document, score, k, counts, theta, top_documents, top_scores):
    # Keep top lists ordered by score descending, then catalogue index ascending.
    count = counts[c]
    if count == k:
        if score == top_scores[c, k - 1] and document > top_documents[c, k - 1]:
            return
        place = k - 1
    else:
        place = count
        counts[c] = count + 1
    while place > 0 and (
        top_scores[c, place - 1] < score or (top_scores[c, place - 1] == score and top_documents[c, place - 1] > document)
    ):
        top_scores[c, place] = top_scores[c, place - 1]
        top_documents[c, place] = top_documents[c, place - 1]
        place -= 1
    top_scores[c, place] = score
    top_documents[c, place] = document
    if counts[c] == k and top_scores[c, k - 1] > theta[c]:
        theta[c] = top_scores[c, k - 1]


@njit(nogil=True, cache=True)
def _offer(document, size, slots, weights, multiplicity, lanes, width, k, totals, counts, theta, top_documents, top_scores):
    # Offer one document, given its weights in the group's terms, to every coalition.
    first = multiplicity[slots[0]]
    weight = weights[0]
    for c in range(width):
        totals[c] = first[c] * weight
    for i in range(1, size):
        row = multiplicity[slots[i]]
        weight = weights[i]
        for c in range(width):
            totals[c] += row[c] * weight
    hits = 0
    for c in range(width):
        hits += totals[c] >= theta[c]
    if hits > 0:
        for c in range(lanes):
            if totals[c] >= theta[c]:
                _insert(c, document, totals[c], k, counts, theta, top_documents, top_scores)


@njit(nogil=True, cache=True)
def _can_enter(size, bound, slots, weights, most, slot_floor, pair_floor, infinity):
    # A coalition holds one of the document's terms, which then weighs enough alone, or two of them at least.
    lowest = infinity
    for i in range(size):
        if weights[i] * most[slots[i]] >= slot_floor[slots[i]]:
            return True
        for j in range(i):
            lowest = min(lowest, pair_floor[slots[i], slots[j]])
    return size > 1 and bound >= lowest


@njit(nogil=True, cache=True)
def _add_frequent(
    r, low, frequent, frequent_count, slot_rows, block_starts, documents, weights, most, slot_floor, table, held, bounds, floors
):
    # Add the frequent terms' postings of a block to its table; return how many they are.
    added = 0
    for i in range(frequent_count):
        s = frequent[i]
        row = slot_rows[s]
        word = s >> 6
        bit = np.uint64(1) << np.uint64(s & 63)
        added += block_starts[row, r + 1] - block_starts[row, r]
        for p in range(block_starts[row, r], block_starts[row, r + 1]):
            local = documents[p] - low
            table[local, s] = weights[p]
            held[local, word] |= bit
            bounds[local] += most[s] * weights[p]
            floors[local] = min(floors[local], slot_floor[s])
    return added


@njit(nogil=True, cache=True)
def _offer_block(
    low, terms, words, table, held, bounds, floors, most, slot_floor, pair_floor, infinity, candidates, slots, slot_weights, catalogue_of,
    seen, skip_seen, multiplicity, lanes, width, k, totals, counts, theta, top_documents, top_scores,
):  # fmt: skip
    # Offer the documents of a block whose sum over all terms of the group can matter; clear the block's sums and marks.
    size_of_block = bounds.shape[0]
    found = 0
    for local in range(size_of_block):
        candidates[found] = local
        found += bounds[local] >= floors[local]
    for candidate in range(found):
        local = candidates[candidate]
        if skip_seen and seen[low + local]:
            continue
        bounds_of = bounds[local]
        size = 0
        for word in range(words):
            bits = held[local, word]
            if bits == 0:
                continue
            for s in range(word * 64, min(terms, word * 64 + 64)):
                is_held = (bits >> np.uint64(s & 63)) & np.uint64(1)
                slots[size] = s
                slot_weights[size] = table[local, s]
                size += np.int64(is_held)
        if not _can_enter(size, bounds_of, slots, slot_weights, most, slot_floor, pair_floor, infinity):
            continue
        _offer(
            catalogue_of[low + local], size, slots, slot_weights, multiplicity, lanes, width, k, totals, counts, theta, top_documents,
            top_scores,
        )  # fmt: skip
    for local in range(size_of_block):
        bounds[local] = 0
        floors[local] = infinity
    for local in range(size_of_block):
        for word in range(words):
            held[local, word] = 0


@njit(nogil=True, cache=True)
def _refresh(slot_floor, pair_floor, terms, lanes, width, multiplicity, theta):
    # The lowest score that matters to any coalition which holds a term, and to any which holds two.
    infinity = theta[lanes]
    for s in range(terms):
        row = multiplicity[s]
        lowest = infinity
        for c in range(width):
            lowest = min(lowest, theta[c] if row[c] > 0 else infinity)
        slot_floor[s] = lowest
        for other in range(s):
            other_row = multiplicity[other]
            lowest = infinity
            for c in range(width):
                lowest = min(lowest, theta[c] if row[c] > 0 and other_row[c] > 0 else infinity)
            pair_floor[s, other] = lowest
            pair_floor[other, s] = lowest


@njit(nogil=True, cache=True)
def _can_matter(
    bounds,
    place,
    first_document,
    frequent,
    frequent_count,
    slot_rows,
    multiplicity,
    lanes,
    width,
    k,
    totals,
    counts,
    theta,
    top_documents,
    top_scores,
):
    # Whether a document of these blocks that holds frequent terms alone can enter any coalition's list.
    for c in range(width):
        totals[c] = 0
    for i in range(frequent_count):
        weight = bounds[slot_rows[frequent[i]], place]
        if weight > 0:
            row = multiplicity[frequent[i]]
            for c in range(width):
                totals[c] += row[c] * weight
    hits = 0
    for c in range(width):
        hits += totals[c] >= theta[c]
    if hits == 0:
        return False
    for c in range(lanes):
        if totals[c] > theta[c] or (
            totals[c] == theta[c] and not (counts[c] == k and top_scores[c, k - 1] == theta[c] and top_documents[c, k - 1] < first_document)
        ):
            return True
    return False


@njit(nogil=True, cache=True)
def rank_groups(
    starts,  # int64[terms + 1]
    documents,  # int32[postings] places, ascending within a term
    weights,  # int32[postings]
    catalogue_of,  # int32[documents] catalogue index of each place
    forward_starts,  # int64[documents + 1] by catalogue index
    forward_terms,  # int32[postings]
    forward_weights,  # int32[postings]
    frequent_row,  # int32[terms] row in the tables of frequent terms, else -1
    block_starts,  # int64[frequent, blocks + 1]
    block_bounds,  # int32[frequent, blocks] largest weight in the block
    super_bounds,  # int32[frequent, super-blocks]
    best_weights,  # int32[frequent, largest k] descending
    block_first,  # int32[blocks] smallest catalogue index in the block
    super_first,  # int32[super-blocks]
    part_starts,  # int64[parts + 1]
    part_terms,  # int32[.]
    member_starts,  # int64[coalitions + 1]
    members,  # int32[.] parts of each coalition
    group_starts,  # int64[groups + 1] coalitions of each group
    first_group,
    last_group,
    is_pooled,
    pool_starts,  # int64[groups + 1]
    pool,  # int32[.] catalogue indices
    k,
    is_distinct,
    slot_of,  # int32[terms] all -1, and again when the loop ends
    seen,  # uint8[documents] all 0, and again when the loop ends
    infinity,  # largest integer of the sums' type
    work,  # int64[1] postings read, added to
    out_documents,  # int32[coalitions, k], -1 where nothing more is retrieved
    out_scores,  # [coalitions, k] of the sums' type
):
    """Write the first k documents of every coalition of the groups: score descending, then catalogue index ascending."""
    size_of_block = 1 << BLOCK_BITS
    count = catalogue_of.shape[0]
    blocks = block_first.shape[0]
    most_lanes = 0
    most_terms = 1
    for g in range(first_group, last_group):
        most_lanes = max(most_lanes, group_starts[g + 1] - group_starts[g])
        terms = 0
        for c in range(group_starts[g], group_starts[g + 1]):
            for m in range(member_starts[c], member_starts[c + 1]):
                part = members[m]
                for t in range(part_starts[part], part_starts[part + 1]):
                    if slot_of[part_terms[t]] < 0:
                        slot_of[part_terms[t]] = 0
                        terms += 1
        for c in range(group_starts[g], group_starts[g + 1]):
            for m in range(member_starts[c], member_starts[c + 1]):
                part = members[m]
                for t in range(part_starts[part], part_starts[part + 1]):
                    slot_of[part_terms[t]] = -1
        most_terms = max(most_terms, terms)
    widest = (most_lanes // LANES + 1) * LANES
    multiplicity = np.zeros((most_terms, widest), dtype=out_scores.dtype)
    most = np.zeros(most_terms, dtype=out_scores.dtype)
    slot_floor = np.zeros(most_terms, dtype=out_scores.dtype)
    pair_floor = np.zeros((most_terms, most_terms), dtype=out_scores.dtype)
    totals = np.zeros(widest, dtype=out_scores.dtype)
    theta = np.zeros(widest, dtype=out_scores.dtype)
    counts = np.zeros(widest, dtype=np.int64)
    term_of = np.zeros(most_terms, dtype=np.int64)
    slot_rows = np.zeros(most_terms, dtype=np.int64)
    position = np.zeros(most_terms, dtype=np.int64)
    rare = np.zeros(most_terms, dtype=np.int64)
    frequent = np.zeros(most_terms, dtype=np.int64)
    most_words = (most_terms + 63) // 64
    table = np.zeros((size_of_block, most_terms), dtype=out_scores.dtype)
    held = np.zeros((size_of_block, most_words), dtype=np.uint64)
    bounds = np.zeros(size_of_block, dtype=np.int64)
    floors = np.full(size_of_block, infinity, dtype=np.int64)
    candidates = np.zeros(size_of_block + 1, dtype=np.int64)
    slots = np.zeros(most_terms + 1, dtype=np.int64)
    slot_weights = np.zeros(most_terms + 1, dtype=out_scores.dtype)
    is_done = np.zeros(blocks, dtype=np.uint8)
    end = count + size_of_block
    read = 0

    for g in range(first_group, last_group):
        first = group_starts[g]
        lanes = group_starts[g + 1] - first
        width = (lanes // LANES + 1) * LANES
        terms = 0
        for lane in range(lanes):
            for m in range(member_starts[first + lane], member_starts[first + lane + 1]):
                part = members[m]
                for t in range(part_starts[part], part_starts[part + 1]):
                    term = part_terms[t]
                    s = slot_of[term]
                    if s < 0:
                        s = terms
                        slot_of[term] = s
                        term_of[s] = term
                        terms += 1
                        for c in range(width):
                            multiplicity[s, c] = 0
                    if is_distinct:
                        multiplicity[s, lane] = 1
                    else:
                        multiplicity[s, lane] += 1
        top_documents = out_documents[first : first + lanes]
        top_scores = out_scores[first : first + lanes]
        for c in range(width):
            theta[c] = 1 if c < lanes else infinity
            counts[c] = 0
        rare_count = 0
        frequent_count = 0
        for s in range(terms):
            highest = multiplicity[s, 0]
            for c in range(1, lanes):
                highest = max(highest, multiplicity[s, c])
            most[s] = highest
            row = frequent_row[term_of[s]]
            slot_rows[s] = row
            position[s] = starts[term_of[s]]
            if row >= 0:
                frequent[frequent_count] = s
                frequent_count += 1
                if not is_pooled:
                    best = best_weights[row, k - 1]
                    for c in range(lanes):
                        if multiplicity[s, c] > 0 and best * multiplicity[s, c] > theta[c]:
                            theta[c] = best * multiplicity[s, c]
            else:
                rare[rare_count] = s
                rare_count += 1
        _refresh(slot_floor, pair_floor, terms, lanes, width, multiplicity, theta)
        words = (terms + 63) // 64

        if is_pooled:
            until_refresh = 16
            wait = 16
            for p in range(pool_starts[g], pool_starts[g + 1]):
                document = pool[p]
                size = 0
                for e in range(forward_starts[document], forward_starts[document + 1]):
                    s = slot_of[forward_terms[e]]
                    if s >= 0:
                        slots[size] = s
                        slot_weights[size] = forward_weights[e]
                        size += 1
                read += forward_starts[document + 1] - forward_starts[document]
                bound = np.int64(0)
                for i in range(size):
                    bound += most[slots[i]] * slot_weights[i]
                if size > 0 and _can_enter(size, bound, slots, slot_weights, most, slot_floor, pair_floor, infinity):
                    _offer(
                        document, size, slots, slot_weights, multiplicity, lanes, width, k, totals, counts, theta, top_documents, top_scores
                    )
                until_refresh -= 1
                if until_refresh == 0:
                    _refresh(slot_floor, pair_floor, terms, lanes, width, multiplicity, theta)
                    wait *= 2
                    until_refresh = wait
        elif terms > 0:
            # First every document that holds a rare term; its frequent terms are looked up, or the block is taken as a whole.
            until_refresh = 1
            wait = 1
            has_seen = False
            while rare_count > 0:
                place = end
                for i in range(rare_count):
                    s = rare[i]
                    if position[s] < starts[term_of[s] + 1]:
                        place = min(place, documents[position[s]])
                if place == end:
                    break
                r = place >> BLOCK_BITS
                low = r << BLOCK_BITS
                high = low + size_of_block
                entries = 0
                for i in range(rare_count):
                    s = rare[i]
                    p = position[s]
                    last = starts[term_of[s] + 1]
                    word = s >> 6
                    bit = np.uint64(1) << np.uint64(s & 63)
                    while p < last and documents[p] < high:
                        local = documents[p] - low
                        table[local, s] = weights[p]
                        held[local, word] |= bit
                        bounds[local] += most[s] * weights[p]
                        floors[local] = min(floors[local], slot_floor[s])
                        p += 1
                    entries += p - position[s]
                    position[s] = p
                in_block = 0
                for i in range(frequent_count):
                    row = slot_rows[frequent[i]]
                    in_block += block_starts[row, r + 1] - block_starts[row, r]
                if in_block <= entries * frequent_count * 6:
                    is_done[r] = 1
                    entries += _add_frequent(
                        r,
                        low,
                        frequent,
                        frequent_count,
                        slot_rows,
                        block_starts,
                        documents,
                        weights,
                        most,
                        slot_floor,
                        table,
                        held,
                        bounds,
                        floors,
                    )
                else:
                    has_seen = True
                    for i in range(frequent_count):
                        s = frequent[i]
                        row = slot_rows[s]
                        word = s >> 6
                        bit = np.uint64(1) << np.uint64(s & 63)
                        for local in range(size_of_block):
                            if bounds[local] == 0 or low + local >= count:
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
                                table[local, s] = weights[below]
                                held[local, word] |= bit
                                bounds[local] += most[s] * weights[below]
                                floors[local] = min(floors[local], slot_floor[s])
                read += entries
                _offer_block(
                    low, terms, words, table, held, bounds, floors, most, slot_floor, pair_floor, infinity, candidates, slots, slot_weights,
                    catalogue_of, seen, False, multiplicity, lanes, width, k, totals, counts, theta, top_documents, top_scores,
                )  # fmt: skip
                until_refresh -= 1
                if until_refresh == 0:
                    _refresh(slot_floor, pair_floor, terms, lanes, width, multiplicity, theta)
                    wait = min(2 * wait, 32)
                    until_refresh = wait
            # Then the blocks where a document of frequent terms alone can still matter.
            if frequent_count > 0:
                _refresh(slot_floor, pair_floor, terms, lanes, width, multiplicity, theta)
                until_refresh = 1
                wait = 1
                for group_of_blocks in range(super_first.shape[0]):
                    if not _can_matter(
                        super_bounds, group_of_blocks, super_first[group_of_blocks], frequent, frequent_count, slot_rows, multiplicity,
                        lanes, width, k, totals, counts, theta, top_documents, top_scores,
                    ):  # fmt: skip
                        continue
                    for r in range(group_of_blocks * SUPER, min(blocks, group_of_blocks * SUPER + SUPER)):
                        if is_done[r] or not _can_matter(
                            block_bounds, r, block_first[r], frequent, frequent_count, slot_rows, multiplicity, lanes, width, k, totals,
                            counts, theta, top_documents, top_scores,
                        ):  # fmt: skip
                            continue
                        low = r << BLOCK_BITS
                        read += _add_frequent(
                            r,
                            low,
                            frequent,
                            frequent_count,
                            slot_rows,
                            block_starts,
                            documents,
                            weights,
                            most,
                            slot_floor,
                            table,
                            held,
                            bounds,
                            floors,
                        )
                        _offer_block(
                            low, terms, words, table, held, bounds, floors, most, slot_floor, pair_floor, infinity, candidates, slots,
                            slot_weights, catalogue_of, seen, has_seen, multiplicity, lanes, width, k, totals, counts, theta,
                            top_documents, top_scores,
                        )  # fmt: skip
                        until_refresh -= 1
                        if until_refresh == 0:
                            _refresh(slot_floor, pair_floor, terms, lanes, width, multiplicity, theta)
                            wait = min(2 * wait, 32)
                            until_refresh = wait
                is_done[:] = 0
                for i in range(rare_count if has_seen else 0):
                    for p in range(starts[term_of[rare[i]]], starts[term_of[rare[i]] + 1]):
                        seen[documents[p]] = 0
        for s in range(terms):
            slot_of[term_of[s]] = -1
        for lane in range(lanes):
            for rank in range(counts[lane], k):
                top_documents[lane, rank] = -1
                top_scores[lane, rank] = 0
    work[0] += read


@njit(nogil=True, cache=True)
def invert(forward_starts, forward_terms, forward_weights, catalogue_of, starts, documents, weights):
    """Fill documents (places) and weights of each term's postings from the forward arrays; `starts` are filled in."""
    cursor = starts[:-1].copy()
    for place in range(catalogue_of.shape[0]):
        document = catalogue_of[place]
        for e in range(forward_starts[document], forward_starts[document + 1]):
            term = forward_terms[e]
            documents[cursor[term]] = place
            weights[cursor[term]] = forward_weights[e]
            cursor[term] += 1


@njit(nogil=True, cache=True)
def summarise_blocks(starts, documents, weights, terms, block_starts, block_bounds):
    """Fill where each block of the frequent terms' postings begins, and its largest weight."""
    blocks = block_bounds.shape[1]
    for row in range(terms.shape[0]):
        p = starts[terms[row]]
        last = starts[terms[row] + 1]
        for r in range(blocks):
            block_starts[row, r] = p
            bound = 0
            while p < last and documents[p] < (r + 1) << BLOCK_BITS:
                bound = max(bound, weights[p])
                p += 1
            block_bounds[row, r] = bound
        block_starts[row, blocks] = p
