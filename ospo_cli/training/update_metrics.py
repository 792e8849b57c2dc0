"""Numbers of a finished update: means over its steps, and the steps one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl

from ospo_cli.errors import CreditError, PolicyError
from ospo_cli.text.token_classes import CLASSES, token_classes
from ospo_cli.text.tokens_to_spans import token_spans
from ospo_cli.training.gradient_step import effective_share
from ospo_cli.training.rows import Rows

# Means over tokens, and sums over an optimiser step.
BY_TOKEN = ("clipped_fraction", "clipped_fraction_positive", "clipped_fraction_negative", "behavior_kl", "reference_kl", "entropy")
BY_STEP = ("loss", "policy_loss", "kl_loss", "entropy_loss", "imitation_loss", "gradient_norm")
RATIOS = ("ratio_01", "ratio_50", "ratio_99")


def over_steps(steps: list[dict[str, float]], rows: Rows, epochs: int = 1) -> dict[str, Any]:
    """Return the metrics of the steps; a measure that some objective adds is a mean over tokens.

    With several epochs `last_epoch_kl` and `earlier_epoch_kl` are the divergence from the sampler over the last and the one before it.
    """
    tokens = np.array([step["tokens"] for step in steps], dtype=np.float64)
    places, count = sum(step["tokens_with_prompts"] for step in steps), int(tokens.sum())
    by_token = (*BY_TOKEN, *_added(steps[0]))
    means = {name: float(np.average([step[name] for step in steps], weights=tokens)) if count else 0.0 for name in by_token}
    if rows.reference_logprobs is None:
        means["reference_kl"] = None  # type: ignore[assignment]
    last = steps[-1]
    return {
        **{name: float(np.mean([step[name] for step in steps])) for name in BY_STEP},
        **means,
        **{name: max(step[name] for step in steps) for name in ("logprob_mismatch", "logprob_mismatch_mean")},
        "correction_effective_share": 1.0 if rows.corrections is None else effective_share(rows.corrections),
        **{f"last_{name}": last.get(name, 1.0) for name in RATIOS},
        "ratio_max": max(step.get("ratio_max", 1.0) for step in steps),
        "last_clipped_fraction": last["clipped_fraction"],
        **_epoch_kls(steps, epochs),
        "last_effective_share": last["effective_share"],
        "optimizer_steps": len(steps),
        "silent_steps": sum(not step["tokens"] for step in steps),
        "tokens": count,
        "completion_token_share": count / places if places else 0.0,
        "filling_share": sum(step["filling"] for step in steps) / places if places else 0.0,
    }


def _epoch_kls(steps: list[dict[str, float]], epochs: int) -> dict[str, float | None]:
    if epochs < 2 or len(steps) < epochs:
        return {"last_epoch_kl": None, "earlier_epoch_kl": None}
    per_epoch = len(steps) // epochs
    found = []
    for part in (steps[-per_epoch:], steps[-2 * per_epoch : -per_epoch]):
        tokens = [step["tokens"] for step in part]
        found.append(float(np.average([step["behavior_kl"] for step in part], weights=tokens)) if sum(tokens) else 0.0)
    return {"last_epoch_kl": found[0], "earlier_epoch_kl": found[1]}


def curves(steps: list[dict[str, float]]) -> dict[str, list[float]]:
    """Return the measures of each step, by name."""
    scales = [name for name in ("loss_scale",) if name in steps[0]]
    listed = (*BY_TOKEN, *_added(steps[0]), *BY_STEP, *scales, "learning_rate", "groups_used", "effective_share")
    found = {name: [step[name] for step in steps] for name in listed}
    return found | {name: [step.get(name, 1.0) for step in steps] for name in (*RATIOS, "ratio_max")}


def _added(step: dict[str, float]) -> list[str]:
    return [name for name in step if name.startswith("preference_")]


def token_class_sizes(
    rollouts: pl.DataFrame, advantages: pl.DataFrame, pieces: Callable[[Sequence[int]], list[bytes]], iteration: int
) -> dict[str, float]:
    """Return the root mean square of the advantages of each class of tokens (answer, think, tags); 0 where there are none.

    Raises:
        PolicyError: token ids do not spell their completions under this tokenizer.
    """
    squares, counts = np.zeros(len(CLASSES)), np.zeros(len(CLASSES))
    columns = ("rollout_id", "token_ids", "completion", "answer_start", "answer_end", "advantages")
    for name, ids, completion, start, end, values in rollouts.join(advantages, on="rollout_id").select(columns).iter_rows():
        try:
            spans = token_spans(pieces(ids), completion)
        except (CreditError, PolicyError) as error:
            raise PolicyError(
                f"rollout {name}",
                "its token ids do not spell its completion under the policy's tokenizer",
                found=error.line(),
                expected="rollouts of this policy",
                remedy=f"run `ospo rollout --iter {iteration}` again",
            ) from None
        kinds = token_classes(spans, completion, start, end)
        squares += np.bincount(kinds, weights=np.square(np.asarray(values, dtype=np.float64)), minlength=len(CLASSES))
        counts += np.bincount(kinds, minlength=len(CLASSES))
    return {name: float(np.sqrt(square / count)) if count else 0.0 for name, square, count in zip(CLASSES, squares, counts, strict=True)}
