"""Named games with known answers, and random ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ospo_cli.maths import coalitions

Game = Callable[[frozenset[int]], float]

# Values of ALGORITHM: u(0)=.2 u(1)=.5 u(2)=.1 u(01)=.9 u(12)=.4 u(012)=1.0; {0, 2} is no window.
THREE_SEGMENTS = {"000": 0.0, "100": 0.2, "010": 0.5, "001": 0.1, "110": 0.9, "011": 0.4, "111": 1.0}
ADDITIVE_WORTH = np.array([0.1, 0.3, 0.05, 0.25, 0.3])


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=seed))


def windows(n: int, width: int = 1_000) -> np.ndarray:
    return coalitions.contiguous(n, width, 0, generator())


def three_segments() -> tuple[np.ndarray, np.ndarray]:
    masks = windows(3)
    return masks, np.array([THREE_SEGMENTS[text] for text in coalitions.to_mask_strings(masks)])


def random_game(n: int, seed: int) -> Game:
    """A game with v(empty) = 0 in which nothing else is known of any coalition."""
    numbers = generator(seed).uniform(-1, 1, size=2**n)

    def value(members: frozenset[int]) -> float:
        return float(numbers[sum(1 << member for member in members)]) if members else 0.0

    return value


def values_of(game: Game, masks: np.ndarray) -> np.ndarray:
    return np.array([game(frozenset(np.flatnonzero(mask).tolist())) for mask in masks])
