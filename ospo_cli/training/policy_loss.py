"""The clipped policy gradient over tokens: ratios, clipping, penalty, weights of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ospo_cli.params.update import Update


@dataclass(frozen=True)
class TokenLoss:
    """Loss (a scalar with gradient), the parts that it is the sum of, and what happened at each token, detached."""

    loss: torch.Tensor
    parts: dict[str, torch.Tensor]
    ratios: torch.Tensor
    is_clipped: torch.Tensor
    penalties: torch.Tensor


@dataclass(frozen=True)
class Tokens:
    """What a loss is computed from; all but `lengths` are [tokens], rows one after another.

    Attributes:
        logprobs: under the policy in training, with gradient.
        old_logprobs: under the policy that ratios are taken to: that which sampled.
        advantages: A.
        weights: w.
        lengths: [rows] tokens of each row.
        reference_logprobs: under the reference policy; needed for a penalty.
        entropies: H, with gradient where there is a bonus.
        correction: c, constant weights for a sampler that is not the policy that training starts from, see `sampler_weights`.
        is_imitated: tokens of targets, or None.
    """

    logprobs: torch.Tensor
    old_logprobs: torch.Tensor
    advantages: torch.Tensor
    weights: torch.Tensor
    lengths: Sequence[int]
    reference_logprobs: torch.Tensor | None = None
    entropies: torch.Tensor | None = None
    correction: torch.Tensor | None = None
    is_imitated: torch.Tensor | None = None


def clipped_loss(tokens: Tokens, settings: Update) -> TokenLoss:
    """Return Σ_t w_t · (c_t · −min(ratio·A, clip(ratio, 1−ε_low, 1+ε_high)·A) + β·k − η·H), its symbols as in section update.

    Imitated tokens have −w_t · A_t · log π_t alone. Where A < 0 the ratio is at most `dual_clip` (0 is none). The penalty k is that of
    `kl_terms`, times the ratio with its gradient for `kl_in: weighted-loss`.

    Source: Schulman et al., Proximal Policy Optimization Algorithms, 2017; Ye et al., Mastering Complex Control in MOBA Games with Deep
    Reinforcement Learning, 2020 (dual clip); Zheng et al., Group Sequence Policy Optimization, 2025.
    """
    advantages, weights = tokens.advantages, tokens.weights
    ratios = ratios_of(tokens, settings)
    bounded = torch.where(advantages < 0, ratios.clamp(max=settings.dual_clip), ratios) if settings.dual_clip > 0 else ratios
    plain = bounded * advantages
    clipped = ratios.clamp(1.0 - settings.clip_low, 1.0 + settings.clip_high) * advantages
    losses = -torch.minimum(plain, clipped)
    if tokens.correction is not None:
        losses = losses * tokens.correction
    parts, imitation = {}, torch.zeros_like(losses).sum()
    if tokens.is_imitated is not None:
        imitation = -(weights * advantages * tokens.logprobs)[tokens.is_imitated].sum()
        parts["imitation"] = imitation.detach()
        weights = weights.masked_fill(tokens.is_imitated, 0.0)
    parts["policy"] = (weights * losses).sum().detach()
    penalties = torch.zeros_like(tokens.logprobs)
    if tokens.reference_logprobs is not None:
        penalties = kl_terms(tokens.logprobs, tokens.reference_logprobs, settings.kl)
        pull = settings.kl_weight * (penalties * ratios if settings.kl_in == "weighted-loss" else penalties)
        parts["kl"] = (weights * pull).sum().detach()
        losses = losses + pull
    if tokens.entropies is not None and settings.entropy_bonus > 0:
        parts["entropy"] = (-settings.entropy_bonus * weights * tokens.entropies).sum().detach()
        losses = losses - settings.entropy_bonus * tokens.entropies
    is_clipped = (clipped < plain) | (bounded < ratios)
    return TokenLoss((weights * losses).sum() + imitation, parts, ratios.detach(), is_clipped.detach(), penalties.detach())


def ratios_of(tokens: Tokens, settings: Update) -> torch.Tensor:
    """Return [tokens] the importance ratios, with gradient.

    With a trace a token's ratio is that of its trace, see `traced`; with `ratio: sequence` the geometric mean over the row (GSPO), with
    `sequence-token` its value, but each token's own gradient.
    """
    log_ratios = tokens.logprobs - tokens.old_logprobs
    if settings.trace > 0:
        log_ratios = traced(log_ratios, tokens.lengths, settings.trace)
    if settings.ratio != "token":
        means = row_means(log_ratios, tokens.lengths)
        log_ratios = means if settings.ratio == "sequence" else means.detach() + log_ratios - log_ratios.detach()
    return torch.exp(log_ratios)


def row_means(values: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """Return [tokens] the mean over each token's row, rows one after another.

    >>> row_means(torch.tensor([1.0, 2.0, 6.0, 4.0]), [3, 0, 1]).tolist()
    [3.0, 3.0, 3.0, 4.0]
    """
    parts = [row.mean().expand(len(row)) for row in torch.split(values, list(lengths)) if len(row)]
    return torch.cat(parts) if parts else values


def sampler_weights(log_ratios: NDArray[np.float32], lengths: Sequence[int], mode: str, bound: float) -> NDArray[np.float32]:
    """Return [tokens] importance weights exp(l) for tokens that another program sampled, kept from growing without limit.

    Args:
        log_ratios: [tokens] l, log-probability of the policy at the start of training minus the sampler's; rows one after another.
        lengths: [rows] tokens of each row.
        mode: token-truncate (min(exp(l), bound)), token-mask (0 above the bound), sequence-truncate, sequence-mask (the same for Σ l of
            the row, one weight for all of its tokens).
        bound: C.

    Source: Yao et al., Your Efficient RL Framework Secretly Brings You Off-Policy RL Training, 2025 (truncated); masked as TRL has it.
    """
    level, _, how = mode.partition("-")
    if level == "sequence":
        owner = np.repeat(np.arange(len(lengths)), lengths)
        log_ratios = np.bincount(owner, weights=log_ratios, minlength=len(lengths))[owner].astype(np.float32)
    weights = np.exp(np.minimum(log_ratios, 80.0, dtype=np.float32))
    if how == "truncate":
        return np.minimum(weights, np.float32(bound))
    return np.where(weights <= bound, weights, np.float32(0.0))


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


def kl_terms(logprobs: torch.Tensor, other_logprobs: torch.Tensor, kind: str) -> torch.Tensor:
    """Return [tokens] terms whose expectation over the policy's own samples is KL(policy ‖ other), or near it.

    With d = other − policy: k1 = −d (exact, of either sign; the expectation of its gradient is 0), k2 = d²/2 (the expectation of its
    gradient is the divergence's), k3 = exp(d) − d − 1 (exact, ≥ 0; its gradient is that of the divergence the other way round).

    Source: Schulman, Approximating KL Divergence, 2020.
    """
    difference = other_logprobs - logprobs
    if kind == "k1":
        return -difference
    return 0.5 * difference**2 if kind == "k2" else torch.expm1(difference) - difference


def k3(logprobs: torch.Tensor, other_logprobs: torch.Tensor) -> torch.Tensor:
    """Return the term k3 of `kl_terms`."""
    return kl_terms(logprobs, other_logprobs, "k3")


def token_weights(lengths: Sequence[int] | NDArray[np.int64], aggregation: str, max_new_tokens: int) -> NDArray[np.float64]:
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
        per_row = np.full(len(counts), 1.0 / (max(len(counts), 1) * max_new_tokens))
    else:
        raise ValueError(aggregation)
    return np.repeat(per_row, counts)
