"""What queries are made of, beside the products that they may find: said before anything is trained on them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import polars as pl

from ospo_cli.errors import shorten
from ospo_cli.text.units import has_no_blanks, is_foreign
from ospo_cli.text.words import reader

# Share of the queries from which something is said.
TOO_MANY = 0.1


@dataclass(frozen=True)
class QueryText:
    """Numbers of queries.

    Attributes:
        queries: all of them.
        unread: with a word that the English grammar of phrases cannot read.
        without_blanks: with a letter of a script that is written without blanks.
        wordless: that share no word with any candidate; not counted to the end (None) where it is a tenth or less.
        example: the first of these; empty where there is none, or they were not counted.
    """

    queries: int
    unread: int
    without_blanks: int
    wordless: int | None
    example: str

    def card(self) -> dict[str, Any]:
        """Return what the card of a data set holds: numbers, and the warnings."""
        numbers = {
            "queries that the English grammar of phrases cannot read": self.unread,
            "queries in scripts without blanks": self.without_blanks,
            "queries that share no word with a candidate": "a tenth or less" if self.wordless is None else self.wordless,
        }
        return {"text": numbers, "warnings": self.warnings()}

    def warnings(self) -> list[str]:
        """Return what a person should know, a line each."""
        lines = []
        if self.wordless is not None:
            lines.append(
                f"{self.wordless:,} of {self.queries:,} queries ({self.wordless / self.queries:.0%}) share no word with any of their "
                f"candidates, such as {shorten(self.example, 80)!r}: retrievers of words (bm25, lsa) retrieve nothing for them "
                "as typed, and a rewrite has to bring the catalogue's words (docs/languages.md says what a word is)"
            )
        if self.unread > TOO_MANY * self.queries:
            lines.append(
                f"{self.unread:,} of {self.queries:,} queries are in a script that the grammar of phrases, which is English, cannot read: "
                "answers like them are cut into words (docs/languages.md)"
            )
        return lines


def query_text(documents: pl.DataFrame, prompts: pl.DataFrame, qrels: pl.DataFrame, pools: pl.DataFrame, folding: str) -> QueryText:
    """Return what the prompts' queries are made of. Candidates are the pools' documents, or all where there are no pools.

    Words are looked for in every text field, whichever are indexed later. Products that were judged relevant come first, so that
    mostly one product per query is read; the rest only while more than a tenth of the queries have found no word.
    """
    split = reader(folding)
    columns = [name for name, dtype in documents.schema.items() if dtype == pl.String and name != "doc_id"]
    texts = dict(documents.select("doc_id", pl.concat_str([pl.col(name).fill_null("") for name in columns], separator="\n")).iter_rows())
    queries = dict(prompts.select("prompt_id", "query").iter_rows())
    wanted = {prompt_id: frozenset(split(query)) for prompt_id, query in queries.items()}
    known: dict[str, frozenset[str]] = {}

    def find(pairs: Iterable[tuple[str, str]]) -> None:
        for prompt_id, doc_id in pairs:
            if prompt_id in wanted:
                if doc_id not in known:
                    known[doc_id] = frozenset(split(texts[doc_id]))
                if not known[doc_id].isdisjoint(wanted[prompt_id]):
                    del wanted[prompt_id]

    find(qrels.filter(pl.col("relevance") > 0).select("prompt_id", "doc_id").iter_rows())
    most = TOO_MANY * len(queries)
    if len(wanted) > most and pools.height:
        find(pools.select("prompt_id", "doc_id").iter_rows())
    elif len(wanted) > most:
        _find_anywhere(wanted, (known.get(doc_id) or split(text) for doc_id, text in texts.items()), most)
    is_many = len(wanted) > most
    return QueryText(
        len(queries),
        sum(any(map(is_foreign, query.split())) for query in queries.values()),
        sum(map(has_no_blanks, queries.values())),
        len(wanted) if is_many else None,
        queries[min(wanted)] if is_many else "",
    )


def _find_anywhere(wanted: dict[str, frozenset[str]], words_of_documents: Iterable[Iterable[str]], most: float) -> None:
    # Takes away the prompts that share a word with a document; stops where as few as `most` are left.
    asking: dict[str, list[str]] = {}
    for prompt_id, own in wanted.items():
        for word in own:
            asking.setdefault(word, []).append(prompt_id)
    for found in words_of_documents:
        for word in asking.keys() & found:
            for prompt_id in asking.pop(word):
                wanted.pop(prompt_id, None)
        if len(wanted) <= most:
            return
