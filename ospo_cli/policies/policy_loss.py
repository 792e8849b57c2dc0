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
    trace: float = 0.0,
    lengths: Sequence[int] | None = None,
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
        trace: λ of GRPO-λ; above 0 a token's ratio is that of its trace, see `traced`.
        lengths: [rows] tokens of each row, one after another; needed for a trace.

    Source: Schulman et al., Proximal Policy Optimization Algorithms, 2017; k3: Schulman, Approximating KL Divergence, 2020.
    """
    log_ratios = logprobs - behavior_logprobs
    if trace > 0:
        if lengths is None:
            raise ValueError("a trace needs the lengths of the rows")
        log_ratios = traced(log_ratios, lengths, trace)
    ratios = torch.exp(log_ratios)
    plain = ratios * advantages
    clipped = ratios.clamp(1.0 - clip_low, 1.0 + clip_high) * advantages
    losses = -torch.minimum(plain, clipped)
    penalties = torch.zeros_like(losses)
    if reference_logprobs is not None:
        penalties = k3(logprobs, reference_logprobs)
        losses = losses + kl_weight * penalties
    return TokenLoss((weights * losses).sum(), ratios.detach(), (clipped < plain).detach(), penalties.detach())


def traced(log_ratios: torch.Tensor, lengths: Sequence[int], trace: float) -> torch.Tensor:
    """Return l'_t = l_t + λ·l'_{t−1} within each row: a token's advantage reaches the tokens before it, λ weaker with every step back.

    Args:
        log_ratios: [tokens] l, rows one after another.
        lengths: [rows] tokens of each row.
        trace: λ, 0 to 1.

    Source: GRPO-λ, arXiv 2510.00194.

    >>> traced(torch.tensor([1.0, 0.0, 2.0, 4.0]), [3, 1], 0.5).tolist()
    [1.0, 0.5, 2.25, 4.0]
    """
    rows = [row for row in torch.split(log_ratios, list(lengths)) if len(row)]
    if not rows:
        return log_ratios
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    state, states = torch.zeros_like(padded[:, 0]), []
    for column in padded.unbind(1):
        state = column + trace * state
        states.append(state)
    summed = torch.stack(states, dim=1)
    return torch.cat([summed[index, : len(row)] for index, row in enumerate(rows)])


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
