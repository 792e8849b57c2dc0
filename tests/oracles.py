"""Slow and obvious versions of what the package computes fast."""

from __future__ import annotations

from itertools import permutations

import numpy as np

from tests.games import Game


def shapley_by_orders(n: int, game: Game) -> np.ndarray:
    """Mean marginal contribution over all n! orders."""
    total = np.zeros(n)
    count = 0
    for order in permutations(range(n)):
        before: frozenset[int] = frozenset()
        for player in order:
            total[player] += game(before | {player}) - game(before)
            before = before | {player}
        count += 1
    return total / count


def restricted_to_path(game: Game) -> Game:
    """A coalition is worth the sum of what its maximal runs of neighbours are worth."""

    def value(members: frozenset[int]) -> float:
        total, run = 0.0, []
        for member in sorted(members):
            if run and member != run[-1] + 1:
                total += game(frozenset(run))
                run = []
            run.append(member)
        return total + (game(frozenset(run)) if run else 0.0)

    return value


def mean_contiguous_marginal(n: int, game: Game, width: int) -> np.ndarray:
    """Mean of u(S with j) - u(S) over windows of at most `width` segments, the empty and the grand coalition."""
    evaluated = {frozenset(range(a, b)) for a in range(n) for b in range(a + 1, min(a + width, n) + 1)} | {frozenset(), frozenset(range(n))}
    means = []
    for player in range(n):
        marginals = [
            game(members | {player}) - game(members) for members in evaluated if player not in members and members | {player} in evaluated
        ]
        means.append(sum(marginals) / len(marginals))
    return np.array(means)


def proportional_tokens(share: list[float], lengths: list[int], outside: int, advantage: float) -> tuple[list[list[float]], float]:
    """Token advantages of one row under proportional, outside: sequence, divide: per segment a list, and what each other token gets."""
    positive = [max(value, 0.0) for value in share]
    inside = sum(lengths)
    return [
        [inside * part / sum(positive) * advantage / length] * length for part, length in zip(positive, lengths, strict=True)
    ], advantage
