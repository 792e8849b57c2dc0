"""Drawing the next token: temperature, top-k, top-p and inverse CDF, with the log-probabilities of every distribution involved."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from ospo_cli.params.rollout import Rollout
from ospo_cli.policies.unspelled import never_drawn

_BLOCK = 128


@dataclass(frozen=True)
class Sampling:
    """What is drawn from: logits / temperature, of those the top_k likeliest (0: all), of those the smallest set that holds top_p.

    Tokens as likely as the last one kept are kept too, so that the set does not hang on an order among equals.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    @classmethod
    def of(cls, settings: Rollout) -> Sampling:
        """Return the sampling of section rollout."""
        return cls(settings.temperature, settings.top_k, settings.top_p)

    @property
    def cuts(self) -> bool:
        """Whether some tokens can never be drawn."""
        return self.top_k > 0 or self.top_p < 1.0


@dataclass(frozen=True)
class Drawn:
    """Tokens [rows] and their natural log-probabilities [rows].

    No distribution holds ids that the tokenizer does not spell; what the model gives them is shared out among the others.

    Attributes:
        token: ids.
        logprobs: at the sampling temperature, nothing cut: what a training forward pass computes.
        sampled_logprobs: of the distribution really drawn from (top-k and top-p too); 0 where the likeliest token was taken.
        policy_logprobs: of the raw policy: temperature 1, nothing cut.
    """

    token: torch.Tensor
    logprobs: torch.Tensor
    sampled_logprobs: torch.Tensor
    policy_logprobs: torch.Tensor


def draw(
    logits: torch.Tensor,
    owner: torch.Tensor,
    uniform: torch.Tensor,
    is_greedy: torch.Tensor,
    sampling: Sampling,
    unspelled: torch.Tensor | None = None,
) -> Drawn:
    """Draw one token per row by inverse CDF.

    torch.multinomial is 20 times slower on a CPU and its draws depend on the batch.

    Args:
        logits: [branches, vocabulary].
        owner: [rows] the branch that a row draws from.
        uniform: [rows] float64 in [0, 1).
        is_greedy: [rows] True takes the likeliest token, the first of several; its log-probabilities are at temperature 1.
        sampling: temperature and cuts.
        unspelled: ids that are not part of any of the distributions.
    """
    logits = never_drawn(logits, unspelled)
    tempered = logits if sampling.temperature == 1.0 else logits / sampling.temperature
    probabilities = torch.softmax(tempered, dim=-1)
    kept = cut(probabilities, sampling) if sampling.cuts else probabilities
    token, total = _inverse_cdf(kept, owner, uniform)
    if bool(is_greedy.any()):
        token = torch.where(is_greedy, logits.argmax(dim=-1)[owner], token)
    logprobs = probabilities[owner, token].log()
    policy_logprobs = logprobs
    if sampling.temperature != 1.0:
        policy_logprobs = torch.log_softmax(logits, dim=-1)[owner, token]
    sampled = logprobs - total.log().float() if sampling.cuts else logprobs
    # A greedy row of NaN logits is no certainty: its NaN has to show.
    sampled = torch.where(is_greedy, logprobs * 0.0, sampled)
    return Drawn(token, torch.where(is_greedy, policy_logprobs, logprobs), sampled, policy_logprobs)


def cut(probabilities: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Return probabilities [branches, vocabulary] with those outside top-k, then top-p, set to 0; what stays is not scaled up."""
    size = probabilities.shape[-1]
    if 0 < sampling.top_k < size:
        least = probabilities.topk(sampling.top_k, dim=-1).values[:, -1:]
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
    if sampling.top_p < 1.0:
        wanted = sampling.top_p * probabilities.sum(dim=-1, keepdim=True, dtype=torch.float64)
        # A whole sort of a large vocabulary takes longer than the model: mostly a few hundred tokens hold enough.
        count = min(256, size)
        while True:
            likeliest = probabilities.topk(count, dim=-1).values
            reached = likeliest.cumsum(dim=-1, dtype=torch.float64)
            if count == size or bool((reached[:, -1:] >= wanted).all()):
                break
            count = min(count * 8, size)
        last = (reached < wanted).sum(dim=-1, keepdim=True).clamp_(max=count - 1)
        probabilities = probabilities.masked_fill(probabilities < likeliest.gather(1, last), 0.0)
    return probabilities


def _inverse_cdf(weights: torch.Tensor, owner: torch.Tensor, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return for each row the first token where the running sum of its branch's weights passes uniform · total, and the total [rows].

    Sums are float64 over blocks of the vocabulary, then within one block: running sums over a whole vocabulary took longer than a
    small model. A token of weight 0 is never returned.
    """
    size = weights.shape[-1]
    blocks = functional.pad(weights, (0, -size % _BLOCK)).view(len(weights), -1, _BLOCK)
    passed = blocks.sum(dim=-1, dtype=torch.float64).cumsum(dim=-1)[owner]
    total = passed[:, -1]
    target = _below(uniform * total, total)
    block = torch.searchsorted(passed, target[:, None], right=True)[:, 0].clamp_(max=passed.shape[1] - 1)
    before = functional.pad(passed, (1, 0)).gather(1, block[:, None])[:, 0]
    inner = blocks[owner, block].cumsum(dim=-1, dtype=torch.float64)
    target = _below(target - before, inner[:, -1])
    token = torch.searchsorted(inner, target[:, None], right=True)[:, 0].clamp_(max=_BLOCK - 1)
    return (block * _BLOCK + token).clamp_(max=size - 1), total


def _below(value: torch.Tensor, limit: torch.Tensor) -> torch.Tensor:
    return torch.minimum(value, torch.nextafter(limit, torch.zeros_like(limit)))
