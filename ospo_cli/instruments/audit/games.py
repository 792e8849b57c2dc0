"""The games of an audited rollout: all its coalitions evaluated, and what has a right answer beside it; estimators measured on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.maths import audit_measures, seeding, student
from ospo_cli.maths.coalitions import Budget, Masks, Players, chains, sampled_union_orders, union_of
from ospo_cli.maths.estimators import ESTIMATORS, Estimator, Shares, needed_coalitions, sample, sampled_shares
from ospo_cli.params.score_coalitions import ScoreCoalitions
from ospo_cli.retrievers.base import Catalogue
from ospo_cli.rewards.answers import TextScorer
from ospo_cli.rewards.judged_reward import JudgedReward
from ospo_cli.text.coalition_text import coalition_text
from ospo_cli.text.words import STANDARD, reader

Values = NDArray[np.float64]

SHUFFLES = 4  # orders of the segments for the position slope, each second one the one before it backwards
CONTROL_ORDERS = 32  # random orders behind the control of the curves
REPEATS = 20  # seeds of the sampled estimates
TOLERANCE = 1e-9
CURVE_PARTS = 10  # of the segments, at which curves of answers of any length are read
RANDOM_ORDERS = "random orders"


class Vocabulary:
    """The words of the catalogue's indexed text, and one that no document holds."""

    def __init__(self, documents: pl.DataFrame, fields: list[str], folding: str = STANDARD) -> None:
        self.folding, self.words = folding, reader(folding)
        self.texts = Catalogue.from_documents(documents, fields).texts
        self.known = {word for text in self.texts for word in self.words(text)}
        self.null_word = "zzqx"
        while self.null_word in self.known:
            self.null_word += "q"

    def judged(self, documents: NDArray[np.int64]) -> set[str]:
        """Return the words of these documents."""
        return {word for index in documents.tolist() for word in self.words(self.texts[index])}

    @cached_property
    def ordered(self) -> list[str]:
        """All words, ascending."""
        return sorted(self.known)


@dataclass
class Game:
    """A text with its segments; `values` holds v of every coalition, at the number whose bits are its members (segment 0 lowest)."""

    text: str
    spans: list[tuple[int, int]]
    players: Players
    values: Values

    def value(self, masks: Masks) -> Values:
        """Return v of the coalitions bool[..., n]."""
        return np.asarray(self.values[masks @ (1 << np.arange(self.players.n))])


@dataclass
class Case:
    """A rollout: its game, the games made from it, and what they are compared with."""

    rollout_id: str
    base: Game
    null: Game
    copied: Game
    injected: Game | None
    helpful: int
    filler: int
    shuffled: list[Game]
    orders: NDArray[np.int64]
    shapley: Values
    control_deletion: float
    control_insertion: float
    unseen: dict[str, Values]
    is_null: bool
    is_symmetric: bool


class Auditor:
    """Evaluates the games of a rollout and measures estimators on them."""

    def __init__(
        self, reward: JudgedReward, others: dict[str, JudgedReward], vocabulary: Vocabulary, settings: ScoreCoalitions, seed: int
    ) -> None:
        self.reward, self.others, self.vocabulary, self.settings, self.seed = reward, others, vocabulary, settings, seed
        self.evaluated = 0
        self.shares: dict[str, dict[str, Values]] = {}  # rollout -> method -> share of each segment
        self.curves: dict[str, dict[str, Values]] = {}  # rollout -> method, or random orders -> as from `_at_parts`
        self._needed: dict[tuple[str, Players], Masks] = {}

    def case(self, rollout: dict[str, Any]) -> Case:
        """Return the games of a rollout, all coalitions evaluated."""
        rollout_id, prompt_id, completion = rollout["rollout_id"], rollout["prompt_id"], rollout["completion"]
        spans, unions = list(zip(rollout["start"], rollout["end"], strict=True)), rollout["union_index"]
        phrases, n = [completion[start:end] for start, end in spans], len(spans)
        base = Game(completion, spans, Players(n, tuple(unions)), np.zeros(0))
        null = _joined([*phrases, self.vocabulary.null_word], [*unions, unions[-1]])
        copied = _joined([*phrases, phrases[-1]], [*unions, unions[-1]])
        injected, helpful, filler = self._injected(rollout_id, prompt_id, phrases, unions)
        orders = sampled_union_orders(base.players, SHUFFLES, self._draw(rollout_id, "shuffles"))
        shuffled = [_joined([phrases[segment] for segment in order], [unions[segment] for segment in order]) for order in orders]
        self._evaluate(prompt_id, [base, null, copied, *([injected] if injected else []), *shuffled])

        random = np.argsort(self._draw(rollout_id, "control").random((CONTROL_ORDERS, n)), axis=1)
        curves = np.array([_curves(base, order) for order in random])
        self.curves[rollout_id] = {RANDOM_ORDERS: _at_parts(curves.mean(axis=0))}
        control = np.array([[audit_measures.curve_area(curve) for curve in pair] for pair in curves]).mean(axis=0)
        near = np.concatenate([np.ones((1, n), dtype=bool), ~np.eye(n, dtype=bool)])
        texts = [coalition_text(completion, spans, mask) for mask in near]
        unseen = {}
        for name, reward in self.others.items():
            values = _values(reward, prompt_id, texts, self.settings)
            unseen[name] = values[0] - values[1:]
        half = 1 << n
        quarter = half // 2
        return Case(
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

    def measured(self, estimator: Estimator, case: Case) -> dict[str, float]:
        """Return the measures of one estimator on one rollout; NaN where one is not defined."""
        base = case.base
        shares = self._shares(estimator, base, case.rollout_id, "base")
        share = shares.share
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
        found |= self.importance(estimator.name, share, case)
        found["cost"] = float(len(self._masks(estimator, base.players)))
        if estimator.sampling:
            found |= self._calibrated(estimator, base, case.rollout_id, share)
        return found

    def importance(self, name: str, share: Values, case: Case) -> dict[str, float]:
        """Return how well float[n], by whatever method, orders a rollout's segments; it is kept for the curves and examples."""
        ties = self._draw(case.rollout_id, "ties").permutation(len(share))
        order = ties[np.argsort(-np.round(share[ties], 12), kind="stable")]
        deletion, insertion = _curves(case.base, order)
        self.curves[case.rollout_id][name] = _at_parts(np.array([deletion, insertion]))
        self.shares.setdefault(case.rollout_id, {})[name] = share
        areas = {"deletion": audit_measures.curve_area(deletion), "insertion": audit_measures.curve_area(insertion)}
        return areas | {
            "deletion control": areas["deletion"] - case.control_deletion,
            "insertion control": areas["insertion"] - case.control_insertion,
            "rank": _rank_correlation(share, case.shapley),
            **{f"unseen {other}": _rank_correlation(share, values) for other, values in case.unseen.items()},
        }

    def _calibrated(self, estimator: Estimator, game: Game, rollout_id: str, exact: Values) -> dict[str, float]:
        scoring = self.settings
        budget = Budget(width=scoring.contiguous_width, exact=0, orders=scoring.orders)
        draws = [seeding.streams(self.seed, f"audit {repeat}|{rollout_id}") for repeat in range(REPEATS)]
        drawn = sample(estimator, [game.players] * REPEATS, budget, draws)
        estimates = sampled_shares(drawn, game.value(drawn.coalitions))
        assert estimates.standard_error is not None
        degrees = student.degrees_of_freedom(estimates.n_contributions)
        coverage, ratio = audit_measures.calibration(estimates.share, estimates.standard_error, exact, degrees)
        is_trivial = bool(np.isnan(ratio)) and coverage == 1.0  # exact in every sample: nothing to be calibrated
        distinct = [len(union_of(own)) for own in drawn.coalitions]
        return {"coverage": float("nan") if is_trivial else coverage, "ratio": ratio, "sampled cost": float(np.mean(distinct))}

    def _shares(self, estimator: Estimator, game: Game, rollout_id: str, name: str) -> Shares:
        masks = self._masks(estimator, game.players)
        rng = self._draw(rollout_id, f"{name}|order") if estimator.needs_order else None
        return estimator.shares(masks, game.value(masks), rng=rng, players=game.players)

    def _masks(self, estimator: Estimator, players: Players) -> Masks:
        key = estimator.name, players
        if key not in self._needed:
            width = self.settings.contiguous_width
            self._needed[key] = needed_coalitions(estimator, players.n, width, players.unions)
        return self._needed[key]

    def _draw(self, rollout_id: str, name: str) -> np.random.Generator:
        return seeding.generator(self.seed, f"audit {name}|{rollout_id}")

    def _injected(self, rollout_id: str, prompt_id: str, phrases: list[str], unions: list[int]) -> tuple[Game | None, int, int]:
        """Insert a word of the judged products and a word of none, neither in the answer, at random places."""
        judged, own = self.vocabulary.judged(self.reward.judged(prompt_id)[0]), set(self.vocabulary.words(" ".join(phrases)))
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

    def _evaluate(self, prompt_id: str, games: list[Game]) -> None:
        texts = [[coalition_text(game.text, game.spans, mask) for mask in _all_masks(game.players.n)] for game in games]
        distinct = list(dict.fromkeys(text for own in texts for text in own))
        found = dict(zip(distinct, _values(self.reward, prompt_id, distinct, self.settings).tolist(), strict=True))
        self.evaluated += len(distinct)
        for game, own in zip(games, texts, strict=True):
            game.values = np.array([found[text] for text in own])


def _values(reward: JudgedReward, prompt_id: str, texts: Sequence[str], settings: ScoreCoalitions) -> Values:
    """Return v of each text, as score-coalitions does: the weighted parts that a text can earn or lose."""
    is_raw = settings.empty_value == "query"
    queries = [reward.raw_query(prompt_id) if is_raw and not text else reward.compose(prompt_id, text) for text in texts]
    return TextScorer(reward, settings).parts([prompt_id] * len(texts), queries, texts).value


def _joined(phrases: Sequence[str], unions: Sequence[int]) -> Game:
    ends = np.cumsum([len(phrase) + 1 for phrase in phrases]) - 1
    spans = [(int(end) - len(phrase), int(end)) for phrase, end in zip(phrases, ends, strict=True)]
    return Game(" ".join(phrases), spans, Players(len(phrases), tuple(unions)), np.zeros(0))


def _all_masks(n: int) -> Masks:
    return np.asarray((np.arange(1 << n)[:, None] >> np.arange(n) & 1).astype(bool))


def _curves(game: Game, order: NDArray[np.int64]) -> tuple[Values, Values]:
    """Return [n + 1] values while segments leave in that order, and while they enter."""
    inserted = chains(order)
    return game.value(~inserted), game.value(inserted)


def _at_parts(curves: Values) -> Values:
    """Return [2, n + 1] values at the same parts of all answers, by straight lines between segments."""
    at = np.arange(CURVE_PARTS + 1) / CURVE_PARTS
    steps = np.linspace(0, 1, curves.shape[1])
    return np.array([np.interp(at, steps, curve) for curve in curves])


def _rank_correlation(share: Values, reference: Values) -> float:
    """Return Spearman's correlation; 0 where the shares alone are constant, so that no estimator gains by saying nothing."""
    if np.isnan(audit_measures.spearman(reference, reference)):
        return float("nan")
    return float(np.nan_to_num(audit_measures.spearman(share, reference), nan=0.0))
