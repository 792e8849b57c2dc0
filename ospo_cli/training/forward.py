"""Forward passes of a policy over rollouts: their arithmetic, their memory, and log-probabilities without gradient."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ospo_cli.errors import PolicyError
from ospo_cli.executors import peers
from ospo_cli.params.update import Update
from ospo_cli.policies.folder import LoadedPolicy
from ospo_cli.policies.fused_adapter import bare
from ospo_cli.policies.plain_llama import PlainLlama
from ospo_cli.training import token_batches
from ospo_cli.training.rows import Rows
from ospo_cli.training.token_batches import Group
from ospo_cli.training.token_logprobs import token_logprobs as token_logprobs


def logprobs_of(
    policy: LoadedPolicy, rows: Rows, token_budget: int, precision: str = "float32", groups: Sequence[Group] | None = None
) -> NDArray[np.float32]:
    """Return [tokens] log-probabilities of the rollouts under a policy, without gradient; 0 outside of `groups` (None: those of `rows`)."""
    found = np.zeros(len(rows.behavior_logprobs), dtype=np.float32)
    for part in own_passes(policy, rows.groups if groups is None else groups, token_budget):
        batch = token_batches.build(part, policy.pad_token_id, policy.device)
        with torch.no_grad(), arithmetic(policy, precision):
            logprobs, _ = token_logprobs(policy.model, batch, rows.temperature, unspelled=policy.unspelled)
        found[rows.tokens_of(part)] = logprobs.float().cpu().numpy()
    peers.add_up(torch.from_numpy(found))  # every token is one process's; elsewhere it is 0
    return found


def own_passes(policy: LoadedPolicy, groups: Sequence[Group], token_budget: int) -> list[list[Group]]:
    """Return the groups of each forward pass of this process; over all processes every token is in one of them.

    Where weights are cut, all take as many passes, some over nothing: they gather each layer's weights together.
    """
    arranged = token_batches.arranged(groups, token_batches.attention_window(policy.model.config))
    passes = [token_batches.micro_batches(part, token_budget) for part in token_batches.dealt(arranged, token_budget, peers.count())]
    most = max(map(len, passes)) if peers.cuts_weights() else 0
    own = passes[peers.rank()]
    return own + [[]] * (most - len(own))


def logprobs_without_dropout(policy: LoadedPolicy, rows: Rows, groups: Sequence[Group], settings: Update) -> NDArray[np.float32]:
    """Return `logprobs_of` the groups under the policy with its dropout off; afterwards it is as it was."""
    was_training = policy.model.training
    policy.model.eval()
    found = logprobs_of(policy, rows, settings.tokens_per_micro_batch, settings.precision, groups)
    policy.model.train(was_training)
    if settings.gradient_checkpointing:
        checkpoint_layers(policy)
    return found


def arithmetic(policy: LoadedPolicy, precision: str) -> AbstractContextManager[Any]:
    """Return the context of forward passes: plain float32, or 16 bits for the products of matrices where a GPU is there."""
    if precision == "float32":
        return nullcontext()
    if policy.device.type != "cuda":
        raise PolicyError(
            "update.precision",
            "is for GPUs: on this processor it would be slower and less exact",
            found=f"{precision} on {policy.device.type}",
            expected="float32",
        )
    return torch.autocast("cuda", dtype=getattr(torch, precision))


def checkpoint_layers(policy: LoadedPolicy) -> None:
    """Have the backward pass compute each layer again; dropout stays as it is.

    transformers does so only in training mode: its layers alone are put there, what lies within them is not.
    """
    if isinstance(policy.model, PlainLlama):
        policy.model.model.is_recomputed = True
        return
    from transformers.modeling_layers import GradientCheckpointingLayer

    base = bare(policy.model)
    if not base.supports_gradient_checkpointing:
        raise PolicyError(policy.folder, "this model has no gradient checkpointing", remedy="set update.gradient_checkpointing: false")
    # transformers renames it: the old name warns from 5.2x on.
    enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    for module in base.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True
