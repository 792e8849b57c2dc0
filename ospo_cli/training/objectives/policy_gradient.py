"""Objective policy-gradient: token advantages under the clipped surrogate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from ospo_cli.tables.attribute import TOKEN_ADVANTAGES
from ospo_cli.training.objectives.base import Logprobs, Objective
from ospo_cli.training.policy_loss import TokenLoss, Tokens, clipped_loss, token_weights
from ospo_cli.training.rows import Rows
from ospo_cli.training.token_batches import Group


class PolicyGradient(Objective):
    """Table token_advantages holds the advantages themselves."""

    table = TOKEN_ADVANTAGES
    has_gain = True
    has_clip = True

    def advantages(self, rollouts: pl.DataFrame, table: pl.DataFrame, made_by: str) -> pl.DataFrame:
        """Return the table."""
        return table

    def is_wanted(self, rows: Rows) -> NDArray[np.bool_]:
        """Return [tokens] those whose log-probability the loss depends on.

        A ratio of sequences depends on every token of its row, a trace on those before, a penalty or an entropy bonus on all there are.
        """
        settings, has_advantage = self.settings, np.not_equal(rows.advantages, 0)
        if rows.corrections is not None:
            has_advantage &= rows.corrections != 0
        if (settings.kl_weight > 0 and settings.kl_in != "reward") or settings.entropy_bonus > 0:
            return np.ones_like(has_advantage)
        if settings.ratio == "token" and settings.trace == 0:
            return has_advantage
        last = np.full(len(rows.lengths), -1, dtype=np.int64)
        np.maximum.at(last, rows.owner[has_advantage], np.flatnonzero(has_advantage))
        reaches: NDArray[np.int64] = last[rows.owner]
        return np.greater_equal(reaches, 0 if settings.ratio != "token" else np.arange(len(reaches)))

    def weights(self, rows: Rows, groups: Sequence[Group], logprobs: Logprobs) -> tuple[NDArray[np.float64], dict[str, float]]:
        """Return the weights of update.aggregation, over the rollouts and over the targets each."""
        weights, own = np.zeros(len(rows.advantages)), rows.rows_of(groups)
        is_given = np.zeros(len(rows.lengths), dtype=bool) if rows.is_given is None else rows.is_given
        places = rows.tokens_of(groups)
        for kind in (False, True):
            chosen = own[is_given[own] == kind]
            weights[places[is_given[rows.owner[places]] == kind]] = token_weights(
                rows.lengths[chosen], self.settings.aggregation, rows.max_new_tokens
            )
        return weights, {}

    def loss(self, tokens: Tokens) -> TokenLoss:
        """Return the clipped loss."""
        return clipped_loss(tokens, self.settings)

    def gain(self, tokens: Tokens) -> tuple[float, float]:
        """Return the surrogate's gain and its most: with every ratio at the clip, a token gains ε·|A|."""
        weights = tokens.weights if tokens.correction is None else tokens.weights * tokens.correction
        if tokens.is_imitated is not None:
            weights = weights.masked_fill(tokens.is_imitated, 0.0)
        edges = torch.where(tokens.advantages > 0, self.settings.clip_high, self.settings.clip_low)
        most = (weights * tokens.advantages.abs() * edges).sum()
        gained = -self.loss(tokens).parts["policy"] - (weights * tokens.advantages).sum()
        return float(gained), float(most)
