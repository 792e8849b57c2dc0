"""What every search engine is given (a catalogue) and gives back (rankings), and the one order of documents."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.errors import ParameterError, RetrievalError
from ospo_cli.params.retrieval import Retrieval

_Query = TypeVar("_Query")


@dataclass(frozen=True)
class Ranking:
    """Retrieved documents, best first: int64 indices into the catalogue order (doc_id ascending) and float64 scores, all above 0."""

    documents: NDArray[np.int64]
    scores: NDArray[np.float64]


NOTHING = Ranking(np.zeros(0, dtype=np.int64), np.zeros(0))


class Retriever(Protocol):
    """A search engine over one catalogue.

    Order: score descending, then doc_id ascending; a document whose score is not above 0 is not retrieved.
    `fingerprint` is the SHA-256 of everything that a ranking depends on: documents and settings.
    What it may declare besides, of class or object, for the store of values (remembered.py): `kept_from`, the number of candidates from
    which values are kept (0, always, unless it says otherwise), and `reads_words_alone`: its scores hang on the words of a query alone
    (as its `words` finds them, else text.words), not on their order or what separates them (no unless it says True).
    `weighs_fields` (of the class): it counts fields of unequal weight. `fuses` (of the class): it is made from `others` (how each other
    retriever is opened, by name) and the settings.
    """

    name: str
    fingerprint: str

    def __init__(self, catalogue: Catalogue, settings: Retrieval, cache: Path | None) -> None:
        """Index the catalogue."""
        ...

    def rank(self, queries: Sequence[str], pools: Sequence[NDArray[np.int64] | None], k: int) -> list[Ranking]:
        """Return the first k documents of each query within its pool (None: the whole catalogue); k = 0 is all."""
        ...


@runtime_checkable
class BatchRetriever(Protocol):
    """A retriever that ranks many queries over one pool at once."""

    def rank_queries(self, queries: Sequence[str], pool: NDArray[np.int64] | None, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return documents int64[queries, ranks] (−1 where nothing more is retrieved) and scores float64[queries, ranks] (0 there)."""
        ...


@runtime_checkable
class PreparingRetriever(Protocol):
    """A retriever that does better when it is told of many queries at once, of whatever prompt (an encoder, a server)."""

    def prepare(self, queries: Sequence[str], pools: Sequence[NDArray[np.int64] | None], k: int) -> None:
        """Work ahead for calls that are about to come with these queries, pools and depth; changes no ranking."""
        ...


@dataclass(frozen=True)
class Coalitions:
    """The coalitions of one answer, for a retriever to which a query is the words of its parts and nothing else.

    parts: texts, for instance one per segment; present: bool[coalitions, parts]; pool: candidates, None is the whole catalogue.
    """

    parts: Sequence[str]
    present: NDArray[np.bool_]
    pool: NDArray[np.int64] | None


@runtime_checkable
class CoalitionRetriever(Protocol):
    """A retriever that ranks all coalitions of many answers at once, without a text for each."""

    def rank_coalitions(self, answers: Sequence[Coalitions], k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return documents and scores as `rank_queries` does, the coalitions of all answers one below the other."""
        ...


@runtime_checkable
class TellingRetriever(Protocol):
    """A retriever that can tell what a text has to say (a checker)."""

    def tell(self, documents: NDArray[np.int64]) -> str:
        """Return a text that retrieves these documents, as far as one can."""
        ...


@dataclass(frozen=True)
class Catalogue:
    """Documents in the order of their ids, with the text that is indexed: the selected fields, joined by a line break.

    weighted: weight and texts of each field, where one counts more or less than another (`title^2`); else empty, and `texts` say all.
    """

    doc_ids: list[str]
    texts: list[str]
    weighted: tuple[tuple[float, list[str]], ...] = ()

    @classmethod
    def from_documents(cls, documents: pl.DataFrame, fields: Sequence[str] = ()) -> Catalogue:
        """Return the catalogue of table documents; no fields named: every String column but doc_id, category among them.

        A field may end in ^ and what an occurrence in it counts: `title^2`.
        """
        weights = dict(_weighted(field) for field in fields)
        if len(weights) < len(fields):
            raise ParameterError("retrieval.fields", "names a field twice", found=", ".join(fields), expected="each once")
        fields = list(weights)
        known = [name for name, dtype in documents.schema.items() if dtype == pl.String and name != "doc_id"]
        unknown = [name for name in fields if name not in known]
        if unknown:
            raise ParameterError("retrieval.fields", "no such text field in documents", found=unknown[0], expected=", ".join(known))
        if documents.height == 0:
            raise RetrievalError(
                "documents",
                "the catalogue is empty",
                expected="at least one document",
                remedy="check the source and run `ospo prepare-data` again",
            )
        if documents["doc_id"].null_count():
            raise RetrievalError(
                "documents", "a document has no id", expected="doc_id in every row", remedy="run `ospo prepare-data` again"
            )
        doubled = documents["doc_id"].filter(documents["doc_id"].is_duplicated())
        if doubled.len():
            raise RetrievalError(
                "documents", "duplicate id", found=doubled.min(), expected="each doc_id once", remedy="run `ospo prepare-data` again"
            )
        chosen = [name for name in known if not fields or name in fields]
        ordered = documents.sort("doc_id")
        text = pl.concat_str([pl.col(name).fill_null("") for name in chosen], separator="\n")
        weighted: tuple[tuple[float, list[str]], ...] = ()
        if any(weight != 1.0 for weight in weights.values()):
            weighted = tuple((weights[name], ordered[name].fill_null("").to_list()) for name in chosen)
        return cls(ordered["doc_id"].to_list(), ordered.select(text.alias("text"))["text"].to_list(), weighted)

    @cached_property
    def index_of(self) -> dict[str, int]:
        """Index in the catalogue order of each doc_id."""
        return {doc_id: index for index, doc_id in enumerate(self.doc_ids)}

    def fingerprint(self, *settings: object) -> str:
        """Return the SHA-256 of ids, texts and the settings given."""
        digest = hashlib.sha256(repr(settings).encode())
        for weight, texts in self.weighted:
            digest.update(repr((weight, len(texts))).encode())
            for text in texts:
                digest.update(len(text.encode()).to_bytes(8, "little") + text.encode())
        for doc_id, text in zip(self.doc_ids, self.texts, strict=True):
            for part in (doc_id.encode(), text.encode()):
                digest.update(len(part).to_bytes(8, "little"))
                digest.update(part)
        return digest.hexdigest()


def _weighted(field: str) -> tuple[str, float]:
    name, mark, text = field.rpartition("^")
    if not mark:
        return field, 1.0
    try:
        weight = float(text)
    except ValueError:
        weight = float("nan")
    if not 0 < weight <= 1000:
        raise ParameterError("retrieval.fields", "a field's weight is no number", found=field, expected="such as title^2, above 0 to 1000")
    return name, weight


def best_first(documents: NDArray[np.int64], scores: NDArray[np.float64], k: int) -> Ranking:
    """Return the k best of the documents with a score above 0: score descending, then doc_id ascending; k = 0 is all."""
    if not np.isfinite(scores).all():
        raise RetrievalError("retriever", "a score is not a number", found=scores[~np.isfinite(scores)][0], expected="finite scores")
    is_retrieved = scores > 0
    documents, scores = documents[is_retrieved], scores[is_retrieved]
    if 0 < k < len(scores):
        # Partition by value, then keep every document that ties with the last place: argpartition would choose among them at will.
        last = np.partition(scores, len(scores) - k)[len(scores) - k]
        is_candidate = scores >= last
        documents, scores = documents[is_candidate], scores[is_candidate]
    order = np.lexsort((documents, -scores))
    order = order[:k] if k else order
    return Ranking(documents[order].astype(np.int64), scores[order].astype(np.float64))


def padded(rankings: Sequence[Ranking]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return documents int64[rankings, ranks] (−1 where nothing more is retrieved) and scores float64[rankings, ranks] (0 there)."""
    width = max((len(ranking.documents) for ranking in rankings), default=0)
    documents, scores = np.full((len(rankings), width), -1, dtype=np.int64), np.zeros((len(rankings), width))
    for row, ranking in enumerate(rankings):
        documents[row, : len(ranking.documents)] = ranking.documents
        scores[row, : len(ranking.documents)] = ranking.scores
    return documents, scores


def rank_by_pool(
    queries: Sequence[_Query],
    pools: Sequence[NDArray[np.int64] | None],
    rank: Callable[[list[_Query], NDArray[np.int64] | None], tuple[NDArray[np.int64], NDArray[np.float64]]],
) -> list[Ranking]:
    """Return the ranking of each query, those over one pool asked for together by `rank`, which answers as `padded` does."""
    positions_of: dict[int, list[int]] = {}
    for position, pool in enumerate(pools):
        positions_of.setdefault(id(pool), []).append(position)
    rankings = [NOTHING] * len(queries)
    for positions in positions_of.values():
        documents, scores = rank([queries[position] for position in positions], pools[positions[0]])
        for position, row, row_scores in zip(positions, documents, scores, strict=True):
            count = np.count_nonzero(row >= 0)
            rankings[position] = Ranking(row[:count].copy(), row_scores[:count].copy())
    return rankings


def candidates(pool: NDArray[np.int64] | None, count: int) -> NDArray[np.int64]:
    """Return the pool's documents in catalogue order, each once; the whole catalogue for None."""
    if pool is None:
        return np.arange(count, dtype=np.int64)
    chosen = np.asarray(pool, dtype=np.int64)
    if not (chosen[1:] > chosen[:-1]).all():
        chosen = np.unique(chosen)
    if chosen.size and (chosen[0] < 0 or chosen[-1] >= count):
        raise RetrievalError("pool", "no such document index", found=int(chosen[-1]), expected=f"0 to {count - 1}")
    return chosen


def require_words(count: int) -> None:
    """Raise RetrievalError when an index would hold no term at all."""
    if count == 0:
        raise RetrievalError(
            "documents",
            "no word in any indexed field",
            found="0 terms",
            expected="at least one word",
            remedy="check retrieval.fields and the source",
        )


def has_text(text: str) -> bool:
    """Tell whether a text holds a letter or a digit; one without is neither found nor finds anything."""
    return any(map(str.isalnum, text))
