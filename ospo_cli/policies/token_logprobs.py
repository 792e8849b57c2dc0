"""Log-probabilities of given tokens in one forward pass, with gradient where the model has one."""

from __future__ import annotations

from typing import Any

import torch

from ospo_cli.policies.token_batches import TokenBatch

# Models whose logits are the output embedding of the last hidden state and nothing else (no soft cap, no scale): there the embedding
# is applied to the tokens that are asked for alone.
_PLAIN_HEADS = ("llama", "mistral", "qwen2", "qwen3")


def token_logprobs(
    model: Any, batch: TokenBatch, temperature: float, want_entropy: bool = False
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return natural log-probabilities [tokens] of the batch's targets at a temperature, and the entropies [tokens] where asked."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    places = {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "attention_mask": batch.mask, "use_cache": False}
    if base.config.model_type in _PLAIN_HEADS:
        hidden = base.get_decoder()(**places).last_hidden_state
        logits = base.get_output_embeddings()(hidden[batch.predict_rows, batch.predict_positions])
    else:
        logits = base(**places).logits[batch.predict_rows, batch.predict_positions]
    logits = logits.float()
    if temperature != 1.0:
        logits = logits / temperature
    logprobs = -torch.nn.functional.cross_entropy(logits, batch.targets, reduction="none")
    if not want_entropy:
        return logprobs, None
    with torch.no_grad():
        everything = torch.log_softmax(logits, dim=-1)
        entropies = -(everything.exp() * everything).sum(dim=-1)
    return logprobs, entropies
