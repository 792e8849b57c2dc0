"""Objectives that weigh log-likelihoods: imitation of targets (SFT) and preference between two completions (DPO)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ospo_cli.training.policy_loss import TokenLoss, k3, token_weights


def weighted_likelihood(
    logprobs: torch.Tensor, behavior_logprobs: torch.Tensor, weights: torch.Tensor, reference_logprobs: torch.Tensor | None = None
) -> TokenLoss:
    """Return −Σ_t w_t · log π_t; ratios and penalties are there to be watched, nothing is clipped.

    Args:
        logprobs: [tokens] under the policy in training, with gradient.
        behavior_logprobs: [tokens] under the policy that sampled.
        weights: [tokens] w, of either sign.
        reference_logprobs: [tokens] under the reference policy, where there is one.
    """
    loss = -(weights * logprobs).sum()
    detached = logprobs.detach()
    penalties = torch.zeros_like(detached) if reference_logprobs is None else k3(detached, reference_logprobs)
    is_clipped = torch.zeros_like(detached, dtype=torch.bool)
    return TokenLoss(loss, {"policy": loss.detach()}, torch.exp(detached - behavior_logprobs), is_clipped, penalties)


def imitation_weights(lengths: Sequence[int], is_target: Sequence[bool], aggregation: str, max_new_tokens: int) -> NDArray[np.float64]:
    """Return [tokens] weights of the rows' tokens, rows one after another: `token_weights` over the targets, 0 elsewhere.

    >>> imitation_weights([1, 2], [False, True], "seq_mean", 8).tolist()
    [0.0, 0.5, 0.5]
    """
    counts, wanted = np.asarray(lengths, dtype=np.int64), np.asarray(is_target, dtype=bool)
    weights = np.zeros(int(counts.sum()))
    weights[np.repeat(wanted, counts)] = token_weights(counts[wanted], aggregation, max_new_tokens)
    return weights


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

    Source: Rafailov et al., Direct Preference Optimization, 2023.

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
