"""Dense retrieval: texts as vectors of an encoder, exact products over pools, faiss over the whole catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ospo_cli.layout import Layout
from ospo_cli.params.retrieval import Retrieval
from ospo_cli.retrievers.base import NOTHING, Catalogue, Ranking, best_first, candidates, has_text, padded, rank_by_pool, require_words
from ospo_cli.retrievers.dense import embeddings, encoders
from ospo_cli.retrievers.dense.vectors import digest

# Cells (queries × documents) of one table of scores.
CELLS = 1 << 22
# Bytes of query vectors that are remembered across calls.
REMEMBERED_BYTES = 1 << 29
# faiss sums in float32; a document that it leaves out scores at most this much (of the vectors' lengths) above the last one it gives.
FAISS_ERROR = 1e-4


class Dense:
    """Cosine c as (1 + c)/2, or inner product x as (1 + x/(1 + |x|))/2: both increase with c or x and lie above 0.

    So every document with a letter or digit in it is retrieved, the least alike last; a query without one retrieves nothing. Vectors are
    rounded (`vectors.rounded`) so that their products are exact: a pool, faiss and a batch give the same bits. Documents of equal text
    share a vector and tie. With `index` hnsw or ivf, a ranking of the whole catalogue to depth k > 0 misses some documents; those that
    are found have their exact scores and order.
    """

    name = "dense"

    def __init__(self, catalogue: Catalogue, settings: Retrieval, cache: Path | None) -> None:
        layout = Layout(Path()) if cache is None else Layout.of_cache(cache)
        self.settings = settings.dense
        self.encoder = encoders.load(self.settings, layout.root, settings.folding)
        used = self.settings
        searching = {"flat": (), "hnsw": (used.hnsw_links, used.hnsw_search), "ivf": (used.ivf_lists, used.ivf_probes)}[used.index]
        self.fingerprint = catalogue.fingerprint("dense-1", self.encoder.fingerprint, used.index, searching)
        self.count = len(catalogue.doc_ids)
        self._folder = (layout.cache if cache is None else cache) / "dense"
        # Each distinct text once: row_of names the vector of a document, −1 where it has no text.
        texts: dict[str, int] = {}
        self.row_of = np.array([texts.setdefault(text, len(texts)) if has_text(text) else -1 for text in catalogue.texts], dtype=np.int64)
        require_words(len(texts))
        self.vectors, self._key = embeddings.vectors_of(list(texts), self.encoder, self._folder)
        self._documents = np.argsort(self.row_of, kind="stable")[np.count_nonzero(self.row_of < 0) :]
        self._starts = np.searchsorted(self.row_of[self._documents], np.arange(len(texts) + 1))
        norms = [] if used.normalize else [np.sqrt((part.astype(np.float64) ** 2).sum(axis=1)).max() for part in self._parts()]
        self._longest = float(max(norms, default=1.0))
        self._remembered: dict[str, NDArray[np.float32]] = {}
        self._prepared: dict[str, Ranking] = {}
        self._prepared_depth = 0

    def prepare(self, queries: Sequence[str], pools: Sequence[NDArray[np.int64] | None], k: int) -> None:
        """Encode all distinct queries in full batches, and search the whole catalogue for those without a pool in one call."""
        self._remember(queries)
        self._prepared = {}
        whole = list(dict.fromkeys(query for query, pool in zip(queries, pools, strict=True) if pool is None))
        if k and whole:
            self._prepared = dict(zip(whole, self._search(whole, k), strict=True))
            self._prepared_depth = k

    def rank(self, queries: Sequence[str], pools: Sequence[NDArray[np.int64] | None], k: int) -> list[Ranking]:
        """Return the first k documents of each query within its pool; k = 0 is all."""
        self._remember(queries)
        return rank_by_pool(queries, pools, lambda own, pool: self.rank_queries(own, pool, k))

    def rank_queries(self, queries: Sequence[str], pool: NDArray[np.int64] | None, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return documents int64[queries, ranks] (−1 where nothing more is retrieved) and scores float64[queries, ranks] (0 there)."""
        self._remember(queries)
        if pool is None and k:
            return padded(self._search(queries, k))
        members = self._members(pool)
        width = min(k, len(members)) if k else len(members)
        documents, scores = np.full((len(queries), width), -1, dtype=np.int64), np.zeros((len(queries), width))
        step = max(1, CELLS // max(1, len(members)))
        for start in range(0, len(queries), step):
            table = self._scores(queries[start : start + step], members)
            # Members ascend, so that a stable sort leaves equal scores in the order of document ids.
            order = np.argsort(-table, axis=1, kind="stable")[:, :width]
            best = np.take_along_axis(table, order, axis=1)
            scores[start : start + step] = best
            documents[start : start + step] = np.where(best > 0, members[order], -1)
        return documents, scores

    def _members(self, pool: NDArray[np.int64] | None) -> NDArray[np.int64]:
        members = candidates(pool, self.count)
        return members[self.row_of[members] >= 0]

    def _scores(self, queries: Sequence[str], members: NDArray[np.int64]) -> NDArray[np.float64]:
        # float64[queries, members]; rows of zeros for queries without a letter or digit.
        vectors = self._vectors(queries).astype(np.float64)
        rows, places = np.unique(self.row_of[members], return_inverse=True)
        products = np.zeros((len(queries), len(rows)))
        step = max(1, CELLS // self.encoder.dimensions)
        for start in range(0, len(rows), step):
            products[:, start : start + step] = vectors @ self.vectors[rows[start : start + step]].astype(np.float64).T
        is_text = np.array([has_text(query) for query in queries], dtype=bool)
        return np.where(is_text[:, None], self._score(products)[:, places], 0.0)

    def _score(self, products: NDArray[np.float64]) -> NDArray[np.float64]:
        bounded = products if self.settings.normalize else products / (1.0 + np.abs(products))
        return np.asarray(np.maximum((1.0 + bounded) / 2.0, 0.0))

    def _search(self, queries: Sequence[str], k: int) -> list[Ranking]:
        # The whole catalogue: faiss finds candidates, their scores are exact.
        known = self._prepared if k == self._prepared_depth else {}
        found: dict[str, Ranking] = {}
        for query in queries:
            if query in known:
                found[query] = known[query]
            elif not has_text(query):
                found[query] = NOTHING
        new = [query for query in dict.fromkeys(queries) if query not in found]
        if new:
            vectors = self._vectors(new)
            wanted = min(k + max(8, k // 2), len(self.vectors))
            coarse, rows = self._ask_faiss(vectors, wanted)
            for query, vector, last, near in zip(new, vectors.astype(np.float64), coarse[:, -1], rows, strict=True):
                near = near[near >= 0]
                products = self.vectors[near].astype(np.float64) @ vector
                if self.settings.index == "flat" and wanted < len(self.vectors):
                    # What faiss left out may tie with the last place, or be above it but for rounding.
                    kth = np.sort(products)[::-1][min(k, len(products)) - 1]
                    if kth <= last + FAISS_ERROR * self._longest * np.sqrt((vector**2).sum()):
                        near = np.arange(len(self.vectors))
                        products = np.concatenate([part.astype(np.float64) @ vector for part in self._parts()])
                documents = np.concatenate([self._documents[self._starts[row] : self._starts[row + 1]] for row in near])
                scores = np.repeat(self._score(products), self._starts[near + 1] - self._starts[near])
                found[query] = best_first(documents, scores, k)
        return [found[query] for query in queries]

    def _ask_faiss(self, vectors: NDArray[np.float32], wanted: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        import faiss

        index, inner = self._index, cast("Any", faiss.downcast_index(self._index))
        if self.settings.index == "hnsw":
            inner.hnsw.efSearch = max(self.settings.hnsw_search, wanted)
        elif self.settings.index == "ivf":
            inner.nprobe = self.settings.ivf_probes
        scores, rows = index.search(np.ascontiguousarray(vectors), wanted)
        return scores, rows

    @cached_property
    def _index(self) -> Any:
        import faiss

        settings, count, width = self.settings, len(self.vectors), self.encoder.dimensions
        index: Any
        if settings.index == "flat":
            index = faiss.IndexFlatIP(width)
            for part in self._parts():
                index.add(np.ascontiguousarray(part))
            return index
        lists = min(settings.ivf_lists or max(1, round(count**0.5)), count)
        shape = ("hnsw", settings.hnsw_links) if settings.index == "hnsw" else ("ivf", lists)
        path = self._folder / f"{digest('index-1', self._key, shape)}.faiss"
        if not embeddings.is_whole(path):
            before = faiss.omp_get_max_threads()
            faiss.omp_set_num_threads(1)  # with more, the links depend on which thread came first
            try:
                if settings.index == "hnsw":
                    index = faiss.IndexHNSWFlat(width, settings.hnsw_links, faiss.METRIC_INNER_PRODUCT)
                else:
                    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
                    index.train(np.ascontiguousarray(self.vectors))
                for part in self._parts():
                    index.add(np.ascontiguousarray(part))
            finally:
                faiss.omp_set_num_threads(before)
            content = faiss.serialize_index(index)
            embeddings.write(path, lambda stream: stream.write(content.tobytes()))
        return faiss.deserialize_index(np.fromfile(path, dtype=np.uint8))

    def _parts(self) -> list[NDArray[np.float32]]:
        step = max(1, (CELLS * 4) // self.encoder.dimensions)
        return [self.vectors[start : start + step] for start in range(0, len(self.vectors), step)]

    def _remember(self, queries: Sequence[str]) -> None:
        new = [query for query in dict.fromkeys(queries) if query not in self._remembered and has_text(query)]
        if not new:
            return
        most = max(1, REMEMBERED_BYTES // (4 * self.encoder.dimensions))
        while self._remembered and len(self._remembered) + len(new) > most:  # the oldest first
            del self._remembered[next(iter(self._remembered))]
        self._remembered.update(zip(new, self.encoder.encode(new, "query"), strict=True))

    def _vectors(self, queries: Sequence[str]) -> NDArray[np.float32]:
        # Asked for after _remember, which may have made room by forgetting some of these.
        forgotten = [query for query in dict.fromkeys(queries) if query not in self._remembered and has_text(query)]
        found = dict(zip(forgotten, self.encoder.encode(forgotten, "query"), strict=True)) if forgotten else {}
        blank = np.zeros(self.encoder.dimensions, dtype=np.float32)
        rows = [self._remembered.get(query, found.get(query, blank)) for query in queries]
        return np.stack(rows) if rows else np.zeros((0, self.encoder.dimensions), dtype=np.float32)
