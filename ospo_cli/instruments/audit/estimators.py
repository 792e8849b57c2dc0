"""Audit of credit: every estimator on the same rollouts, against properties that have a right answer. Outside the graph."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TextIO

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.errors import CreditError
from ospo_cli.executors.progress import Progress
from ospo_cli.layout import Layout
from ospo_cli.maths import audit_measures, seeding, student
from ospo_cli.maths.coalitions import Budget, Masks, Players, chains, sampled_union_orders, union_of
from ospo_cli.maths.estimators import ESTIMATORS, Estimator, Shares, needed_coalitions, sample, sampled_shares
from ospo_cli.maths.statistics import Resamples
from ospo_cli.own_code import rewards as own_reward
from ospo_cli.params.score_coalitions import ScoreCoalitions
from ospo_cli.params.whole import Params
from ospo_cli.report import staleness
from ospo_cli.report.number_text import plain, short
from ospo_cli.report.terminal import Terminal
from ospo_cli.retrievers.base import Catalogue
from ospo_cli.rewards.further_parts import FurtherParts
from ospo_cli.rewards.judged_reward import JudgedReward
from ospo_cli.rewards.remembered import Tally
from ospo_cli.rewards.store.folder import Store
from ospo_cli.tables import files, parquet
from ospo_cli.tables.audit import AUDIT, AUDIT_CURVES
from ospo_cli.tables.prepared import DOCUMENTS, POOLS, PROMPTS, QRELS
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.tables.score_coalitions import REWARDS
from ospo_cli.tables.segment import SEGMENTS
from ospo_cli.text.close_names import unknown_name
from ospo_cli.text.coalition_text import coalition_text
from ospo_cli.text.words import repeated_words, word_count, words

Values = NDArray[np.float64]

FEWEST_SEGMENTS, MOST_SEGMENTS = 2, 10  # two more are injected, and all coalitions of 12 are evaluated
SHUFFLES = 4  # orders of the segments for the position slope, each second one the one before it backwards
CONTROL_ORDERS = 32  # random orders behind the control of the curves
REPEATS = 20  # seeds of the sampled estimates
TOLERANCE = 1e-9
CURVE_PARTS = 10  # of the segments, at which curves of answers of any length are read
RANDOM_ORDERS = "random orders"
# Of params.yaml, what the result depends on besides its tables.
SECTIONS = ("train.seed", "retrieval", "score_coalitions", "evaluate.retrievers", "evaluate.bootstrap")


@dataclass(frozen=True)
class _Measure:
    """A number of the table: where it comes from, and its column on the terminal ("" has none)."""

    check: str
    measure: str
    source: str
    column: str
    meaning: str
    is_largest: bool = False


def _measures(unseen: Sequence[str]) -> list[_Measure]:
    return [
        _Measure("efficiency", "mean gap", "gap", "", "|sum of shares - (v(N) - v(empty))|"),
        _Measure("efficiency", "largest gap", "gap", "gap", "largest |sum of shares - (v(N) - v(empty))|; right: 0", True),
        _Measure("null player", "mean |share|", "null", "", "|share| of an appended word that no document holds"),
        _Measure(
            "null player", "largest |share|", "null", "null", "largest |share| of an appended word that changes nothing; right: 0", True
        ),
        _Measure("symmetry", "mean difference", "copy", "", "|share of the last segment - share of its appended copy|"),
        _Measure("symmetry", "largest difference", "copy", "copy", "largest difference of a segment and its appended copy; right: 0", True),
        _Measure("position", "slope", "slope", "slope", "share in the last place minus share in the first, same segment; no bias: 0"),
        _Measure(
            "position", "spread", "spread", "moves", "standard deviation of a segment's share over the orders of the segments; no bias: 0"
        ),
        _Measure(
            "filler", "AUC", "auc", "AUC", "how often an injected word of a judged product outranks one of none, ties half; chance: .5"
        ),
        _Measure("deletion", "area", "deletion", "", "mean value while segments leave, largest share first"),
        _Measure(
            "deletion",
            "minus random orders",
            "deletion control",
            "delete",
            "mean value while segments leave, largest share first, minus that of random orders; lower is better",
        ),
        _Measure("insertion", "area", "insertion", "", "mean value while segments enter, largest share first"),
        _Measure(
            "insertion",
            "minus random orders",
            "insertion control",
            "insert",
            "mean value while segments enter, largest share first, minus that of random orders; higher is better",
        ),
        _Measure("rank", "Spearman with exact Shapley", "rank", "rank", "rank correlation of the shares with exact Shapley values"),
        _Measure(
            "calibration",
            "coverage",
            "coverage",
            "cover",
            "estimates of score_coalitions.orders sampled orders whose 95 % interval holds the exact value; right: .95",
        ),
        _Measure("calibration", "error/spread", "ratio", "se/sd", "standard error over the true spread of sampled estimates; right: 1"),
        *(
            _Measure(
                "leave-one-out", name, f"unseen {name}", name, f"rank correlation with leave-one-out under {name}, which gave no reward"
            )
            for name in unseen
        ),
        _Measure("cost", "coalitions", "cost", "cost", "coalitions that a rollout needs for the exact value"),
        _Measure("cost", "sampled coalitions", "sampled cost", "", "distinct coalitions of score_coalitions.orders sampled orders"),
    ]


def execute(
    layout: Layout, params: Params, iteration: int, rollout_count: int = 100, estimators: Sequence[str] | None = None
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Write audit.parquet, audit_curves.parquet and audit_metrics.json of an iteration; return the table and the metrics.

    Args:
        layout: paths of the project.
        params: all parameters.
        iteration: iteration whose rollouts are audited.
        rollout_count: most rollouts that are drawn, by seed.
        estimators: names in the registry; None takes all.

    Raises:
        ParameterError: there is no such estimator.
        CreditError: no rollout is fit for an audit.
    """
    start_seconds = time.monotonic()
    chosen = _chosen_estimators(estimators)
    documents, prompts, qrels, pools = (
        parquet.read(layout.prepared(f"{table.name}.parquet"), table, made_by="ospo prepare-data")
        for table in (DOCUMENTS, PROMPTS, QRELS, POOLS)
    )
    rollouts, segments, rewards = (
        parquet.read(layout.iteration(iteration, f"{table.name}.parquet"), table, made_by=f"ospo {stage} --iter {iteration}")
        for table, stage in ((ROLLOUTS, "rollout"), (SEGMENTS, "segment"), (REWARDS, "score-coalitions"))
    )
    drawn, counts = _drawn(rollouts, segments, rewards, rollout_count, params.train.seed, iteration)
    unseen, settings = _unseen(params), params.score_coalitions
    own = own_reward.load(settings.own_reward, list(settings.own_weights), layout.root) if settings.own_reward else None

    def reward(name: str) -> JudgedReward:
        tables, store = (documents, prompts, qrels, pools), Store(layout.store)
        return JudgedReward(*tables, params, retriever=name, cache=layout.cache, store=store, own_reward=own)

    others = {name: reward(name) for name in unseen}
    auditor = _Auditor(reward(params.score_coalitions.retriever), others, _Vocabulary(documents, params), params)
    seconds = dict.fromkeys((estimator.name for estimator in chosen), 0.0)
    found: dict[str, list[dict[str, float]]] = {estimator.name: [] for estimator in chosen}
    progress = Progress("audit", len(drawn), "rollouts")
    for rollout in drawn:
        case = auditor.case(rollout)
        for estimator in chosen:
            before = time.monotonic()
            found[estimator.name].append(auditor.measured(estimator, case))
            seconds[estimator.name] += time.monotonic() - before
        progress.advance()
    progress.close()
    table = _table(found, _measures(unseen), params)
    written = [layout.iteration(iteration, f"{name}.parquet") for name in (AUDIT.name, AUDIT_CURVES.name)]
    parquet.write(table, written[0], AUDIT)
    parquet.write(auditor.curves(), written[1], AUDIT_CURVES)
    read = [layout.prepared(f"{name.name}.parquet") for name in (DOCUMENTS, PROMPTS, QRELS, POOLS)]
    read += [layout.iteration(iteration, f"{name.name}.parquet") for name in (ROLLOUTS, SEGMENTS, REWARDS)]
    tally = Tally()
    for own in (auditor.reward, *others.values()):
        tally += own.tally
    tally.report("audit")
    metrics = counts | {
        **tally.metrics(),
        "tables": staleness.fingerprints(layout, params, written, []),
        "inputs": staleness.fingerprints(layout, params, read, SECTIONS),
        "evaluated_texts": auditor.evaluated,
        "estimator_seconds": seconds,
        "seconds": time.monotonic() - start_seconds,
    }
    files.write_json(layout.iteration(iteration, "audit_metrics.json"), metrics)
    return table, metrics


def print_result(table: pl.DataFrame, metrics: dict[str, Any], params: Params, stream: TextIO | None = None) -> None:
    """Print one grid, estimators as rows and checks as columns, and what each column means."""
    output = Terminal(stream if stream is not None else sys.stdout)
    shown = [measure for measure in _measures(_unseen(params)) if measure.column]
    values = {(row["estimator"], row["check"], row["measure"]): row["value"] for row in table.iter_rows(named=True)}
    names = [name for name in ESTIMATORS if name in set(table["estimator"].to_list())]
    output.line(f"{metrics['audited']} of {metrics['eligible']} eligible rollouts, {metrics['evaluated_texts']} texts", style="bold")
    rows = []
    for name in names:
        cells = [(measure, values.get((name, measure.check, measure.measure))) for measure in shown]
        rows.append([name, *(short(value) if measure.is_largest or measure.check == "cost" else plain(value) for measure, value in cells)])
    columns = [measure.column for measure in shown]
    for first, last in _blocks(["estimator", *columns], rows, output.console.width if output.console is not None else None):
        output.grid(["estimator", *columns[first:last]], [[row[0], *row[1 + first : 1 + last]] for row in rows], numbers=columns)
    output.line()
    for measure in shown:
        output.line(f"{measure.column}: {measure.meaning}", style="dim")


def _blocks(header: list[str], rows: list[list[str]], width: int | None) -> list[tuple[int, int]]:
    """Return which columns after the first stand in one grid, so that a terminal of that width cuts none of them off."""
    if width is None:
        return [(0, len(header) - 1)]
    name, *widths = [3 + max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    blocks, first, used = [], 0, name
    for column, own in enumerate(widths):
        if used + own > width and column > first:
            blocks.append((first, column))
            first, used = column, name
        used += own
    return [*blocks, (first, len(widths))]


def _unseen(params: Params) -> list[str]:
    return [name for name in params.evaluate.retrievers if name != params.score_coalitions.retriever]


def _chosen_estimators(names: Sequence[str] | None) -> list[Estimator]:
    unknown = [name for name in names or () if name not in ESTIMATORS]
    if unknown:
        raise unknown_name("--estimators", "estimator", unknown[0], ESTIMATORS)
    return [estimator for name, estimator in ESTIMATORS.items() if names is None or name in names]


def _drawn(
    rollouts: pl.DataFrame, segments: pl.DataFrame, rewards: pl.DataFrame, count: int, seed: int, iteration: int
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return the rollouts that are audited, by id, with their spans and unions, and how many were fit or not."""
    if not rollouts.height:
        raise CreditError("table rollouts", "holds no rollout", expected="at least one", remedy=f"run `ospo rollout --iter {iteration}`")
    absent = rollouts.join(rewards, on="rollout_id", how="anti")
    if absent.height:
        remedy = f"run `ospo score-coalitions --iter {iteration}` again"
        raise CreditError("table rewards", "lacks a rollout", found=absent["rollout_id"].min(), remedy=remedy)
    players = segments.sort("rollout_id", "segment_index").group_by("rollout_id", maintain_order=True)
    frame = (
        rollouts.select("rollout_id", "prompt_id", "completion")
        .join(rewards.select("rollout_id", "is_degenerate_group"), on="rollout_id")
        .join(players.agg("start", "end", "union_index"), on="rollout_id", how="left")
        .with_columns(n=pl.col("start").list.len().fill_null(0))
        .sort("rollout_id")
    )
    is_degenerate, n = pl.col("is_degenerate_group"), pl.col("n")
    eligible = frame.filter(~is_degenerate & n.is_between(FEWEST_SEGMENTS, MOST_SEGMENTS))
    counts = {
        "rollouts": frame.height,
        "eligible": eligible.height,
        "audited": min(count, eligible.height),
        "degenerate": frame.filter(is_degenerate).height,
        "too_few_segments": frame.filter(~is_degenerate & (n < FEWEST_SEGMENTS)).height,
        "too_many_segments": frame.filter(~is_degenerate & (n > MOST_SEGMENTS)).height,
    }
    if not eligible.height:
        raise CreditError(
            f"audit of iteration {iteration}",
            "no rollout is fit for it",
            found=", ".join(f"{counts[name]} {name.replace('_', ' ')}" for name in ("degenerate", "too_few_segments", "too_many_segments")),
            expected=f"rollouts of {FEWEST_SEGMENTS} to {MOST_SEGMENTS} segments in groups whose rewards differ",
            remedy="segment by another level or audit another iteration",
        )
    order = seeding.generator(seed, f"audit rollouts|{iteration}").permutation(eligible.height)[:count]
    return eligible[np.sort(order).tolist()].to_dicts(), counts


class _Vocabulary:
    """The words of the catalogue's indexed text, and one that no document holds."""

    def __init__(self, documents: pl.DataFrame, params: Params) -> None:
        self.texts = Catalogue.from_documents(documents, params.retrieval.fields).texts
        self.known = {word for text in self.texts for word in words(text)}
        self.null_word = "zzqx"
        while self.null_word in self.known:
            self.null_word += "q"

    def judged(self, documents: NDArray[np.int64]) -> set[str]:
        """Return the words of these documents."""
        return {word for index in documents.tolist() for word in words(self.texts[index])}

    @cached_property
    def ordered(self) -> list[str]:
        """All words, ascending."""
        return sorted(self.known)


@dataclass
class _Game:
    """A text with its segments; `values` holds v of every coalition, at the number whose bits are its members (segment 0 lowest)."""

    text: str
    spans: list[tuple[int, int]]
    players: Players
    values: Values

    def value(self, masks: Masks) -> Values:
        """Return v of the coalitions bool[..., n]."""
        return np.asarray(self.values[masks @ (1 << np.arange(self.players.n))])


@dataclass
class _Case:
    """A rollout: its game, the games made from it, and what they are compared with."""

    rollout_id: str
    base: _Game
    null: _Game
    copied: _Game
    injected: _Game | None
    helpful: int
    filler: int
    shuffled: list[_Game]
    orders: NDArray[np.int64]
    shapley: Values
    control_deletion: float
    control_insertion: float
    unseen: dict[str, Values]
    is_null: bool
    is_symmetric: bool


class _Auditor:
    """Evaluates the games of a rollout and measures estimators on them."""

    def __init__(self, reward: JudgedReward, others: dict[str, JudgedReward], vocabulary: _Vocabulary, params: Params) -> None:
        self.reward, self.others, self.vocabulary, self.params = reward, others, vocabulary, params
        self.evaluated = 0
        self._curves: dict[str, list[Values]] = {}
        self._needed: dict[tuple[str, Players], Masks] = {}

    def case(self, rollout: dict[str, Any]) -> _Case:
        """Return the games of a rollout, all coalitions evaluated."""
        rollout_id, prompt_id, completion = rollout["rollout_id"], rollout["prompt_id"], rollout["completion"]
        spans, unions = list(zip(rollout["start"], rollout["end"], strict=True)), rollout["union_index"]
        phrases, n = [completion[start:end] for start, end in spans], len(spans)
        base = _Game(completion, spans, Players(n, tuple(unions)), np.zeros(0))
        null = _joined([*phrases, self.vocabulary.null_word], [*unions, unions[-1]])
        copied = _joined([*phrases, phrases[-1]], [*unions, unions[-1]])
        injected, helpful, filler = self._injected(rollout_id, prompt_id, phrases, unions)
        orders = sampled_union_orders(base.players, SHUFFLES, self._draw(rollout_id, "shuffles"))
        shuffled = [_joined([phrases[segment] for segment in order], [unions[segment] for segment in order]) for order in orders]
        self._evaluate(prompt_id, [base, null, copied, *([injected] if injected else []), *shuffled])

        random = np.argsort(self._draw(rollout_id, "control").random((CONTROL_ORDERS, n)), axis=1)
        curves = np.array([_curves(base, order) for order in random])
        self._keep_curves(RANDOM_ORDERS, curves.mean(axis=0))
        control = np.array([[audit_measures.curve_area(curve) for curve in pair] for pair in curves]).mean(axis=0)
        near = np.concatenate([np.ones((1, n), dtype=bool), ~np.eye(n, dtype=bool)])
        texts = [coalition_text(completion, spans, mask) for mask in near]
        unseen = {}
        for name, reward in self.others.items():
            values = _values(reward, prompt_id, texts, self.params.score_coalitions)
            unseen[name] = values[0] - values[1:]
        half = 1 << n
        quarter = half // 2
        return _Case(
            rollout_id,
            base,
            null,
            copied,
            injected,
            helpful,
            filler,
            shuffled,
            orders,
            shapley=self._shares(ESTIMATORS["shapley"], base, rollout_id, "base").share,
            control_deletion=float(control[0]),
            control_insertion=float(control[1]),
            unseen=unseen,
            # Without and with the appended segment; the last segment alone and the copy alone.
            is_null=bool((np.abs(null.values[half:] - null.values[:half]) <= TOLERANCE).all()),
            is_symmetric=bool((np.abs(copied.values[quarter:half] - copied.values[half : half + quarter]) <= TOLERANCE).all()),
        )

    def measured(self, estimator: Estimator, case: _Case) -> dict[str, float]:
        """Return the measures of one estimator on one rollout; NaN where one is not defined."""
        base = case.base
        shares = self._shares(estimator, base, case.rollout_id, "base")
        share, n = shares.share, base.players.n
        found = {"gap": float(shares.efficiency_gap)}
        if case.is_null:
            found["null"] = abs(float(self._shares(estimator, case.null, case.rollout_id, "null").share[-1]))
        if case.is_symmetric:
            both = self._shares(estimator, case.copied, case.rollout_id, "copied").share[-2:]
            found["copy"] = abs(float(both[0] - both[1]))
        if case.injected is not None:
            injected = self._shares(estimator, case.injected, case.rollout_id, "injected").share
            found["auc"] = audit_measures.auc(injected[[case.helpful, case.filler]], np.array([True, False]))
        placed = [self._shares(estimator, game, case.rollout_id, f"shuffle {index}").share for index, game in enumerate(case.shuffled)]
        found["slope"] = audit_measures.position_slope(np.stack(placed), case.orders)
        by_segment = np.stack([own[np.argsort(order)] for own, order in zip(placed, case.orders, strict=True)])
        found["spread"] = float(by_segment.std(axis=0).mean())
        ties = self._draw(case.rollout_id, "ties").permutation(n)
        order = ties[np.argsort(-np.round(share[ties], 12), kind="stable")]
        deletion, insertion = _curves(base, order)
        self._keep_curves(estimator.name, np.array([deletion, insertion]))
        found["deletion"], found["insertion"] = audit_measures.curve_area(deletion), audit_measures.curve_area(insertion)
        found["deletion control"] = found["deletion"] - case.control_deletion
        found["insertion control"] = found["insertion"] - case.control_insertion
        found["rank"] = _rank_correlation(share, case.shapley)
        found |= {f"unseen {name}": _rank_correlation(share, values) for name, values in case.unseen.items()}
        found["cost"] = float(len(self._masks(estimator, base.players)))
        if estimator.sampling:
            found |= self._calibrated(estimator, base, case.rollout_id, share)
        return found

    def curves(self) -> pl.DataFrame:
        """Return table audit_curves: means over the rollouts that were measured."""
        rows = [
            (name, curve, step / CURVE_PARTS, float(value), len(kept))
            for name, kept in self._curves.items()
            for curve, values in zip(("deletion", "insertion"), np.mean(kept, axis=0), strict=True)
            for step, value in enumerate(values)
        ]
        return pl.DataFrame(rows, schema=AUDIT_CURVES.schema, orient="row")

    def _keep_curves(self, name: str, curves: Values) -> None:
        """Keep [2, n + 1] values at the same parts of all answers, by straight lines between segments."""
        at = np.arange(CURVE_PARTS + 1) / CURVE_PARTS
        steps = np.linspace(0, 1, curves.shape[1])
        self._curves.setdefault(name, []).append(np.array([np.interp(at, steps, curve) for curve in curves]))

    def _calibrated(self, estimator: Estimator, game: _Game, rollout_id: str, exact: Values) -> dict[str, float]:
        scoring = self.params.score_coalitions
        budget = Budget(width=scoring.contiguous_width, exact=0, orders=scoring.orders)
        draws = [seeding.streams(self.params.train.seed, f"audit {repeat}|{rollout_id}") for repeat in range(REPEATS)]
        drawn = sample(estimator, [game.players] * REPEATS, budget, draws)
        windows = np.broadcast_to(game.value(drawn.windows), (REPEATS, len(drawn.windows)))
        estimates = sampled_shares(drawn, game.value(drawn.coalitions), windows)
        assert estimates.standard_error is not None
        degrees = student.degrees_of_freedom(estimates.n_contributions)
        coverage, ratio = audit_measures.calibration(estimates.share, estimates.standard_error, exact, degrees)
        is_trivial = bool(np.isnan(ratio)) and coverage == 1.0  # exact in every sample: nothing to be calibrated
        distinct = [len(union_of(own, drawn.windows)) for own in drawn.coalitions]
        return {"coverage": float("nan") if is_trivial else coverage, "ratio": ratio, "sampled cost": float(np.mean(distinct))}

    def _shares(self, estimator: Estimator, game: _Game, rollout_id: str, name: str) -> Shares:
        masks = self._masks(estimator, game.players)
        rng = self._draw(rollout_id, f"{name}|order") if estimator.needs_order else None
        return estimator.shares(masks, game.value(masks), rng=rng, players=game.players)

    def _masks(self, estimator: Estimator, players: Players) -> Masks:
        key = estimator.name, players
        if key not in self._needed:
            width = self.params.score_coalitions.contiguous_width
            self._needed[key] = needed_coalitions(estimator, players.n, width, players.unions)
        return self._needed[key]

    def _draw(self, rollout_id: str, name: str) -> np.random.Generator:
        return seeding.generator(self.params.train.seed, f"audit {name}|{rollout_id}")

    def _injected(self, rollout_id: str, prompt_id: str, phrases: list[str], unions: list[int]) -> tuple[_Game | None, int, int]:
        """Insert a word of the judged products and a word of none, neither in the answer, at random places."""
        judged, own = self.vocabulary.judged(self.reward.judged(prompt_id)[0]), set(words(" ".join(phrases)))
        helpful = sorted(judged - own)
        filler = [word for word in self.vocabulary.ordered if word not in judged and word not in own]
        if not helpful or not filler:
            return None, -1, -1
        rng = self._draw(rollout_id, "injected")
        added = [helpful[int(rng.integers(len(helpful)))], filler[int(rng.integers(len(filler)))]]
        phrases, unions = list(phrases), list(unions)
        places: list[int] = []
        for word in added:
            place = int(rng.integers(len(phrases) + 1))
            phrases.insert(place, word)
            unions.insert(place, unions[max(place - 1, 0)])
            places = [old + (old >= place) for old in places] + [place]
        return _joined(phrases, unions), places[0], places[1]

    def _evaluate(self, prompt_id: str, games: list[_Game]) -> None:
        texts = [[coalition_text(game.text, game.spans, mask) for mask in _all_masks(game.players.n)] for game in games]
        distinct = list(dict.fromkeys(text for own in texts for text in own))
        found = dict(zip(distinct, _values(self.reward, prompt_id, distinct, self.params.score_coalitions).tolist(), strict=True))
        self.evaluated += len(distinct)
        for game, own in zip(games, texts, strict=True):
            game.values = np.array([found[text] for text in own])


def _values(reward: JudgedReward, prompt_id: str, texts: Sequence[str], settings: ScoreCoalitions) -> Values:
    """Return v of each text, as score-coalitions does: the weighted parts that a text can earn or lose."""
    is_raw = settings.empty_value == "query"
    queries = [reward.raw_query(prompt_id) if is_raw and not text else reward.compose(prompt_id, text) for text in texts]
    length = np.array([-max(0, word_count(text) - settings.length_limit) / settings.length_limit for text in texts])
    repetition = np.array([-repeated_words(text) for text in texts])
    prompt_ids, further = [prompt_id] * len(texts), FurtherParts(reward, settings)
    value = settings.retrieval_weight * reward.values(prompt_ids, queries)
    value = value + settings.length_weight * length + settings.repetition_weight * repetition
    return np.asarray(value + further.weighted(further.measure(prompt_ids, queries, texts)), dtype=np.float64)


def _joined(phrases: Sequence[str], unions: Sequence[int]) -> _Game:
    ends = np.cumsum([len(phrase) + 1 for phrase in phrases]) - 1
    spans = [(int(end) - len(phrase), int(end)) for phrase, end in zip(phrases, ends, strict=True)]
    return _Game(" ".join(phrases), spans, Players(len(phrases), tuple(unions)), np.zeros(0))


def _all_masks(n: int) -> Masks:
    return np.asarray((np.arange(1 << n)[:, None] >> np.arange(n) & 1).astype(bool))


def _curves(game: _Game, order: NDArray[np.int64]) -> tuple[Values, Values]:
    """Return [n + 1] values while segments leave in that order, and while they enter."""
    inserted = chains(order)
    return game.value(~inserted), game.value(inserted)


def _rank_correlation(share: Values, reference: Values) -> float:
    """Return Spearman's correlation; 0 where the shares alone are constant, so that no estimator gains by saying nothing."""
    if np.isnan(audit_measures.spearman(reference, reference)):
        return float("nan")
    return float(np.nan_to_num(audit_measures.spearman(share, reference), nan=0.0))


def _table(found: dict[str, list[dict[str, float]]], measures: Sequence[_Measure], params: Params) -> pl.DataFrame:
    resamples: dict[int, Resamples] = {}

    def interval(values: Values) -> tuple[float, float, float]:
        if len(values) not in resamples:
            generator = seeding.generator(params.train.seed, "audit bootstrap")
            resamples[len(values)] = Resamples(len(values), params.evaluate.bootstrap, generator)
        return resamples[len(values)].mean(values)

    rows: list[tuple[str, str, str, float | None, float | None, float | None, int]] = []
    for name, by_rollout in found.items():
        for measure in measures:
            values = np.array(list(_defined(by_rollout, measure.source)))
            low: float | None = None
            high: float | None = None
            value: float | None = None
            if len(values) and measure.is_largest:
                value = float(values.max())
            elif len(values):
                value, low, high = interval(values)
            rows.append((name, measure.check, measure.measure, value, low, high, len(values)))
    return pl.DataFrame(rows, schema=AUDIT.schema, orient="row")


def _defined(by_rollout: Sequence[dict[str, float]], source: str) -> Iterator[float]:
    for measured in by_rollout:
        if source in measured and not np.isnan(measured[source]):
            yield measured[source]
