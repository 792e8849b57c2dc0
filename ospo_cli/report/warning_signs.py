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


def warning_signs(iterations: Sequence[dict[str, Any]], token_cap: int, held_out_prompts: int | None) -> list[Sign]:
    """Return every check in a fixed order, crossed or not.

    Args:
        iterations: rows of `measure_iteration`, ascending.
        token_cap: rollout.max_new_tokens.
        held_out_prompts: prompts of the evaluation, or None where there is none.
    """
    signs = [_length(iterations, token_cap), _repetition(iterations), _entropy(iterations), _degenerate(iterations), _format(iterations)]
    signs += [_clipped(iterations), _ratios(iterations), _mismatch(iterations), _segments(iterations)]
    if held_out_prompts is not None:
        found = f"{held_out_prompts} prompts"
        advice = "small differences cannot show: evaluate more prompts (evaluate.max_prompts, prepare_data.test_share, more judged queries)"
        signs.append(Sign("Few held-out prompts", held_out_prompts < LEAST_PROMPTS, found, f"fewer than {LEAST_PROMPTS}", advice))
    return signs


def _length(iterations: Sequence[dict[str, Any]], cap: int) -> Sign:
    threshold = (
        f"mean completion above {LENGTH_SHARE_OF_CAP:.0%} of the cap ({cap} tokens), more than {CUT_OFF_SHARE:.0%} cut off, "
        f"or {LENGTH_GROWTH:g} times the first iteration's length"
    )
    name, advice = "Length drift", "weigh the length part (score_coalitions.length_weight) or raise rollout.max_new_tokens"
    if not iterations:
        return Sign(name, None, "no iteration", threshold, advice)
    first, last = iterations[0]["tokens"], iterations[-1]["tokens"]
    cut = iterations[-1]["cut_off_share"]
    is_crossed = last > LENGTH_SHARE_OF_CAP * cap or cut > CUT_OFF_SHARE or last > LENGTH_GROWTH * first
    return Sign(
        name, is_crossed, f"{plain(first, 1)} → {plain(last, 1)} tokens, {cut:.1%} cut off in the last iteration", threshold, advice
    )


def _repetition(iterations: Sequence[dict[str, Any]]) -> Sign:
    name, threshold = "Repetition", f"more than {REPEATED_WORDS:g} repeated words per answer in the last iteration"
    advice = "retrieval.query_terms: distinct, or more score_coalitions.repetition_weight"
    value = _last(iterations, "repeated_words")
    if value is None:
        return Sign(name, None, "not measured", threshold, advice)
    return Sign(name, value > REPEATED_WORDS, f"{plain(value, 2)} repeated words per answer", threshold, advice)


def _entropy(iterations: Sequence[dict[str, Any]]) -> Sign:
    name, advice = "Entropy collapse", "a lower update.learning_rate, fewer epochs, or update.kl_weight"
    threshold = f"below {ENTROPY_LEFT:.0%} of the first iteration's, or below {LEAST_ENTROPY:g} nats per token"
    known = [row["entropy"] for row in iterations if row["entropy"] is not None]
    if not known:
        return Sign(name, None, "not measured", threshold, advice)
    if known[0] < LEAST_ENTROPY:  # it came so from the warm start
        advice = "the warm start left nothing to try out: fewer warm_start.steps or warm_start.max_epochs, a lower warm_start.learning_rate"
    is_crossed = known[-1] < max(ENTROPY_LEFT * known[0], LEAST_ENTROPY)
    return Sign(name, is_crossed, f"{plain(known[0], 2)} → {plain(known[-1], 2)} nats per token", threshold, advice)


def _degenerate(iterations: Sequence[dict[str, Any]]) -> Sign:
    name, threshold = "Degenerate groups", f"more than {DEGENERATE_SHARE:.0%} of the rollout groups of any iteration"
    advice = "rollout.prompts: headroom, a larger group, a higher temperature, or a shorter warm start"
    most = _most(iterations, "degenerate_share")
    if most is None:
        return Sign(name, None, "not measured", threshold, advice)
    share, iteration = most
    return Sign(name, share > DEGENERATE_SHARE, f"at most {share:.1%} (iteration {iteration})" if share else "none", threshold, advice)


def _format(iterations: Sequence[dict[str, Any]]) -> Sign:
    name, threshold = "Format failures", f"more than {UNTAGGED_SHARE:.0%} of the last iteration's completions"
    advice = "more score_coalitions.format_weight, or a longer warm start"
    value = _last(iterations, "untagged_share")
    if value is None:
        return Sign(name, None, "not measured", threshold, advice)
    return Sign(name, value > UNTAGGED_SHARE, f"{value:.1%} without answer tags", threshold, advice)


def _clipped(iterations: Sequence[dict[str, Any]]) -> Sign:
    name, threshold = "Steps too large", f"more than {CLIPPED_FRACTION:.0%} of an iteration's tokens clipped"
    advice = "a lower update.learning_rate, or fewer steps on each batch of rollouts"
    most = _most(iterations, "clipped_fraction")
    if most is None:
        return Sign(name, None, "not measured", threshold, advice)
    share, iteration = most
    return Sign(name, share > CLIPPED_FRACTION, f"at most {share:.1%} (iteration {iteration})" if share else "none", threshold, advice)


def _ratios(iterations: Sequence[dict[str, Any]]) -> Sign:
    name = "Ratio explosion"
    threshold = (
        f"1 % of an iteration's tokens beyond a ratio of {LARGEST_RATIO:g} (or 1/{LARGEST_RATIO:g}) in the last step, "
        f"or an effective sample below {LEAST_EFFECTIVE_SHARE:.0%}"
    )
    advice = "a lower update.learning_rate, fewer update.epochs, or update.dual_clip"
    most, least, share = (
        _most(iterations, key, sign) for key, sign in (("last_ratio_99", 1), ("last_ratio_01", -1), ("effective_share", -1))
    )
    if most is None or least is None:
        return Sign(name, None, "not measured", threshold, advice)
    is_crossed = most[0] > LARGEST_RATIO or least[0] < 1 / LARGEST_RATIO or (share is not None and share[0] < LEAST_EFFECTIVE_SHARE)
    found = f"{plain(least[0], 2)} (iteration {least[1]}) to {plain(most[0], 2)} (iteration {most[1]})"
    return Sign(name, is_crossed, found + (f", effective sample {share[0]:.0%}" if share is not None else ""), threshold, advice)


def _mismatch(iterations: Sequence[dict[str, Any]]) -> Sign:
    name, threshold = (
        "Sampler mismatch",
        f"log-probabilities of sampler and trainer more than {LARGEST_MISMATCH:g} apart before the first step",
    )
    advice = "update.sampler_correction, or sample again with the policy that is trained"
    most = _most(iterations, "logprob_mismatch")
    if most is None:
        return Sign(name, None, "not measured", threshold, advice)
    return Sign(name, most[0] > LARGEST_MISMATCH, f"at most {most[0]:.1e} (iteration {most[1]})", threshold, advice)


def _segments(iterations: Sequence[dict[str, Any]]) -> Sign:
    name, threshold = "Too few segments", f"fewer than {LEAST_SEGMENTS:g} per answer: with one segment, credit per segment is GRPO"
    advice = "a finer segment.level, or a task that pays for more attributes"
    value = _last(iterations, "segments")
    if value is None:
        return Sign(name, None, "not measured", threshold, advice)
    return Sign(name, value < LEAST_SEGMENTS, f"{plain(value, 2)} segments per answer in the last iteration", threshold, advice)


def _most(iterations: Sequence[dict[str, Any]], key: str, sign: int = 1) -> tuple[float, int] | None:
    """Return the largest value (the smallest with sign -1) and the first iteration that has it."""
    known = [(sign * row[key], -row["iteration"]) for row in iterations if row[key] is not None]
    return (sign * max(known)[0], -max(known)[1]) if known else None


def _last(iterations: Sequence[dict[str, Any]], key: str) -> float | None:
    return next((row[key] for row in reversed(iterations) if row[key] is not None), None)
