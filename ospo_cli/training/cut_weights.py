"""A policy whose weights are cut over the processes (FSDP2): each layer's are gathered where they are used, and given back behind it.

Source: Zhao et al., PyTorch FSDP, 2023; `torch.distributed.fsdp.fully_shard`.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from ospo_cli.errors import PolicyError
from ospo_cli.executors import peers
from ospo_cli.policies.folder import LoadedPolicy
from ospo_cli.training import token_logprobs


def cut(policy: LoadedPolicy, precision: str = "float32") -> LoadedPolicy:
    """Return the policy with its weights cut over the processes, if they are to be; in place, and on the device of training.

    Gradients are summed, not averaged. In 16 bits the layers' weights are gathered in them, since else autocast would keep a copy of every
    layer for the backward pass; what enters a layer, norms' sums and sums of gradients stay in float32, as without cuts.

    Raises:
        PolicyError: the weights lie in 4 bits.
    """
    if not peers.cuts_weights():
        return policy
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    model = policy.model
    odd = next((name for name, weight in model.named_parameters() if not weight.is_floating_point()), None)
    if odd is not None:
        raise PolicyError(policy.folder, "weights in 4 bits cannot be cut", found=odd, remedy="leave out --shard-weights")
    mesh = init_device_mesh(policy.device.type, (peers.count(),))
    narrow = None if precision == "float32" else getattr(torch, precision)
    arithmetic = MixedPrecisionPolicy(param_dtype=narrow, reduce_dtype=torch.float32, cast_forward_inputs=False)
    layers: Any = max((module for module in model.modules() if isinstance(module, torch.nn.ModuleList)), key=len)
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=arithmetic)
    # Embeddings and the last norm are gathered for a whole pass.
    fully_shard(model, mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    setattr(model, token_logprobs.METHOD, functools.partial(_of_model, model))
    register_fsdp_forward_method(model, token_logprobs.METHOD)
    return policy


def _of_model(model: Any, *arguments: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    logprobs, entropies = token_logprobs.of_model(model, *arguments)
    return logprobs.clone(), entropies  # what FSDP hangs its hook on may not be a view
