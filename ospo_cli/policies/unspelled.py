"""Logits without the ids that a policy's tokenizer does not spell, of a vocabulary padded to a round size."""

from __future__ import annotations

import torch

# Finite, so that entropies hold no 0 · ∞; its probability is exactly 0 at every temperature.
NEVER = -1e30


def never_drawn(logits: torch.Tensor, unspelled: torch.Tensor | None) -> torch.Tensor:
    """Return float32 logits [..., vocabulary] under which the ids `unspelled` have probability 0 and the others share the rest."""
    logits = logits.float()
    return logits if unspelled is None else logits.index_fill(-1, unspelled, NEVER)
