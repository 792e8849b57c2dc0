"""Objective mirror-descent: a likelihood moves in proportion to its advantage, and a square holds it back; nothing is clipped.

Source: Kimi k1.5, arXiv 2501.12599, section 2.3 (per answer); Gao et al., REBEL, arXiv 2404.16767 (the same regression over pairs).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ospo_cli.training.objectives.base import Logprobs
from ospo_cli.training.objectives.policy_gradient import PolicyGradient
from ospo_cli.training.policy_loss import TokenLoss, Tokens
from ospo_cli.training.rows import Rows
from ospo_cli.training.token_batches import Group


class MirrorDescent(PolicyGradient):
    """Per unit u of an answer −A_u·L_u + β/2·L_u², L_u its log-ratio to the policy that sampled; summed over units, averaged over rows.

    A unit is a stretch of tokens with one advantage: the whole answer under rule uniform, a segment with what shares its credit under a
    rule that credits segments; or each token is its own (update.mirror_unit). Free to move, L_u ends at A_u / β.
    """

    has_clip = False

    def is_wanted(self, rows: Rows) -> NDArray[np.bool_]:
        """Return [tokens] all: without an advantage the square still pulls to the policy that sampled."""
        return np.ones(len(rows.advantages), dtype=bool)

    def weights(self, rows: Rows, groups: Sequence[Group], logprobs: Logprobs) -> tuple[NDArray[np.float64], dict[str, float]]:
        """Return 1 / rows for every token: rows weigh alike."""
        weights = np.zeros(len(rows.advantages))
        weights[rows.tokens_of(groups)] = 1.0 / max(len(rows.rows_of(groups)), 1)
        return weights, {}

    def loss(self, tokens: Tokens) -> TokenLoss:
        """Return the loss; its squares are counted as the part `kl`, since half the square's mean is the divergence to second order."""
        log_ratios = tokens.logprobs - tokens.old_logprobs
        units = units_of(tokens.advantages, tokens.lengths, self.settings.mirror_unit)
        count = int(units[-1]) + 1 if len(units) else 0
        sums = torch.zeros(count, dtype=log_ratios.dtype, device=log_ratios.device).index_add(0, units, log_ratios)
        first = torch.searchsorted(units, torch.arange(count, device=units.device))
        gains = (tokens.weights * tokens.advantages * log_ratios).sum()
        squares = 0.5 * self.settings.mirror_beta * (tokens.weights[first] * sums**2).sum()
        loss, detached = squares - gains, log_ratios.detach()
        parts = {"policy": -gains.detach(), "kl": squares.detach()}
        return TokenLoss(loss, parts, torch.exp(detached), torch.zeros_like(detached, dtype=torch.bool), torch.zeros_like(detached))

    def gain(self, tokens: Tokens) -> tuple[float, float]:
        """Return the loss's fall and its most: with every L_u at A_u / β, a unit gains A_u² / 2β."""
        units = units_of(tokens.advantages, tokens.lengths, self.settings.mirror_unit)
        first = torch.searchsorted(units, torch.arange(int(units[-1]) + 1 if len(units) else 0, device=units.device))
        most = (tokens.weights[first] * tokens.advantages[first] ** 2).sum() / (2 * self.settings.mirror_beta)
        return -float(self.loss(tokens).loss), float(most)


def units_of(advantages: torch.Tensor, lengths: Sequence[int], unit: str) -> torch.Tensor:
    """Return [tokens] the number of each token's unit, from 0 in order; no unit reaches over the end of a row.

    Args:
        advantages: [tokens], rows one after another.
        lengths: [rows] tokens of each row.
        unit: segment (neighbours of equal advantage), or token.

    >>> units_of(torch.tensor([0.5, 0.5, 0.2, 0.2, 0.2]), [4, 1], "segment").tolist()
    [0, 0, 1, 1, 2]
    """
    begins = torch.ones(len(advantages), dtype=torch.long, device=advantages.device)
    if unit == "segment":
        begins[1:] = (advantages[1:] != advantages[:-1]).long()
        begins[[start for start in np.cumsum([0, *lengths[:-1]]).tolist() if start < len(begins)]] = 1
    return begins.cumsum(0) - 1
