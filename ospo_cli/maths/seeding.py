"""Randomness that belongs to a row: batching, sharding and the order of work change nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray


def generator(seed: int, row_id: str) -> np.random.Generator:
    """Return the generator of a row: Philox (Salmon et al. 2011, "Parallel random numbers") keyed by SHA-256 of `seed|row_id`."""
    return _generator(f"{seed}|{row_id}")


def streams(seed: int, row_id: str) -> Callable[[str], np.random.Generator]:
    """Return what makes a row's generators by name, independent of each other; the one named "" is `generator(seed, row_id)`."""
    return lambda name: generator(seed, f"{name}|{row_id}" if name else row_id)


def uniforms(seed: int, row_ids: Sequence[str], count: int) -> NDArray[np.float64]:
    """Return [rows, count] uniform numbers in [0, 1), by row and position.

    Row r depends on (seed, row_ids[r]) alone, and value j does not depend on count. The stream is another one than that of
    `generator(seed, row_id)`, so that sampling a row's tokens and sampling its coalitions are independent.
    """
    numbers = np.empty((len(row_ids), count))
    for row, row_id in enumerate(row_ids):
        numbers[row] = _generator(f"uniforms|{seed}|{row_id}").random(count)
    return numbers


def _generator(name: str) -> np.random.Generator:
    key = int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=key))
