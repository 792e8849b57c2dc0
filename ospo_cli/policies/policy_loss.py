"""The clipped policy gradient over tokens: ratios, clipping, penalty, weights of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class TokenLoss:
    """Loss (a scalar with gradient) and what happened at each token, detached."""

    loss: torch.Tensor
    ratios: torch.Tensor
    is_clipped: torch.Tensor
    penalties: torch.Tensor


def clipped_loss(
    logprobs: torch.Tensor,
    behavior_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    weights: torch.Tensor,
    clip_low: float,
    clip_high: float,
    reference_logprobs: torch.Tensor | None = None,
    kl_weight: float = 0.0,
) -> TokenLoss:
    """Return Σ_t w_t · (−min(ratio·A, clip(ratio, 1−ε_low, 1+ε_high)·A) + β·k3).

    Args:
        logprobs: [tokens] under the policy in training, with gradient.
        behavior_logprobs: [tokens] under the policy that sampled.
        advantages: [tokens].
        weights: [tokens] from `token_weights`.
        clip_low: ε of the lower clip.
        clip_high: ε of the upper clip.
        reference_logprobs: [tokens] under the reference policy; needed for a penalty.
        kl_weight: β of the penalty.

    Source: Schulman et al., Proximal Policy Optimization Algorithms, 2017; k3: Schulman, Approximating KL Divergence, 2020.
    """
    ratios = torch.exp(logprobs - behavior_logprobs)
    plain = ratios * advantages
    clipped = ratios.clamp(1.0 - clip_low, 1.0 + clip_high) * advantages
    losses = -torch.minimum(plain, clipped)
    penalties = torch.zeros_like(losses)
    if reference_logprobs is not None:
        penalties = k3(logprobs, reference_logprobs)
        losses = losses + kl_weight * penalties
    return TokenLoss((weights * losses).sum(), ratios.detach(), (clipped < plain).detach(), penalties.detach())


def k3(logprobs: torch.Tensor, other_logprobs: torch.Tensor) -> torch.Tensor:
    """Return exp(d) − d − 1 with d = other − policy: ≥ 0, and KL(policy ‖ other) in expectation over the policy's own samples."""
    difference = other_logprobs - logprobs
    return torch.expm1(difference) - difference


def token_weights(lengths: Sequence[int], aggregation: str, max_new_tokens: int) -> NDArray[np.float64]:
    """Return one weight per token, rows one after another.

    Args:
        lengths: completion tokens of each row of the optimiser step; empty rows count as rows.
        aggregation: seq_mean (mean over rows of the mean over a row's tokens), token_mean (mean over tokens), constant (sum over
            tokens / (rows · max_new_tokens)).
        max_new_tokens: the cap that `constant` divides by.

    Source: Shao et al. 2024 (GRPO); Yu et al. 2025 (DAPO); Liu et al. 2025 (Dr. GRPO).
    """
    counts = np.asarray(lengths, dtype=np.int64)
    if aggregation == "seq_mean":
        per_row = 1.0 / (len(counts) * np.maximum(counts, 1))
    elif aggregation == "token_mean":
        per_row = np.full(len(counts), 1.0 / max(int(counts.sum()), 1))
    elif aggregation == "constant":
        per_row = np.full(len(counts), 1.0 / (len(counts) * max_new_tokens))
    else:
        raise ValueError(aggregation)
    return np.repeat(per_row, counts)
