"""Log-probabilities of given tokens in one forward pass, with gradient where the model has one."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from ospo_cli.executors import heap
from ospo_cli.policies.fused_adapter import bare
from ospo_cli.policies.unspelled import never_drawn
from ospo_cli.training.token_batches import TokenBatch

# Models whose logits are the output embedding of the last hidden state and nothing else (no soft cap, no scale): there the embedding
# is applied to the tokens that are asked for alone.
_PLAIN_HEADS = ("llama", "mistral", "qwen2", "qwen3")
# Logits held at once, just under 32 MiB in float32, the largest block that a heap keeps (executors/heap.py): a vocabulary of 49,152
# entries times every token of a micro-batch would be gigabytes.
LOGITS_AT_ONCE = heap.LARGEST // 4 - 1024
# A model's own way to them, where it has one.
METHOD = "token_logprobs"


def token_logprobs(
    model: Any,
    batch: TokenBatch,
    temperature: float,
    want_entropy: bool = False,
    entropy_has_gradient: bool = False,
    unspelled: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return natural log-probabilities [tokens] of the batch's targets at a temperature, and the entropies [tokens] where asked.

    `unspelled` are ids that are never drawn (LoadedPolicy): both are of the distribution over the others, as in sampling.
    """
    run = getattr(model, METHOD, None) or functools.partial(of_model, model)
    found: tuple[torch.Tensor, torch.Tensor | None] = run(batch, temperature, want_entropy, entropy_has_gradient, unspelled)
    return found


def of_model(
    model: Any, batch: TokenBatch, temperature: float, want_entropy: bool, entropy_has_gradient: bool, unspelled: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return `token_logprobs` of a model whose weights are whole: a model that is cut gathers some before, by its METHOD."""
    base = bare(model)
    places = {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "attention_mask": batch.mask, "use_cache": False}
    wants = (want_entropy, entropy_has_gradient, unspelled)
    if base.config.model_type not in _PLAIN_HEADS:
        return _of_logits(base(**places).logits[batch.predict_rows, batch.predict_positions], batch.targets, temperature, *wants)
    hidden = base.get_decoder()(**places).last_hidden_state[batch.predict_rows, batch.predict_positions]
    head = base.get_output_embeddings()
    at_once = max(1, LOGITS_AT_ONCE // head.weight.shape[0])
    if torch.is_grad_enabled() and not head.weight.requires_grad and head.bias is None:
        logprobs, entropies = _FrozenHead.apply(  # type: ignore[no-untyped-call]
            hidden, head.weight, batch.targets, temperature, entropy_has_gradient, at_once, unspelled
        )
        return logprobs, entropies if want_entropy else None
    if len(hidden) <= at_once:
        return _of_logits(head(hidden), batch.targets, temperature, *wants)

    def part(states: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        return _of_logits(head(states), targets, temperature, *wants)

    # The backward pass computes each part's logits once more in place of holding them.
    found = [
        checkpoint(part, hidden[start : start + at_once], batch.targets[start : start + at_once], use_reentrant=False)
        for start in range(0, len(hidden), at_once)
    ]
    return torch.cat([logprobs for logprobs, _ in found]), torch.cat([entropies for _, entropies in found]) if want_entropy else None


def _of_logits(
    logits: torch.Tensor,
    targets: torch.Tensor,
    temperature: float,
    want_entropy: bool,
    entropy_has_gradient: bool,
    unspelled: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    logits = never_drawn(logits, unspelled)
    if temperature != 1.0:
        logits = logits / temperature
    everything = torch.log_softmax(logits, dim=-1)
    logprobs = everything.gather(1, targets[:, None])[:, 0]
    if not want_entropy:
        return logprobs, None
    if not entropy_has_gradient:
        everything = everything.detach()
    return logprobs, -(everything.exp() * everything).sum(dim=-1)


class _FrozenHead(torch.autograd.Function):
    """Log-probabilities and entropies behind an output embedding that does not train (an adapter's).

    Both are functions of the hidden state alone, so their gradients by it, vectors of the model's width, are made in the forward pass
    while a part's logits are at hand; neither logits nor probabilities are kept for the backward pass, or computed again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        temperature: float,
        entropy_has_gradient: bool,
        at_once: int,
        unspelled: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        found: list[tuple[torch.Tensor, ...]] = []
        for start in range(0, max(len(hidden), 1), at_once):
            states, wanted = hidden[start : start + at_once], targets[start : start + at_once]
            logits = never_drawn(states @ weight.t(), unspelled)
            if temperature != 1.0:
                logits /= temperature
            logits -= torch.logsumexp(logits, dim=-1, keepdim=True)
            logprobs = logits.gather(1, wanted[:, None])[:, 0]
            probabilities = logits.exp()
            with torch.autocast(hidden.device.type, enabled=False):  # else a sum over the vocabulary in bfloat16
                entropies = -torch.linalg.vecdot(probabilities, logits)
            slopes = (weight[wanted] - probabilities.to(weight.dtype) @ weight).float() / temperature
            parts: tuple[torch.Tensor, ...] = (logprobs, entropies, slopes)
            if entropy_has_gradient:
                logits.add_(entropies[:, None]).mul_(probabilities)
                parts = (*parts, -(logits.to(weight.dtype) @ weight).float() / temperature)
            found.append(parts)
        logprobs, entropies, *kept = (torch.cat(parts) for parts in zip(*found, strict=True))
        ctx.save_for_backward(*kept)
        ctx.dtype = hidden.dtype
        if not entropy_has_gradient:
            ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, logprobs: torch.Tensor, entropies: torch.Tensor) -> tuple[Any, ...]:
        slopes, *of_entropy = ctx.saved_tensors
        gradient = logprobs[:, None] * slopes
        if of_entropy:
            gradient = gradient + entropies[:, None] * of_entropy[0]
        return gradient.to(ctx.dtype), None, None, None, None, None, None
