"""Five completions of two prompts as an update's rows, and what plain autograd makes of them, one forward pass per completion."""

from __future__ import annotations

import numpy as np
import torch

from ospo_cli.training import gradient_step
from ospo_cli.training.rows import Rows
from ospo_cli.training.token_batches import Group

PROMPTS = ([7, 9, 11], [20, 30])
COMPLETIONS = ([[40, 41, 42], [50, 51], [60]], [[70, 71], [80, 81, 82, 83]])
LENGTHS = [3, 2, 1, 2, 4]


def rows_of(advantages, behavior, pairs=None, temperature=1.0):
    """Return the completions as rows, with [tokens] advantages."""
    counts = np.array(LENGTHS)
    groups = [Group(PROMPTS[0], COMPLETIONS[0], 0), Group(PROMPTS[1], COMPLETIONS[1], 3)]
    found = None if pairs is None else np.array(pairs, dtype=np.int64)
    starts, behavior, advantages = np.cumsum(counts) - counts, behavior.astype(np.float32), advantages.astype(np.float32)
    return Rows(groups, counts, starts, behavior, advantages, None, temperature, 8, pairs=found)


def slow_logprobs(policy, temperature=1.0):
    """Return the log-probabilities of each completion's tokens, with gradient."""
    found = []
    for prompt, completions in zip(PROMPTS, COMPLETIONS, strict=True):
        for ids in completions:
            logits = policy.model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1] / temperature
            found.append(torch.log_softmax(logits, -1)[torch.arange(len(ids)), torch.tensor(ids)])
    return found


def gradient_of(policy, loss=None):
    """Return the gradient of a loss, or the one that is there, as one vector."""
    if loss is not None:
        policy.model.zero_grad()
        loss.backward()
    return torch.cat([(torch.zeros_like(w) if w.grad is None else w.grad).flatten() for w in policy.model.parameters()]).clone()


def step(policy, rows, update):
    """Return the measures and the gradient of a step over all rows."""
    policy.model.zero_grad()
    measures = gradient_step.accumulate(policy, rows, rows.groups, update)
    return measures, gradient_of(policy)
