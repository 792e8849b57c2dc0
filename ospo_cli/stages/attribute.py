"""From coalition values to shares of segments and advantages of tokens."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from ospo_cli import parquet
from ospo_cli.errors import CreditError
from ospo_cli.layout import Layout
from ospo_cli.maths import coalitions, seeding
from ospo_cli.maths.advantages import GroupAdvantages, group_advantages
from ospo_cli.maths.coalitions import Masks
from ospo_cli.maths.estimators import ESTIMATORS, Estimator, missing_coalitions, needed_coalitions
from ospo_cli.maths.redistribution import NEGLIGIBLE, Credit, Settings, TokenMap, clipped, redistribute, rule_named
from ospo_cli.maths.shaping import prefix_advantages
from ospo_cli.params import Params
from ospo_cli.policies.token_pieces import TokenPieces
from ospo_cli.schemas import ATTRIBUTIONS, COALITION_VALUES, REWARDS, ROLLOUTS, SEGMENTS, TOKEN_ADVANTAGES
from ospo_cli.text.tokens_to_spans import overlaps, token_spans

Values = NDArray[np.float64]
Indices = NDArray[np.int64]
Pieces = Callable[[Sequence[int]], list[bytes]]

REWARD_TOLERANCE = 1e-6
EFFICIENCY_TOLERANCE = 1e-7
# Rows of one length whose window tables are in memory at once: about 100 MB at most.
TABLE_CELLS = 8_000_000


@dataclass(frozen=True)
class Attribution:
    """The two tables and what was counted."""

    attributions: pl.DataFrame
    token_advantages: pl.DataFrame
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
    """Read rollouts, segments, rewards, coalition values and the behaviour policy's tokenizer; write attributions and token advantages."""
    started = time.perf_counter()

    def read(name: str, table: Any, command: str) -> pl.DataFrame:
        return parquet.read(layout.iteration(iteration, f"{name}.parquet"), table, made_by=f"ospo {command} --iter {iteration}")

    rollouts = read("rollouts", ROLLOUTS, "rollout")
    segments = read("segments", SEGMENTS, "segment")
    rewards = read("rewards", REWARDS, "score-coalitions")
    coalition_values = read("coalition_values", COALITION_VALUES, "score-coalitions")
    pieces = TokenPieces.from_file(layout.policy(iteration - 1) / "tokenizer.json")
    result = attribute(rollouts, segments, rewards, coalition_values, pieces.pieces, params, iteration)
    parquet.write(result.attributions, layout.iteration(iteration, "attributions.parquet"), ATTRIBUTIONS)
    parquet.write(result.token_advantages, layout.iteration(iteration, "token_advantages.parquet"), TOKEN_ADVANTAGES)
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
) -> Attribution:
    """Return shares of all segments and advantages of all sampled tokens.

    Args:
        rollouts, segments, rewards, coalition_values: the tables of one iteration.
        pieces: token ids -> bytes of each, under the tokenizer of the policy that sampled.
        params: sections attribute, score_coalitions (what was evaluated, weight of the format part) and train (seed).
        iteration: named in remedies.

    Raises:
        CreditError: tables that do not belong together, a coalition that the estimator or the rule needs is missing, v(N) and the format
            part are not the reward, ids that do not spell their completion, sums that do not add up.
    """
    settings = params.attribute
    estimator, rule = ESTIMATORS[settings.estimator], rule_named(settings.rule, settings.matched_rule)
    rows = _rows(rollouts, segments, iteration)
    reward = _aligned(rewards, rows.rollout_ids, "rewards", iteration)
    value = reward["reward"].to_numpy().astype(np.float64)
    format_part = params.score_coalitions.format_weight * reward["format"].to_numpy().astype(np.float64)
    advantage = group_advantages(value, rows.group, settings.normalize)
    is_degenerate = _degenerate(advantage, reward["is_degenerate_group"].to_numpy(), rows, value)
    credited = np.where(is_degenerate, 0.0, advantage.advantage)
    estimate, grand = _estimate(rows, is_degenerate, coalition_values, format_part, estimator, rule.needs_prefix, params, iteration)
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
        is_degenerate=is_degenerate,
        share=estimate.share,
        prefix_advantage=estimate.prefix_advantage if rule.needs_prefix else None,
        terminal=format_part,
        noise=_noise(rows, tokens, params.train.seed) if rule.needs_noise else None,
        reward=value,
        answer_token=_answer_token(rows, rollouts, pieces) if rule.is_released else None,
    )
    names = [f"rollout {rollout_id}" for rollout_id in rows.rollout_ids]
    how = Settings(settings.beta, settings.alpha, settings.matched_rule, settings.outside, settings.credit_unit)
    result = redistribute(rule.name, tokens, credit, how, names)
    advantages, bound, clipped_share = result.advantages, None, 0.0
    counted = ~is_degenerate
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
    return Attribution(_attributions(rows, tokens, estimate, advantages, special), _token_advantages(rows, advantages), metrics)


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
) -> tuple[Estimate, Values]:
    """Return the estimate, and v(N) by row (NaN for degenerate groups and empty answers)."""
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
    first_segment = np.cumsum(rows.segments) - rows.segments
    active = np.flatnonzero(~is_degenerate & (rows.segments > 0))
    width = params.score_coalitions.contiguous_width
    lengths = np.unique(rows.segments[active])
    numbered = pl.DataFrame(
        {"rollout_id": [rows.rollout_ids[row] for row in active], "row": active, "n": rows.segments[active]},
        schema_overrides={"rollout_id": pl.String},
    )
    found = coalition_values.select("rollout_id", "coalition", "coalition_value").join(numbered, on="rollout_id", how="inner")
    by_length = found.partition_by("n", as_dict=True) if found.height else {}
    for n in lengths.tolist():
        masks = needed_coalitions(estimator, n, width, needs_prefix)
        of_length = active[rows.segments[active] == n]
        part = by_length.get((n,), found.clear())
        values = _dense(part, of_length, masks, n_rows)
        _check_evaluated(values, masks, [rows.rollout_ids[row] for row in of_length], estimator, needs_prefix, params, iteration)
        grand[of_length] = values[:, coalitions.row_of(masks, np.ones(n, dtype=bool))]
        place = first_segment[of_length][:, None] + np.arange(n)
        step = max(1, TABLE_CELLS // (n * n + len(masks)))
        estimated = needed_coalitions(estimator, n, width, False)
        column = [coalitions.row_of(masks, mask) for mask in estimated]
        for at in range(0, len(of_length), step):
            chunk = slice(at, at + step)
            order = None
            if estimator.needs_order:
                keys = [f"random shares|{rows.rollout_ids[row]}" for row in of_length[chunk]]
                order = np.argsort(seeding.uniforms(params.train.seed, keys, n), axis=1)
            shares = estimator.shares(estimated, values[chunk][:, column], order=order)
            estimate.share[place[chunk]] = shares.share
            estimate.n_contributions[place[chunk]] = shares.n_contributions
            if shares.standard_error is not None:
                estimate.standard_error[place[chunk]] = shares.standard_error
            estimate.special_case[of_length[chunk]] = shares.special_case
            estimate.efficiency_gap[of_length[chunk]] = shares.efficiency_gap
        if needs_prefix:
            prefix_column = [coalitions.row_of(masks, mask) for mask in coalitions.prefix(n)]
            estimate.prefix_advantage[place] = prefix_advantages(values[:, prefix_column], format_part[of_length], params.attribute.trace)
    if estimator.is_efficient and (estimate.efficiency_gap > EFFICIENCY_TOLERANCE).any():
        row = int(estimate.efficiency_gap.argmax())
        raise CreditError(
            f"rollout {rows.rollout_ids[row]}",
            f"shares of {estimator.name} do not sum to v(N) - v(empty)",
            found=f"a gap of {estimate.efficiency_gap[row]:.3g}",
            expected=f"at most {EFFICIENCY_TOLERANCE:g}",
        )
    return estimate, grand


def _dense(found: pl.DataFrame, of_length: Indices, masks: Masks, n_rows: int) -> Values:
    """Return [rows of this length, coalitions] values, NaN where the table has none."""
    columns = pl.DataFrame({"coalition": coalitions.to_mask_strings(masks), "column": np.arange(len(masks))})
    joined = found.join(columns, on="coalition", how="inner")
    line = np.full(n_rows, -1, dtype=np.int64)
    line[of_length] = np.arange(len(of_length))
    values = np.full((len(of_length), len(masks)), np.nan)
    values[line[joined["row"].to_numpy()], joined["column"].to_numpy()] = joined["coalition_value"].to_numpy()
    return values


def _check_evaluated(
    values: Values, masks: Masks, rollout_ids: list[str], estimator: Estimator, needs_prefix: bool, params: Params, iteration: int
) -> None:
    scored = params.score_coalitions
    missing = missing_coalitions(estimator, masks, values, scored.contiguous_width, scored.contiguous_cap, needs_prefix)
    if not missing.any():
        return
    row = int(np.flatnonzero(missing.any(axis=1))[0])
    absent = np.flatnonzero(missing[row])
    more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
    families = [*estimator.families, *(["prefix"] if needs_prefix else [])]
    raise CreditError(
        f"rollout {rollout_ids[row]}",
        f"coalitions that estimator {estimator.name}{' and rule potential' if needs_prefix else ''} need were not evaluated",
        found=f"no value of {coalitions.to_mask_string(masks[absent[0]])}{more}",
        expected=f"families {', '.join(families) or 'of any name'}",
        remedy=f"add them to score_coalitions.families and run `ospo score-coalitions --iter {iteration}`",
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
