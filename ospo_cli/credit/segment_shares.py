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
from ospo_cli.maths.coalitions import Budget, Masks, Players
from ospo_cli.maths.estimators import (
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
from ospo_cli.tables.attribute import INTERACTIONS

EFFICIENCY_TOLERANCE = 1e-7
# Values are sums of a few numbers of order 1: a smaller dividend is rounding.
NEGLIGIBLE_DIVIDEND = 1e-9
# Rows of one length whose window tables are in memory at once: about 100 MB at most.
TABLE_CELLS = 8_000_000


@dataclass(frozen=True)
class Method:
    """How shares are estimated.

    Attributes:
        estimator: of the shares.
        budget: with which the coalitions were drawn.
        needs_prefix: whether prefix advantages are wanted.
        trace: λ of the prefix advantages.
        seed: root of the draws.
        iteration: named in remedies.
    """

    estimator: Estimator
    budget: Budget
    needs_prefix: bool
    trace: float
    seed: int
    iteration: int


@dataclass(frozen=True)
class Estimate:
    """Per segment: share, contributions, standard error (NaN: none), prefix advantage; per row: special case, efficiency gap, v(N).

    v(N) is NaN in degenerate groups and for empty answers.
    """

    share: Values
    n_contributions: Indices
    standard_error: Values
    prefix_advantage: Values
    special_case: NDArray[np.str_]
    efficiency_gap: Values
    grand: Values


def estimate_shares(
    rows: Rows, is_degenerate: NDArray[np.bool_], coalition_values: pl.DataFrame, format_part: Values, method: Method
) -> tuple[Estimate, pl.DataFrame]:
    """Return the estimate, 0 in degenerate groups, and table interactions.

    Args:
        rows: all rollouts.
        is_degenerate: [rows] no coalition was evaluated there.
        coalition_values: table.
        format_part: [rows] what the reward holds beyond v(N).
        method: estimator and budget.

    Raises:
        CreditError: a coalition that is needed was not evaluated, or an efficient estimator's shares do not sum to v(N) - v(empty).
    """
    n_rows, n_segments = len(rows.rollout_ids), len(rows.segment_row)
    estimate = Estimate(
        share=np.zeros(n_segments),
        n_contributions=np.zeros(n_segments, dtype=np.int64),
        standard_error=np.full(n_segments, np.nan),
        prefix_advantage=np.zeros(n_segments),
        special_case=np.full(n_rows, "", dtype="<U64"),
        efficiency_gap=np.zeros(n_rows),
        grand=np.full(n_rows, np.nan),
    )
    active = np.flatnonzero(~is_degenerate & (rows.segments > 0))
    numbered = pl.DataFrame(
        {"rollout_id": [rows.rollout_ids[row] for row in active], "row": active, "n": rows.segments[active]},
        schema_overrides={"rollout_id": pl.String},
    )
    found = coalition_values.select("rollout_id", "coalition", "coalition_value").join(numbered, on="rollout_id", how="inner")
    by_length = found.partition_by("n", as_dict=True) if found.height else {}
    interactions: list[pl.DataFrame] = [INTERACTIONS.empty()]
    adapting: list[int] = []
    for n in np.unique(rows.segments[active]).tolist():
        of_length = active[rows.segments[active] == n]
        part = by_length.get((n,), found.clear())
        interactions += _read_windows(rows, part, of_length, format_part, method, estimate)
        for players, chosen in _by_players(rows, of_length, n, method.estimator):
            own = part if len(chosen) == len(of_length) else part.filter(pl.col("row").is_in(chosen))
            if method.estimator.can_adapt(players, method.budget):
                adapting += chosen.tolist()
            elif method.estimator.is_sampled(players, method.budget):
                _from_samples(rows, own, chosen, players, method, estimate)
            else:
                _from_table(rows, own, chosen, players, method, estimate)
    if adapting:
        _from_adaptive_orders(rows, found, np.sort(np.array(adapting)), method, estimate)
    _check_sums(rows, method.estimator, estimate)
    return estimate, pl.concat(interactions)


def _check_sums(rows: Rows, estimator: Estimator, estimate: Estimate) -> None:
    if estimator.is_efficient and (estimate.efficiency_gap > EFFICIENCY_TOLERANCE).any():
        row = int(estimate.efficiency_gap.argmax())
        raise CreditError(
            f"rollout {rows.rollout_ids[row]}",
            f"shares of {estimator.name} do not sum to v(N) - v(empty)",
            found=f"a gap of {estimate.efficiency_gap[row]:.3g}",
            expected=f"at most {EFFICIENCY_TOLERANCE:g}",
        )


def _read_windows(
    rows: Rows, part: pl.DataFrame, of_length: Indices, format_part: Values, method: Method, estimate: Estimate
) -> list[pl.DataFrame]:
    """Read what every estimator is given: v(N), prefixes where they are wanted, and the windows; return the interactions."""
    n = int(rows.segments[of_length[0]])
    prefix = coalitions.prefix(n)
    masks = coalitions.union_of(coalitions.contiguous(n, method.budget.width, 0, coalitions.undrawn("")), prefix)
    values = dense(part, of_length, masks, len(rows.rollout_ids))
    needed = coalitions.union_of(coalitions.empty_and_grand(n), *([prefix] if method.needs_prefix else []))
    column = [coalitions.row_of(masks, mask) for mask in needed]
    because = "rule potential needs" if method.needs_prefix else "every estimator needs"
    check_evaluated(np.isnan(values[:, column]), needed, rows, of_length, because, "families: [prefix]", method.iteration)
    estimate.grand[of_length] = values[:, coalitions.row_of(masks, np.ones(n, dtype=bool))]
    if method.needs_prefix:
        ladder = values[:, [coalitions.row_of(masks, mask) for mask in prefix]]
        estimate.prefix_advantage[_places(rows, of_length, n)] = prefix_advantages(ladder, format_part[of_length], method.trace)
    step = max(1, TABLE_CELLS // (n * n + len(masks)))
    return [
        _dividends(rows, of_length[at : at + step], window_table(masks, values[at : at + step])) for at in range(0, len(of_length), step)
    ]


def _dividends(rows: Rows, chosen: Indices, table: Values) -> pl.DataFrame:
    dividends = np.where(np.isnan(table), 0.0, path_dividends(table))
    row, first, last = np.nonzero(np.abs(np.triu(dividends, 1)) > NEGLIGIBLE_DIVIDEND)
    return pl.DataFrame(
        {
            "rollout_id": pl.Series(rows.rollout_ids, dtype=pl.String).gather(chosen[row]),
            "first_segment": pl.Series(first, dtype=pl.Int32),
            "last_segment": pl.Series(last, dtype=pl.Int32),
            "dividend": pl.Series(dividends[row, first, last], dtype=pl.Float64),
        }
    )


def _by_players(rows: Rows, of_length: Indices, n: int, estimator: Estimator) -> list[tuple[Players, Indices]]:
    """Return the rows of n segments by what the estimator knows of their players: unions, where it does."""
    if not estimator.has_unions:
        return [(Players(n), of_length)]
    unions = rows.segment_union[_places(rows, of_length, n)]
    distinct, which = np.unique(unions, axis=0, return_inverse=True)
    return [(Players(n, tuple(own.tolist())), of_length[which.reshape(-1) == index]) for index, own in enumerate(distinct)]


def _from_table(rows: Rows, part: pl.DataFrame, chosen: Indices, players: Players, method: Method, estimate: Estimate) -> None:
    """Estimate from coalitions that are the same for all rows."""
    n, estimator = players.n, method.estimator
    masks = needed_coalitions(estimator, n, method.budget.width, players.unions)
    values = dense(part, chosen, masks, len(rows.rollout_ids))
    _check_read(missing_coalitions(estimator, masks, values, method.budget), masks, rows, chosen, method)
    step = max(1, TABLE_CELLS // (n * n + len(masks)))
    for at in range(0, len(chosen), step):
        order = None
        if estimator.needs_order:
            keys = [f"random shares|{rows.rollout_ids[row]}" for row in chosen[at : at + step]]
            order = np.argsort(seeding.uniforms(method.seed, keys, n), axis=1)
        _keep(rows, estimate, chosen[at : at + step], estimator.shares(masks, values[at : at + step], order=order, players=players))


def _from_samples(rows: Rows, part: pl.DataFrame, chosen: Indices, players: Players, method: Method, estimate: Estimate) -> None:
    """Estimate from the orders or subsets that score-coalitions drew for each row, drawn again here."""
    n, budget = players.n, method.budget
    step = max(1, TABLE_CELLS // (4 * n * n * budget.orders))
    for at in range(0, len(chosen), step):
        own = chosen[at : at + step]
        drawn = sample(method.estimator, [players] * len(own), budget, _draws(rows, own, method))
        values = listed(part, own, drawn.coalitions)
        for line in np.flatnonzero(np.isnan(values).any(axis=1))[:1]:
            _check_read(np.isnan(values[[line]]), drawn.coalitions[line], rows, own[[line]], method)
        _keep(rows, estimate, own, sampled_shares(drawn, values))


def _from_adaptive_orders(rows: Rows, found: pl.DataFrame, chosen: Indices, method: Method, estimate: Estimate) -> None:
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
        sampler = AdaptiveGroup(method.estimator, players, method.budget, _draws(rows, own, method))
        while asked := sampler.request():
            values = []
            for index, masks in asked:
                known = values_of.get(int(own[index]), {})
                read = np.array([known.get(mask, np.nan) for mask in coalitions.to_mask_strings(masks)])
                _check_read(np.isnan(read)[None], masks, rows, own[[index]], method, " under an adaptive budget")
                values.append(read)
            sampler.receive(values)
        for row, shares in zip(own, sampler.shares(), strict=True):
            _keep(rows, estimate, np.array([row]), shares)


def _check_read(missing: NDArray[np.bool_], masks: Masks, rows: Rows, chosen: Indices, method: Method, how: str = "") -> None:
    name = method.estimator.name
    check_evaluated(missing, masks, rows, chosen, f"estimator {name}{how} needs", f"estimators: [{name}]", method.iteration)


def _draws(rows: Rows, chosen: Indices, method: Method) -> list[coalitions.Draw]:
    return [seeding.streams(method.seed, rows.rollout_ids[row]) for row in chosen]


def _places(rows: Rows, chosen: Indices, n: int) -> Indices:
    """Return [rows, n] flat index of the segments of rows that have n of them."""
    return np.asarray(rows.first_segment[chosen][:, None] + np.arange(n))


def _keep(rows: Rows, estimate: Estimate, chosen: Indices, shares: Shares) -> None:
    place = _places(rows, chosen, shares.share.shape[-1])
    estimate.share[place] = shares.share
    estimate.n_contributions[place] = shares.n_contributions
    if shares.standard_error is not None:
        estimate.standard_error[place] = shares.standard_error
    estimate.special_case[chosen] = shares.special_case
    estimate.efficiency_gap[chosen] = shares.efficiency_gap
