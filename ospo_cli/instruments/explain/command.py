"""Explain one query: its products, what each word earned, what words earn together; needs the prepared tables alone."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.errors import CreditError, OspoError, RetrievalError, shorten
from ospo_cli.instruments.explain.page import render
from ospo_cli.layout import Layout
from ospo_cli.maths import seeding
from ospo_cli.maths.coalitions import Budget, Players
from ospo_cli.maths.estimators import ESTIMATORS, Estimator
from ospo_cli.maths.ranking import parse_metric
from ospo_cli.maths.single_game import SolvedGame, planned, solve
from ospo_cli.params.attribute import Attribute
from ospo_cli.params.score_coalitions import ScoreCoalitions
from ospo_cli.params.segment import Segment
from ospo_cli.params.train import Train
from ospo_cli.report.explanation import Explanation, Part, Product, Target, interactions, optional
from ospo_cli.report.explanation_text import print_explanation
from ospo_cli.report.terminal import Terminal
from ospo_cli.retrievers.base import BatchRetriever, Ranking
from ospo_cli.rewards.judged_reward import JudgedReward, Sections
from ospo_cli.rewards.judgments import Prepared, read_prepared
from ospo_cli.rewards.remembered import Tally
from ospo_cli.rewards.store.folder import Store
from ospo_cli.tables import files
from ospo_cli.tables.prepared import PROMPTS, QRELS
from ospo_cli.text.close_names import closest
from ospo_cli.text.coalition_text import coalition_text
from ospo_cli.text.levels import LEVELS
from ospo_cli.text.segments import Span, segmentation, word_coverage

Values = NDArray[np.float64]

# One query is cheap: more coalitions than a training run would give it.
EXACT_COALITIONS = 1024
ORDERS = 64
MOST_COALITIONS = 60_000
EFFICIENCY_TOLERANCE = 1e-7
_ASKED = "explained query"  # prompt id of judgments that were given by hand


class Reads(Sections, Protocol):
    """What an explanation reads of the parameters."""

    @property
    def train(self) -> Train: ...
    @property
    def segment(self) -> Segment: ...
    @property
    def attribute(self) -> Attribute: ...


@dataclass(frozen=True)
class Request:
    """What is asked.

    Attributes:
        query: text to explain; empty takes the prompt's raw query.
        prompt_id: prompt whose judgments and pool count; empty looks for a prompt with the same query.
        relevant: products that count as relevant, in place of judgments.
        doc_id: product whose retrieval score is the value, in place of judgments.
        level: word, phrase, sentence or window.
        estimator, retriever: names; empty takes the project's.
        top: products shown.
    """

    query: str = ""
    prompt_id: str = ""
    relevant: tuple[str, ...] = ()
    doc_id: str = ""
    level: str = "word"
    estimator: str = ""
    retriever: str = ""
    top: int = 10


@dataclass(frozen=True)
class _Question:
    """The query, the prompt that it belongs to (if any), and notes about how that was found."""

    query: str
    prompt_id: str | None
    notes: tuple[str, ...]


def execute(
    layout: Layout, params: Reads, request: Request, html: Path | None = None, as_json: bool = False, stream: TextIO | None = None
) -> Explanation:
    """Read the prepared tables; print the explanation, and write it as a page where asked."""
    (found,) = execute_all(layout, params, [request], as_json, stream)
    if html is not None:
        files.write_text(html, render(found))
    return found


def execute_all(
    layout: Layout, params: Reads, requests: Sequence[Request], as_json: bool = False, stream: TextIO | None = None
) -> list[Explanation]:
    """Read the prepared tables once; print an explanation per request, in their order."""
    for request in requests:
        _check_query(request)
    tally, tables, results = Tally(), read_prepared(layout), list[Explanation]()
    sys.stderr.write(f"explain: index of {tables.documents.height:,} products\n")
    stream = stream if stream is not None else sys.stdout
    for request in requests:
        found = explain(request, tables, params, layout.cache, Store(layout.store), tally)
        if as_json:
            stream.write(found.to_json())
        else:
            stream.write("\n" if results else "")
            print_explanation(found, Terminal(stream))
        results.append(found)
    if tally.asked:  # a product's score is no value of the store's
        tally.report("explain")
    return results


def _check_query(request: Request) -> None:
    if not request.prompt_id and not request.query.strip():
        raise OspoError("--query", "is empty", expected="a query, or --prompt-id for that prompt's own query")


def explain(
    request: Request, tables: Prepared, params: Reads, cache: Path, store: Store | None = None, tally: Tally | None = None
) -> Explanation:
    """Return what the words of one query earned.

    The value that is shared out is the project's metric against judgments (of the prompt, or the products that are named as relevant),
    else the retrieval score of one product (the one named, or the best retrieved). A coalition's text is the query without the segments
    that are absent; no text at all is worth 0.

    Raises:
        OspoError: nothing to explain, or names that do not exist.
        CreditError: more coalitions than one query may take; shares that do not add up.
    """
    estimator = _estimator(request.estimator, params.attribute.estimator)
    titles = dict(tables.documents.select("doc_id", "title").iter_rows())
    _check_products(request, titles)
    asked = _question(request, tables.prompts, tables.qrels)
    spans = _segments(asked.query, request.level, params.segment.window)
    reward = _reward(request, asked, tables, params, cache, store)
    reward.tally = tally if tally is not None else reward.tally
    retriever = _Retriever(reward, asked, request, titles)
    ranking = retriever.ranking(asked.query)
    target = retriever.target(ranking)
    game = _solved(estimator, asked.query, spans, params.score_coalitions, params.train.seed, lambda texts: retriever.values(texts, target))
    parts = _parts(asked.query, spans, game, retriever, target)
    described, unit = retriever.described(target)
    return Explanation(
        query=asked.query,
        prompt_id=asked.prompt_id,
        value_kind="relevant" if request.relevant else "judgments" if retriever.has_judgments else "score",
        value=described,
        unit=unit,
        level=request.level,
        estimator=estimator.name,
        estimator_meaning=estimator.meaning,
        is_efficient=estimator.is_efficient,
        special_case=str(game.shares.special_case),
        retriever=retriever.name,
        candidates=retriever.candidates,
        is_pool=retriever.pool is not None,
        retrieved=len(ranking.documents),
        empty=game.empty,
        grand=game.grand,
        share_sum=float(game.shares.share.sum()),
        efficiency_gap=float(game.shares.efficiency_gap),
        coalitions=game.coalitions,
        products=retriever.products(ranking, request.top),
        target=Target(*retriever.named(target), retriever.gains.get(target), _rank(ranking, target)),
        parts=parts,
        interactions=interactions(game.dividends, [part.text for part in parts]),
        notes=[*asked.notes, *_notes(parts, game, retriever)],
    )


def _estimator(name: str, of_project: str) -> Estimator:
    if not name:  # a query by itself has no rollout group to be compared with
        name = of_project if of_project in ESTIMATORS else "myerson"
    if name not in ESTIMATORS:
        raise OspoError("--estimator", "unknown estimator", found=name, expected=", ".join(ESTIMATORS))
    return ESTIMATORS[name]


def _check_products(request: Request, titles: Mapping[str, str]) -> None:
    if request.relevant and request.doc_id:
        raise OspoError("--relevant and --doc", "name two values", expected="one of them")
    option = "--doc" if request.doc_id else "--relevant"
    for doc_id in [request.doc_id] if request.doc_id else request.relevant:
        if doc_id not in titles:
            raise OspoError(option, "no such product", found=doc_id, expected=_close(doc_id, titles))


def _solved(
    estimator: Estimator, query: str, spans: Sequence[Span], scoring: ScoreCoalitions, seed: int, value: Callable[[list[str]], Values]
) -> SolvedGame:
    """Return the query's game under the value of texts; raise where it is too large, or shares do not add up."""
    players = Players(len(spans), tuple(span.union_index for span in spans))
    own = Budget(**scoring.coalition_budget)
    budget = dataclasses.replace(own, cap=0, exact=max(own.exact, EXACT_COALITIONS), orders=max(own.orders, ORDERS))
    if (count := planned(estimator, players, budget)) > MOST_COALITIONS:
        raise CreditError(
            "query",
            "needs too many coalitions",
            found=f"{len(spans)} segments, {count:,} coalitions",
            expected=f"at most {MOST_COALITIONS:,}",
            remedy="take larger segments (--level phrase, window or sentence)",
        )
    places = [(span.start, span.end) for span in spans]
    draw = seeding.streams(seed, f"explain|{query}")
    game = solve(estimator, players, budget, draw, lambda masks: value([coalition_text(query, places, mask) for mask in masks]))
    gap = float(game.shares.efficiency_gap)
    if estimator.is_efficient and gap > EFFICIENCY_TOLERANCE * max(1.0, abs(game.grand)):
        raise CreditError("query", f"shares of {estimator.name} do not sum to v(N) - v(empty)", found=f"a gap of {gap:.3g}")
    return game


def _notes(parts: Sequence[Part], game: SolvedGame, retriever: _Retriever) -> Iterator[str]:
    unknown = [word for part in parts for word in part.unknown_words]
    if unknown:
        yield f"retrieves no product at all by itself: {', '.join(dict.fromkeys(unknown))}"
    if game.grand == game.empty:
        yield "the query is worth no more than no query at all: there is nothing to share out but what cancels out"
    if not retriever.has_judgments and not retriever.request.doc_id:
        yield "no judgments are known for this query: name relevant products by --relevant, or a prompt by --prompt-id"


class _Retriever:
    """The search engine over the query's candidates, with what is known of them, and the value of a text."""

    def __init__(self, reward: JudgedReward, asked: _Question, request: Request, titles: Mapping[str, str]) -> None:
        self.reward, self.retriever, self.words = reward, reward.retriever, reward.words
        self.name = reward.retriever.name
        self.judged_id = _ASKED if request.relevant else asked.prompt_id
        self.has_judgments = self.judged_id is not None and not request.doc_id
        self.request, self.query, self.titles = request, asked.query, titles
        self.pool = None if self.judged_id is None else reward.pool(self.judged_id)
        self.candidates = len(reward.doc_ids) if self.pool is None else len(self.pool)
        self.gains: dict[int, float] = {} if self.judged_id is None else reward.known_gains(self.judged_id)

    def ranking(self, text: str) -> Ranking:
        """Return all retrieved candidates of a text."""
        return self.rankings([text])[0]

    def rankings(self, texts: Sequence[str]) -> list[Ranking]:
        """Return all retrieved candidates of each text."""
        return self.retriever.rank(texts, [self.pool] * len(texts), 0)

    def retrieves_anything(self, texts: Sequence[str]) -> list[bool]:
        """Tell whether each text retrieves a product of the whole catalogue."""
        return [len(found.documents) > 0 for found in self.retriever.rank(texts, [None] * len(texts), 1)]

    def target(self, ranking: Ranking) -> int:
        """Return the product whose rank is followed: the named; the one judged best, the best ranked of several; or the first."""
        if self.request.doc_id:
            return self.reward.doc_ids.index(self.request.doc_id)
        if self.judged_id is None and not len(ranking.documents):
            raise RetrievalError(
                "query",
                "retrieves no product, so that there is no score to explain",
                found=f"{shorten(self.query, 120)} under {self.name}",
                expected="at least one word of the catalogue",
                remedy="name a prompt (--prompt-id), relevant products (--relevant) or a product (--doc)",
            )
        if self.judged_id is None:
            return int(ranking.documents[0])
        documents, gains = self.reward.judged(self.judged_id)
        place = {document: rank for rank, document in enumerate(ranking.documents.tolist())}
        best = documents[gains == gains.max()].tolist()
        return int(min(best, key=lambda document: (place.get(document, len(place)), document)))

    def values(self, texts: list[str], target: int) -> Values:
        """Return v of each text: the metric, or the target's retrieval score (0 where it is not retrieved)."""
        if self.has_judgments:
            assert self.judged_id is not None
            return self.reward.values([self.judged_id] * len(texts), texts)
        if getattr(self.retriever, "scores_hang_on_pool", False):
            found = self.rankings(texts)
            return np.array([float(ranking.scores[ranking.documents == target].sum()) for ranking in found])
        alone = np.array([target], dtype=np.int64)
        if isinstance(self.retriever, BatchRetriever):
            return np.asarray(self.retriever.rank_queries(texts, alone, 1)[1][:, 0], dtype=np.float64)
        return np.array([float(found.scores.sum()) for found in self.retriever.rank(texts, [alone] * len(texts), 1)])

    def named(self, document: int) -> tuple[str, str]:
        """Return identity and title of a document."""
        doc_id = self.reward.doc_ids[document]
        return doc_id, self.titles[doc_id]

    def products(self, ranking: Ranking, count: int) -> list[Product]:
        """Return the first products of a ranking."""
        first = zip(ranking.documents[:count].tolist(), ranking.scores[:count].tolist(), strict=True)
        return [Product(rank, *self.named(place), float(score), self.gains.get(place)) for rank, (place, score) in enumerate(first, 1)]

    def described(self, target: int) -> tuple[str, str]:
        """Return what is shared out, and its unit, in words."""
        doc_id = self.reward.doc_ids[target]
        if not self.has_judgments:
            return f"score that {self.name} gives to product {doc_id}", f"{self.name} score"
        metric = self.reward.metric.name
        if self.request.relevant:
            return f"{metric} of the ranking, where the products named by --relevant count as relevant", metric
        return f"{metric} of the ranking, against the judgments of prompt {self.judged_id}", metric


def _question(request: Request, prompts: pl.DataFrame, qrels: pl.DataFrame) -> _Question:
    if request.prompt_id:
        found = prompts.filter(pl.col("prompt_id") == request.prompt_id)
        if found.height == 0:
            known = prompts["prompt_id"].to_list()
            raise OspoError("--prompt-id", "no such prompt", found=request.prompt_id, expected=_close(request.prompt_id, known))
        query = request.query or found["query"][0]
        is_other = query.casefold().split() != found["query"][0].casefold().split()
        notes = (f"the prompt's own query is: {shorten(found['query'][0])}",) if is_other else ()
        return _Question(query, request.prompt_id, notes)
    _check_query(request)
    if request.relevant:
        return _Question(request.query, None, ())
    wanted = request.query.casefold().strip()
    same = [row[0] for row in prompts.select("prompt_id", "query").sort("prompt_id").iter_rows() if row[1].casefold().strip() == wanted]
    if not same:
        return _Question(request.query, None, ())
    judged = set(qrels.filter((pl.col("relevance") > 0) & pl.col("prompt_id").is_in(same))["prompt_id"].to_list())
    usable = [prompt_id for prompt_id in same if prompt_id in judged]
    if not usable:
        note = f"prompt {same[0]} has this query, but no relevant product: its judgments are of no use here"
        return _Question(request.query, None, (note,))
    note = f"prompt {usable[0]} has this query: its judgments are used"
    if len(usable) > 1:
        note += f" ({len(usable) - 1} more prompts have it too: name one by --prompt-id)"
    return _Question(request.query, usable[0], (note,))


def _segments(query: str, level: str, window: int) -> list[Span]:
    if not query.strip():
        raise OspoError("query", "is empty", expected="at least one word")
    if level not in LEVELS:
        raise OspoError("--level", "unknown level", found=level, expected=", ".join(LEVELS))
    spans = segmentation(query, level, window).spans
    if not spans:
        raise OspoError("query", "holds no word", found=query, expected="at least one letter or digit")
    covered, total = word_coverage(query, spans)
    if covered != total:
        raise CreditError("query", "letters lie in no segment", found=f"{covered} of {total}", expected="all of them")
    return spans


def _reward(request: Request, asked: _Question, tables: Prepared, params: Sections, cache: Path, store: Store | None) -> JudgedReward:
    """Return the project's reward over this one prompt, or over the judgments that were given."""
    documents, prompts, qrels, pools = tables
    if request.relevant:
        prompts = pl.DataFrame([(_ASKED, "test", "", [], "")], schema=PROMPTS.schema, orient="row")
        rows = [(_ASKED, doc_id, 1.0) for doc_id in dict.fromkeys(request.relevant)]
        qrels, pools = pl.DataFrame(rows, schema=QRELS.schema, orient="row"), pools.head(0)
    elif asked.prompt_id is None:
        prompts, qrels, pools = prompts.head(0), qrels.head(0), pools.head(0)
    else:
        own = pl.col("prompt_id") == asked.prompt_id
        if pools.height and pools.filter(own).height == 0:
            raise RetrievalError(
                f"prompt {asked.prompt_id}", "has no pool", expected="rows in table pools", remedy="run `ospo prepare-data` again"
            )
        prompts, qrels, pools = prompts.filter(own), qrels.filter(own), pools.filter(own)
    parse_metric(params.score_coalitions.metric)
    return JudgedReward(Prepared(documents, prompts, qrels, pools), params, retriever=request.retriever or None, cache=cache, store=store)


def _parts(query: str, spans: Sequence[Span], game: SolvedGame, retriever: _Retriever, target: int) -> list[Part]:
    n = len(spans)
    places = [(span.start, span.end) for span in spans]
    texts = [query[start:end] for start, end in places]
    rest = [coalition_text(query, places, row) for row in ~np.eye(n, dtype=bool)]
    rankings = retriever.rankings([*texts, *rest])
    ranks = [_rank(ranking, target) for ranking in rankings]
    distinct = list(dict.fromkeys(word for text in texts for word in retriever.words(text)))
    is_known = dict(zip(distinct, retriever.retrieves_anything(distinct), strict=True))
    error = game.shares.standard_error
    return [
        Part(
            start=start,
            end=end,
            text=texts[index],
            share=float(game.shares.share[index]),
            standard_error=None if error is None else optional(float(error[index])),
            n_contributions=int(game.shares.n_contributions[index]),
            alone=float(game.alone[index]),
            without=float(game.without[index]),
            rank_alone=ranks[index],
            rank_without=ranks[n + index],
            unknown_words=[word for word in dict.fromkeys(retriever.words(texts[index])) if not is_known[word]],
        )
        for index, (start, end) in enumerate(places)
    ]


def _rank(ranking: Ranking, document: int) -> int | None:
    places = np.flatnonzero(ranking.documents == document)
    return int(places[0]) + 1 if len(places) else None


def _close(name: str, known: Iterable[str]) -> str:
    names = list(known)
    close = closest(name, names, cutoff=0.5) or sorted(names)[:3]
    return ", ".join(close) + (", …" if len(names) > len(close) else "")
