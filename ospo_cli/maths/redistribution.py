"""How shares become token advantages: one registry of rules, over flat arrays of all rows, segments and tokens at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import CreditError
from ospo_cli.maths.shaping import centred_by_position

Values = NDArray[np.float64]
Indices = NDArray[np.int64]
Flags = NDArray[np.bool_]

# Shares are sums and differences of rewards of order 1: what is smaller than this is rounding, no credit.
NEGLIGIBLE = 1e-12
SUM_TOLERANCE = 1e-5


@dataclass(frozen=True)
class TokenMap:
    """Which tokens and segments belong to which row, and how much of each token lies in each segment.

    Attributes:
        token_row: [tokens] row of each token, ascending.
        segment_row: [segments] row of each segment, ascending.
        overlap_token, overlap_segment, overlap_weight: sparse weights, 0 to 1, of a segment in a token.
        n_rows: number of rows, those without tokens or segments included.
    """

    token_row: Indices
    segment_row: Indices
    overlap_token: Indices
    overlap_segment: Indices
    overlap_weight: Values
    n_rows: int

    @cached_property
    def tokens(self) -> Values:
        """[rows] T, number of tokens."""
        return np.bincount(self.token_row, minlength=self.n_rows).astype(np.float64)

    @cached_property
    def segments(self) -> Indices:
        """[rows] n, number of segments."""
        return np.bincount(self.segment_row, minlength=self.n_rows)

    @cached_property
    def position(self) -> Indices:
        """[segments] index of each segment within its row."""
        return np.arange(len(self.segment_row)) - np.repeat(np.cumsum(self.segments) - self.segments, self.segments)

    @cached_property
    def length(self) -> Values:
        """[segments] tokens of each segment, parts of tokens counted as such."""
        return np.bincount(self.overlap_segment, weights=self.overlap_weight, minlength=len(self.segment_row)).astype(np.float64)

    @cached_property
    def inside(self) -> Values:
        """[tokens] part of each token that lies in segments."""
        return np.minimum(np.bincount(self.overlap_token, weights=self.overlap_weight, minlength=len(self.token_row)), 1.0)

    @cached_property
    def tokens_inside(self) -> Values:
        """[rows] tokens in segments, parts counted as such."""
        return self.sum_of_row(self.length)

    @cached_property
    def place(self) -> Indices:
        """[tokens] first segment of its row that each token touches, else the first behind it, else -1."""
        first_token = np.full(len(self.segment_row), len(self.token_row))
        np.minimum.at(first_token, self.overlap_segment, self.overlap_token)
        found = np.searchsorted(first_token, np.arange(len(self.token_row)))
        np.minimum.at(found, self.overlap_token, self.overlap_segment)
        return np.where(np.append(self.segment_row, -1)[found] == self.token_row, found, -1)

    def sum_of_row(self, of_segments: Values) -> Values:
        """Return [rows] sums of a quantity of segments."""
        return np.bincount(self.segment_row, weights=of_segments, minlength=self.n_rows).astype(np.float64)

    def to_tokens(self, of_segments: Values) -> Values:
        """Return [tokens] what each token has of a quantity of segments, by overlap."""
        weights = self.overlap_weight * of_segments[self.overlap_segment]
        return np.bincount(self.overlap_token, weights=weights, minlength=len(self.token_row)).astype(np.float64)

    def to_segments(self, of_tokens: Values) -> Values:
        """Return [segments] sums of a quantity of tokens, weighted by overlap."""
        weights = self.overlap_weight * of_tokens[self.overlap_token]
        return np.bincount(self.overlap_segment, weights=weights, minlength=len(self.segment_row)).astype(np.float64)


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
    """

    advantage: Values
    scale: Values
    group: Indices
    is_degenerate: Flags
    share: Values
    prefix_advantage: Values | None = None
    terminal: Values | None = None


@dataclass(frozen=True)
class Settings:
    """The parameters of the rules, as in section `attribute` of params.yaml."""

    beta: float = 0.5
    outside: str = "sequence"
    credit_unit: str = "divide"


@dataclass(frozen=True)
class Rule:
    """A way from shares to token advantages; `keeps_sum`: Σ_t A_t = T·Â in every row, checked."""

    name: str
    keeps_sum: bool
    formula: Callable[[TokenMap, Credit, Settings], tuple[Values, NDArray[np.str_]]]
    needs_prefix: bool = False


@dataclass(frozen=True)
class TokenAdvantages:
    """[tokens] advantages before clipping, [rows] special cases ("" where none applied), largest |Σ_t A_t - T·Â| (NaN: not kept)."""

    advantages: Values
    special_case: NDArray[np.str_]
    sum_error: float


def redistribute(
    rule: str, tokens: TokenMap, credit: Credit, settings: Settings, row_names: Sequence[str] | None = None
) -> TokenAdvantages:
    """Apply a rule to all rows and check its sums.

    Degenerate rollout groups get 0. An answer of no segments gets Â on every token.

    Raises:
        CreditError: unknown rule; a segment without a token; shares that are no numbers; Σ_t A_t differs from T·Â by more than 1e-5 in
            a rule that keeps it.
    """
    if rule not in RULES:
        raise CreditError("attribute.rule", "unknown rule", found=rule, expected=", ".join(RULES))
    names = row_names if row_names is not None else [f"row {row}" for row in range(tokens.n_rows)]
    _check_inputs(tokens, credit, names)
    advantages, special = RULES[rule].formula(tokens, credit, settings)
    has_no_segment = tokens.segments == 0
    advantages = np.where(has_no_segment[tokens.token_row], credit.advantage[tokens.token_row], advantages)
    advantages = np.where(credit.is_degenerate[tokens.token_row], 0.0, advantages)
    special = np.where(has_no_segment, "empty-answer", special)
    special = np.where(credit.is_degenerate, "degenerate-group", special)
    if not RULES[rule].keeps_sum:
        return TokenAdvantages(advantages, special, float("nan"))
    total = np.bincount(tokens.token_row, weights=advantages, minlength=tokens.n_rows)
    expected = np.where(credit.is_degenerate, 0.0, tokens.tokens * credit.advantage)
    error = np.abs(total - expected)
    wrong = ~(error <= SUM_TOLERANCE * np.maximum(1.0, np.abs(expected)))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise CreditError(
            f"{names[row]}, rule {rule}", "token advantages do not add up", found=total[row], expected=f"{expected[row]} (T·Â)"
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


def _uniform(tokens: TokenMap, credit: Credit, settings: Settings) -> tuple[Values, NDArray[np.str_]]:
    """A_t = Â: GRPO."""
    return credit.advantage[tokens.token_row], _no_case(tokens)


def _proportional(tokens: TokenMap, credit: Credit, settings: Settings) -> tuple[Values, NDArray[np.str_]]:
    """Mass by max(φ, 0)."""
    return _share_out(tokens, credit, settings, _positive(credit.share), "no-positive-share")


def _rank(tokens: TokenMap, credit: Credit, settings: Settings) -> tuple[Values, NDArray[np.str_]]:
    """Mass by ascending rank; nothing positive is uniform here too."""
    ranks = ascending_ranks(credit.share, tokens.segment_row)
    has_positive = tokens.sum_of_row(_positive(credit.share)) > 0
    return _share_out(tokens, credit, settings, np.where(has_positive[tokens.segment_row], ranks, 0.0), "no-positive-share")


def _signed(tokens: TokenMap, credit: Credit, settings: Settings) -> tuple[Values, NDArray[np.str_]]:
    """Mass by max(φ, 0) where Â ≥ 0, by blame max φ - φ where Â < 0: the best segment of a poor answer is not punished most."""
    best = np.full(tokens.n_rows, -np.inf)
    np.maximum.at(best, tokens.segment_row, credit.share)
    blame = _positive(best[tokens.segment_row] - credit.share)
    is_good = credit.advantage >= 0
    weights = np.where(is_good[tokens.segment_row], _positive(credit.share), blame)
    return _share_out(tokens, credit, settings, weights, np.where(is_good, "no-positive-share", "no-blame"))


def _group_additive(tokens: TokenMap, credit: Credit, settings: Settings) -> tuple[Values, NDArray[np.str_]]:
    """Â + β z_j, z over all segments of the rollout group."""
    z = standardised(credit.share, credit.group[tokens.segment_row])
    base = credit.advantage
    if settings.outside == "zero":
        base = base * tokens.tokens / np.maximum(tokens.tokens_inside, NEGLIGIBLE)
    inside = base[tokens.segment_row] + settings.beta * z
    return _with_outside(tokens, credit, settings, inside), _no_case(tokens)


def _share_only(tokens: TokenMap, credit: Credit, settings: Settings) -> tuple[Values, NDArray[np.str_]]:
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


def _potential(tokens: TokenMap, credit: Credit, settings: Settings) -> tuple[Values, NDArray[np.str_]]:
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


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("uniform", True, _uniform),
        Rule("proportional", True, _proportional),
        Rule("rank", True, _rank),
        Rule("signed", True, _signed),
        Rule("group-additive", False, _group_additive),
        Rule("share-only", False, _share_only),
        Rule("potential", False, _potential, needs_prefix=True),
    )
}


def _share_out(
    tokens: TokenMap, credit: Credit, settings: Settings, weights: Values, nothing: str | NDArray[np.str_]
) -> tuple[Values, NDArray[np.str_]]:
    """Share out the row's mass, T·Â (outside: zero) or Â times the tokens in segments (outside: sequence), by the segments' weights.

    `divide` gives a segment its part of the mass, spread over its tokens; `copy` gives each of its tokens the same weight, normalised
    over the row. Rows of one segment, and rows whose weights are all zero (the named case `nothing`), get Â on every token.
    """
    largest = np.zeros(tokens.n_rows)
    np.maximum.at(largest, tokens.segment_row, weights)
    # Relative to the largest, equal weights are exactly 1, and proportional is GRPO to the last bit.
    relative = weights / np.where(largest > 0, largest, 1.0)[tokens.segment_row]
    mass = tokens.tokens_inside if settings.outside == "sequence" else tokens.tokens
    if settings.credit_unit == "copy":
        total = tokens.sum_of_row(relative * tokens.length)
        factor = mass[tokens.segment_row] * relative / np.where(total > 0, total, 1.0)[tokens.segment_row]
    else:
        total = tokens.sum_of_row(relative)
        factor = mass[tokens.segment_row] * relative / np.where(total > 0, total, 1.0)[tokens.segment_row] / tokens.length
    of_token = tokens.to_tokens(factor)
    if settings.outside == "sequence":
        of_token = of_token + (1.0 - tokens.inside)
    special = np.where(tokens.segments < 2, "single-segment", np.where(largest > 0, "", nothing))
    is_shared = (special == "")[tokens.token_row]
    return np.where(is_shared, of_token, 1.0) * credit.advantage[tokens.token_row], special


def _with_outside(tokens: TokenMap, credit: Credit, settings: Settings, inside: Values) -> Values:
    """Give segments their own value per token (credit_unit does not apply), and tokens of no segment Â or 0."""
    of_token = tokens.to_tokens(inside)
    if settings.outside == "sequence":
        of_token = of_token + (1.0 - tokens.inside) * credit.advantage[tokens.token_row]
    return of_token


def _positive(values: Values) -> Values:
    return np.where(values > NEGLIGIBLE, values, 0.0)


def _no_case(tokens: TokenMap) -> NDArray[np.str_]:
    return np.full(tokens.n_rows, "", dtype="<U32")


def _check_inputs(tokens: TokenMap, credit: Credit, names: Sequence[str]) -> None:
    bad = np.flatnonzero(~np.isfinite(credit.share))
    if len(bad):
        raise CreditError(names[int(tokens.segment_row[bad[0]])], "share is not a finite number", found=credit.share[bad[0]])
    bare = np.flatnonzero(tokens.length <= 0)
    if len(bare):
        place = int(bare[0])
        raise CreditError(
            names[int(tokens.segment_row[place])],
            "segment without a token",
            found=f"segment {tokens.position[place]}",
            expected="visible text",
        )
