"""Section prepare_data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ospo_cli.params.declare import Registered, group, parameter


@dataclass(frozen=True)
class Clicks:
    """How a click log becomes judgments (source: clicks)."""

    model: Literal["position-based", "expected-clicks", "click-rate"] = parameter(
        "position-based",
        "position-based (a product's attraction apart from its place, by EM), expected-clicks (over what its places give) or click-rate",
    )
    event: Literal["clicked", "purchased"] = parameter("clicked", "what counts: a click, or a purchase (column purchased)")
    minimum_dwell: float = parameter(0.0, "seconds that a click must last to count (column dwell); 0 counts all", minimum=0)
    minimum_impressions: int = parameter(10, "a product under a query is judged from this many impressions on", minimum=1)
    prior_impressions: float = parameter(1.0, "smoothing: further impressions at the query's mean, for every product", minimum=0.01)
    unshown: Literal["irrelevant", "shared-words"] = parameter(
        "irrelevant",
        "products that a query was never shown with: irrelevant, or graded as the shown ones are where they have all words that the "
        "clicked titles share (a guess)",
    )
    levels: int = parameter(4, "grades above 0: attraction over the query's highest, in so many equal steps", minimum=1, maximum=100)
    first_test_day: str = parameter(
        "",
        "dev and test queries are judged by days from this one on, train queries by those before (column day); empty: a fifth of the log",
    )


@dataclass(frozen=True)
class PrepareData:
    """Where documents, prompts and judgments come from."""

    source: str = parameter("demo-shop", "reader of the data set", choices=Registered("sources", "SOURCES"))
    path: str = parameter("", "folder of the data set, relative to params.yaml; empty for demo-shop")
    prompt_template: str = parameter("{query}\nbought: {history}", "user message; may hold {query} and {history}")
    pool: Literal["sampled", "catalogue"] = parameter("sampled", "candidates: sampled (per prompt) or catalogue (all documents)")
    pool_same_category: int = parameter(50, "negatives of a relevant document's category", minimum=0, when="pool: sampled")
    pool_related: int = parameter(30, "negatives closest in text to a relevant document", minimum=0, when="pool: sampled")
    pool_random: int = parameter(20, "random negatives", minimum=0, when="pool: sampled")
    dev_share: float = parameter(0.1, "share of queries for dev, where the source has no such split", minimum=0, maximum=0.9)
    test_share: float = parameter(0.1, "share of queries for test, where the source has no such split", minimum=0, maximum=0.9)
    near_duplicate: float = parameter(
        0.85, "two queries of different splits this similar (Jaccard index of their character trigrams) leak", minimum=0.5, maximum=1
    )
    max_prompts: int = parameter(0, "prompts kept per split, by seed; 0 keeps all", minimum=0)
    relevant_minimum: int = parameter(
        1, "keep prompts with at least this many documents of the data set's highest gain (where this is 1: of any gain)", minimum=1
    )
    relevant_maximum: int = parameter(0, "and with at most this many; 0 is no limit", minimum=0)
    attributes: int = parameter(
        0,
        "attributes that a product has beyond eight; queries state a third to two thirds of them (source: demo-shop)",
        minimum=0,
        maximum=16,
        when="source: demo-shop",
    )
    quoting: Literal["standard", "none", "backslash"] = parameter(
        "standard",
        "quotes in CSV and TSV: standard (doubled within a quoted field), none (text as it stands), or backslash (escaped by one) "
        "(source: tables, clicks, beir, wands)",
    )
    html_entities: Literal["keep", "decode"] = parameter(
        "keep", "entities such as &amp; and &#39; in texts of products, queries and histories: keep, or decode (once)"
    )
    columns: dict[str, str] = parameter({}, "own column names, layout's name -> name in the files (source: tables, clicks)")
    gains: dict[str, float] = parameter(
        {}, "gain of a judgment's label, over the source's own (esci: E 1, S .1, C .01, I 0; wands: Exact 1, Partial .5, Irrelevant 0)"
    )
    locale: str = parameter("us", "marketplace kept (source: esci)")
    small_version: bool = parameter(True, "keep only the reduced set of difficult queries, which task 1 is about (source: esci)")
    history_length: int = parameter(5, "past purchases in a prompt (source: hm)", minimum=1)
    cut_off_date: str = parameter("", "first day of the targets, YYYY-MM-DD; empty: the last seven days (source: hm)")
    clicks: Clicks = group(Clicks, when="source: clicks")

    @property
    def has_guesses(self) -> bool:
        """Whether some judgments are guesses, of products that no shopper was shown."""
        return self.source == "clicks" and self.clicks.unshown != "irrelevant"

    @property
    def folds_spellings(self) -> bool:
        """Whether spellings of a query that differ in capitals or blanks are one, which alone the policy sees."""
        return self.source == "clicks"
