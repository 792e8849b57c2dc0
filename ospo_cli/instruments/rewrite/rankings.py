"""Result lists of raw query and rewrite side by side, and how far they overlap."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl

from ospo_cli.errors import OspoError
from ospo_cli.rewards import unfound
from ospo_cli.rewriting.chosen import Chosen
from ospo_cli.tables import placed
from ospo_cli.tables.prepared import DOCUMENTS

_QUERIES_AT_ONCE = 1024


def both_rankings(chosen: Chosen, retriever: str) -> Callable[[pl.DataFrame, int], pl.DataFrame]:
    """Return a function that adds query_top, engine_top and overlap; the whole catalogue is ranked, no judgments are needed.

    Raises:
        OspoError: there is no project, or no such retriever.
        MissingInputError: the project has no documents yet.
    """
    if chosen.params is None or chosen.project is None:
        raise OspoError("--top", "needs the project's documents", found="a policy folder alone", expected="--project with params.yaml")
    name = retriever or chosen.params.score_coalitions.retriever
    engine = chosen.engine(name, "--top")
    doc_ids = placed.read(DOCUMENTS, chosen.project)["doc_id"].sort().to_list()

    def added(frame: pl.DataFrame, top: int) -> pl.DataFrame:
        texts = list(dict.fromkeys([*frame["query"].to_list(), *frame["engine_query"].to_list()]))
        first: dict[str, list[str]] = {}
        for start in range(0, len(texts), _QUERIES_AT_ONCE):
            part = texts[start : start + _QUERIES_AT_ONCE]
            for text, found in zip(part, engine.rank(part, [None] * len(part), top), strict=True):
                first[text] = [doc_ids[place] for place in found.documents.tolist()]
        lists = [[first[text] for text in frame[column].to_list()] for column in ("query", "engine_query")]
        raw = [text for text in frame["query"].unique(maintain_order=True).to_list() if text]
        unfound.say("ospo rewrite", name, [text for text in raw if not first[text]], len(raw))
        return frame.with_columns(
            query_top=pl.Series(lists[0], dtype=pl.List(pl.String)),
            engine_top=pl.Series(lists[1], dtype=pl.List(pl.String)),
            overlap=pl.Series([overlap(*pair) for pair in zip(*lists, strict=True)], dtype=pl.Float64),
        )

    return added


def overlap(first: Sequence[str], second: Sequence[str]) -> float:
    """Return the products in both lists, divided by the longer one's length; 1 where both are empty.

    >>> overlap(["a", "b"], ["b", "c", "d", "e"])
    0.25
    """
    longer = max(len(first), len(second))
    return len({*first} & {*second}) / longer if longer else 1.0
