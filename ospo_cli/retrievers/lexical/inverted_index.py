"""The lexical engine: an inverted index of flat arrays, and the exact top k of all coalitions of many answers at once."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ospo_cli.errors import RetrievalError
from ospo_cli.retrievers import array_folder
from ospo_cli.retrievers.base import Coalitions, Ranking, best_first, candidates, padded, rank_by_pool
from ospo_cli.retrievers.lexical import pool_products
from ospo_cli.retrievers.lexical.arrays import BLOCK, SUPER, Asked, Forward, Index, Top
from ospo_cli.retrievers.term_counts import Field, Postings, count_terms

VERSION = "index-3"
# Postings that are weighted at a time; bounds memory.
CHUNK_POSTINGS = 1 << 21
# A weight is an integer number of units; the largest of an index has 26 bits, so that 32 of them fit in 31.
WEIGHT_BITS = 26
# A term of more than one in so many documents has bounds per block of documents.
FREQUENT_SHARE = 64
# Coalitions that one pass over a pool serves.
LARGEST_GROUP = 128
# Coalitions for which a thread is started.
SHARE = 32
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
        self.forward = Forward(*(self.arrays[name] for name in Forward._fields))
        self.unit = float(np.ldexp(1.0, int(found["unit_exponent"][0])))
        self.count = len(found["catalogue_of"])
        self.is_distinct = is_distinct
        terms = found["vocabulary"].tobytes().decode("utf-8", "surrogatepass").split("\n")
        self.vocabulary: dict[str, int] = {term: index for index, term in enumerate(terms)}
        self.largest_weight = int(found["largest_weight"][0])
        self.touched_postings = 0
        self._product_cells = 0
        self._buffers: list[NDArray[np.int32]] = []
        self._lock = threading.Lock()
        self._remembered: dict[str, NDArray[np.int32]] = {}

    def rank(self, bags: Sequence[NDArray[np.int32]], pools: Sequence[NDArray[np.int64] | None], k: int) -> list[Ranking]:
        """Return the first k documents of each bag of term indices within its pool; k = 0 is all."""
        return rank_by_pool(bags, pools, lambda own, pool: self.rank_bags(own, pool, k))

    def rank_bags(
        self, bags: Sequence[NDArray[np.int32]], pool: NDArray[np.int64] | None, k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return documents int64[bags, ranks] (−1 where nothing more is retrieved) and scores float64[bags, ranks] (0 there)."""
        edges = np.arange(len(bags) + 1)
        members = edges[:-1].astype(np.int32)
        if pool is None:
            return self._rank_catalogue(bags, edges, members, edges, k)
        pool = candidates(pool, self.count)
        groups = np.append(edges[:-1:LARGEST_GROUP], len(bags))
        return self._rank_pools(bags, edges, members, groups, [pool] * (len(groups) - 1), k)

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
            if answer.pool is None or not pools or answer.pool is not previous or lanes - groups[-1] + len(shape[0]) > LARGEST_GROUP:
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
        member_starts = _starts(np.concatenate(sizes))
        together = np.concatenate(members).astype(np.int32), np.array(groups)
        own = [pool for pool in pools if pool is not None]
        if not own:
            return self._rank_catalogue(bags, member_starts, *together, k)
        if len(own) < len(pools):
            raise ValueError("some answers have a pool and others have none")
        return self._rank_pools(bags, member_starts, *together, own, k)

    def _rank_catalogue(
        self,
        bags: Sequence[NDArray[np.int32]],
        member_starts: NDArray[np.int64],
        members: NDArray[np.int32],
        groups: NDArray[np.int64],
        k: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        count = len(member_starts) - 1
        if count == 0:
            return np.zeros((0, 0), dtype=np.int64), np.zeros((0, 0))
        k = min(k, self.count) if k > 0 else self.count
        if k > LARGEST_K:
            return self._rank_all(bags, member_starts, members, k)
        from ospo_cli.retrievers.lexical import catalogue_loops, compiling

        compiling.say_when_compiling()
        part_starts, part_terms = _joined(bags)
        asked = Asked(part_starts, part_terms, member_starts, members, groups)
        top = Top(np.empty((count, k), dtype=np.int32), np.empty((count, k), dtype=np.int64))
        self._share_out(
            asked, lambda share, slot_of: catalogue_loops.rank_catalogue(self.index, asked, share, self.is_distinct, slot_of, top)
        )
        return top.documents.astype(np.int64), top.scores * self.unit

    def _rank_pools(
        self,
        bags: Sequence[NDArray[np.int32]],
        member_starts: NDArray[np.int64],
        members: NDArray[np.int32],
        groups: NDArray[np.int64],
        pools: Sequence[NDArray[np.int64]],
        k: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        count, widest = len(member_starts) - 1, max(map(len, pools), default=0)
        k = min(k, widest) if k > 0 else widest
        if count == 0 or k == 0:
            return np.zeros((count, 0), dtype=np.int64), np.zeros((count, 0))
        part_starts, part_terms = _joined(bags)
        asked = Asked(part_starts, part_terms, member_starts, members, groups)
        words = _starts(np.diff(part_starts)[members])
        longest = int((words[member_starts[1:]] - words[member_starts[:-1]]).max())
        if self._takes_products(pools, groups) and pool_products.fits(longest, self.largest_weight, widest):
            slot_of = self._borrow()
            documents, sums, read = pool_products.rank_groups(self.forward, asked, pools, k, self.is_distinct, slot_of)
            self._give_back(slot_of, read)
            return documents, np.asarray(sums * self.unit, dtype=np.float64)
        from ospo_cli.retrievers.lexical import compiling, pool_loops

        compiling.say_when_compiling()
        dtype: type = np.int32 if longest * self.largest_weight < 2**31 else np.int64
        top = Top(np.empty((count, k), dtype=np.int32), np.empty((count, k), dtype=dtype))
        together = _starts(list(map(len, pools))), np.concatenate(pools).astype(np.int32), dtype(np.iinfo(dtype).max)
        self._share_out(
            asked, lambda share, slot_of: pool_loops.rank_groups(self.forward, asked, together, share, self.is_distinct, slot_of, top)
        )
        return top.documents.astype(np.int64), np.asarray(top.scores * self.unit, dtype=np.float64)

    def _share_out(self, asked: Asked, rank: Callable[[tuple[int, int], NDArray[np.int32]], int]) -> None:
        # Groups among threads, where there are enough coalitions.
        def work(first: int, last: int) -> None:
            slot_of = self._borrow()
            self._give_back(slot_of, rank((first, last), slot_of))

        count, coalitions = len(asked.group_starts) - 1, len(asked.member_starts) - 1
        threads = min(count, coalitions // SHARE)
        threads = min(threads, _cores()) if threads > 1 else 1
        if threads == 1:
            work(0, count)
            return
        # Small shares, so that a long one at the end keeps nobody waiting.
        step = -(-count // (threads * 8))
        with ThreadPoolExecutor(threads) as pool_of_threads:
            list(pool_of_threads.map(lambda first: work(first, min(count, first + step)), range(0, count, step)))

    def _takes_products(self, pools: Sequence[NDArray[np.int64]], groups: NDArray[np.int64]) -> bool:
        # Reading the compiled loops takes most of a second, in which products do so many cells. Both give the same bits.
        # A process that ranks the whole catalogue has paid for most of that.
        if "ospo_cli.retrievers.lexical.pool_loops" in sys.modules or "ospo_cli.retrievers.lexical.catalogue_loops" in sys.modules:
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

    def _borrow(self) -> NDArray[np.int32]:
        # A slot for each term, -1 in all of them: memory of a thread that every call leaves as it found it.
        with self._lock:
            if self._buffers:
                return self._buffers.pop()
        return np.full(len(self.vocabulary), -1, dtype=np.int32)

    def _give_back(self, slot_of: NDArray[np.int32], read: int) -> None:
        with self._lock:
            self._buffers.append(slot_of)
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
    forward_starts = _starts(np.bincount(owners, minlength=count))
    del owners
    # Short documents first: a word weighs most there, so that the first blocks hold most of the best documents.
    catalogue_of = np.argsort(postings.lengths, kind="stable").astype(np.int32)
    term_counts = np.bincount(terms, minlength=len(vocabulary))
    starts = _starts(term_counts)
    documents, weights = np.empty(len(terms), dtype=np.int32), np.empty(len(terms), dtype=np.int32)
    building.invert((forward_starts, terms, rounded), catalogue_of, starts, documents, weights)
    # Whole super-blocks: blocks behind the last document are empty.
    blocks = (supers := -(-count // (BLOCK * SUPER))) * SUPER
    frequent = np.flatnonzero(term_counts > count / FREQUENT_SHARE)
    frequent_row = np.full(len(vocabulary), -1, dtype=np.int32)
    frequent_row[frequent] = np.arange(len(frequent))
    block_starts = np.zeros((len(frequent), blocks + 1), dtype=np.int64)
    block_bounds = np.zeros((len(frequent), blocks), dtype=np.int32)
    block_bits = np.zeros((len(frequent), blocks), dtype=np.uint64)
    building.summarise_blocks(starts, documents, weights, frequent, block_starts, block_bounds, block_bits)
    best_weights = np.zeros((len(frequent), LARGEST_K), dtype=np.int32)
    for row, term in enumerate(frequent.tolist()):
        own = weights[starts[term] : starts[term + 1]]
        top = min(len(own), LARGEST_K)
        best_weights[row, :top] = np.sort(np.partition(own, len(own) - top)[len(own) - top :])[::-1]
    padded = np.full(blocks * BLOCK, count, dtype=np.int32)
    padded[:count] = catalogue_of
    block_first = padded.reshape(blocks, BLOCK).min(axis=1)
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
        "block_bits": block_bits,
        "super_bounds": block_bounds.reshape(len(frequent), supers, SUPER).max(axis=2),
        "best_weights": best_weights,
        "block_first": block_first,
        "super_first": block_first.reshape(supers, SUPER).min(axis=1),
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


def _starts(sizes: ArrayLike) -> NDArray[np.int64]:
    # Where each of some things of these sizes begins, and the last one ends.
    lengths = np.asarray(sizes, dtype=np.int64)
    starts = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def _joined(bags: Sequence[NDArray[np.int32]]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    return _starts(list(map(len, bags))), np.concatenate(bags) if bags else np.zeros(0, dtype=np.int32)


def _cores() -> int:
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:  # macOS
        return os.cpu_count() or 1
