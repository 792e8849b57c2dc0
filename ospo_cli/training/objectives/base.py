"""What an objective is: a table of the iteration, weights of the tokens of a step, and a loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from ospo_cli.errors import TableError
from ospo_cli.params.update import Update
from ospo_cli.tables.attribute import TOKEN_ADVANTAGES
from ospo_cli.tables.declare import Table
from ospo_cli.training.policy_loss import TokenLoss, Tokens, k3
from ospo_cli.training.rows import Rows
from ospo_cli.training.token_batches import Group

# [tokens] log-probabilities of some groups under the policy in training, without gradient and without dropout.
Logprobs = Callable[[Sequence[Group]], NDArray[np.float32]]


class Objective:
    """Learns from a table that names rollouts, by their weighted likelihood, until a method says otherwise.

    Attributes:
        table: table of the iteration that says what is learned from.
        named: its columns of rollout ids.
        has_gain: whether `gain` tells what the objective could gain at most.
        has_clip: whether a clip bounds how far a token is moved.
        file_columns: columns of completions in a user's file that may stand for the tables (update.examples_file), as `named`; none:
            there is no such file.
        settings: section update.
    """

    table: ClassVar[Table]
    named: ClassVar[tuple[str, ...]] = ()
    has_gain: ClassVar[bool] = False
    has_clip: ClassVar[bool] = False
    file_columns: ClassVar[tuple[str, ...]] = ()

    def __init__(self, settings: Update) -> None:
        self.settings = settings

    def advantages(self, rollouts: pl.DataFrame, table: pl.DataFrame, made_by: str) -> pl.DataFrame:
        """Return table token_advantages: 1 on the tokens of rollouts that the table names, else 0.

        Raises:
            TableError: the table is empty, or names a rollout that is not there; `made_by` makes it.
        """
        if table.height == 0:
            raise TableError(
                self.table.name,
                "holds no rows: there is nothing to learn from",
                expected="at least one",
                remedy="see attribute.targets_above, attribute.pairs_margin, and `ospo inspect rewards`",
            )
        used = {name for column in self.named for name in table[column]}
        absent = sorted(used - set(rollouts["rollout_id"]))
        if absent:
            raise TableError(self.table.name, "names rollouts that are not there", found=absent[0], remedy=f"run `{made_by}` again")
        marks = [[float(name in used)] * len(ids) for name, ids in rollouts.select("rollout_id", "token_ids").iter_rows()]
        return pl.DataFrame({"rollout_id": rollouts["rollout_id"], "advantages": marks}, schema=TOKEN_ADVANTAGES.schema)

    def pairs(self, rollouts: pl.DataFrame, table: pl.DataFrame) -> NDArray[np.int64] | None:
        """Return [pairs, 2] the rows that are compared, numbered as `to_rows` does; None where none are."""
        return None

    def table_of(self, examples: pl.DataFrame) -> pl.DataFrame:
        """Return the objective's table of a user's file: its prompt ids, and rollout ids in the place of completions."""
        raise NotImplementedError

    def temperature(self, sampled_at: float) -> float:
        """Return the temperature at which likelihoods are taken."""
        return sampled_at

    @property
    def needs_reference(self) -> bool:
        """Whether the loss depends on policy 000."""
        return self.settings.kl_weight > 0

    def is_wanted(self, rows: Rows) -> NDArray[np.bool_]:
        """Return [tokens] those whose log-probability the loss depends on; no other is run through the output embedding."""
        return np.not_equal(rows.advantages, 0)

    def weights(self, rows: Rows, groups: Sequence[Group], logprobs: Logprobs) -> tuple[NDArray[np.float64], dict[str, float]]:
        """Return [tokens] weights of an optimiser step over some groups, 0 elsewhere, and what is measured besides."""
        raise NotImplementedError

    def loss(self, tokens: Tokens) -> TokenLoss:
        """Return the loss of a forward pass's tokens."""
        return weighted_likelihood(tokens)

    def gain(self, tokens: Tokens) -> tuple[float, float]:
        """Return what the objective has gained since the policy that sampled, and the most that it could; penalties left out."""
        raise NotImplementedError


def is_used(rows: Rows) -> NDArray[np.bool_]:
    """Return [rows] those that the table names."""
    return np.bincount(rows.owner, weights=rows.advantages, minlength=len(rows.lengths)) > 0


def weighted_likelihood(tokens: Tokens) -> TokenLoss:
    """Return −Σ_t w_t · log π_t, w of either sign; ratios and penalties are there to be watched, nothing is clipped."""
    loss = -(tokens.weights * tokens.logprobs).sum()
    detached = tokens.logprobs.detach()
    penalties = torch.zeros_like(detached) if tokens.reference_logprobs is None else k3(detached, tokens.reference_logprobs)
    is_clipped = torch.zeros_like(detached, dtype=torch.bool)
    return TokenLoss(loss, {"policy": loss.detach()}, torch.exp(detached - tokens.old_logprobs), is_clipped, penalties)
