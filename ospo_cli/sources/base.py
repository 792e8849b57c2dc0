"""What every source hands over: catalogue, prompts and judgments as frames, and a card that says where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from ospo_cli.params.prepare_data import PrepareData

MORE_QUERIES = "more dev and test queries"  # in a source's card: what would give more of them, where they are few for a gate
DOCUMENT_COLUMNS: dict[str, Any] = {"doc_id": pl.String, "title": pl.String, "category": pl.String}
PROMPT_COLUMNS: dict[str, Any] = {"prompt_id": pl.String, "split": pl.String, "query": pl.String, "history": pl.List(pl.String)}
QREL_COLUMNS: dict[str, Any] = {"prompt_id": pl.String, "doc_id": pl.String, "relevance": pl.Float64}
PAIR_COLUMNS: dict[str, Any] = {"prompt_id": pl.String, "pair_index": pl.Int32, "completion": pl.String}
POOL_COLUMNS: dict[str, Any] = {"prompt_id": pl.String, "doc_id": pl.String}


@dataclass(frozen=True)
class SourceData:
    """A data set in the project's own words; checked and completed by prepare-data.

    Attributes:
        documents: doc_id, title, category ("" where there is none) and any further String columns, which are text fields; no nulls.
        prompts: prompt_id, split (train, dev, test, or null where prepare-data shall choose), query, history (titles, oldest first).
        qrels: prompt_id, doc_id, relevance (finite, ≥ 0); only judged pairs.
        teacher_pairs: prompt_id, pair_index, completion, where the source has a teacher.
        pools: prompt_id, doc_id, where the source brings candidates; None: prepare-data makes them.
        card: plain JSON values: `licence` (str), `inputs` (file name -> sha256), `counts` (what the reader dropped, by reason), `notes`.
        excluded: prompt_id, doc_id of documents that no pool of the prompt may hold (a BEIR query that is itself in the corpus).
    """

    documents: pl.DataFrame
    prompts: pl.DataFrame
    qrels: pl.DataFrame
    teacher_pairs: pl.DataFrame | None = None
    pools: pl.DataFrame | None = None
    card: Mapping[str, Any] = field(default_factory=dict)
    excluded: pl.DataFrame | None = None


class Source(Protocol):
    """Reads one kind of data set."""

    def __call__(self, params: PrepareData, seed: int, root: Path) -> SourceData:
        """Return the data; `root` is the folder of params.yaml, to which `params.path` is relative.

        Raises:
            SourceError: a file is missing, cannot be read, or does not hold what its format promises.
        """
        ...
