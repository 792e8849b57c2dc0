"""From coalition values to shares of segments and advantages of tokens."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from ospo_cli.credit import examples
from ospo_cli.credit.rollout_rows import REWARD_TOLERANCE, Rows, Values, aligned_rewards, check_own, degenerate_rows, rollout_rows
from ospo_cli.credit.segment_shares import Estimate, estimate_shares
from ospo_cli.credit.token_places import Pieces, segment_noise, token_map, tokens_before_answer
from ospo_cli.errors import CreditError
from ospo_cli.layout import Layout
from ospo_cli.maths.advantages import group_advantages
from ospo_cli.maths.estimators import ESTIMATORS, Estimator
from ospo_cli.maths.redistribution import NEGLIGIBLE, Credit, Rule, Settings, TokenMap, clipped, redistribute, rule_named
from ospo_cli.own_code import rules as rule_file
from ospo_cli.params.whole import Params
from ospo_cli.policies.token_pieces import TokenPieces
from ospo_cli.tables import files, parquet
from ospo_cli.tables.attribute import ATTRIBUTIONS, INTERACTIONS, PREFERENCE_PAIRS, TARGETS, TOKEN_ADVANTAGES
from ospo_cli.tables.rollout import read_rollouts
from ospo_cli.tables.score_coalitions import COALITION_VALUES, REWARDS
from ospo_cli.tables.segment import SEGMENTS


@dataclass(frozen=True)
class Attribution:
    """The tables and what was counted."""

    attributions: pl.DataFrame
    token_advantages: pl.DataFrame
    interactions: pl.DataFrame
    metrics: dict[str, Any]


def execute(layout: Layout, params: Params, iteration: int) -> dict[str, Any]:
    """Read the iteration's tables and the behaviour policy's tokenizer; write shares and what the update may learn from."""
    started = time.perf_counter()

    def read(name: str, table: Any, command: str) -> pl.DataFrame:
        return parquet.read(layout.iteration(iteration, f"{name}.parquet"), table, made_by=f"ospo {command} --iter {iteration}")

    rollouts = read_rollouts(layout.iteration(iteration, "rollouts.parquet"), iteration)
    segments = read("segments", SEGMENTS, "segment")
    rewards = read("rewards", REWARDS, "score-coalitions")
    coalition_values = read("coalition_values", COALITION_VALUES, "score-coalitions")
    pieces = TokenPieces.from_file(layout.policy(iteration - 1) / "tokenizer.json")
    own_rules = rule_file.load(layout.root / params.attribute.rule_file) if params.attribute.rule_file else {}
    result = attribute(rollouts, segments, rewards, coalition_values, pieces.pieces, params, iteration, own_rules)
    parquet.write(result.attributions, layout.iteration(iteration, "attributions.parquet"), ATTRIBUTIONS)
    parquet.write(result.token_advantages, layout.iteration(iteration, "token_advantages.parquet"), TOKEN_ADVANTAGES)
    parquet.write(result.interactions, layout.iteration(iteration, "interactions.parquet"), INTERACTIONS)
    targets, pairs = (choose(rollouts, rewards, params.attribute) for choose in (examples.targets, examples.preference_pairs))
    parquet.write(targets, layout.iteration(iteration, "targets.parquet"), TARGETS)
    parquet.write(pairs, layout.iteration(iteration, "preference_pairs.parquet"), PREFERENCE_PAIRS)
    metrics = result.metrics | {
        "targets": targets.height,
        "preference_pairs": pairs.height,
        "seconds": round(time.perf_counter() - started, 3),
    }
    files.write_json(layout.iteration(iteration, "attribute_metrics.json"), metrics)
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
    rows = rollout_rows(rollouts, segments, iteration)
    reward = aligned_rewards(rewards, rows.rollout_ids, "rewards", iteration)
    check_own(coalition_values, rows.rollout_ids, "coalition_values", iteration)
    value = reward["reward"].to_numpy().astype(np.float64)
    format_part = params.score_coalitions.format_weight * reward["format"].to_numpy().astype(np.float64)
    advantage = group_advantages(value, rows.group, settings.normalize)
    is_degenerate = degenerate_rows(advantage, reward["is_degenerate_group"].to_numpy(), rows, value)
    credited = np.where(is_degenerate, 0.0, advantage.advantage)
    has_no_advantage = is_degenerate
    if settings.baseline == "batch":  # rule uniform alone: a rollout group of equal rewards then has an advantage, but no shares
        advantage = group_advantages(value, np.zeros_like(rows.group), settings.normalize)
        credited, has_no_advantage = advantage.advantage, advantage.is_degenerate
    estimate, grand, interactions = estimate_shares(
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
    tokens = token_map(rows, pieces)
    credit = Credit(
        advantage=credited,
        scale=advantage.scale,
        group=rows.group,
        is_degenerate=has_no_advantage,
        share=estimate.share,
        prefix_advantage=estimate.prefix_advantage if rule.needs_prefix else None,
        terminal=format_part,
        noise=segment_noise(rows, tokens, params.train.seed) if rule.needs_noise else None,
        reward=value,
        answer_token=tokens_before_answer(rows, rollouts, pieces) if rule.is_released else None,
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
