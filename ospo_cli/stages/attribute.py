"""From coalition values to shares of segments and advantages of tokens."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from ospo_cli import parquet, rule_file
from ospo_cli.errors import CreditError
from ospo_cli.layout import Layout
from ospo_cli.maths import coalitions, seeding
from ospo_cli.maths.adaptive import AdaptiveGroup
from ospo_cli.maths.advantages import GroupAdvantages, group_advantages
from ospo_cli.maths.coalitions import Budget, Masks, Players
from ospo_cli.maths.estimators import (
    ESTIMATORS,
    Estimator,
    Shares,
    missing_coalitions,
    needed_coalitions,
    sample,
    sampled_shares,
    window_table,
)
from ospo_cli.maths.myerson import path_dividends
from ospo_cli.maths.redistribution import NEGLIGIBLE, Credit, Rule, Settings, TokenMap, clipped, redistribute, rule_named
from ospo_cli.maths.shaping import prefix_advantages
from ospo_cli.params import Params
from ospo_cli.policies.token_pieces import TokenPieces
from ospo_cli.schemas import ATTRIBUTIONS, COALITION_VALUES, INTERACTIONS, REWARDS, ROLLOUTS, SEGMENTS, TOKEN_ADVANTAGES
from ospo_cli.text.tokens_to_spans import overlaps, token_spans

Values = NDArray[np.float64]
Indices = NDArray[np.int64]
Pieces = Callable[[Sequence[int]], list[bytes]]

REWARD_TOLERANCE = 1e-6
EFFICIENCY_TOLERANCE = 1e-7
# Values are sums of a few numbers of order 1: a smaller dividend is rounding.
NEGLIGIBLE_DIVIDEND = 1e-9
# Rows of one length whose window tables are in memory at once: about 100 MB at most.
TABLE_CELLS = 8_000_000


@dataclass(frozen=True)
class Attribution:
    """The tables and what was counted."""

    attributions: pl.DataFrame
    token_advantages: pl.DataFrame
    interactions: pl.DataFrame
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """The rollouts by id, with their segments flat, as arrays."""

    rollout_ids: list[str]
    completions: list[str]
    token_ids: list[list[int]]
    group: Indices
    segments: Indices
    segment_row: Indices
    segment_start: Indices
    segment_end: Indices
    segment_union: Indices

    @property
    def first_segment(self) -> Indices:
        """[rows] index of each row's first segment."""
        return np.cumsum(self.segments) - self.segments


@dataclass(frozen=True)
class Estimate:
    """Per segment: share, contributions, standard error (NaN: none), prefix advantage; per row: special case, efficiency gap."""

    share: Values
    n_contributions: Indices
    standard_error: Values
    prefix_advantage: Values
    special_case: NDArray[np.str_]
    efficiency_gap: Values


def execute(layout: Layout, params: Params, iteration: int) -> dict[str, Any]:
    """Read the iteration's tables and the behaviour policy's tokenizer; write attributions, interactions and token advantages."""
    started = time.perf_counter()

    def read(name: str, table: Any, command: str) -> pl.DataFrame:
        return parquet.read(layout.iteration(iteration, f"{name}.parquet"), table, made_by=f"ospo {command} --iter {iteration}")

    rollouts = read("rollouts", ROLLOUTS, "rollout")
    segments = read("segments", SEGMENTS, "segment")
    rewards = read("rewards", REWARDS, "score-coalitions")
    coalition_values = read("coalition_values", COALITION_VALUES, "score-coalitions")
    pieces = TokenPieces.from_file(layout.policy(iteration - 1) / "tokenizer.json")
    own_rules = rule_file.load(layout.root / params.attribute.rule_file) if params.attribute.rule_file else {}
    result = attribute(rollouts, segments, rewards, coalition_values, pieces.pieces, params, iteration, own_rules)
    parquet.write(result.attributions, layout.iteration(iteration, "attributions.parquet"), ATTRIBUTIONS)
    parquet.write(result.token_advantages, layout.iteration(iteration, "token_advantages.parquet"), TOKEN_ADVANTAGES)
    parquet.write(result.interactions, layout.iteration(iteration, "interactions.parquet"), INTERACTIONS)
    metrics = result.metrics | {"seconds": round(time.perf_counter() - started, 3)}
    with parquet.replacing(layout.iteration(iteration, "attribute_metrics.json")) as temporary:
        temporary.write_text(json.dumps(metrics, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return metrics


def attribute(
    rollouts: pl.DataFrame,
    segments: pl.DataFrame,
    rewards: pl.DataFrame,
    coalition_values: pl.DataFrame,
    pieces: Pieces,
    params: Params,
    iteration: int = 1,
    own_rules: Mapping[str, Rule] | None = None,
) -> Attribution:
    """Return shares of all segments, advantages of all sampled tokens, and what neighbouring segments earn only together.

    Args:
        rollouts, segments, rewards, coalition_values: the tables of one iteration.
        pieces: token ids -> bytes of each, under the tokenizer of the policy that sampled.
        params: sections attribute, score_coalitions (what was evaluated, weight of the format part) and train (seed).
        iteration: named in remedies.
        own_rules: a user's, by name; attribute.rule may name one.

    Raises:
        CreditError: tables that do not belong together, a coalition that the estimator or the rule needs is missing, v(N) and the format
            part are not the reward, ids that do not spell their completion, sums that do not add up.
    """
    settings = params.attribute
    estimator, rule = ESTIMATORS[settings.estimator], rule_named(settings.rule, settings.matched_rule, own_rules)
    rows = _rows(rollouts, segments, iteration)
    reward = _aligned(rewards, rows.rollout_ids, "rewards", iteration)
    value = reward["reward"].to_numpy().astype(np.float64)
    format_part = params.score_coalitions.format_weight * reward["format"].to_numpy().astype(np.float64)
    advantage = group_advantages(value, rows.group, settings.normalize)
    is_degenerate = _degenerate(advantage, reward["is_degenerate_group"].to_numpy(), rows, value)
    credited = np.where(is_degenerate, 0.0, advantage.advantage)
    has_no_advantage = is_degenerate
    if settings.baseline == "batch":  # rule uniform alone: a rollout group of equal rewards then has an advantage, but no shares
        advantage = group_advantages(value, np.zeros_like(rows.group), settings.normalize)
        credited, has_no_advantage = advantage.advantage, advantage.is_degenerate
    estimate, grand, interactions = _estimate(
        rows, is_degenerate, coalition_values, format_part, estimator, rule.needs_prefix, params, iteration
    )
    reward_error = np.where(np.isnan(grand), 0.0, np.abs(grand + format_part - value))
    differs = reward_error > REWARD_TOLERANCE
    if differs.any() and params.score_coalitions.grand_value == "reward":
        row = int(reward_error.argmax())
        raise CreditError(
            f"rollout {rows.rollout_ids[row]}",
            "value of the whole answer and weighted format part are not the reward",
            found=f"{grand[row]:.9g} + {format_part[row]:.9g}",
            expected=f"{value[row]:.9g}",
            remedy=f"run `ospo score-coalitions --iter {iteration}` with the present parameters",
        )
    if rule.needs_prefix and params.score_coalitions.grand_value != "reward":
        raise CreditError(
            "attribute.rule",
            f"{settings.rule} measures what the reward holds beyond all segments, and needs these to be worth the reward",
            found=f"score_coalitions.grand_value: {params.score_coalitions.grand_value}",
            expected="reward",
        )
    tokens = _token_map(rows, pieces)
    credit = Credit(
        advantage=credited,
        scale=advantage.scale,
        group=rows.group,
        is_degenerate=has_no_advantage,
        share=estimate.share,
        prefix_advantage=estimate.prefix_advantage if rule.needs_prefix else None,
        terminal=format_part,
        noise=_noise(rows, tokens, params.train.seed) if rule.needs_noise else None,
        reward=value,
        answer_token=_answer_token(rows, rollouts, pieces) if rule.is_released else None,
    )
    names = [f"rollout {rollout_id}" for rollout_id in rows.rollout_ids]
    how = Settings(settings.beta, settings.alpha, settings.matched_rule, settings.outside, settings.credit_unit)
    result = redistribute(rule, tokens, credit, how, names)
    advantages, bound, clipped_share = result.advantages, None, 0.0
    counted = ~has_no_advantage
    if settings.clip is not None:
        bound = settings.clip * float(credited[counted].std()) if counted.any() else 0.0
        advantages, clipped_share = clipped(advantages, bound)
    special = _joined(estimate.special_case, result.special_case)
    metrics = _metrics(rows, tokens, estimate, advantages, special, is_degenerate, estimator, settings.rule) | {
        "advantage_std": float(credited[counted].std()) if counted.any() else 0.0,
        "clip_at": bound,
        "clipped_share": clipped_share,
        "reward_error_max": float(reward_error.max(initial=0.0)),
        "grand_value_differs": int(differs.sum()),
        "sum_error_max": result.sum_error if rule.keeps_sum else None,
    }
    attributions = _attributions(rows, tokens, estimate, advantages, special)
    return Attribution(attributions, _token_advantages(rows, advantages), interactions.sort(INTERACTIONS.key), metrics)


def _rows(rollouts: pl.DataFrame, segments: pl.DataFrame, iteration: int) -> Rows:
    rollouts = rollouts.sort("rollout_id")
    ids = rollouts["rollout_id"]
    unknown = segments.filter(~pl.col("rollout_id").is_in(ids.implode()))
    if unknown.height:
        raise CreditError(
            f"segments, rollout {unknown['rollout_id'][0]}", "no such rollout", remedy=f"run `ospo segment --iter {iteration}` again"
        )
    numbered = pl.DataFrame({"rollout_id": ids, "row": pl.Series(np.arange(len(ids)), dtype=pl.Int64)})
    ordered = segments.join(numbered, on="rollout_id", how="left").sort("row", "segment_index")
    segment_row = ordered["row"].to_numpy().astype(np.int64)
    count = np.bincount(segment_row, minlength=len(ids)).astype(np.int64)
    expected = np.arange(len(segment_row)) - np.repeat(np.cumsum(count) - count, count)
    wrong = np.flatnonzero(ordered["segment_index"].to_numpy() != expected)
    if len(wrong):
        raise CreditError(f"segments, rollout {ordered['rollout_id'][int(wrong[0])]}", "segment_index does not run from 0 without gaps")
    return Rows(
        rollout_ids=ids.to_list(),
        completions=rollouts["completion"].to_list(),
        token_ids=rollouts["token_ids"].to_list(),
        group=(rollouts["prompt_id"].rank("dense").cast(pl.Int64) - 1).to_numpy(),
        segments=count,
        segment_row=segment_row,
        segment_start=ordered["start"].to_numpy().astype(np.int64),
        segment_end=ordered["end"].to_numpy().astype(np.int64),
        segment_union=ordered["union_index"].to_numpy().astype(np.int64),
    )


def _aligned(rewards: pl.DataFrame, rollout_ids: list[str], name: str, iteration: int) -> pl.DataFrame:
    """Return one row per rollout, in their order."""
    rewards = rewards.sort("rollout_id")
    if rewards["rollout_id"].to_list() != rollout_ids:
        odd = sorted(set(rewards["rollout_id"]) ^ set(rollout_ids))
        remedy = f"run `ospo score-coalitions --iter {iteration}` again"
        raise CreditError(
            f"table {name}",
            "holds other rollouts than rollouts.parquet",
            found=f"{odd[0]} in one of them",
            expected="the same",
            remedy=remedy,
        )
    return rewards


def _degenerate(advantage: GroupAdvantages, declared: NDArray[np.bool_], rows: Rows, value: Values) -> NDArray[np.bool_]:
    """Take the declared flag (no coalitions were evaluated there) and whatever else has no differences; refuse a flag that is false."""
    n_groups = int(rows.group.max(initial=-1)) + 1
    low, high = np.full(n_groups, np.inf), np.full(n_groups, -np.inf)
    np.minimum.at(low, rows.group, value)
    np.maximum.at(high, rows.group, value)
    wrong = np.flatnonzero(declared & ((high - low)[rows.group] > REWARD_TOLERANCE))
    if len(wrong):
        raise CreditError(
            f"rewards, rollout {rows.rollout_ids[int(wrong[0])]}", "is_degenerate_group is true, but the rollout group's rewards differ"
        )
    return np.asarray(declared | advantage.is_degenerate)


def _estimate(
    rows: Rows,
    is_degenerate: NDArray[np.bool_],
    coalition_values: pl.DataFrame,
    format_part: Values,
    estimator: Estimator,
    needs_prefix: bool,
    params: Params,
    iteration: int,
) -> tuple[Estimate, Values, pl.DataFrame]:
    """Return the estimate, v(N) by row (NaN for degenerate groups and empty answers), and table interactions."""
    n_rows, n_segments = len(rows.rollout_ids), len(rows.segment_row)
    estimate = Estimate(
        share=np.zeros(n_segments),
        n_contributions=np.zeros(n_segments, dtype=np.int64),
        standard_error=np.full(n_segments, np.nan),
        prefix_advantage=np.zeros(n_segments),
        special_case=np.full(n_rows, "", dtype="<U64"),
        efficiency_gap=np.zeros(n_rows),
    )
    grand = np.full(n_rows, np.nan)
    budget = Budget(**params.score_coalitions.coalition_budget)
    active = np.flatnonzero(~is_degenerate & (rows.segments > 0))
    numbered = pl.DataFrame(
        {"rollout_id": [rows.rollout_ids[row] for row in active], "row": active, "n": rows.segments[active]},
        schema_overrides={"rollout_id": pl.String},
    )
    found = coalition_values.select("rollout_id", "coalition", "coalition_value").join(numbered, on="rollout_id", how="inner")
    by_length = found.partition_by("n", as_dict=True) if found.height else {}
    interactions: list[pl.DataFrame] = []
    adapting: list[int] = []
    for n in np.unique(rows.segments[active]).tolist():
        of_length = active[rows.segments[active] == n]
        part = by_length.get((n,), found.clear())
        _read_windows(rows, part, of_length, n, params, format_part, estimate, grand, interactions, needs_prefix, iteration)
        for players, chosen in _by_players(rows, of_length, n, estimator):
            own = part if len(chosen) == len(of_length) else part.filter(pl.col("row").is_in(chosen))
            if estimator.can_adapt(players, budget):
                adapting += chosen.tolist()
            elif estimator.is_sampled(players, budget):
                _from_samples(rows, own, chosen, players, estimator, budget, params, iteration, estimate)
            else:
                _from_table(rows, own, chosen, players, estimator, params, iteration, estimate)
    if adapting:
        _from_adaptive_orders(rows, found, np.sort(np.array(adapting)), estimator, budget, params, iteration, estimate)
    if estimator.is_efficient and (estimate.efficiency_gap > EFFICIENCY_TOLERANCE).any():
        row = int(estimate.efficiency_gap.argmax())
        raise CreditError(
            f"rollout {rows.rollout_ids[row]}",
            f"shares of {estimator.name} do not sum to v(N) - v(empty)",
            found=f"a gap of {estimate.efficiency_gap[row]:.3g}",
            expected=f"at most {EFFICIENCY_TOLERANCE:g}",
        )
    return estimate, grand, pl.concat([INTERACTIONS.empty(), *interactions])


def _read_windows(
    rows: Rows,
    part: pl.DataFrame,
    of_length: Indices,
    n: int,
    params: Params,
    format_part: Values,
    estimate: Estimate,
    grand: Values,
    interactions: list[pl.DataFrame],
    needs_prefix: bool,
    iteration: int,
) -> None:
    """Read what every estimator is given: v(N), prefixes where the rule needs them, and the windows, for the interactions."""
    width = params.score_coalitions.contiguous_width
    masks = coalitions.union_of(coalitions.contiguous(n, width, 0, coalitions.undrawn("")), coalitions.prefix(n))
    values = _dense(part, of_length, masks, len(rows.rollout_ids))
    needed = coalitions.union_of(coalitions.empty_and_grand(n), *([coalitions.prefix(n)] if needs_prefix else []))
    column = [coalitions.row_of(masks, mask) for mask in needed]
    because = "rule potential needs" if needs_prefix else "every estimator needs"
    _check_evaluated(np.isnan(values[:, column]), needed, rows, of_length, because, "families: [prefix]", iteration)
    grand[of_length] = values[:, coalitions.row_of(masks, np.ones(n, dtype=bool))]
    if needs_prefix:
        prefixes = [coalitions.row_of(masks, mask) for mask in coalitions.prefix(n)]
        place = rows.first_segment[of_length][:, None] + np.arange(n)
        estimate.prefix_advantage[place] = prefix_advantages(values[:, prefixes], format_part[of_length], params.attribute.trace)
    step = max(1, TABLE_CELLS // (n * n + len(masks)))
    for at in range(0, len(of_length), step):
        table = window_table(masks, values[at : at + step])
        dividends = np.where(np.isnan(table), 0.0, path_dividends(table))
        row, first, last = np.nonzero(np.abs(np.triu(dividends, 1)) > NEGLIGIBLE_DIVIDEND)
        interactions.append(
            pl.DataFrame(
                {
                    "rollout_id": pl.Series(rows.rollout_ids, dtype=pl.String).gather(of_length[at + row]),
                    "first_segment": pl.Series(first, dtype=pl.Int32),
                    "last_segment": pl.Series(last, dtype=pl.Int32),
                    "dividend": pl.Series(dividends[row, first, last], dtype=pl.Float64),
                }
            )
        )


def _by_players(rows: Rows, of_length: Indices, n: int, estimator: Estimator) -> list[tuple[Players, Indices]]:
    """Return the rows of n segments by what the estimator knows of their players: unions, where it does."""
    if not estimator.has_unions:
        return [(Players(n), of_length)]
    unions = rows.segment_union[rows.first_segment[of_length][:, None] + np.arange(n)]
    distinct, which = np.unique(unions, axis=0, return_inverse=True)
    return [(Players(n, tuple(own.tolist())), of_length[which.reshape(-1) == index]) for index, own in enumerate(distinct)]


def _from_table(
    rows: Rows,
    part: pl.DataFrame,
    chosen: Indices,
    players: Players,
    estimator: Estimator,
    params: Params,
    iteration: int,
    estimate: Estimate,
) -> None:
    """Estimate from coalitions that are the same for all rows."""
    n, scored = players.n, params.score_coalitions
    masks = needed_coalitions(estimator, n, scored.contiguous_width, False, players.unions)
    values = _dense(part, chosen, masks, len(rows.rollout_ids))
    missing = missing_coalitions(estimator, masks, values, scored.contiguous_width, scored.contiguous_cap, False)
    _check_evaluated(missing, masks, rows, chosen, f"estimator {estimator.name} needs", f"estimators: [{estimator.name}]", iteration)
    step = max(1, TABLE_CELLS // (n * n + len(masks)))
    for at in range(0, len(chosen), step):
        order = None
        if estimator.needs_order:
            keys = [f"random shares|{rows.rollout_ids[row]}" for row in chosen[at : at + step]]
            order = np.argsort(seeding.uniforms(params.train.seed, keys, n), axis=1)
        _keep(rows, estimate, chosen[at : at + step], estimator.shares(masks, values[at : at + step], order=order, players=players))


def _from_samples(
    rows: Rows,
    part: pl.DataFrame,
    chosen: Indices,
    players: Players,
    estimator: Estimator,
    budget: Budget,
    params: Params,
    iteration: int,
    estimate: Estimate,
) -> None:
    """Estimate from the orders or subsets that score-coalitions drew for each row, drawn again here."""
    n = players.n
    step = max(1, TABLE_CELLS // (4 * n * n * budget.orders))
    for at in range(0, len(chosen), step):
        own = chosen[at : at + step]
        draws = [seeding.streams(params.train.seed, rows.rollout_ids[row]) for row in own]
        drawn = sample(estimator, [players] * len(own), budget, draws)
        values = _listed(part, own, drawn.coalitions)
        remedy = f"estimators: [{estimator.name}]"
        for line in np.flatnonzero(np.isnan(values).any(axis=1))[:1]:
            missing, needs = np.isnan(values[line : line + 1]), f"estimator {estimator.name} needs"
            _check_evaluated(missing, drawn.coalitions[line], rows, own[line : line + 1], needs, remedy, iteration)
        windows = _dense(part.filter(pl.col("row").is_in(own)), own, drawn.windows, len(rows.rollout_ids))
        if len(drawn.windows):
            missing = missing_coalitions(ESTIMATORS["myerson"], drawn.windows, windows, budget.width, budget.cap, False)
            _check_evaluated(missing, drawn.windows, rows, own, f"estimator {estimator.name} needs", remedy, iteration)
        _keep(rows, estimate, own, sampled_shares(drawn, values, windows))


def _from_adaptive_orders(
    rows: Rows,
    found: pl.DataFrame,
    chosen: Indices,
    estimator: Estimator,
    budget: Budget,
    params: Params,
    iteration: int,
    estimate: Estimate,
) -> None:
    """Follow the adaptive sampling of each rollout group through the values that it led to."""
    values_of: dict[int, dict[str, float]] = {}
    for row, mask, value in found.filter(pl.col("row").is_in(chosen)).select("row", "coalition", "coalition_value").iter_rows():
        values_of.setdefault(row, {})[mask] = value
    for group in np.unique(rows.group[chosen]):
        own = chosen[rows.group[chosen] == group]
        players = [
            Players(int(n), tuple(rows.segment_union[first : first + n].tolist()))
            for first, n in zip(rows.first_segment[own], rows.segments[own], strict=True)
        ]
        sampler = AdaptiveGroup(estimator, players, budget, [seeding.streams(params.train.seed, rows.rollout_ids[row]) for row in own])
        while asked := sampler.request():
            values = []
            for index, masks in asked:
                known = values_of.get(int(own[index]), {})
                read = np.array([known.get(mask, np.nan) for mask in coalitions.to_mask_strings(masks)])
                needs, remedy = f"estimator {estimator.name} under an adaptive budget needs", f"estimators: [{estimator.name}]"
                _check_evaluated(np.isnan(read)[None], masks, rows, own[index : index + 1], needs, remedy, iteration)
                values.append(read)
            sampler.receive(values)
        for row, shares in zip(own, sampler.shares(), strict=True):
            _keep(rows, estimate, np.array([row]), shares)


def _keep(rows: Rows, estimate: Estimate, chosen: Indices, shares: Shares) -> None:
    place = rows.first_segment[chosen][:, None] + np.arange(shares.share.shape[-1])
    estimate.share[place] = shares.share
    estimate.n_contributions[place] = shares.n_contributions
    if shares.standard_error is not None:
        estimate.standard_error[place] = shares.standard_error
    estimate.special_case[chosen] = shares.special_case
    estimate.efficiency_gap[chosen] = shares.efficiency_gap


def _dense(found: pl.DataFrame, of_length: Indices, masks: Masks, n_rows: int) -> Values:
    """Return [rows of this length, coalitions] values, NaN where the table has none."""
    names = pl.Series(coalitions.to_mask_strings(masks), dtype=pl.String)
    columns = pl.DataFrame({"coalition": names, "column": np.arange(len(masks))})
    joined = found.join(columns, on="coalition", how="inner")
    line = np.full(n_rows, -1, dtype=np.int64)
    line[of_length] = np.arange(len(of_length))
    values = np.full((len(of_length), len(masks)), np.nan)
    values[line[joined["row"].to_numpy()], joined["column"].to_numpy()] = joined["coalition_value"].to_numpy()
    return values


def _listed(found: pl.DataFrame, chosen: Indices, masks: Masks) -> Values:
    """Return [rows, k] values of each row's own coalitions bool[rows, k, n], NaN where the table has none."""
    rows, k, n = masks.shape
    letters = np.ascontiguousarray(masks.reshape(rows * k, n)).astype(np.uint8) + 48
    ends = np.arange(rows * k + 1, dtype=np.int64) * n
    names = pa.LargeStringArray.from_buffers(rows * k, pa.py_buffer(ends), pa.py_buffer(letters))
    wanted = pl.DataFrame({"row": np.repeat(chosen, k), "coalition": pl.from_arrow(names)})
    joined = wanted.join(found.select("row", "coalition", "coalition_value"), on=("row", "coalition"), how="left", maintain_order="left")
    return joined["coalition_value"].fill_null(np.nan).to_numpy().reshape(rows, k)


def _check_evaluated(
    missing: NDArray[np.bool_], masks: Masks, rows: Rows, chosen: Indices, needs: str, remedy: str, iteration: int
) -> None:
    """Raise the error that names the first rollout with a missing value: bool[rows, coalitions]."""
    if not missing.any():
        return
    row = int(np.flatnonzero(missing.any(axis=1))[0])
    absent = np.flatnonzero(missing[row])
    more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
    raise CreditError(
        f"rollout {rows.rollout_ids[chosen[row]]}",
        f"coalitions that {needs} were not evaluated",
        found=f"no value of {coalitions.to_mask_string(masks[absent[0]])}{more}",
        expected=f"score_coalitions.{remedy}",
        remedy=f"set that in params.yaml and run `ospo score-coalitions --iter {iteration}`",
    )


def _token_map(rows: Rows, pieces: Pieces) -> TokenMap:
    spans = []
    for rollout_id, token_ids, completion in zip(rows.rollout_ids, rows.token_ids, rows.completions, strict=True):
        try:
            spans.append(token_spans(pieces(token_ids), completion))
        except CreditError as error:
            raise CreditError(
                f"rollout {rollout_id}, {error.where}", error.problem, found=error.found, expected=error.expected, remedy=error.remedy
            ) from None
    try:
        overlap = overlaps(rows.completions, spans, rows.segment_row, rows.segment_start, rows.segment_end)
    except CreditError as error:
        row = int(error.where.split()[-1])
        raise CreditError(f"segments, rollout {rows.rollout_ids[row]}", error.problem, found=error.found, remedy="segment again") from None
    count = [len(token_ids) for token_ids in rows.token_ids]
    token_row = np.repeat(np.arange(len(count)), count)
    return TokenMap(token_row, rows.segment_row, overlap.token, overlap.segment, overlap.weight, len(count))


def _noise(rows: Rows, tokens: TokenMap, seed: int) -> Values:
    """Return [segments] uniform numbers that depend on the seed, the rollout and the segment's place alone."""
    keys = [f"random rule|{rollout_id}" for rollout_id in rows.rollout_ids]
    return np.asarray(seeding.uniforms(seed, keys, int(rows.segments.max(initial=0)))[rows.segment_row, tokens.position])


def _answer_token(rows: Rows, rollouts: pl.DataFrame, pieces: Pieces) -> Indices:
    """Return [rows] how many tokens stand before the answer's first character."""
    starts = rollouts.sort("rollout_id")["answer_start"].to_list()
    before = np.zeros(len(starts), dtype=np.int64)
    for row, (token_ids, completion, start) in enumerate(zip(rows.token_ids, rows.completions, starts, strict=True)):
        before[row] = np.count_nonzero(token_spans(pieces(token_ids), completion)[:, 1] <= start)
    return before


def _joined(first: NDArray[np.str_], second: NDArray[np.str_]) -> NDArray[np.str_]:
    """Return the named cases of estimator and rule, joined by + where both apply."""
    both = (first != "") & (second != "")
    return np.where(both, np.char.add(np.char.add(first, "+"), second), np.where(first != "", first, second))


def _attributions(rows: Rows, tokens: TokenMap, estimate: Estimate, advantages: Values, special: NDArray[np.str_]) -> pl.DataFrame:
    has_error = ~np.isnan(estimate.standard_error)
    return pl.DataFrame(
        {
            "rollout_id": pl.Series(rows.rollout_ids, dtype=pl.String).gather(rows.segment_row),
            "segment_index": pl.Series(tokens.position, dtype=pl.Int32),
            "share": pl.Series(estimate.share, dtype=pl.Float64),
            "n_contributions": pl.Series(estimate.n_contributions, dtype=pl.Int32),
            "standard_error": pl.select(pl.when(pl.Series(has_error)).then(pl.Series(estimate.standard_error))).to_series(),
            "special_case": pl.Series(special.tolist(), dtype=pl.String).gather(rows.segment_row),
            "segment_advantage": pl.Series(tokens.to_segments(advantages), dtype=pl.Float64),
        },
        schema=ATTRIBUTIONS.schema,
    )


def _token_advantages(rows: Rows, advantages: Values) -> pl.DataFrame:
    ends = np.cumsum([0, *(len(token_ids) for token_ids in rows.token_ids)])
    lists = pa.LargeListArray.from_arrays(pa.array(ends, type=pa.int64()), pa.array(advantages.astype(np.float32)))
    return pl.DataFrame(
        {"rollout_id": pl.Series(rows.rollout_ids, dtype=pl.String), "advantages": pl.from_arrow(lists)}, schema=TOKEN_ADVANTAGES.schema
    )


def _metrics(
    rows: Rows,
    tokens: TokenMap,
    estimate: Estimate,
    advantages: Values,
    special: NDArray[np.str_],
    is_degenerate: NDArray[np.bool_],
    estimator: Estimator,
    rule: str,
) -> dict[str, Any]:
    names, numbers = np.unique(special[special != ""], return_counts=True)
    counted = ~is_degenerate[tokens.token_row]
    inside, square = tokens.inside[counted], advantages[counted] ** 2
    active = ~is_degenerate & (rows.segments > 0)
    return {
        "estimator": estimator.name,
        "rule": rule,
        "rollouts": len(rows.rollout_ids),
        "rollout_groups": len(np.unique(rows.group)),
        "degenerate_groups": len(np.unique(rows.group[is_degenerate])),
        "special_cases": dict(zip(names.tolist(), numbers.tolist(), strict=True)),
        "segments_per_answer": float(rows.segments.mean()) if len(rows.segments) else 0.0,
        "tokens_inside_share": float(tokens.inside.mean()) if len(tokens.inside) else 0.0,
        "efficiency_gap_max": float(estimate.efficiency_gap.max(initial=0.0)),
        "efficiency_gap_mean": float(estimate.efficiency_gap[active].mean()) if active.any() else 0.0,
        "negative_share": float((estimate.share < -NEGLIGIBLE).mean()) if len(estimate.share) else 0.0,
        "advantage_rms_inside": float(np.sqrt((inside * square).sum() / max(inside.sum(), NEGLIGIBLE))),
        "advantage_rms_outside": float(np.sqrt(((1 - inside) * square).sum() / max((1 - inside).sum(), NEGLIGIBLE))),
    }
