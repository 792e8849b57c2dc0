"""What each segment earned: the estimator over all rows, exact, sampled or under an adaptive budget, and the interactions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.credit.coalition_lookup import check_evaluated, dense, listed
from ospo_cli.credit.rollout_rows import Indices, Rows, Values
from ospo_cli.errors import CreditError
from ospo_cli.maths import coalitions, seeding
from ospo_cli.maths.adaptive import AdaptiveGroup
from ospo_cli.maths.coalitions import Budget, Players
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
from ospo_cli.maths.shaping import prefix_advantages
from ospo_cli.params.whole import Params
from ospo_cli.tables.attribute import INTERACTIONS

EFFICIENCY_TOLERANCE = 1e-7
# Values are sums of a few numbers of order 1: a smaller dividend is rounding.
NEGLIGIBLE_DIVIDEND = 1e-9
# Rows of one length whose window tables are in memory at once: about 100 MB at most.
TABLE_CELLS = 8_000_000


@dataclass(frozen=True)
class Estimate:
    """Per segment: share, contributions, standard error (NaN: none), prefix advantage; per row: special case, efficiency gap."""

    share: Values
    n_contributions: Indices
    standard_error: Values
    prefix_advantage: Values
    special_case: NDArray[np.str_]
    efficiency_gap: Values


def estimate_shares(
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
    values = dense(part, of_length, masks, len(rows.rollout_ids))
    needed = coalitions.union_of(coalitions.empty_and_grand(n), *([coalitions.prefix(n)] if needs_prefix else []))
    column = [coalitions.row_of(masks, mask) for mask in needed]
    because = "rule potential needs" if needs_prefix else "every estimator needs"
    check_evaluated(np.isnan(values[:, column]), needed, rows, of_length, because, "families: [prefix]", iteration)
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
    values = dense(part, chosen, masks, len(rows.rollout_ids))
    missing = missing_coalitions(estimator, masks, values, scored.contiguous_width, scored.contiguous_cap, False)
    check_evaluated(missing, masks, rows, chosen, f"estimator {estimator.name} needs", f"estimators: [{estimator.name}]", iteration)
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
        values = listed(part, own, drawn.coalitions)
        remedy = f"estimators: [{estimator.name}]"
        for line in np.flatnonzero(np.isnan(values).any(axis=1))[:1]:
            missing, needs = np.isnan(values[line : line + 1]), f"estimator {estimator.name} needs"
            check_evaluated(missing, drawn.coalitions[line], rows, own[line : line + 1], needs, remedy, iteration)
        windows = dense(part.filter(pl.col("row").is_in(own)), own, drawn.windows, len(rows.rollout_ids))
        if len(drawn.windows):
            missing = missing_coalitions(ESTIMATORS["myerson"], drawn.windows, windows, budget.width, budget.cap, False)
            check_evaluated(missing, drawn.windows, rows, own, f"estimator {estimator.name} needs", remedy, iteration)
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
                check_evaluated(np.isnan(read)[None], masks, rows, own[index : index + 1], needs, remedy, iteration)
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
