"""How far an update moved each kind of weight."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

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
    return {name: weight.detach().to("cpu", copy=True) for name, weight in weights.items()}


def update_sizes(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> dict[str, dict[str, float]]:
    """Return by kind: the norm of the change, the root mean square of it, and its norm as a share of the weights' before.

    The share is 0 where the weights were 0 (a fresh adapter's B): the norm tells the rest.
    """
    squares: dict[str, list[float]] = {}
    for name, weight in after.items():
        sums = squares.setdefault(kind_of(name), [0.0, 0.0, 0.0])
        start = before[name].double()
        sums[0] += float((weight.detach().cpu().double() - start).square().sum())
        sums[1] += float(start.square().sum())
        sums[2] += weight.numel()
    return {
        kind: {
            "norm": math.sqrt(moved),
            "rms": math.sqrt(moved / count),
            "relative": math.sqrt(moved / held) if held > 0 else 0.0,
        }
        for kind, (moved, held, count) in sorted(squares.items())
    }
