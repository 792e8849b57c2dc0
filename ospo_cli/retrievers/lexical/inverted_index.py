"""The lexical engine: an inverted index of flat arrays, and the exact top k of all coalitions of many answers at once."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import RetrievalError
from ospo_cli.retrievers import array_folder
from ospo_cli.retrievers.base import Coalitions, Ranking, best_first, candidates, padded, rank_by_pool
from ospo_cli.retrievers.lexical import pool_products
from ospo_cli.retrievers.lexical.arrays import BLOCK, SUPER, Asked, Index, Marks, Options, Top
from ospo_cli.retrievers.term_counts import Field, Postings, count_terms

VERSION = "index-2"
# Postings that are weighted at a time; bounds memory.
CHUNK_POSTINGS = 1 << 21
# A weight is an integer number of units; the largest of an index has 26 bits, so that 32 of them fit in 31.
WEIGHT_BITS = 26
# A term of more than one in so many documents has bounds per block of documents.
FREQUENT_SHARE = 64
# Coalitions that one pass over the postings serves, and over a pool, where reading its documents is most of the work.
LARGEST_GROUP = 64
LARGEST_POOLED_GROUP = 128
# Longest list of best weights that is kept per frequent term, and largest k of the compiled loops.
LARGEST_K = 128
# Cells (coalitions × candidates) of pools that are ranked before the compiled loops are worth reading.
PRODUCT_CELLS = 1 << 26
# Bags of terms that are remembered by their text.
REMEMBERED_TEXTS = 1 << 17


class InvertedIndex:
    """Documents as weighted bags of terms; the score of a query is the sum of the weights of its terms.

    Weights are integer multiples of `unit`, so that a score is exact whatever the order of the words, the batch or the thread, and
    documents that are equally good tie exactly.

    Args:
        fields: the texts; may be read once alone, and is not read where `folder` holds the index already.
        weigh: postings of some documents -> float64[entries], ≥ 0; a weight of 0 never retrieves.
        split: the parts of a term, which then are the terms (each distinct term of the bags is split once).
        is_distinct: a term that a query repeats counts once, else as often as it occurs.
        folder: where the arrays are kept and opened by memory map; None keeps them in memory.
        fingerprint: of documents and settings; a folder of another one is refused.

    Raises:
        RetrievalError: no term at all, a weight that is no number ≥ 0, or a folder that is damaged or of something else.
    """

    def __init__(
        self,
        fields: Callable[[], Sequence[Field]],
        weigh: Callable[[Postings], NDArray[np.float64]],
        *,
        split: Callable[[str], Sequence[str]] | None = None,
        is_distinct: bool = True,
        folder: Path | None = None,
        fingerprint: str = "",
    ) -> None:
        found = None if folder is None else array_folder.read(folder, VERSION, fingerprint)
        if found is None:
            found = _build(fields(), weigh, split)
            if folder is not None:
                array_folder.write(folder, VERSION, fingerprint, found)
                found = array_folder.read(folder, VERSION, fingerprint) or found
        # Mapped or not, the compiled loops see arrays of one kind, and are compiled once.
        self.arrays: dict[str, NDArray[np.generic]] = {name: values.view(np.ndarray) for name, values in found.items()}
        for values in self.arrays.values():
            values.flags.writeable = False
        self.index = Index(*(self.arrays[name] for name in Index._fields))
        self.unit = float(np.ldexp(1.0, int(found["unit_exponent"][0])))
        self.count = len(found["catalogue_of"])
        self.is_distinct = is_distinct
        terms = found["vocabulary"].tobytes().decode("utf-8", "surrogatepass").split("\n")
        self.vocabulary: dict[str, int] = {term: index for index, term in enumerate(terms)}
        self.largest_weight = int(found["largest_weight"][0])
        self.touched_postings = 0
        self._product_cells = 0
        self._buffers: list[Marks] = []
        self._lock = threading.Lock()
        self._remembered: dict[str, NDArray[np.int32]] = {}

    def rank(self, bags: Sequence[NDArray[np.int32]], pools: Sequence[NDArray[np.int64] | None], k: int) -> list[Ranking]:
        """Return the first k documents of each bag of term indices within its pool; k = 0 is all."""
        return rank_by_pool(bags, pools, lambda own, pool: self.rank_bags(own, pool, k))

    def rank_bags(
        self, bags: Sequence[NDArray[np.int32]], pool: NDArray[np.int64] | None, k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return documents int64[bags, ranks] (−1 where nothing more is retrieved) and scores float64[bags, ranks] (0 there)."""
        count = len(bags)
        pool = None if pool is None else candidates(pool, self.count)
        if k <= 0:
            k = self.count if pool is None else len(pool)
        starts = np.arange(0, count, LARGEST_GROUP if pool is None else LARGEST_POOLED_GROUP, dtype=np.int64)
        parts = np.arange(count, dtype=np.int64)
        return self._run(bags, np.append(parts, count), parts.astype(np.int32), np.append(starts, count), [pool] * len(starts), k)

    def rank_coalitions(
        self, answers: Sequence[Coalitions], bag: Callable[[str], NDArray[np.int32]], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return documents int64[coalitions of all answers, ranks] and scores as `rank_bags` does; `bag` gives the terms of a part."""
        bags: list[NDArray[np.int32]] = []
        known = self._remembered
        sizes, members, groups = [], [], [0]
        pools: list[NDArray[np.int64] | None] = []
        shapes: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        lanes = 0
        checked: dict[int, NDArray[np.int64]] = {}
        previous: NDArray[np.int64] | None = None
        for answer in answers:
            shape = shapes.get(id(answer.present))
            if shape is None:
                shape = shapes[id(answer.present)] = (np.count_nonzero(answer.present, axis=1), answer.present.nonzero()[1])
            largest = LARGEST_GROUP if answer.pool is None else LARGEST_POOLED_GROUP
            if not pools or answer.pool is not previous or lanes - groups[-1] + len(shape[0]) > largest:
                if pools:
                    groups.append(lanes)
                pool = answer.pool
                if pool is not None and id(pool) not in checked:
                    checked[id(pool)] = candidates(pool, self.count)
                pools.append(None if pool is None else checked[id(pool)])
                previous = pool
            sizes.append(shape[0])
            members.append(shape[1] + len(bags))
            lanes += len(shape[0])
            for text in answer.parts:
                found = known.get(text)
                if found is None:
                    if len(known) >= REMEMBERED_TEXTS:
                        known.clear()
                    found = known[text] = bag(text)
                bags.append(found)
        if not sizes:
            return np.zeros((0, 0), dtype=np.int64), np.zeros((0, 0))
        groups.append(lanes)
        if k <= 0:
            k = max(self.count if pool is None else len(pool) for pool in pools)
        member_starts = np.concatenate(([0], np.cumsum(np.concatenate(sizes))))
        return self._run(bags, member_starts, np.concatenate(members).astype(np.int32), np.array(groups), pools, k)

    def _run(
        self,
        bags: Sequence[NDArray[np.int32]],
        member_starts: NDArray[np.int64],
        members: NDArray[np.int32],
        groups: NDArray[np.int64],
        pools: Sequence[NDArray[np.int64] | None],
        k: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        coalitions = len(member_starts) - 1
        if coalitions == 0 or k == 0:
            return np.zeros((coalitions, 0), dtype=np.int64), np.zeros((coalitions, 0))
        is_pooled = pools[0] is not None
        if any((pool is not None) != is_pooled for pool in pools):
            raise ValueError("some answers have a pool and others have none")
        if is_pooled:
            k = min(k, max(len(pool) for pool in pools if pool is not None))
        k = min(k, self.count)
        if k == 0:
            return np.zeros((coalitions, 0), dtype=np.int64), np.zeros((coalitions, 0))
        if not is_pooled and k > LARGEST_K:
            return self._rank_all(bags, member_starts, members, k)
        part_sizes = np.fromiter(map(len, bags), dtype=np.int64, count=len(bags))
        part_starts = np.concatenate(([0], np.cumsum(part_sizes)))
        part_terms = np.concatenate(bags) if len(bags) else np.zeros(0, dtype=np.int32)
        words = np.concatenate(([0], np.cumsum(part_sizes[members])))
        longest = int((words[member_starts[1:]] - words[member_starts[:-1]]).max())
        own = [pool for pool in pools if pool is not None]
        pool_starts = np.concatenate(([0], np.cumsum([len(pool) for pool in own] or [0] * len(pools)))).astype(np.int64)
        pool_members = np.concatenate(own).astype(np.int32) if own else np.zeros(0, dtype=np.int32)
        asked = Asked(part_starts, part_terms, member_starts, members, groups, pool_starts, pool_members)
        if is_pooled and self._takes_products(own, groups) and pool_products.fits(longest, self.largest_weight, max(map(len, own))):
            marks = self._borrow()
            documents, sums, read = pool_products.rank_groups(self.index, asked, own, k, self.is_distinct, marks.slot_of)
            self._give_back(marks, read)
            return documents, np.asarray(sums * self.unit, dtype=np.float64)
        dtype: type = np.int32 if longest * self.largest_weight < 2**31 else np.int64
        top = Top(np.empty((coalitions, k), dtype=np.int32), np.empty((coalitions, k), dtype=dtype))
        self._run_loops(asked, Options(is_pooled, self.is_distinct, dtype(np.iinfo(dtype).max)), top)
        return top.documents.astype(np.int64), np.asarray(top.scores * self.unit, dtype=np.float64)

    def _run_loops(self, asked: Asked, options: Options, top: Top) -> None:
        from ospo_cli.retrievers.lexical import kernel

        def work(first: int, last: int) -> None:
            marks = self._borrow()
            self._give_back(marks, kernel.rank_groups(self.index, asked, (first, last), options, marks, top))

        count = len(asked.group_starts) - 1
        threads = min(_cores(), count)
        if threads == 1:
            work(0, count)
            return
        # Small shares, so that a long one at the end keeps nobody waiting.
        step = -(-count // (threads * 8))
        with ThreadPoolExecutor(threads) as pool_of_threads:
            list(pool_of_threads.map(lambda first: work(first, min(count, first + step)), range(0, count, step)))

    def _takes_products(self, pools: Sequence[NDArray[np.int64]], groups: NDArray[np.int64]) -> bool:
        # Reading the compiled loops takes most of a second, in which products do so many cells. Both give the same bits.
        kernel = sys.modules.get("ospo_cli.retrievers.lexical.kernel")
        if kernel is not None and kernel.rank_groups.signatures:
            return False
        cells = int(np.dot(np.diff(groups), np.fromiter(map(len, pools), dtype=np.int64, count=len(pools))))
        with self._lock:
            self._product_cells += cells
            return self._product_cells <= PRODUCT_CELLS

    def _rank_all(
        self, bags: Sequence[NDArray[np.int32]], member_starts: NDArray[np.int64], members: NDArray[np.int32], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        # Every document that holds a word of the query: for whole rankings, one coalition after the other.
        arrays = self.arrays
        starts, places, weights, catalogue_of = (arrays[name] for name in ("starts", "documents", "weights", "catalogue_of"))
        rankings = []
        for row in range(len(member_starts) - 1):
            chosen = [bags[part] for part in members[member_starts[row] : member_starts[row + 1]]]
            terms = np.concatenate(chosen) if chosen else np.zeros(0, dtype=np.int32)
            terms, counts = np.unique(terms, return_counts=True)
            entries = [slice(int(starts[term]), int(starts[term + 1])) for term in terms]
            totals = np.zeros(self.count)
            for span, times in zip(entries, counts.tolist(), strict=True):
                # Integers below 2^53 are exact in float64. A term's places differ, so that nothing is added to one of them twice.
                totals[places[span]] += weights[span].astype(np.float64) * (1 if self.is_distinct else times)
            found = totals.nonzero()[0]
            rankings.append(best_first(np.asarray(catalogue_of[found], dtype=np.int64), totals[found] * self.unit, k))
        return padded(rankings)

    def _borrow(self) -> Marks:
        with self._lock:
            if self._buffers:
                return self._buffers.pop()
        return Marks(np.full(len(self.vocabulary), -1, dtype=np.int32), np.zeros(self.count, dtype=np.uint8))

    def _give_back(self, marks: Marks, read: int) -> None:
        with self._lock:
            self._buffers.append(marks)
            self.touched_postings += read

    def bag(self, terms: Iterable[str]) -> NDArray[np.int32]:
        """Return the indices of the known terms in the order of the text, each as often as it occurs."""
        vocabulary = self.vocabulary
        return np.array([vocabulary[term] for term in terms if term in vocabulary], dtype=np.int32)


def index_folder(cache: Path | None, fingerprint: str) -> Path | None:
    """Return where an index is kept; that of another version of this program stands beside it."""
    return None if cache is None else cache / "index" / f"{VERSION}-{fingerprint}"


def _build(
    fields: Sequence[Field], weigh: Callable[[Postings], NDArray[np.float64]], split: Callable[[str], Sequence[str]] | None
) -> dict[str, NDArray[np.generic]]:
    from ospo_cli.retrievers.lexical import building

    postings, vocabulary = count_terms(fields, split)
    count = len(postings.lengths)
    # Twice over all: the unit follows from the largest weight.
    largest = max(float(weights.max(initial=0.0)) for weights in _weights(postings, weigh))
    exponent = int(np.ceil(np.log2(largest))) - WEIGHT_BITS if largest > 0 else 0
    rounded = np.concatenate([np.rint(np.ldexp(weights, -exponent)).astype(np.int32) for weights in _weights(postings, weigh)])
    terms, owners = np.asarray(postings.terms, dtype=np.int32), np.asarray(postings.documents, dtype=np.int32)
    is_kept = rounded > 0
    if not is_kept.all():
        terms, owners, rounded = terms[is_kept], owners[is_kept], rounded[is_kept]
    forward_starts = np.concatenate(([0], np.cumsum(np.bincount(owners, minlength=count))))
    del owners
    # Short documents first: a word weighs most there, so that the first blocks hold most of the best documents.
    catalogue_of = np.argsort(postings.lengths, kind="stable").astype(np.int32)
    term_counts = np.bincount(terms, minlength=len(vocabulary))
    starts = np.concatenate(([0], np.cumsum(term_counts)))
    documents, weights = np.empty(len(terms), dtype=np.int32), np.empty(len(terms), dtype=np.int32)
    building.invert((forward_starts, terms, rounded), catalogue_of, starts, documents, weights)
    blocks = -(-count // BLOCK)
    frequent = np.flatnonzero(term_counts > count / FREQUENT_SHARE)
    frequent_row = np.full(len(vocabulary), -1, dtype=np.int32)
    frequent_row[frequent] = np.arange(len(frequent))
    block_starts = np.zeros((len(frequent), blocks + 1), dtype=np.int64)
    block_bounds = np.zeros((len(frequent), blocks), dtype=np.int32)
    building.summarise_blocks(starts, documents, weights, frequent, block_starts, block_bounds)
    best_weights = np.zeros((len(frequent), LARGEST_K), dtype=np.int32)
    for row, term in enumerate(frequent.tolist()):
        own = weights[starts[term] : starts[term + 1]]
        top = min(len(own), LARGEST_K)
        best_weights[row, :top] = np.sort(np.partition(own, len(own) - top)[len(own) - top :])[::-1]
    block_first = np.minimum.reduceat(catalogue_of, np.arange(0, count, BLOCK))
    super_starts = np.arange(0, blocks, SUPER)
    return {
        "starts": starts,
        "documents": documents,
        "weights": weights,
        "catalogue_of": catalogue_of,
        "forward_starts": forward_starts,
        "forward_terms": terms,
        "forward_weights": rounded,
        "frequent_row": frequent_row,
        "block_starts": block_starts,
        "block_bounds": block_bounds,
        "super_bounds": np.maximum.reduceat(block_bounds, super_starts, axis=1),
        "best_weights": best_weights,
        "block_first": block_first,
        "super_first": np.minimum.reduceat(block_first, super_starts),
        "unit_exponent": np.array([exponent], dtype=np.int64),
        "largest_weight": np.array([rounded.max(initial=0)], dtype=np.int64),
        "vocabulary": np.frombuffer("\n".join(vocabulary).encode("utf-8", "surrogatepass"), dtype=np.uint8),
    }


def _weights(postings: Postings, weigh: Callable[[Postings], NDArray[np.float64]]) -> Iterator[NDArray[np.float64]]:
    # Whole documents at a time: a weight may depend on all entries of its document.
    first, total = 0, len(postings.terms)
    while first < total:
        last = min(first + CHUNK_POSTINGS, total)
        if last < total:
            last = int(np.searchsorted(postings.documents, postings.documents[last], side="right"))
        terms, documents = postings.terms[first:last].astype(np.int64), postings.documents[first:last].astype(np.int64)
        weights = weigh(Postings(terms, documents, postings.frequencies[first:last], postings.document_counts, postings.lengths))
        if not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise RetrievalError(
                "retriever",
                "the weight of a term is not a number of 0 or more",
                expected="finite weights",
                remedy="check the retrieval section",
            )
        yield weights
        first = last


def _cores() -> int:
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:  # macOS
        return os.cpu_count() or 1
