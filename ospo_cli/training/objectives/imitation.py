"""Objective sft: the likelihood of targets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.tables.attribute import TARGETS
from ospo_cli.training.objectives.base import Logprobs, Objective, is_used
from ospo_cli.training.policy_loss import token_weights
from ospo_cli.training.rows import Rows
from ospo_cli.training.token_batches import Group


class Imitation(Objective):
    """Table targets names the completions that are imitated."""

    table = TARGETS
    named = ("rollout_id",)
    file_columns = ("completion",)

    def table_of(self, examples: pl.DataFrame) -> pl.DataFrame:
        """Return table targets; rewards are not known and are 0."""
        return examples.select("rollout_id", "prompt_id", reward=pl.lit(0.0))

    def temperature(self, sampled_at: float) -> float:
        """Return 1: the raw policy imitates, whatever the targets were sampled at."""
        return 1.0

    def weights(self, rows: Rows, groups: Sequence[Group], logprobs: Logprobs) -> tuple[NDArray[np.float64], dict[str, float]]:
        """Return the weights of update.aggregation over the targets."""
        step, weights = rows.rows_of(groups), np.zeros(len(rows.advantages))
        weights[rows.tokens_of(groups)] = imitation_weights(
            rows.lengths[step], is_used(rows)[step], self.settings.aggregation, rows.max_new_tokens
        )
        return weights, {}


def imitation_weights(
    lengths: Sequence[int] | NDArray[np.int64], is_target: Sequence[bool] | NDArray[np.bool_], aggregation: str, max_new_tokens: int
) -> NDArray[np.float64]:
    """Return [tokens] weights of the rows' tokens, rows one after another: `token_weights` over the targets, 0 elsewhere.

    >>> imitation_weights([1, 2], [False, True], "seq_mean", 8).tolist()
    [0.0, 0.5, 0.5]
    """
    counts, wanted = np.asarray(lengths, dtype=np.int64), np.asarray(is_target, dtype=bool)
    weights = np.zeros(int(counts.sum()))
    weights[np.repeat(wanted, counts)] = token_weights(counts[wanted], aggregation, max_new_tokens)
    return weights
