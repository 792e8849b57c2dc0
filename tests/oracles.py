"""Slow and obvious versions of what the package computes fast."""

from __future__ import annotations

from itertools import combinations, pairwise, permutations

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


def owen_by_orders(n: int, game: Game, unions: tuple[int, ...]) -> np.ndarray:
    """Mean marginal contribution over all orders in which each union's players come one after another (Owen's own definition)."""
    total = np.zeros(n)
    count = 0
    for order in permutations(range(n)):
        met = [unions[player] for player in order]
        if sum(a != b for a, b in pairwise(met)) + 1 != len(set(unions)):
            continue
        before: frozenset[int] = frozenset()
        for player in order:
            total[player] += game(before | {player}) - game(before)
            before = before | {player}
        count += 1
    return total / count


def banzhaf_by_coalitions(n: int, game: Game) -> np.ndarray:
    """Mean marginal contribution over all coalitions of the others."""
    values = []
    for player in range(n):
        others = [other for other in range(n) if other != player]
        marginals = [
            game(frozenset(members) | {player}) - game(frozenset(members)) for size in range(n) for members in combinations(others, size)
        ]
        values.append(sum(marginals) / len(marginals))
    return np.array(values)


def dividends_by_recursion(n: int, game: Game) -> dict[frozenset[int], float]:
    """Harsanyi dividends: what a coalition is worth beyond the dividends of all that are in it."""
    found: dict[frozenset[int], float] = {}
    for size in range(1, n + 1):
        for members in combinations(range(n), size):
            inner = (frozenset(part) for smaller in range(1, size) for part in combinations(members, smaller))
            found[frozenset(members)] = game(frozenset(members)) - sum(found[part] for part in inner)
    return found


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
