"""From coalition values to shares of segments and advantages of tokens."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from ospo_cli.credit import examples
from ospo_cli.credit.group_game import GameMethod, estimate_group_game
from ospo_cli.credit.rollout_rows import REWARD_TOLERANCE, Compared, Rows, Values, check_own, compared_rewards, rollout_rows
from ospo_cli.credit.segment_shares import Estimate, Method, estimate_shares
from ospo_cli.credit.token_places import Pieces, segment_noise, token_map
from ospo_cli.errors import CreditError
from ospo_cli.layout import Layout
from ospo_cli.maths.coalitions import Budget
from ospo_cli.maths.estimators import ESTIMATORS
from ospo_cli.maths.group_credit import GroupCredit, token_advantages
from ospo_cli.maths.group_game import GROUP_GAMES, shown_estimator
from ospo_cli.maths.redistribution import (
    NEGLIGIBLE,
    NO_RULE,
    Credit,
    Rule,
    Settings,
    TokenAdvantages,
    check_tokens,
    clipped,
    redistribute,
    rule_named,
)
from ospo_cli.maths.token_map import TokenMap
from ospo_cli.own_code import rules as rule_file
from ospo_cli.params.attribute import Attribute
from ospo_cli.params.score_coalitions import ScoreCoalitions
from ospo_cli.params.train import Train
from ospo_cli.policies.token_pieces import TokenPieces
from ospo_cli.tables import files, placed
from ospo_cli.tables.attribute import ATTRIBUTIONS, INTERACTIONS, PREFERENCE_PAIRS, TARGETS, TOKEN_ADVANTAGES
from ospo_cli.tables.rollout import read_rollouts
from ospo_cli.tables.score_coalitions import COALITION_VALUES, RECOMBINED, REWARDS, SPLICED_VALUES
from ospo_cli.tables.segment import SEGMENTS, check_worded


class Reads(Protocol):
    """The sections that the stage reads: the seed, what was evaluated and how the format part is weighed, and its own."""

    @property
    def train(self) -> Train: ...

    @property
    def score_coalitions(self) -> ScoreCoalitions: ...

    @property
    def attribute(self) -> Attribute: ...


@dataclass(frozen=True)
class Scored:
    """What is read: tables of one iteration; spliced_values where the estimator is a group game."""

    rollouts: pl.DataFrame
    segments: pl.DataFrame
    rewards: pl.DataFrame
    coalition_values: pl.DataFrame
    spliced_values: pl.DataFrame = field(default_factory=SPLICED_VALUES.empty)


@dataclass(frozen=True)
class Attribution:
    """The tables that credit is in, and what was counted."""

    attributions: pl.DataFrame
    interactions: pl.DataFrame
    token_advantages: pl.DataFrame
    metrics: dict[str, Any]


def execute(layout: Layout, params: Reads, iteration: int) -> dict[str, Any]:
    """Read the iteration's tables and the behaviour policy's tokenizer; write shares and what the update may learn from."""
    started = time.perf_counter()
    tables = (SEGMENTS, REWARDS, COALITION_VALUES, *([SPLICED_VALUES] if params.attribute.estimator in GROUP_GAMES else []))
    scored = Scored(read_rollouts(layout, iteration), *(placed.read(table, layout, iteration) for table in tables))
    pieces = TokenPieces.from_file(layout.policy(iteration - 1) / "tokenizer.json")
    own_rules = rule_file.load(params.attribute.rule_file, layout.root)
    result = attribute(scored, pieces.pieces, params, iteration, own_rules)
    # For people: report, inspect, audit.
    placed.write(result.attributions, ATTRIBUTIONS, layout, iteration)
    placed.write(result.interactions, INTERACTIONS, layout, iteration)
    # For update (objective policy-gradient), and through `ospo export` for other trainers.
    placed.write(result.token_advantages, TOKEN_ADVANTAGES, layout, iteration)
    # For update (objectives sft and dpo, imitation): from rewards alone, no credit is in it.
    made = RECOMBINED.empty()
    if examples.asks_for_made(params.attribute, params.score_coalitions.recombine, iteration):
        made = placed.read(RECOMBINED, layout, iteration)
        examples.check_made(scored.rewards, made, params.score_coalitions.format_weight, iteration)
    chosen = (scored.rollouts, scored.rewards, params.attribute, made)
    targets, pairs = examples.targets(*chosen), examples.preference_pairs(*chosen)
    placed.write(targets, TARGETS, layout, iteration)
    placed.write(pairs, PREFERENCE_PAIRS, layout, iteration)
    metrics = result.metrics | {
        "targets": targets.height,
        "preference_pairs": pairs.height,
        "seconds": round(time.perf_counter() - started, 3),
    }
    files.write_json(layout.iteration(iteration, "attribute_metrics.json"), metrics)
    return metrics


def attribute(
    scored: Scored, pieces: Pieces, params: Reads, iteration: int = 1, own_rules: Mapping[str, Rule] | None = None
) -> Attribution:
    """Return shares of all segments, advantages of all sampled tokens, and what neighbouring segments earn only together.

    Args:
        scored: the tables of one iteration.
        pieces: token ids -> bytes of each, under the tokenizer of the policy that sampled.
        params: sections attribute, score_coalitions (what was evaluated, weight of the format part) and train (seed).
        iteration: named in remedies.
        own_rules: a user's, by name; attribute.rule may name one.

    Raises:
        CreditError: tables that do not belong together, a coalition that the estimator or the rule needs is missing, v(N) and the format
            part are not the reward, ids that do not spell their completion, sums that do not add up.
    """
    settings, scoring = params.attribute, params.score_coalitions
    game, is_reward = GROUP_GAMES.get(settings.estimator), scoring.grand_value == "reward"
    rule = _rule(settings, own_rules, scoring.grand_value)
    rows = rollout_rows(scored.rollouts, scored.segments, iteration)
    if is_reward:
        check_worded(scored.rollouts, scored.segments, iteration)
    check_own(scored.coalition_values, rows.rollout_ids, "coalition_values", iteration)
    compared = compared_rewards(rows, scored.rewards, scoring.format_weight, settings, iteration)
    # Beside a group game shares are for people alone; without any it reads no coalition but the grand one, which every answer has.
    shown, earned = shown_estimator(settings.estimator, scoring.estimators), None
    estimator = ESTIMATORS[shown or "uniform"]
    needs_prefix = rule is not None and rule.needs_prefix
    method = Method(estimator, Budget(**scoring.coalition_budget), needs_prefix, settings.trace, params.train.seed, iteration)
    estimate, interactions = estimate_shares(rows, compared.is_degenerate, scored.coalition_values, compared.format_part, method)
    counted = _grand_errors(rows, estimate.grand, compared, is_reward, iteration)
    tokens = token_map(rows, pieces)
    credit = _credit(rows, tokens, compared, estimate, rule, params.train.seed)
    names = [f"rollout {rollout_id}" for rollout_id in rows.rollout_ids]
    if game is not None:
        played = GameMethod(game, settings.splice_trace, game.name in scoring.estimators, is_reward, iteration)
        estimate, earned = estimate_group_game(rows, compared, (scored.spliced_values, scored.coalition_values), played, estimate)
        if shown is None:
            estimate = replace(
                estimate, share=np.full_like(estimate.share, np.nan), n_contributions=np.zeros_like(estimate.n_contributions)
            )
        check_tokens(tokens, names)
        result = TokenAdvantages(token_advantages(tokens, earned, credit.scale, credit.is_degenerate), estimate.special_case, float("nan"))
    else:
        assert rule is not None
        how = Settings(settings.beta, settings.alpha, settings.matched_rule, settings.outside, settings.credit_unit)
        result = redistribute(rule, tokens, credit, how, names)
        result = replace(result, special_case=_joined(estimate.special_case, result.special_case))
    advantages, clipping = _within_bounds(result.advantages, credit, settings.clip)
    sum_error = result.sum_error if rule is not None and rule.keeps_sum else None
    metrics = {
        **{"estimator": settings.estimator, "rule": settings.rule, "sum_error_max": sum_error},
        **({"splice_trace": settings.splice_trace} if game is not None and game.has_trace else {}),
        **counted,
        **clipping,
        **_counts(rows, result.special_case, compared.is_degenerate),
        **_sizes(rows, tokens, estimate, advantages, compared.is_degenerate),
    }
    attributions = _attributions(rows, tokens, replace(estimate, special_case=result.special_case), advantages, earned)
    return Attribution(attributions, interactions.sort(INTERACTIONS.key), _token_advantages(rows, advantages), metrics)


def _credit(rows: Rows, tokens: TokenMap, compared: Compared, estimate: Estimate, rule: Rule | None, seed: int) -> Credit:
    return Credit(
        advantage=compared.advantage.advantage,
        scale=compared.advantage.scale,
        group=rows.group,
        is_degenerate=compared.advantage.is_degenerate,
        share=estimate.share,
        prefix_advantage=estimate.prefix_advantage if rule is not None and rule.needs_prefix else None,
        terminal=compared.format_part,
        noise=segment_noise(rows, tokens, seed) if rule is not None and rule.needs_noise else None,
        reward=compared.reward,
    )


def _rule(settings: Attribute, own_rules: Mapping[str, Rule] | None, grand_value: str) -> Rule | None:
    # None for a group game, which gives token advantages itself.
    if settings.estimator in GROUP_GAMES:
        if settings.rule != NO_RULE:
            what = f"estimator {settings.estimator} gives token advantages itself"
            raise CreditError("attribute.rule", what, found=settings.rule, expected=NO_RULE)
        return None
    rule = rule_named(settings.rule, settings.matched_rule, own_rules)
    if rule.needs_prefix and grand_value != "reward":
        raise CreditError(
            "attribute.rule",
            f"{settings.rule} measures what the reward holds beyond all segments, and needs these to be worth the reward",
            found=f"score_coalitions.grand_value: {grand_value}",
            expected="reward",
        )
    return rule


def _grand_errors(rows: Rows, grand: Values, compared: Compared, is_checked: bool, iteration: int) -> dict[str, Any]:
    """Return how far v(N) and the format part are from the reward; refuse a row where they are not it, where that is checked."""
    error = np.where(np.isnan(grand), 0.0, np.abs(grand + compared.format_part - compared.reward))
    differs = error > REWARD_TOLERANCE
    if differs.any() and is_checked:
        row = int(error.argmax())
        raise CreditError(
            f"rollout {rows.rollout_ids[row]}",
            "value of the whole answer and weighted format part are not the reward",
            found=f"{grand[row]:.9g} + {compared.format_part[row]:.9g}",
            expected=f"{compared.reward[row]:.9g}",
            remedy=f"run `ospo score-coalitions --iter {iteration}` with the present parameters",
        )
    return {"reward_error_max": float(error.max(initial=0.0)), "grand_value_differs": int(differs.sum())}


def _within_bounds(advantages: Values, credit: Credit, clip: float | None) -> tuple[Values, dict[str, Any]]:
    """Return the advantages clipped at ± clip · std of Â over the rows that have one, and what that did."""
    counted = credit.advantage[~credit.is_degenerate]
    std = float(counted.std()) if len(counted) else 0.0
    bound, clipped_share = None, 0.0
    if clip is not None:
        bound = clip * std
        advantages, clipped_share = clipped(advantages, bound)
    return advantages, {"advantage_std": std, "clip_at": bound, "clipped_share": clipped_share}


def _joined(first: NDArray[np.str_], second: NDArray[np.str_]) -> NDArray[np.str_]:
    """Return the named cases of estimator and rule, joined by + where both apply."""
    both = (first != "") & (second != "")
    return np.where(both, np.char.add(np.char.add(first, "+"), second), np.where(first != "", first, second))


def _attributions(rows: Rows, tokens: TokenMap, estimate: Estimate, advantages: Values, earned: GroupCredit | None) -> pl.DataFrame:
    credit = np.full(len(estimate.share), np.nan) if earned is None else earned.share
    return pl.DataFrame(
        {
            "rollout_id": pl.Series(rows.rollout_ids, dtype=pl.String).gather(rows.segment_row),
            "segment_index": pl.Series(tokens.position, dtype=pl.Int32),
            "share": pl.Series(estimate.share, dtype=pl.Float64).fill_nan(None),
            "credit": pl.Series(credit, dtype=pl.Float64).fill_nan(None),
            "n_contributions": pl.Series(estimate.n_contributions, dtype=pl.Int32),
            "standard_error": pl.Series(estimate.standard_error, dtype=pl.Float64).fill_nan(None),
            "special_case": pl.Series(estimate.special_case.tolist(), dtype=pl.String).gather(rows.segment_row),
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


def _counts(rows: Rows, special: NDArray[np.str_], is_degenerate: NDArray[np.bool_]) -> dict[str, Any]:
    names, numbers = np.unique(special[special != ""], return_counts=True)
    return {
        "rollouts": len(rows.rollout_ids),
        "rollout_groups": len(np.unique(rows.group)),
        "degenerate_groups": len(np.unique(rows.group[is_degenerate])),
        "special_cases": dict(zip(names.tolist(), numbers.tolist(), strict=True)),
        "segments_per_answer": float(rows.segments.mean()) if len(rows.segments) else 0.0,
    }


def _sizes(rows: Rows, tokens: TokenMap, estimate: Estimate, advantages: Values, is_degenerate: NDArray[np.bool_]) -> dict[str, float]:
    counted = ~is_degenerate[tokens.token_row]
    inside, square = tokens.inside[counted], advantages[counted] ** 2
    active = ~is_degenerate & (rows.segments > 0)
    return {
        "tokens_inside_share": float(tokens.inside.mean()) if len(tokens.inside) else 0.0,
        "efficiency_gap_max": float(estimate.efficiency_gap.max(initial=0.0)),
        "efficiency_gap_mean": float(estimate.efficiency_gap[active].mean()) if active.any() else 0.0,
        "advantage_rms_inside": float(np.sqrt((inside * square).sum() / max(inside.sum(), NEGLIGIBLE))),
        "advantage_rms_outside": float(np.sqrt(((1 - inside) * square).sum() / max((1 - inside).sum(), NEGLIGIBLE))),
    }
