"""The gradient of one rollout group's loss for many sets of advantages: the group is run through the policy once."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ospo_cli.params.update import Update
from ospo_cli.policies.folder import LoadedPolicy
from ospo_cli.training import token_batches
from ospo_cli.training.policy_loss import Tokens, clipped_loss, token_weights
from ospo_cli.training.rows import Rows
from ospo_cli.training.token_batches import Group
from ospo_cli.training.token_logprobs import token_logprobs

# The gradient by trained weight, None where it is 0.
Gradient = list[torch.Tensor | None]


class GroupGradient:
    """A rollout group's log-probabilities with their graph, which is kept until this object goes.

    Args:
        policy: with the weights that train.
        rows: the rollouts; their advantages are not read.
        group: which of them.
        settings: section update; a penalty to the reference policy is left out.
    """

    def __init__(self, policy: LoadedPolicy, rows: Rows, group: Group, settings: Update) -> None:
        # The audit compares credit, not surrogates: ratios of tokens, one clip.
        self.policy, self.settings = policy, dataclasses.replace(settings, dual_clip=0.0, ratio="token")
        self.weights = [weight for weight in policy.model.parameters() if weight.requires_grad]
        own = dataclasses.replace(group, first=0)
        first = int(rows.starts[group.first])
        lengths = rows.lengths[group.first : group.first + len(group.completions)]
        starts = np.cumsum(lengths) - lengths
        behavior = rows.behavior_logprobs[first : first + int(lengths.sum())]
        token_weight = token_weights(lengths, settings.aggregation, rows.max_new_tokens)
        self.parts: list[tuple[torch.Tensor, NDArray[np.int64], torch.Tensor, torch.Tensor, list[int]]] = []
        self.mismatch = 0.0
        for part in token_batches.micro_batches(
            token_batches.arranged([own], token_batches.attention_window(policy.model.config)), settings.tokens_per_micro_batch
        ):
            members = [row for each in part for row in range(each.first, each.first + len(each.completions))]
            places = np.concatenate([np.arange(starts[row], starts[row] + lengths[row]) for row in members])
            batch = token_batches.build(part, policy.pad_token_id, policy.device)
            logprobs, _ = token_logprobs(policy.model, batch, rows.temperature, unspelled=policy.unspelled)
            sampled = self._tensor(behavior[places])
            self.mismatch = max(self.mismatch, float((logprobs.detach() - sampled).abs().max()))
            self.parts.append((logprobs, places, sampled, self._tensor(token_weight[places]), [int(lengths[row]) for row in members]))

    def of(self, advantages: NDArray[np.float32]) -> Gradient:
        """Return the gradient under these advantages, one per token of the group, completion by completion."""
        total: Gradient = [None] * len(self.weights)
        for logprobs, places, behavior, token_weight, lengths in self.parts:
            own = advantages[places]
            if not own.any():
                continue
            loss = clipped_loss(Tokens(logprobs, behavior, self._tensor(own), token_weight, lengths), self.settings).loss
            found = torch.autograd.grad(loss, self.weights, retain_graph=True, allow_unused=True)
            total = [new if old is None else old if new is None else old + new for old, new in zip(total, found, strict=True)]
        return total

    def _tensor(self, values: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(self.policy.device)
