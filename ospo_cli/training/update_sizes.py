"""How far an update moved each kind of weight."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from ospo_cli.executors import peers

# The first pattern that a weight's name holds names its kind.
KINDS = (
    ("lora_a", ("lora_A",)),
    ("lora_b", ("lora_B",)),
    ("embedding", ("embed", "wte", "wpe", "lm_head")),
    ("norm", ("norm", "ln_")),
    ("attention", ("attn", "attention")),
    ("feed_forward", ("mlp", "feed_forward", "experts")),
)


def kind_of(name: str) -> str:
    """Return the kind of a weight: lora_a, lora_b, embedding, norm, attention, feed_forward or other."""
    return next((kind for kind, patterns in KINDS if any(pattern in name for pattern in patterns)), "other")


def copied(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights as they are now, on the CPU."""
    return {name: peers.own_part(weight).detach().to("cpu", copy=True) for name, weight in weights.items()}


def update_sizes(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> dict[str, dict[str, float]]:
    """Return by kind: the norm of the change, the root mean square of it, and its norm as a share of the weights' before.

    The share is 0 where the weights were 0 (a fresh adapter's B): the norm tells the rest.
    """
    squares: dict[str, torch.Tensor] = {}
    for name, weight in after.items():
        start, end = before[name].double(), peers.own_part(weight).detach().cpu().double()
        sums = torch.stack([(end - start).square().sum(), start.square().sum(), torch.tensor(float(weight.numel()), dtype=torch.float64)])
        if peers.cuts_weights():
            sums[2] = end.numel()
            peers.add_up(sums)
        squares[kind_of(name)] = squares.get(kind_of(name), torch.zeros(3, dtype=torch.float64)) + sums
    return {
        kind: {
            "norm": math.sqrt(moved),
            "rms": math.sqrt(moved / count),
            "relative": math.sqrt(moved / held) if held > 0 else 0.0,
        }
        for kind, (moved, held, count) in sorted((kind, sums.tolist()) for kind, sums in squares.items())
    }
