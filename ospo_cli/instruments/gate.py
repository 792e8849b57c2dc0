"""A gate for a policy: fitted on half of the dev queries, certified on the other half, shown on test."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.errors import OspoError
from ospo_cli.layout import Layout
from ospo_cli.maths import seeding
from ospo_cli.maths.risk_control import FEWEST_QUERIES, SEQUENCES, betting_p, passed
from ospo_cli.maths.statistics import Resamples
from ospo_cli.rewards.opening import open_reward
from ospo_cli.rewriting import gate as gates
from ospo_cli.rewriting.chosen import Chosen, choose
from ospo_cli.rewriting.gate import Gate, expanded, feature_names
from ospo_cli.rewriting.rewriter import Asked, Rewriter, known_features
from ospo_cli.sources.base import MORE_QUERIES
from ospo_cli.stages.evaluate import choosing_prompts
from ospo_cli.tables import files, parquet, placed
from ospo_cli.tables.gate import GATE_CURVE
from ospo_cli.tables.prepared import PROMPTS

Values = NDArray[np.float64]
SHARES = np.round(np.arange(0.05, 1.0001, 0.05), 2)  # of the queries, that are tried
HALF = 9  # place of 50 %, from where one sequence of tests begins
RIDGE = 100.0
FOLDS = 5
MOST_NEEDED = 20_000


@dataclass(frozen=True)
class Wanted:
    """What a gate is to be: for which policy, looking at whose result lists (empty: at none), and what it is to hold."""

    policy: str
    retriever: str
    bound: float
    confidence: float


@dataclass(frozen=True)
class Answered:
    """Judged queries of a split and what the policy makes of them: features [n, features], values [n] without and with the rewrite.

    `is_open`: the policy's rewrite would be used if there were no gate; the others keep the raw query whatever the gate says.
    `has_chosen`: `ospo evaluate` chose the policy on these queries; None: on none.
    """

    features: Values
    raw: Values
    rewritten: Values
    is_open: NDArray[np.bool_]
    has_chosen: NDArray[np.bool_] | None = None

    @property
    def gains(self) -> Values:
        """Return rewrite minus raw query."""
        return self.rewritten - self.raw

    @property
    def losses(self) -> Values:
        """Return what a rewrite costs, 0 where it costs nothing."""
        return np.maximum(-self.gains, 0.0)


def execute(
    project: Path, policy: str, bound: float, confidence: float, retriever: str = "", looks_at_lists: bool = True
) -> tuple[Gate, pl.DataFrame, Path]:
    """Make the gate of a policy and write it and table gate_curve to data/gates; return gate, curve and the gate's path.

    `looks_at_lists`: the gate also looks at the retriever's result lists, which have to be had wherever the policy rewrites.

    Raises:
        PolicyError, MissingInputError: the policy or a prepared table is missing.
        OspoError: too few dev or test queries, or the policy has no project.
    """
    chosen = choose(project, policy)
    if chosen.project is None or chosen.params is None:
        raise OspoError(
            chosen.folder, "has no project", expected="a project with judged dev and test queries", remedy="--project names one"
        )
    rewriter = Rewriter.opened(chosen, with_gate=False)  # an earlier gate may be of the policy before
    name = retriever or chosen.params.score_coalitions.retriever
    if looks_at_lists:
        rewriter.engine = chosen.engine(name, "ospo gate")
    dev, test = (answered(chosen, rewriter, split, name) for split in ("dev", "test"))
    for split, found in (("dev", dev), ("test", test)):
        if (rewritten := int(found.is_open.sum())) < FEWEST_QUERIES:
            raise OspoError(
                "ospo gate", f"too few {split} queries with a rewrite", found=f"{rewritten} of {len(found.raw)}",
                expected=f"at least {FEWEST_QUERIES}",
                remedy=_LEFT_AS_TYPED if 2 * rewritten < len(found.raw) else _more_queries(chosen.project),
            )  # fmt: skip
    seed, number = chosen.params.train.seed, chosen.folder.name
    wanted = Wanted(rewriter.policy.content_hash, name if looks_at_lists else "", bound, confidence)
    made, facts = fit(dev, wanted, seed)
    table = curve(test, made, number, seed)
    made = replace(made, facts=facts | outcome(test, made, seed) | {"retriever": name})
    path = chosen.project.gates(f"{number}.json")
    gates.write(path, made)
    parquet.write(table, path.with_name(f"{number}_curve.parquet"), GATE_CURVE)
    return made, table, path


_LEFT_AS_TYPED = "most stay as typed, which harms nothing and needs no gate; `ospo headroom` says what there is to gain"


def _more_queries(project: Layout) -> str:
    path = project.prepared("card.json")
    known = files.read_json(path).get(MORE_QUERIES) if path.is_file() else ""
    return known or "judge more queries, or raise prepare_data.dev_share and test_share"


def answered(chosen: Chosen, rewriter: Rewriter, split: str, retriever: str) -> Answered:
    """Ask the policy for the judged queries of a split, and score raw queries and rewrites by the project's metric."""
    assert chosen.project is not None
    assert chosen.params is not None
    every = placed.read(PROMPTS, chosen.project)
    prompts = every.filter(pl.col("split") == split).sort("prompt_id")
    asked = [Asked(query, tuple(history)) for query, history in zip(prompts["query"], prompts["history"].to_list(), strict=True)]
    found = rewriter.rewrite_all(asked)
    reward = open_reward(chosen.project, chosen.params, retriever=retriever)
    ids = prompts["prompt_id"].to_list()
    raw, rewritten = (reward.values(ids, texts) for texts in (prompts["query"].to_list(), [one.engine_query for one in found]))
    is_open = np.array([one.is_used for one in found], dtype=bool)
    features = np.zeros((len(found), len(feature_names(retriever if rewriter.engine else ""))))
    features[is_open] = known_features([one for one in found if one.is_used], rewriter.engine)
    has_chosen = prompts["prompt_id"].is_in(choosing_prompts(every, chosen.params)[0]["prompt_id"].to_list()).to_numpy()
    return Answered(features, raw, rewritten, is_open, has_chosen)


def _halves(dev: Answered, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    # Rows that fit and rows that certify, drawn by seed. Queries on which this policy was the best of several fit: there it loses less than
    # elsewhere, and what they certified would be broken more often than was said. Where they are more than three quarters some certify.
    rows = seeding.generator(seed, "gate").permutation(np.flatnonzero(dev.is_open))
    has_chosen = np.zeros(len(rows), dtype=bool) if dev.has_chosen is None else dev.has_chosen[rows]
    rows, chosen, half = np.concatenate([rows[has_chosen], rows[~has_chosen]]), int(has_chosen.sum()), len(rows) // 2
    at = max(half, chosen) if 4 * chosen <= 3 * len(rows) else half
    return np.sort(rows[:at]), rows[at:]


def fit(dev: Answered, wanted: Wanted, seed: int) -> tuple[Gate, dict[str, Any]]:
    """Return a gate without facts, and what was seen while it was made.

    One half of the queries that have a rewrite fits the score (ridge regression of the gain on `expanded`), says at which scores the shares
    lie, and in which order they are tested: by what it foretells of each test, from scores of its fifths that did not fit them. Half of the
    error is for that order, half for the one from 50 % to all, since a small sample foretells badly. The other half tests, for each share,
    that the mean loss of the rewritten queries is below the bound; of what passes the share is taken whose rewrites gain most in that half,
    none where nothing gains. The halves are drawn by seed; queries that chose the policy are in the first, which may be the larger then.
    """
    fitted, held = _halves(dev, seed)
    made = _ridge(dev.features[fitted], dev.gains[fitted], wanted)
    foretold = np.zeros(len(fitted))
    for fold in range(FOLDS):
        own = np.arange(len(fitted)) % FOLDS == fold
        foretold[own] = _ridge(dev.features[fitted[~own]], dev.gains[fitted[~own]], wanted).scores(dev.features[fitted[own]])
    scores, level = made.scores(dev.features[held]), 1 - wanted.confidence
    thresholds = np.quantile(foretold, 1 - SHARES)
    thresholds[-1] = -1e9  # everything
    losses = [dev.losses[fitted[foretold >= threshold]] for threshold in thresholds]
    expected = [betting_p(each, wanted.bound, level) for each in losses]
    order = sorted(range(len(SHARES)), key=lambda place: (expected[place], -place))
    losses = [dev.losses[held[scores >= threshold]] for threshold in thresholds]
    p_values = [betting_p(each, wanted.bound, level) for each in losses]
    gains = [float(dev.gains[held[scores >= threshold]].sum()) / len(held) for threshold in thresholds]
    accepted = passed(p_values, [order, range(HALF, len(SHARES))], level)
    best = max(accepted, key=gains.__getitem__, default=0)
    is_found = bool(accepted) and gains[best] > 0
    facts = {
        "dev_queries": len(dev.raw), "dev_with_rewrite": len(fitted) + len(held), "fitted_on": len(fitted), "certified_on": len(held),
        "certified_on_choosing": 0 if dev.has_chosen is None else int(dev.has_chosen[held].sum()),
        "certified": [float(SHARES[place]) for place in sorted(accepted)], "chosen_share": float(SHARES[best]) if is_found else 0.0,
        "dev_loss": [float(each.mean()) if len(each) else None for each in losses], "dev_gain": gains, "p_values": p_values,
    }  # fmt: skip
    if not accepted:  # what is tested first in a sequence decides whether anything passes
        facts["nearest"] = _nearest([losses[place] for place in (order[0], HALF)], len(dev.raw), wanted)
        facts["pass_alone"] = [float(share) for share, p in zip(SHARES, p_values, strict=True) if p <= level / SEQUENCES]
    return replace(made, threshold=float(thresholds[best]) if is_found else None), facts


def _nearest(losses: Sequence[Values], dev_queries: int, wanted: Wanted) -> dict[str, Any] | None:
    """Return which of the shares that are tested first the fewest dev queries would certify; None: none loses less than the bound.

    Its queries, their mean loss, and the dev queries that are needed if further ones lose as these do: as many times
    those of now as its losses must be repeated to pass.
    """
    found = []
    for each in losses:
        if len(each) and each.mean() < wanted.bound:
            count = next((size for size in _sizes(len(each)) if _would_pass(np.resize(each, size), wanted)), 0)
            if count:
                found.append((math.ceil(dev_queries * count / len(each)), len(each), float(each.mean())))
    if not found:
        return None
    return dict(zip(("dev_queries", "queries", "loss"), min(found), strict=True))


def _sizes(start: int) -> Iterator[int]:
    """Yield sizes that grow by a tenth, up to `MOST_NEEDED`."""
    while start <= MOST_NEEDED:
        yield start
        start += max(1, start // 10)


def _would_pass(losses: Values, wanted: Wanted) -> bool:
    level = 1 - wanted.confidence
    return betting_p(losses, wanted.bound, level) <= level / SEQUENCES


def _ridge(features: Values, gains: Values, wanted: Wanted) -> Gate:
    """Return a gate, still closed, whose score is a ridge regression of the gains; features in units of their deviation."""
    centre, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 1e-9, scale, 1e9)
    known = expanded(features, centre, scale)
    known = known - known.mean(axis=0)
    weights = np.linalg.solve(known.T @ known + RIDGE * np.eye(known.shape[1]), known.T @ (gains - gains.mean()))
    return Gate(wanted.policy, wanted.retriever, centre.tolist(), scale.tolist(), weights.tolist(), None, wanted.bound, wanted.confidence)


def passes(found: Answered, gate: Gate) -> NDArray[np.bool_]:
    """Tell for each query whether its rewrite is used under the gate."""
    return np.asarray(found.is_open & gate.passes(found.features), dtype=np.bool_)


def outcome(test: Answered, gate: Gate, seed: int) -> dict[str, Any]:
    """Return what the gate does on test queries, each against the raw query; intervals over prompts.

    Beside it what rewriting all would do, and a gate that knows the outcome (`oracle`): what there is to find.
    """
    draws = Resamples(len(test.raw), 2000, seeding.generator(seed, "gate test"))
    found: dict[str, Any] = {"test_queries": len(test.raw), "raw_query": float(test.raw.mean())}
    for name, used in (("gated", passes(test, gate)), ("all", test.is_open), ("oracle", test.is_open & (test.gains > 0))):
        values = np.where(used, test.rewritten, test.raw)
        apart = draws.difference(values, test.raw)
        found[name] = {
            "rewritten": int(used.sum()), "value": float(values.mean()), "gain": apart.mean, "low": apart.low, "high": apart.high,
            "p_value": apart.p_value, "loss_of_rewritten": _mean(test.losses[used]), "worse": int((test.gains[used] < 0).sum()),
            "better": int((test.gains[used] > 0).sum()),
        }  # fmt: skip
    return found


def curve(test: Answered, gate: Gate, name: str, seed: int) -> pl.DataFrame:
    """Return table gate_curve: test queries, rewritten by descending score."""
    draws = Resamples(len(test.raw), 2000, seeding.generator(seed, "gate test"))
    scores = np.where(test.is_open, gate.scores(test.features), -np.inf)
    order, chosen = np.argsort(-scores, kind="stable"), passes(test, gate).sum()
    counts = sorted({0, int(chosen), *(round(share * int(test.is_open.sum())) for share in SHARES)})
    rows = []
    for count in counts:
        used = np.zeros(len(scores), dtype=bool)
        used[order[:count]] = True
        apart = draws.difference(np.where(used, test.rewritten, test.raw), test.raw)
        rows.append(
            (name, count / len(scores), apart.mean, apart.low, apart.high, _mean(test.losses[used]), int((test.gains[used] < 0).sum()),
             int((test.gains[used] > 0).sum()), count == chosen)
        )  # fmt: skip
    return pl.DataFrame(rows, schema=GATE_CURVE.schema, orient="row")


def _mean(values: Values) -> float:
    return float(values.mean()) if len(values) else 0.0


def in_words(gate: Gate) -> Sequence[str]:
    """Return what was found, a line each."""
    facts = gate.facts
    if not facts["certified"]:
        lines = [
            f"nothing is certified: {facts['certified_on']} of {facts['dev_with_rewrite']} dev queries with a rewrite show for no share of "
            f"them, with {gate.confidence:.0%} confidence, that rewritten queries lose less than {gate.bound:g} on average.",
            _needed(facts, gate.bound),
            "The gate gives the raw query always.",
        ]
    elif gate.threshold is None:
        lines = [
            f"nothing gains: of the shares that {facts['certified_on']} dev queries certify (up to {max(facts['certified']):.0%}) none "
            "finds more than the queries as typed. The gate gives the raw query always."
        ]
    else:
        lines = [
            f"certified on {facts['certified_on']} of {facts['dev_with_rewrite']} dev queries with a rewrite: the mean loss of rewritten "
            f"queries is below {gate.bound:g} with {gate.confidence:.0%} confidence, up to {max(facts['certified']):.0%} of them "
            f"rewritten; most was gained at {facts['chosen_share']:.0%}"
        ]
    if facts.get("certified_on_choosing"):
        lines.append(
            f"{facts['certified_on_choosing']} of these queries also chose the policy, which makes it look better there than it is: the "
            "certificate is of a policy that was named beforehand. Lower evaluate.choose_prompts, or judge more dev queries."
        )
    for name, label in (("gated", "with the gate"), ("all", "without it"), ("oracle", "if the outcome were known")):
        each = facts[name]
        lines.append(
            f"test, {label}: {each['rewritten']} of {facts['test_queries']} rewritten, {each['value']:.3f}, raw query "
            f"{facts['raw_query']:.3f}, {each['gain']:+.3f} [{each['low']:+.3f}, {each['high']:+.3f}]; {each['better']} better, "
            f"{each['worse']} worse, mean loss of the rewritten {each['loss_of_rewritten']:.3f}"
        )
    return lines


def _needed(facts: dict[str, Any], bound: float) -> str:
    nearest, alone = facts["nearest"], facts["pass_alone"]
    order = ""
    if alone:
        order = (
            f" Of other shares ({alone[0]:.0%} is one) these queries would show it, were it the only test: shares are tested in an order "
            "that was fixed before, until the first that fails, and one that is picked by its own test certifies nothing."
        )
    if nearest is None:
        return (
            f"The shares that are tested first have no mean loss clearly below {bound:g}: more dev queries that lose as these do would "
            f"certify nothing. Raise --bound.{order}"
        )
    return (
        f"Of the shares that are tested first the nearest is of {nearest['queries']} queries with a mean loss of {nearest['loss']:.3f}: if "
        f"further queries lose as these do, about {nearest['dev_queries']:,} dev queries are needed ({facts['dev_queries']:,} now). Judge "
        f"more, or raise --bound.{order}"
    )


def curve_lines(table: pl.DataFrame) -> list[str]:
    """Return table gate_curve for a terminal: what is gained and harmed by share; the gate's own row is marked."""
    lines = [
        "", "test queries, by the share that is rewritten; they judge the gate, so choose nothing by this table:",
        "rewritten   gain over the raw query     mean loss   better  worse",
    ]  # fmt: skip
    for row in table.iter_rows(named=True):
        interval = f"{row['gain']:+.3f} [{row['gain_low']:+.3f}, {row['gain_high']:+.3f}]"
        mark = "  <- the gate" if row["is_chosen"] else ""
        lines.append(f"{row['share']:9.0%}   {interval:<27} {row['harm']:9.3f} {row['better']:8} {row['worse']:6}{mark}")
    return lines
