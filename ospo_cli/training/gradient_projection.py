"""Gradients as short vectors: whole where they fit, else a seeded random projection that keeps inner products on average."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ospo_cli.maths import seeding
from ospo_cli.training.group_gradient import Gradient

# All vectors together, as float32; a projection is as long as fits, within these bounds.
BYTES = 1 << 29
SHORTEST, LONGEST = 1 << 10, 1 << 16


class Projection:
    """Every weight is added to one of `size` buckets, with a sign; both are drawn once, by seed.

    <Px, Py> is <x, y> on average over the draw, with a variance of at most 2/size · |x|²|y|².

    Source: Charikar, Chen and Farach-Colton, "Finding frequent items in data streams", 2002; Weinberger et al., "Feature hashing for large
    scale multitask learning", 2009.

    Args:
        weights: number of elements of each weight, in the order of the gradients.
        vectors: how many will be held at once.
        seed: root of the draw.
    """

    def __init__(self, weights: Sequence[int], vectors: int, seed: int) -> None:
        total = sum(weights)
        fitting = BYTES // 4 // max(vectors, 1)
        self.is_exact = total <= min(fitting, LONGEST)
        self.size = total if self.is_exact else min(LONGEST, max(SHORTEST, 1 << int(math.log2(max(fitting, 1)))))
        self.starts = np.cumsum([0, *weights]).tolist()
        # The sign is the half of the buckets that a weight falls into.
        drawn = seeding.generator(seed, "gradient projection").integers(
            0, 2 * self.size, size=0 if self.is_exact else total, dtype=np.int32
        )
        self.bucket = torch.from_numpy(drawn)

    @property
    def error(self) -> float:
        """Standard deviation of a squared length, relative; 0 where nothing is projected."""
        return 0.0 if self.is_exact else math.sqrt(2 / self.size)

    def of(self, gradient: Gradient) -> NDArray[np.float32]:
        """Return [size] of a gradient."""
        whole = torch.zeros(self.size if self.is_exact else 2 * self.size)
        for start, end, part in zip(self.starts, self.starts[1:], gradient, strict=False):
            if part is None:
                continue
            flat = part.detach().flatten().to("cpu", torch.float32)
            if self.is_exact:
                whole[start:end] = flat
            else:
                whole.index_add_(0, self.bucket[start:end], flat)
        found = whole if self.is_exact else whole[: self.size] - whole[self.size :]
        return found.numpy()
