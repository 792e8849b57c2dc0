"""How shares become token advantages: one registry of rules, over flat arrays of all rows, segments and tokens at once."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import CreditError
from ospo_cli.maths.shaping import centred_by_position
from ospo_cli.maths.token_map import Indices, Values
from ospo_cli.maths.token_map import TokenMap as TokenMap  # rules of users import their types from here

Flags = NDArray[np.bool_]
Cases = NDArray[np.str_]

# Shares are sums and differences of rewards of order 1: what is smaller than this is rounding, no credit.
NEGLIGIBLE = 1e-12
SUM_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Credit:
    """What rules work from.

    Attributes:
        advantage: [rows] Â, group advantage.
        scale: [rows] what Â's reward difference was divided by; puts shares and prefix advantages in the same unit.
        group: [rows] rollout group.
        is_degenerate: [rows] rollout group without differences.
        share: [segments] φ.
        prefix_advantage: [segments] as from `prefix_advantages`; None unless the rule needs it.
        terminal: [rows] R - v(N).
        noise: [segments] uniform numbers in [0, 1), by seed and rollout; None unless the rule needs them.
        reward: [rows] R.
    """

    advantage: Values
    scale: Values
    group: Indices
    is_degenerate: Flags
    share: Values
    prefix_advantage: Values | None = None
    terminal: Values | None = None
    noise: Values | None = None
    reward: Values | None = None


@dataclass(frozen=True)
class Settings:
    """The parameters of the rules, as in section `attribute` of params.yaml."""

    beta: float = 0.5
    alpha: float = 0.5
    matched_rule: str = "proportional"
    outside: str = "sequence"
    credit_unit: str = "divide"


@dataclass(frozen=True)
class Rule:
    """A way from shares to token advantages.

    Attributes:
        name: as in `attribute.rule`.
        keeps_sum: Σ_t A_t = T·Â in every row, checked.
        formula: (tokens, credit, settings) -> ([tokens] advantages, [rows] special cases).
        needs_prefix: reads `Credit.prefix_advantage` and `Credit.terminal`.
        needs_noise: reads `Credit.noise`.
        pays_empty_answers: an answer of no segments gets Â on every token, else 0.
        needs_share: reads `Credit.share`; without it, all estimators give the same advantages.
    """

    name: str
    keeps_sum: bool
    formula: Callable[[TokenMap, Credit, Settings], tuple[Values, Cases]]
    needs_prefix: bool = False
    needs_noise: bool = False
    pays_empty_answers: bool = True
    needs_share: bool = True


@dataclass(frozen=True)
class TokenAdvantages:
    """[tokens] advantages before clipping, [rows] special cases ("" where none applied), largest |Σ_t A_t - T·Â| (NaN: not kept)."""

    advantages: Values
    special_case: Cases
    sum_error: float


def rule_named(rule: str, matched_rule: str, own: Mapping[str, Rule] | None = None) -> Rule:
    """Return the rule; `rms-matched` needs what the rule needs that it is matched to.

    Args:
        rule: name of a rule of this registry or of `own`.
        matched_rule: name of a rule of this registry.
        own: a user's rules.

    Raises:
        CreditError: there is no such rule, or none that another one can be matched to.
    """
    if own and rule in own:
        return own[rule]
    for name in (rule, matched_rule):
        if name not in RULES:
            raise CreditError("attribute.rule", "unknown rule", found=name, expected=", ".join([*RULES, *(own or {})]))
    chosen, matched = RULES[rule], RULES[matched_rule]
    if rule != "rms-matched":
        return chosen
    if matched_rule == "rms-matched":
        raise CreditError("attribute.matched_rule", "is no rule that another one can be matched to", found=matched_rule)
    return replace(chosen, needs_prefix=matched.needs_prefix, needs_noise=matched.needs_noise)


def redistribute(
    rule: str | Rule, tokens: TokenMap, credit: Credit, settings: Settings, row_names: Sequence[str] | None = None
) -> TokenAdvantages:
    """Apply a rule, or the rule of a name, to all rows and check its sums.

    Degenerate rollout groups get 0. An answer of no segments gets Â on every token (or 0, where the rule has it so).

    Raises:
        CreditError: unknown rule; a segment without a token; shares that are no numbers; Σ_t A_t differs from T·Â by more than 1e-5 in
            a rule that keeps it.
    """
    if isinstance(rule, str):
        rule = rule_named(rule, settings.matched_rule)
    names = row_names if row_names is not None else [f"row {row}" for row in range(tokens.n_rows)]
    _check_inputs(tokens, credit, names)
    advantages, special = rule.formula(tokens, credit, settings)
    has_no_segment = tokens.segments == 0
    alone = credit.advantage[tokens.token_row] if rule.pays_empty_answers else 0.0
    advantages = np.where(has_no_segment[tokens.token_row], alone, advantages)
    advantages = np.where(credit.is_degenerate[tokens.token_row], 0.0, advantages)
    special = np.where(has_no_segment, "empty-answer", special)
    special = np.where(credit.is_degenerate, "degenerate-group", special)
    if not rule.keeps_sum:
        return TokenAdvantages(advantages, special, float("nan"))
    total = np.bincount(tokens.token_row, weights=advantages, minlength=tokens.n_rows)
    expected = np.where(credit.is_degenerate, 0.0, tokens.tokens * credit.advantage)
    error = np.abs(total - expected)
    wrong = ~(error <= SUM_TOLERANCE * np.maximum(1.0, np.abs(expected)))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise CreditError(
            f"{names[row]}, rule {rule.name}", "token advantages do not add up", found=total[row], expected=f"{expected[row]} (T·Â)"
        )
    return TokenAdvantages(advantages, special, float(error.max(initial=0.0)))


def clipped(advantages: Values, bound: float) -> tuple[Values, float]:
    """Return the advantages clipped at ± bound, and the share of tokens that this changed."""
    outside = np.abs(advantages) > bound
    return np.clip(advantages, -bound, bound), float(outside.mean()) if len(advantages) else 0.0


def standardised(share: Values, group: Indices) -> Values:
    """Return z_j = (φ_j - mean) / std over all segments of a rollout group (0 where all are equal).

    Args:
        share: [segments].
        group: [segments] rollout group.
    """
    count = np.maximum(np.bincount(group), 1)
    centred = share - (np.bincount(group, weights=share) / count)[group]
    std = np.sqrt(np.bincount(group, weights=centred**2) / count)
    return np.asarray(np.where(std[group] > NEGLIGIBLE, centred / np.maximum(std[group], NEGLIGIBLE), 0.0))


def ascending_ranks(share: Values, row: Indices) -> Values:
    """Return ranks within each row, worst = 1; equal shares (to 1e-12) get their mean rank."""
    if len(share) == 0:
        return np.zeros(0)
    rounded = np.round(share / NEGLIGIBLE)
    order = np.lexsort((rounded, row))
    count = np.bincount(row)
    ordinal = np.arange(len(share)) - np.repeat(np.cumsum(count) - count, count) + 1
    changes = np.concatenate([[True], (np.diff(rounded[order]) > 0) | (np.diff(row[order]) > 0)])
    tie = np.cumsum(changes) - 1
    ranks = np.empty(len(share))
    ranks[order] = (np.bincount(tie, weights=ordinal) / np.bincount(tie))[tie]
    return ranks


def _uniform(tokens: TokenMap, credit: Credit, settings: Settings) -> tuple[Values, Cases]:
    """A_t = Â: GRPO."""
    return credit.advantage[tokens.token_row], _no_case(tokens)


def _proportional(tokens: TokenMap, credit: Credit, settings: Settings) -> tuple[Values, Cases]:
    """Mass by max(φ, 0)."""
    return _share_out(tokens, credit, settings, _positive(credit.share), "no-positive-share")


def _rank(tokens: TokenMap, credit: Credit, settings: Settings) -> tuple[Values, Cases]:
    """Mass by ascending rank; nothing positive is uniform here too."""
    ranks = ascending_ranks(credit.share, tokens.segment_row)
    has_positive = tokens.sum_of_row(_positive(credit.share)) > 0
    return _share_out(tokens, credit, settings, np.where(has_positive[tokens.segment_row], ranks, 0.0), "no-positive-share")


def _mix(tokens: TokenMap, credit: Credit, settings: Settings) -> tuple[Values, Cases]:
    """T·(α s_t + (1 - α)/T)·Â: α of proportional and 1 - α of uniform; α = 1 and α = 0 are these to the last bit."""
    return _share_out(tokens, credit, settings, _positive(credit.share), "no-positive-share", settings.alpha)


def _signed(tokens: TokenMap, credit: Credit, settings: Settings) -> tuple[Values, Cases]:
    """Mass by max(φ, 0) where Â ≥ 0, by blame max φ - φ where Â < 0: the best segment of a poor answer is not punished most."""
    best = np.full(tokens.n_rows, -np.inf)
    np.maximum.at(best, tokens.segment_row, credit.share)
    blame = _positive(best[tokens.segment_row] - credit.share)
    is_good = credit.advantage >= 0
    weights = np.where(is_good[tokens.segment_row], _positive(credit.share), blame)
    return _share_out(tokens, credit, settings, weights, np.where(is_good, "no-positive-share", "no-blame"))


def _additive(tokens: TokenMap, credit: Credit, settings: Settings) -> tuple[Values, Cases]:
    """Â + β (φ_j - mean φ) / scale: harmful segments are pushed down in good answers too, and the row's sum stays.

    The mean makes Σ_t A_t = T·Â exact. `copy`: every token of a segment gets the segment's difference, and the mean counts a segment by
    its tokens. `divide`: a segment's difference, times the answer's mean length of a segment, is spread over its tokens, and the mean
    counts each segment once. Both are the same where all segments have as many tokens. `outside: zero` moves T·Â into the segments,
    Â·T / (tokens inside) for each token, before the differences are added.
    """
    per_row = np.maximum(tokens.segments, 1)
    mean_length = tokens.tokens_inside / per_row
    if settings.credit_unit == "copy":
        mean = tokens.sum_of_row(credit.share * tokens.length) / np.where(tokens.tokens_inside > 0, tokens.tokens_inside, 1.0)
        difference = credit.share - mean[tokens.segment_row]
    else:
        mean = tokens.sum_of_row(credit.share) / per_row
        difference = (credit.share - mean[tokens.segment_row]) * mean_length[tokens.segment_row] / tokens.length
    inside = _base_inside(tokens, credit, settings)[tokens.segment_row] + settings.beta * difference / credit.scale[tokens.segment_row]
    special = np.where(tokens.segments < 2, "single-segment", _no_case(tokens))
    uniform = credit.advantage[tokens.token_row]
    return np.where((special == "")[tokens.token_row], _with_outside(tokens, credit, settings, inside), uniform), special


def _group_additive(tokens: TokenMap, credit: Credit, settings: Settings) -> tuple[Values, Cases]:
    """Â + β z_j, z over all segments of the rollout group."""
    z = standardised(credit.share, credit.group[tokens.segment_row])
    inside = _base_inside(tokens, credit, settings)[tokens.segment_row] + settings.beta * z
    differs = np.bincount(credit.group[tokens.segment_row], weights=z != 0, minlength=int(credit.group.max(initial=-1)) + 1) > 0
    return _with_outside(tokens, credit, settings, inside), np.where(differs[credit.group], _no_case(tokens), "no-spread")


def _share_only(tokens: TokenMap, credit: Credit, settings: Settings) -> tuple[Values, Cases]:
    """(φ_j - mean) / scale: mean at the same position where all answers of the group have as many segments, else over all segments."""
    group = credit.group[tokens.segment_row]
    n_groups = int(credit.group.max(initial=-1)) + 1
    fewest = np.full(n_groups, np.iinfo(np.int64).max)
    np.minimum.at(fewest, credit.group, tokens.segments)
    most = np.zeros(n_groups, dtype=np.int64)
    np.maximum.at(most, credit.group, tokens.segments)
    is_aligned = (fewest == most)[group]
    width = int(tokens.segments.max(initial=0)) + 1
    cell = group * width + np.where(is_aligned, tokens.position, width - 1)
    count = np.maximum(np.bincount(cell), 1)
    centred = credit.share - (np.bincount(cell, weights=credit.share) / count)[cell]
    return _with_outside(tokens, credit, settings, centred / credit.scale[tokens.segment_row]), _no_case(tokens)


def _potential(tokens: TokenMap, credit: Credit, settings: Settings) -> tuple[Values, Cases]:
    """Prefix advantages, centred over the rollout group position by position, divided by Â's scale.

    Under `outside: sequence` every token gets the value of its place as a whole: a token between segments what the next segment gets, one
    behind the last segment what is still to come there (before the first that is Â). With Â itself, going on and ending would be measured
    from different baselines, and λ = 1 would be biased.
    """
    if credit.prefix_advantage is None or credit.terminal is None:
        raise ValueError("the potential rule needs prefix advantages")
    rows = np.arange(tokens.n_rows)
    # Every row has n + 1 places: before each of its segments, and behind the last.
    place_row = np.concatenate([tokens.segment_row, rows])
    position = np.concatenate([tokens.position, tokens.segments])
    centred = centred_by_position(
        np.concatenate([credit.prefix_advantage, credit.terminal]), place_row, position, credit.group, credit.terminal
    )
    centred = centred / credit.scale[place_row]
    inside, behind = centred[: len(tokens.segment_row)], centred[len(tokens.segment_row) :]
    if settings.outside == "zero":
        return tokens.to_tokens(inside), _no_case(tokens)
    # Index -1 reads the pad, whose place the row's end takes.
    return np.where(tokens.place >= 0, np.append(inside, 0.0)[tokens.place], behind[tokens.token_row]), _no_case(tokens)


def _answer_uniform(tokens: TokenMap, credit: Credit, settings: Settings) -> tuple[Values, Cases]:
    """The mass of `proportional`, each token of a segment alike: a control that knows where the answer is, and nothing of shares.

    Rows that are uniform there by a named case are so here. With `outside: sequence` this is GRPO to the last bit.
    """
    factor = _mass(tokens, settings) / np.where(tokens.tokens_inside > 0, tokens.tokens_inside, 1.0)
    special = _share_case(tokens, tokens.sum_of_row(_positive(credit.share)) > 0, "no-positive-share")
    return _spent(tokens, credit, settings, factor[tokens.segment_row], special, 1.0), special


def _random(tokens: TokenMap, credit: Credit, settings: Settings) -> tuple[Values, Cases]:
    """The mass of `proportional` by random shares, uniform over all divisions of it among the segments (flat Dirichlet).

    Rows that are uniform there by a named case are so here.
    """
    if credit.noise is None:
        raise ValueError("the random rule needs noise")
    has_positive = tokens.sum_of_row(_positive(credit.share)) > 0
    weights = np.where(has_positive[tokens.segment_row], -np.log1p(-credit.noise), 0.0)
    return _share_out(tokens, credit, settings, weights, "no-positive-share")


def _rms_matched(tokens: TokenMap, credit: Credit, settings: Settings) -> tuple[Values, Cases]:
    """GRPO whose advantages within the answer are as large as those of another rule: what is left between the two is not step size.

    One factor for all rows: the root mean square of the matched rule's advantages over tokens in segments (weighted by overlap, rollout
    groups that are not degenerate), over that of Â. It multiplies Â on every token that touches a segment; others follow `outside`.
    """
    matched = redistribute(settings.matched_rule, tokens, credit, settings).advantages
    uniform = credit.advantage[tokens.token_row]
    # In degenerate rollout groups both are 0.
    own = float((tokens.inside * uniform**2).sum())
    factor = np.sqrt(float((tokens.inside * matched**2).sum()) / own) if own > 0 else 1.0
    elsewhere = uniform if settings.outside == "sequence" else np.zeros(len(uniform))
    return np.where(tokens.inside > 0, factor * uniform, elsewhere), _no_case(tokens)


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("uniform", True, _uniform, needs_share=False),
        Rule("proportional", True, _proportional),
        Rule("rank", True, _rank),
        Rule("mix", True, _mix),
        Rule("signed", True, _signed),
        Rule("additive", True, _additive),
        Rule("group-additive", False, _group_additive),
        Rule("share-only", False, _share_only),
        Rule("potential", False, _potential, needs_prefix=True, needs_share=False),
        Rule("answer-uniform", True, _answer_uniform),
        Rule("random", True, _random, needs_noise=True),
        Rule("rms-matched", False, _rms_matched),
    )
}
# What `attribute.rule` takes: the group game gives token advantages itself.
NO_RULE = "none"
RULE_NAMES: ChainMap[str, Any] = ChainMap(RULES, {NO_RULE: None})


def _share_out(
    tokens: TokenMap, credit: Credit, settings: Settings, weights: Values, nothing: str | Cases, alpha: float = 1.0
) -> tuple[Values, Cases]:
    """Share out the row's mass, T·Â (outside: zero) or Â times the tokens in segments (outside: sequence), by the segments' weights.

    `divide` gives a segment its part of the mass, spread over its tokens; `copy` gives each of its tokens the same weight, normalised
    over the row. Rows of one segment, and rows whose weights are all zero (the named case `nothing`), get Â on every token. With
    `alpha` below 1 the rest of the mass is uniform over all tokens.
    """
    largest = np.zeros(tokens.n_rows)
    np.maximum.at(largest, tokens.segment_row, weights)
    # Relative to the largest, equal weights are exactly 1, and proportional is GRPO to the last bit.
    relative = weights / np.where(largest > 0, largest, 1.0)[tokens.segment_row]
    mass = _mass(tokens, settings)
    if settings.credit_unit == "copy":
        total = tokens.sum_of_row(relative * tokens.length)
        factor = mass[tokens.segment_row] * relative / np.where(total > 0, total, 1.0)[tokens.segment_row]
    else:
        total = tokens.sum_of_row(relative)
        factor = mass[tokens.segment_row] * relative / np.where(total > 0, total, 1.0)[tokens.segment_row] / tokens.length
    special = _share_case(tokens, largest > 0, nothing)
    return _spent(tokens, credit, settings, factor, special, alpha), special


def _mass(tokens: TokenMap, settings: Settings) -> Values:
    """Return [rows] how many times Â is shared out among segments."""
    return tokens.tokens_inside if settings.outside == "sequence" else tokens.tokens


def _share_case(tokens: TokenMap, has_weight: Flags, nothing: str | Cases) -> Cases:
    return np.where(tokens.segments < 2, "single-segment", np.where(has_weight, "", nothing))


def _spent(tokens: TokenMap, credit: Credit, settings: Settings, factor: Values, special: Cases, alpha: float) -> Values:
    """Return [tokens] Â times what each token has of the segments' factors per token; Â itself in rows of a special case."""
    of_token = tokens.to_tokens(factor)
    if settings.outside == "sequence":
        of_token = of_token + (1.0 - tokens.inside)
    of_token = alpha * of_token + (1.0 - alpha)
    return np.where((special == "")[tokens.token_row], of_token, 1.0) * credit.advantage[tokens.token_row]


def _base_inside(tokens: TokenMap, credit: Credit, settings: Settings) -> Values:
    """Return [rows] what a token of a segment gets before its share counts: Â, or under `outside: zero` its part of T·Â."""
    if settings.outside == "sequence":
        return credit.advantage
    return credit.advantage * tokens.tokens / np.maximum(tokens.tokens_inside, NEGLIGIBLE)


def _with_outside(tokens: TokenMap, credit: Credit, settings: Settings, inside: Values) -> Values:
    """Give segments their own value per token (credit_unit does not apply), and tokens of no segment Â or 0."""
    of_token = tokens.to_tokens(inside)
    if settings.outside == "sequence":
        of_token = of_token + (1.0 - tokens.inside) * credit.advantage[tokens.token_row]
    return of_token


def _positive(values: Values) -> Values:
    return np.where(values > NEGLIGIBLE, values, 0.0)


def _no_case(tokens: TokenMap) -> Cases:
    return np.full(tokens.n_rows, "", dtype="<U32")


def _check_inputs(tokens: TokenMap, credit: Credit, names: Sequence[str]) -> None:
    bad = np.flatnonzero(~np.isfinite(credit.share))
    if len(bad):
        raise CreditError(names[int(tokens.segment_row[bad[0]])], "share is not a finite number", found=credit.share[bad[0]])
    check_tokens(tokens, names)


def check_tokens(tokens: TokenMap, names: Sequence[str]) -> None:
    """Raise CreditError where a segment has no token; `names` of the rows."""
    bare = np.flatnonzero(tokens.length <= 0)
    if len(bare):
        place = int(bare[0])
        raise CreditError(
            names[int(tokens.segment_row[place])],
            "segment without a token",
            found=f"segment {tokens.position[place]}",
            expected="visible text",
        )
