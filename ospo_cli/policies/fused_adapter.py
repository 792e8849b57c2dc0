"""A linear layer and its low-rank adapter as one step of autograd: what the two add to each other is summed inside the matrix products.

peft writes W x + s B (A x) as separate operations: of each layer's outputs and inputs a scaled copy and a sum, forward and backward.
Here both lie in the accumulation of a product, and the scale lies on the [tokens, rank] factor.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

ADAPTER = "default"


def fuse(model: Any) -> None:
    """Have the adapter layers of a peft model compute in one step where that is the same function; others stay as they are.

    Left to peft: quantised or trained base weights, variants (DoRA and others), biases of the adapter; and in any layer dropout that is
    on, autocast, merged and switched off adapters.
    """
    from peft.tuners.lora.layer import Linear

    for module in model.modules():
        if isinstance(module, Linear) and is_plain(module):
            module.forward = functools.partial(_forward, module, module.forward)


def is_plain(module: Any) -> bool:
    """Tell whether a layer is peft's plain one over a frozen linear layer."""
    if not hasattr(module, "get_base_layer"):
        return False
    base = module.get_base_layer()
    return (
        list(module.lora_A) == [ADAPTER]
        and not module.lora_variant
        and type(base) is torch.nn.Linear
        and not base.weight.requires_grad
        and module.lora_A[ADAPTER].bias is None
        and module.lora_B[ADAPTER].bias is None
    )


def merged_weight(module: Any) -> torch.Tensor:
    """Return the weight of a linear layer, with its adapter's merged in where it has one: to the bit what peft's merging gives."""
    weight: torch.Tensor = module.weight.detach()
    return weight + module.get_delta_weight(ADAPTER).detach() if hasattr(module, "get_base_layer") else weight


def bare(model: Any) -> Any:
    """Return the model within a peft model, adapter layers in it; any other as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _forward(module: Any, peft_forward: Any, inputs: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    dropout = module.lora_dropout[ADAPTER]
    down, up = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
    base = module.get_base_layer()
    is_other = (
        args
        or kwargs
        or module.disable_adapters
        or module.merged
        or module.active_adapters != [ADAPTER]
        or (module.training and not isinstance(dropout, torch.nn.Identity))
        or torch.is_autocast_enabled(inputs.device.type)
        or not inputs.dtype == down.dtype == base.weight.dtype
    )
    if is_other:
        found: torch.Tensor = peft_forward(inputs, *args, **kwargs)
        return found
    flat = inputs.reshape(-1, inputs.shape[-1])
    outputs: torch.Tensor = _Adapted.apply(flat, base.weight, base.bias, down, up, module.scaling[ADAPTER])  # type: ignore[no-untyped-call]
    return outputs.view(*inputs.shape[:-1], -1)


class _Adapted(torch.autograd.Function):
    """[tokens, in] to [tokens, out]: x Wᵀ + b + s (x Aᵀ) Bᵀ; W and b are frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        narrow = inputs @ down.t()
        ctx.save_for_backward(inputs, narrow, weight, down, up)
        ctx.scaling = scaling
        return torch.nn.functional.linear(inputs, weight, bias).addmm_(narrow, up.t(), alpha=scaling)

    @staticmethod
    def backward(ctx: Any, outputs: torch.Tensor) -> tuple[Any, ...]:
        inputs, narrow, weight, down, up = ctx.saved_tensors
        of_narrow = (outputs @ up).mul_(ctx.scaling)
        of_inputs = (outputs @ weight).addmm_(of_narrow, down) if ctx.needs_input_grad[0] else None
        return of_inputs, None, None, of_narrow.t() @ inputs, (outputs.t() @ narrow).mul_(ctx.scaling), None
