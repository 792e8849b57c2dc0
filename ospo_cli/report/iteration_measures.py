"""What an iteration's tables and metrics say about the training: one number per measure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from ospo_cli.text.words import STANDARD, repeated_words, word_count


@dataclass(frozen=True)
class Measure:
    """A measure of the training: name in the data, label, meaning."""

    name: str
    label: str
    meaning: str

    @property
    def is_share(self) -> bool:
        """Whether it is a part of a whole, shown in percent."""
        return self.name.endswith(("_share", "_fraction"))


MEASURES = (
    Measure("reward", "Reward", "mean of the weighted sum over all rollouts"),
    Measure("retrieval", "Retrieval part", "mean metric of the ranking, unweighted"),
    Measure("best_of_group", "Best of G", "mean over prompts of the best retrieval part of the rollout group"),
    Measure("format", "Format part", "0 where answer tags and end token are there; unweighted"),
    Measure("length", "Length part", "minus the words over the limit, divided by the limit; unweighted"),
    Measure("repetition", "Repetition part", "minus the number of repeated words; unweighted"),
    Measure("entropy", "Entropy", "nats per token of the sampling policy"),
    Measure("behavior_kl", "KL to the sampling policy", "nats per token, at the end of the update's steps or their mean"),
    Measure(
        "reference_kl", "KL to the warm start", "nats per token; without a penalty that of the sampling policy, on some rollout groups"
    ),
    Measure("clipped_fraction", "Clipped fraction", "share of tokens whose ratio the clip cut off"),
    Measure("clipped_positive_fraction", "Clipped, advantage above 0", "share of those tokens: good ones that were raised far enough"),
    Measure("clipped_negative_fraction", "Clipped, advantage below 0", "share of those tokens: poor ones that were lowered far enough"),
    Measure("after_clipped_fraction", "At the clip after the update", "share of tokens with an advantage, on some groups of the batch"),
    Measure("after_kl", "KL to the sampling policy after the update", "nats per token, on some groups of the batch"),
    Measure("taken_share", "Wished move taken", "what the batch's objective gained, as a share of the most that it could"),
    Measure("line_factor", "Best on the move's line", "factor of the move, of 0, 1/2, 1 and 2, at which the batch's objective is highest"),
    Measure("last_ratio_99", "Largest ratios", "99 % quantile over tokens in the last step: new over old probability"),
    Measure("last_ratio_01", "Smallest ratios", "1 % quantile over tokens in the last step"),
    Measure(
        "effective_share",
        "Effective sample",
        "share of the sample that counts under the last step's ratios as importance weights; 100 % where policy and sampler agree",
    ),
    Measure("logprob_mismatch", "Sampler mismatch", "largest difference of log-probabilities before the first step"),
    Measure("policy_loss", "Loss: policy part", "clipped objective, mean over steps"),
    Measure("kl_loss", "Loss: penalty", "weighted divergence from the warm start, mean over steps"),
    Measure("entropy_loss", "Loss: entropy bonus", "weighted, mean over steps"),
    Measure("gradient_norm", "Gradient norm", "before clipping, mean over steps"),
    Measure("moved_relative", "Update size", "norm of the change over the norm before, of the kind of weight that moved most"),
    Measure("advantage_rms_answer", "Advantages: answer", "root mean square over the answer's tokens"),
    Measure("advantage_rms_think", "Advantages: think", "root mean square over tokens outside answer and tags"),
    Measure("advantage_rms_tags", "Advantages: tags", "root mean square over tags and end tokens"),
    Measure("tokens_per_second", "Update speed", "completion tokens per second of training"),
    Measure("tokens", "Completion length", "tokens, end token included"),
    Measure("answer_words", "Answer length", "words"),
    Measure("segments", "Segments per answer", "players that share the credit; with one, every rule is GRPO"),
    Measure("unions", "Unions per answer", "blocks of neighbouring segments: sentences, clauses or phrases"),
    Measure("fallback_share", "Cut by word count", "share of answers with a phrase that no rule could cut"),
    Measure("other_script_share", "Cut into words", "share of answers with a clause that the English grammar cannot read"),
    Measure("repeated_words", "Repeated words", "per answer"),
    Measure("cut_off_share", "Cut off at the cap", "share of completions without end token"),
    Measure("untagged_share", "Without answer tags", "share of completions"),
    Measure("degenerate_share", "Degenerate groups", "share of rollout groups whose rewards are all equal: nothing to learn from"),
)


UPDATE_MEASURES = (
    *("after_clipped_fraction", "after_kl", "taken_share", "line_factor", "last_epoch_kl", "earlier_epoch_kl"),
    *("behavior_kl", "reference_kl", "clipped_fraction", "clipped_positive_fraction", "clipped_negative_fraction", "last_ratio_99"),
    *("last_ratio_01", "effective_share", "logprob_mismatch", "policy_loss", "kl_loss", "entropy_loss", "gradient_norm", "moved_relative"),
    *("advantage_rms_answer", "advantage_rms_think", "advantage_rms_tags", "tokens_per_second"),
)
# Measures whose metric has another name: a share's name ends in _fraction or _share here.
_METRIC_OF = {
    "clipped_positive_fraction": "clipped_fraction_positive",
    "clipped_negative_fraction": "clipped_fraction_negative",
    "effective_share": "last_effective_share",
}


def measure_iteration(
    iteration: int,
    rollouts: pl.DataFrame,
    segments: pl.DataFrame | None,
    rewards: pl.DataFrame | None,
    metrics: Mapping[str, Mapping[str, Any]],
    folding: str = STANDARD,
) -> dict[str, Any]:
    """Return the measures of one iteration; None where a table or a metric is not there.

    Args:
        iteration: from 1.
        rollouts: table rollouts.
        segments: table segments, or None.
        rewards: table rewards, or None.
        metrics: content of the metrics files by stage (rollout, segment, update).
        folding: of words.
    """
    answers = [text[start:end] for text, start, end in rollouts.select("completion", "answer_start", "answer_end").iter_rows()]
    found: dict[str, Any] = {
        "iteration": iteration,
        "rollouts": rollouts.height,
        "groups": rollouts["prompt_id"].n_unique(),
        "tokens": _mean(rollouts["token_ids"].list.len()),
        "answer_words": _mean(pl.Series([word_count(answer) for answer in answers])),
        "repeated_words": _mean(pl.Series([repeated_words(answer, folding) for answer in answers])),
        "cut_off_share": _mean(rollouts["finish_reason"] == "length"),
        "untagged_share": _mean(~rollouts["has_answer_tags"]),
        "entropy": _number(metrics.get("rollout", {}).get("entropy")),
    }
    for name in UPDATE_MEASURES:
        found[name] = _number(metrics.get("update", {}).get(_METRIC_OF.get(name, name)))
    for name in ("reference_kl", "kl_loss", "entropy_loss"):
        found[name] = found[name] or None  # 0 to the bit means that there is none
    found["segments"] = segments.height / rollouts.height if segments is not None and rollouts.height else None
    found["unions"] = _number(metrics.get("segment", {}).get("unions_per_answer_mean"))
    for name in ("fallback_share", "other_script_share"):
        found[name] = _number(metrics.get("segment", {}).get(name))
    found["other_script_share"] = found["other_script_share"] or None  # a row where there is something to say
    if rewards is not None:
        for name in ("reward", "retrieval", "format", "length", "repetition"):
            found[name] = _mean(rewards[name])
        groups = rewards.group_by("prompt_id").agg(pl.col("retrieval").max(), pl.col("is_degenerate_group").first())
        found["best_of_group"] = _mean(groups.sort("prompt_id")["retrieval"])
        found["degenerate_share"] = _mean(groups["is_degenerate_group"])
    return found | {measure.name: None for measure in MEASURES if measure.name not in found}


def _mean(values: pl.Series) -> float | None:
    return float(values.cast(pl.Float64).mean()) if values.len() else None  # type: ignore[arg-type]


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value else None
