"""Objective dpo: of two completions of a prompt the preferred one is to be the likelier.

Source: Rafailov et al., Direct Preference Optimization, 2023.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.errors import TableError
from ospo_cli.tables.attribute import PREFERENCE_PAIRS
from ospo_cli.training.objectives.base import Logprobs, Objective, is_used
from ospo_cli.training.rows import Rows
from ospo_cli.training.token_batches import Group


class Preference(Objective):
    """Table preference_pairs names the completions that are compared."""

    table = PREFERENCE_PAIRS
    named = ("chosen_rollout_id", "rejected_rollout_id")
    file_columns = ("chosen", "rejected")

    def pairs(self, rollouts: pl.DataFrame, table: pl.DataFrame) -> NDArray[np.int64]:
        """Return [pairs, 2] the rows of chosen and rejected rollouts.

        Raises:
            TableError: a pair compares two prompts.
        """
        ordered = rollouts.sort("prompt_id", "sample_index").with_row_index("row").select("rollout_id", "row", "prompt_id")
        rows = {name: (row, prompt) for name, row, prompt in ordered.iter_rows()}
        found = []
        for chosen, rejected in table.select(self.named).iter_rows():
            (first, of_first), (second, of_second) = rows[chosen], rows[rejected]
            if of_first != of_second:
                raise TableError(
                    self.table.name, "compares two prompts", found=f"{chosen} and {rejected}", expected="completions of one prompt"
                )
            found.append((first, second))
        return np.array(found, dtype=np.int64)

    def table_of(self, examples: pl.DataFrame) -> pl.DataFrame:
        """Return table preference_pairs; margins are not known and are 1."""
        return examples.select(*self.named, "prompt_id", margin=pl.lit(1.0))

    @property
    def needs_reference(self) -> bool:
        """Whether pairs are held to policy 000 in place of the policy that sampled."""
        return self.settings.dpo_reference == "warm-start"

    def weights(self, rows: Rows, groups: Sequence[Group], logprobs: Logprobs) -> tuple[NDArray[np.float64], dict[str, float]]:
        """Return `preference_weights` by token; each completion's likelihood first takes a forward pass of its own."""
        assert rows.pairs is not None
        own = logprobs(rows.trimmed(groups, rows.advantages != 0)).astype(np.float64)
        reference = rows.behavior_logprobs if rows.reference_logprobs is None else rows.reference_logprobs
        differences = np.where(is_used(rows)[rows.owner], own - reference, 0.0)
        log_ratios = np.bincount(rows.owner, weights=differences, minlength=len(rows.lengths))
        pairs = rows.pairs[np.isin(rows.pairs[:, 0], rows.rows_of(groups))]
        by_row, measures = preference_weights(log_ratios.astype(np.float64), pairs, self.settings.dpo_beta)
        # The surrogate's value says nothing.
        return by_row[rows.owner], measures | {"policy_loss": measures["loss"]}


def preference_weights(
    log_ratios: NDArray[np.float64], pairs: NDArray[np.int64], beta: float
) -> tuple[NDArray[np.float64], dict[str, float]]:
    """Return [rows] weights whose likelihood loss has the gradient of DPO's, and what DPO's loss, margin and accuracy are.

    The loss is the mean over pairs of −log σ(m), m = β · (l_chosen − l_rejected); its derivative by l_chosen is −β · σ(−m) / pairs, by
    l_rejected the same with the other sign, so that weights ± β · σ(−m) / pairs on the rows' log-likelihoods have its gradient.

    Args:
        log_ratios: [rows] l, log-likelihood of each completion under the policy minus that under the reference.
        pairs: [pairs, 2] rows, the chosen one first.
        beta: β.

    >>> weights, measures = preference_weights(np.array([0.0, 0.0]), np.array([[1, 0]]), 0.1)
    >>> weights.tolist(), round(measures["loss"], 4)
    ([-0.05, 0.05], 0.6931)
    """
    weights = np.zeros(len(log_ratios))
    if not len(pairs):
        return weights, {"loss": 0.0, "preference_margin": 0.0, "preference_accuracy": 0.0}
    margins = beta * (log_ratios[pairs[:, 0]] - log_ratios[pairs[:, 1]])
    losses = np.logaddexp(0.0, -margins)
    pulls = beta * np.exp(-margins - losses) / len(pairs)  # σ(−m) = exp(−m) / (1 + exp(−m)), without overflow
    np.add.at(weights, pairs[:, 0], pulls)
    np.subtract.at(weights, pairs[:, 1], pulls)
    return weights, {
        "loss": float(losses.mean()),
        "preference_margin": float(margins.mean()),
        "preference_accuracy": float((margins > 0).mean()),
    }
