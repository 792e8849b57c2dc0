"""The judgments of prompts: which products are relevant, and among which candidates they are looked for."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.errors import RetrievalError
from ospo_cli.layout import Layout
from ospo_cli.tables import parquet, placed
from ospo_cli.tables.prepared import DOCUMENTS, POOLS, PROMPTS, QRELS

PREPARED = (DOCUMENTS, PROMPTS, QRELS, POOLS)


class Prepared(NamedTuple):
    """What `ospo prepare-data` wrote."""

    documents: pl.DataFrame
    prompts: pl.DataFrame
    qrels: pl.DataFrame
    pools: pl.DataFrame


def read_prepared(layout: Layout) -> Prepared:
    """Return the prepared tables of a project."""
    return Prepared(*(placed.read(table, layout) for table in PREPARED))


class Judgments:
    """A prompt's candidates, its judged candidates and its raw query.

    The same targets everywhere: a prompt's candidates are its pool (the whole catalogue where table pools has no rows at all), its ideal
    ranking holds the judged candidates.

    Args:
        tables: the prepared ones.
    """

    def __init__(self, tables: Prepared) -> None:
        documents, prompts, qrels, pools = tables
        self.doc_ids: list[str] = documents["doc_id"].sort().to_list()
        self.raw_queries: dict[str, str] = dict(zip(prompts["prompt_id"].to_list(), prompts["query"].to_list(), strict=True))
        catalogue = pl.DataFrame({"doc_id": self.doc_ids}, schema={"doc_id": pl.String}).with_row_index("index")
        self._judged, self._pooled = _ByPrompt(qrels, "qrels", catalogue), _ByPrompt(pools, "pools", catalogue)
        self.is_whole_catalogue = pools.height == 0
        self._pools: dict[str, NDArray[np.int64] | None] = {}
        self._gains: dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}

    def raw_query(self, prompt_id: str) -> str:
        """Return what the user typed."""
        if prompt_id not in self.raw_queries:
            raise RetrievalError(
                f"prompt {prompt_id}", "no such prompt in table prompts", remedy="run `ospo prepare-data`, then what follows it, again"
            )
        return self.raw_queries[prompt_id]

    def pool(self, prompt_id: str) -> NDArray[np.int64] | None:
        """Return the candidates as ascending indices into `doc_ids`; None is the whole catalogue."""
        if self.is_whole_catalogue:
            return None
        if prompt_id not in self._pools:
            if prompt_id not in self._pooled:
                raise RetrievalError(
                    f"prompt {prompt_id}",
                    "has no pool",
                    expected="rows in table pools for every prompt or for none",
                    remedy="run `ospo prepare-data` again",
                )
            self._pools[prompt_id] = self._pooled.indices(prompt_id)
        return self._pools[prompt_id]

    def judged(self, prompt_id: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the judged candidates with a gain above 0: indices into `doc_ids`, ascending, and gains.

        Raises:
            RetrievalError: there is none, so that no metric is defined.
        """
        if prompt_id not in self._gains:
            self.raw_query(prompt_id)
            relevance = self._judged.relevance(prompt_id)
            is_relevant = ~(relevance <= 0)  # NaN among them: named below
            if not is_relevant.any():
                raise RetrievalError(
                    f"prompt {prompt_id}",
                    "has no relevant product",
                    found="no row of table qrels with a relevance above 0",
                    expected="at least one",
                    remedy="judge a product for it or leave the query out of the source, then run `ospo prepare-data` again",
                )
            indices, gains = self._judged.indices(prompt_id, is_relevant), relevance[is_relevant]
            pool = self.pool(prompt_id)
            if pool is not None:
                is_candidate = pool[np.minimum(np.searchsorted(pool, indices), len(pool) - 1)] == indices
                indices, gains = indices[is_candidate], gains[is_candidate]
                if not len(indices):
                    raise RetrievalError(
                        f"prompt {prompt_id}",
                        "no relevant product is in its pool",
                        found=self._judged.doc_ids(prompt_id)[int(np.flatnonzero(is_relevant)[0])],
                        expected="every target in table pools",
                        remedy="run `ospo prepare-data` again",
                    )
            if not np.isfinite(gains).all():
                raise RetrievalError(
                    f"prompt {prompt_id}", "a relevance is not a finite number", expected="gains ≥ 0", remedy="mend the judgments"
                )
            self._gains[prompt_id] = indices, gains
        return self._gains[prompt_id]

    def known_gains(self, prompt_id: str) -> dict[int, float]:
        """Return the gain of every judged candidate, 0 among them, by index into `doc_ids`; empty where nothing is judged."""
        indices = self._judged.indices(prompt_id).tolist()
        return dict(zip(indices, self._judged.relevance(prompt_id).tolist(), strict=True))


class _ByPrompt:
    """The rows of table qrels or pools of each prompt, in catalogue order; a frame per prompt would cost more than scoring it."""

    def __init__(self, frame: pl.DataFrame, table: str, catalogue: pl.DataFrame) -> None:
        if not parquet.is_ascending(frame, ("prompt_id", "doc_id")):
            frame = frame.sort("prompt_id", "doc_id")
        runs = frame["prompt_id"].rle().struct.unnest()
        bounds = np.concatenate(([0], np.cumsum(runs["len"].to_numpy().astype(np.int64)))).tolist()
        self.table = table
        self._places = dict(zip(runs["value"].to_list(), pairwise(bounds), strict=True))
        self._doc_ids = frame["doc_id"]
        # −1: no such product, an error once its prompt is asked for.
        places = frame.select("doc_id").join(catalogue, on="doc_id", how="left", maintain_order="left")["index"]
        self._indices = places.cast(pl.Int64).fill_null(-1).to_numpy()
        self._relevance = frame["relevance"].to_numpy() if "relevance" in frame.columns else np.zeros(0)

    def __contains__(self, prompt_id: str) -> bool:
        return prompt_id in self._places

    def doc_ids(self, prompt_id: str) -> list[str]:
        """Return the prompt's products; none where it has no row."""
        start, end = self._places.get(prompt_id, (0, 0))
        return self._doc_ids[start:end].to_list()

    def indices(self, prompt_id: str, chosen: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Return the catalogue indices of the prompt's products, ascending, or of the chosen ones.

        Raises:
            RetrievalError: one of them is not in the catalogue.
        """
        start, end = self._places.get(prompt_id, (0, 0))
        own: NDArray[np.int64] = self._indices[start:end] if chosen is None else self._indices[start:end][chosen]
        if (own < 0).any():
            names = self.doc_ids(prompt_id) if chosen is None else self._doc_ids[start:end].filter(pl.Series(chosen)).to_list()
            raise RetrievalError(
                f"table {self.table}, prompt {prompt_id}",
                "names a product that is not in the catalogue",
                found=names[int(np.flatnonzero(own < 0)[0])],
                expected="a doc_id of table documents",
                remedy="run `ospo prepare-data` again",
            )
        return own

    def relevance(self, prompt_id: str) -> NDArray[np.float64]:
        """Return their relevance."""
        start, end = self._places.get(prompt_id, (0, 0))
        return np.asarray(self._relevance[start:end], dtype=np.float64)
