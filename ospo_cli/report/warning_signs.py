"""Known ways in which training goes wrong, each with a stated threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ospo_cli.report.number_text import plain

LENGTH_SHARE_OF_CAP = 0.8
CUT_OFF_SHARE = 0.05
LENGTH_GROWTH = 1.5
REPEATED_WORDS = 0.5
ENTROPY_LEFT = 0.3
LEAST_ENTROPY = 0.05
DEGENERATE_SHARE = 0.5
UNTAGGED_SHARE = 0.05
CLIPPED_FRACTION = 0.3
AT_CLIP = 0.5
STILL = 0.02
OVERSHOOT_SHARE = 0.25  # of the iterations: a dozen rollout groups decide each, so a single one says little
LEAST_SEGMENTS = 2.0
LARGEST_RATIO = 4.0
LEAST_EFFECTIVE_SHARE = 0.5
LARGEST_MISMATCH = 0.01
LEAST_PROMPTS = 100


@dataclass(frozen=True)
class Sign:
    """One check: what was looked at, what was found, the threshold, and whether it was crossed (None: not measured)."""

    name: str
    is_crossed: bool | None
    found: str
    threshold: str
    advice: str


Rows = Sequence[dict[str, Any]]
Found = tuple[bool, str] | None  # crossed, and in words; None: not measured


def warning_signs(iterations: Rows, token_cap: int, held_out_prompts: int | None) -> list[Sign]:
    """Return every check in a fixed order, crossed or not.

    Args:
        iterations: rows of `measure_iteration`, ascending.
        token_cap: rollout.max_new_tokens.
        held_out_prompts: prompts of the evaluation, or None where there is none.
    """
    signs = [
        _length(iterations, token_cap),
        _sign(
            "Repetition",
            _last(iterations, "repeated_words", REPEATED_WORDS, "{:.2f} repeated words per answer"),
            f"more than {REPEATED_WORDS:g} repeated words per answer in the last iteration",
            "retrieval.query_terms: distinct, or more score_coalitions.repetition_weight",
        ),
        _entropy(iterations),
        _sign(
            "Degenerate groups",
            _most(iterations, "degenerate_share", DEGENERATE_SHARE, "{:.1%}"),
            f"more than {DEGENERATE_SHARE:.0%} of the rollout groups of any iteration",
            "rollout.prompts: headroom, a larger group, a higher temperature, or a shorter warm start",
        ),
        _sign(
            "Format failures",
            _last(iterations, "untagged_share", UNTAGGED_SHARE, "{:.1%} without answer tags"),
            f"more than {UNTAGGED_SHARE:.0%} of the last iteration's completions",
            "more score_coalitions.format_weight, or a longer warm start",
        ),
        _sign(
            "Steps too large",
            _most(iterations, "clipped_fraction", CLIPPED_FRACTION, "{:.1%}"),
            f"more than {CLIPPED_FRACTION:.0%} of an iteration's tokens clipped",
            "a lower update.learning_rate, or fewer steps on each batch of rollouts",
        ),
        _sign(
            "Held by the clip",
            _most(iterations, "after_clipped_fraction", AT_CLIP, "{:.0%}"),
            f"more than {AT_CLIP:.0%} of a batch's tokens at the clip after its update: the clip, not the learning rate, ends the move",
            "smaller batches (fewer rollout.prompts_per_iteration, more train.iterations), fewer update.epochs, or another objective",
        ),
        _overshoot(iterations),
        _idle_epochs(iterations),
        _ratios(iterations),
        _sign(
            "Sampler mismatch",
            _most(iterations, "logprob_mismatch", LARGEST_MISMATCH, "{:.1e}", when_zero=""),
            f"log-probabilities of sampler and trainer more than {LARGEST_MISMATCH:g} apart before the first step",
            "update.sampler_correction, or sample again with the policy that is trained",
        ),
        _segments(iterations),
    ]
    if held_out_prompts is not None:
        found = (held_out_prompts < LEAST_PROMPTS, f"{held_out_prompts} prompts")
        advice = "small differences cannot show: evaluate more prompts (evaluate.max_prompts, prepare_data.test_share, more judged queries)"
        signs.append(_sign("Few held-out prompts", found, f"fewer than {LEAST_PROMPTS}", advice))
    return signs


def _sign(name: str, found: Found, threshold: str, advice: str) -> Sign:
    is_crossed, words = found or (None, "not measured")
    return Sign(name, is_crossed, words, threshold, advice)


def _length(iterations: Rows, cap: int) -> Sign:
    found = None
    if iterations:
        first, last, cut = iterations[0]["tokens"], iterations[-1]["tokens"], iterations[-1]["cut_off_share"]
        is_crossed = last > LENGTH_SHARE_OF_CAP * cap or cut > CUT_OFF_SHARE or last > LENGTH_GROWTH * first
        found = (is_crossed, f"{plain(first, 1)} → {plain(last, 1)} tokens, {cut:.1%} cut off in the last iteration")
    threshold = (
        f"mean completion above {LENGTH_SHARE_OF_CAP:.0%} of the cap ({cap} tokens), more than {CUT_OFF_SHARE:.0%} cut off, "
        f"or {LENGTH_GROWTH:g} times the first iteration's length"
    )
    advice = "weigh the length part (score_coalitions.length_weight) or raise rollout.max_new_tokens"
    return _sign("Length drift", found, threshold, advice)


def _entropy(iterations: Rows) -> Sign:
    found, advice = None, "a lower update.learning_rate, fewer epochs, or update.kl_weight"
    if known := _known(iterations, "entropy"):
        first, last = known[0][0], known[-1][0]
        found = (last < max(ENTROPY_LEFT * first, LEAST_ENTROPY), f"{plain(first, 2)} → {plain(last, 2)} nats per token")
        if first < LEAST_ENTROPY:  # it came so from the warm start
            advice = (
                "the warm start left nothing to try out: fewer warm_start.steps or warm_start.max_epochs, a lower warm_start.learning_rate"
            )
    threshold = f"below {ENTROPY_LEFT:.0%} of the first iteration's, or below {LEAST_ENTROPY:g} nats per token"
    return _sign("Entropy collapse", found, threshold, advice)


def _ratios(iterations: Rows) -> Sign:
    found = None
    largest, smallest, shares = (_known(iterations, name) for name in ("last_ratio_99", "last_ratio_01", "effective_share"))
    if largest and smallest:
        (high, where_high), (low, where_low) = max(largest, key=_value), min(smallest, key=_value)
        share = min(shares)[0] if shares else 1.0
        is_crossed = high > LARGEST_RATIO or low < 1 / LARGEST_RATIO or share < LEAST_EFFECTIVE_SHARE
        words = f"{plain(low, 2)} (iteration {where_low}) to {plain(high, 2)} (iteration {where_high})"
        found = (is_crossed, words + (f", effective sample {share:.0%}" if shares else ""))
    threshold = (
        f"1 % of an iteration's tokens beyond a ratio of {LARGEST_RATIO:g} (or 1/{LARGEST_RATIO:g}) in the last step, "
        f"or an effective sample below {LEAST_EFFECTIVE_SHARE:.0%}"
    )
    return _sign("Ratio explosion", found, threshold, "a lower update.learning_rate, fewer update.epochs, or update.dual_clip")


def _overshoot(iterations: Rows) -> Sign:
    factors = [factor for factor, _ in _known(iterations, "line_factor")]
    short = sum(factor < 1 for factor in factors)
    found = (short > OVERSHOOT_SHARE * len(factors), f"in {short} of {len(factors)} iterations") if factors else None
    threshold = (
        f"in more than {OVERSHOOT_SHARE:.0%} of the iterations half of an update's move, or none, gains its own batch more than the whole"
    )
    return _sign("Overshoot", found, threshold, "a lower update.learning_rate (`ospo advise`), or fewer update.epochs")


def _idle_epochs(iterations: Rows) -> Sign:
    last, earlier = _known(iterations, "last_epoch_kl"), {number: kl for kl, number in _known(iterations, "earlier_epoch_kl")}
    moves = [(abs(kl / earlier[number] - 1.0), number) for kl, number in last if earlier.get(number, 0.0) > 0]
    found = (min(moves)[0] < STILL, f"at least {min(moves)[0]:.0%} (iteration {min(moves)[1]})") if moves else None
    threshold = f"a last epoch whose divergence from the sampler is within {STILL:.0%} of the epoch before"
    return _sign("Idle epochs", found, threshold, "fewer update.epochs, or smaller batches: the last passes over a batch moved nothing")


def _segments(iterations: Rows) -> Sign:
    known = _known(iterations, "segments")
    found = (known[-1][0] < LEAST_SEGMENTS, f"{plain(known[-1][0], 2)} segments per answer in the last iteration") if known else None
    threshold = f"fewer than {LEAST_SEGMENTS:g} per answer: with one segment, credit per segment is GRPO"
    return _sign("Too few segments", found, threshold, "a finer segment.level, or a task that pays for more attributes")


def _known(iterations: Rows, name: str) -> list[tuple[float, int]]:
    """Return (value, iteration) of a measure where it was taken."""
    return [(row[name], row["iteration"]) for row in iterations if row[name] is not None]


def _value(known: tuple[float, int]) -> float:
    return known[0]


def _last(iterations: Rows, name: str, limit: float, words: str) -> Found:
    known = _known(iterations, name)
    return (known[-1][0] > limit, words.format(known[-1][0])) if known else None


def _most(iterations: Rows, name: str, limit: float, words: str, when_zero: str = "none") -> Found:
    """Return the largest value and the first iteration that has it."""
    known = _known(iterations, name)
    if not known:
        return None
    most, iteration = max(known, key=_value)
    return most > limit, when_zero if when_zero and not most else f"at most {words.format(most)} (iteration {iteration})"
