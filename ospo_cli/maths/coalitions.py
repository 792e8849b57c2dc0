"""Families of coalitions: which sets of segments are evaluated. Rows of bool[m, n], by size, then by members."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import CreditError

Masks = NDArray[np.bool_]
Orders = NDArray[np.int64]
# Name of a stream -> its generator: one per (seed, rollout, name), so that a family draws the same whatever else is drawn.
Draw = Callable[[str], np.random.Generator]

LARGEST_POWERSET = 12


@dataclass(frozen=True)
class Players:
    """The segments of an answer, and the block of the a-priori partition that each belongs to (None: every segment its own)."""

    n: int
    unions: tuple[int, ...] | None = None

    def blocks(self) -> NDArray[np.int64]:
        """Return [n] number of each segment's union, from 0, in order of their first segments.

        Raises:
            CreditError: unions cross: one of them is left and entered again.
        """
        if self.unions is None:
            return np.arange(self.n)
        if len(self.unions) != self.n:
            raise CreditError("unions", "not one per segment", found=len(self.unions), expected=self.n)
        given = np.asarray(self.unions, dtype=np.int64)
        starts = np.concatenate([np.ones(min(self.n, 1), dtype=bool), given[1:] != given[:-1]])
        if len(np.unique(given)) != starts.sum():
            raise CreditError(
                "unions", "cross: a union's segments are not next to each other", found=list(self.unions), remedy="segment again"
            )
        return np.cumsum(starts) - 1


@dataclass(frozen=True)
class Budget:
    """How many coalitions families may take per rollout.

    Attributes:
        width: widest window of the contiguous family.
        cap: most coalitions of the contiguous family; 0 is no cap.
        exact: Shapley, Owen and Banzhaf values are exact where they need no more coalitions than this, and sampled beyond.
        orders: sampled orders (each second one is the one before it backwards); as many random subsets as these have coalitions.
        further: coalitions per rollout, on average over its rollout group, that are given to shares whose order is uncertain; 0 for none.
    """

    width: int = 32
    cap: int = 0
    exact: int = 256
    orders: int = 16
    further: int = 0


def contiguous(n: int, width: int, cap: int, rng: np.random.Generator) -> Masks:
    """Return the empty and the grand coalition and all windows of 1 to `width` consecutive segments.

    Over `cap` rows (0: no cap) the empty and the grand coalition stay and cap - 2 of the rest are sampled without replacement.
    Count without a cap: n(n+1)/2 + 1 where width ≥ n, else 1 + Σ_{k=1..width} (n-k+1) + 1.

    >>> [len(contiguous(n, w, 0, np.random.default_rng(0))) for n, w in [(5, 32), (8, 8), (12, 8), (17, 8), (17, 32)]]
    [16, 37, 70, 110, 154]
    """
    _check(n)
    if width < 1:
        raise CreditError("coalition family contiguous", "width is below 1", found=width, expected="≥ 1")
    if cap < 0 or cap == 1:
        raise CreditError(
            "coalition family contiguous",
            "cap leaves no room for the empty and the grand coalition",
            found=cap,
            expected="0 (no cap) or ≥ 2",
        )
    starts, ends = windows(n, min(width, n - 1))
    if cap and len(starts) > cap - 2:
        kept = np.sort(rng.choice(len(starts), size=cap - 2, replace=False))
        starts, ends = starts[kept], ends[kept]
    position = np.arange(n)
    inner = (position >= starts[:, None]) & (position <= ends[:, None])
    return union_of(empty_and_grand(n), inner)


def prefix(n: int) -> Masks:
    """Return the empty coalition and the n prefixes."""
    _check(n)
    return np.tri(n + 1, n, -1, dtype=bool)


def leave_one_out(n: int) -> Masks:
    """Return the grand coalition and the n coalitions that miss one segment, and the empty one (shares are relative to its value)."""
    _check(n)
    return union_of(empty_and_grand(n), ~np.eye(n, dtype=bool))


def powerset(n: int) -> Masks:
    """Return all 2^n coalitions, n ≤ 12."""
    _check(n)
    if n > LARGEST_POWERSET:
        raise CreditError(
            "coalition family powerset", "too many segments", found=n, expected=f"at most {LARGEST_POWERSET}", remedy="take contiguous"
        )
    numbers = np.arange(2**n)
    return union_of((numbers[:, None] >> np.arange(n) & 1).astype(bool))


def windows(n: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return first and last segment of all windows of 1 to `width` segments, by width, then by start."""
    sizes = np.repeat(np.arange(1, width + 1), np.arange(n, n - width, -1)) if width > 0 else np.zeros(0, dtype=np.int64)
    starts = np.concatenate([np.arange(n - size + 1) for size in range(1, width + 1)]) if width > 0 else np.zeros(0, dtype=np.int64)
    return starts, starts + sizes - 1


def is_powerset_small(n: int, budget: Budget) -> bool:
    """Tell whether all 2^n coalitions are within the budget."""
    return n <= LARGEST_POWERSET and 2**n <= budget.exact


def two_level_count(players: Players) -> int:
    """Return how many coalitions the exact Owen value needs: 2^m of whole unions, and 2^(m-1) (2^b - 2) with a part of one of size b."""
    sizes = np.bincount(players.blocks()).tolist()
    parts = sum(number * (2**size - 2) for size, number in Counter(sizes).items())
    return int(2 ** len(sizes) + (2 ** (len(sizes) - 1) * parts if sizes else 0))


def two_level(players: Players) -> Masks:
    """Return the coalitions in which at most one union is there in part: all that the Owen value of these unions needs."""
    blocks = players.blocks()
    count = int(blocks.max(initial=-1)) + 1
    largest = max(np.bincount(blocks).max(initial=0), count)
    if largest > LARGEST_POWERSET:
        raise CreditError(
            "coalition family two-level", "too many segments in a union, or unions", found=largest, expected=f"at most {LARGEST_POWERSET}"
        )
    whole = powerset(count)[:, blocks] if players.n else powerset(0)
    parts = [whole]
    for union in range(count):
        members = np.flatnonzero(blocks == union)
        inside = powerset(len(members))[1:-1]
        others = whole[~whole[:, members[0]]]
        part = np.repeat(others, len(inside), axis=0)
        part[:, members] = np.tile(inside, (len(others), 1))
        parts.append(part)
    return union_of(*parts)


def sampled_orders(n: int, count: int, rng: np.random.Generator) -> Orders:
    """Return [count, n] orders of the segments, each second one the one before it backwards (antithetic); an odd count is one more."""
    return _with_reverses(rng.permuted(np.broadcast_to(np.arange(n), (-(-count // 2), n)), axis=1))


def sampled_union_orders(players: Players, count: int, rng: np.random.Generator) -> Orders:
    """Return [count, n] orders that keep each union together: unions in random order, segments in random order within each."""
    blocks = players.blocks()
    unions = int(blocks.max(initial=-1)) + 1
    place = rng.permuted(np.broadcast_to(np.arange(unions), (-(-count // 2), unions)), axis=1)
    return _with_reverses(np.argsort(place[:, blocks] + rng.random((len(place), players.n)), axis=1))


def chains(orders: Orders) -> Masks:
    """Return bool[..., n + 1, n]: the coalitions that an order passes through, from the empty to the grand one."""
    n = orders.shape[-1]
    place = np.argsort(orders, axis=-1)
    return np.asarray(place[..., None, :] < np.arange(n + 1)[:, None])


def random_subsets(n: int, count: int, rng: np.random.Generator) -> Masks:
    """Return bool[count, n]: each segment is in with probability 1/2, each second row is the complement of the one before it."""
    drawn = rng.random((-(-count // 2), n)) < 0.5
    return np.stack([drawn, ~drawn], axis=1).reshape(2 * len(drawn), n)


def orders_of(family_name: str, players: Players, budget: Budget, draw: Draw) -> Orders:
    """Return the orders of a rollout: `permutation` all orders alike, `two-level` those that keep unions together."""
    if family_name == "permutation":
        return sampled_orders(players.n, budget.orders, draw("orders"))
    return sampled_union_orders(players, budget.orders, draw("union orders"))


def subsets_of(players: Players, budget: Budget, draw: Draw) -> Masks:
    """Return the random subsets of a rollout."""
    return random_subsets(players.n, budget.orders * max(players.n - 1, 1), draw("subsets"))


def _passed_through(orders: Orders) -> Masks:
    count, n = orders.shape
    return union_of(chains(orders).reshape(count * (n + 1), n))


def _two_level_family(players: Players, budget: Budget, draw: Draw) -> Masks:
    if two_level_count(players) <= budget.exact:
        return two_level(players)
    return _passed_through(orders_of("two-level", players, budget, draw))


FAMILIES: dict[str, Callable[[Players, Budget, Draw], Masks]] = {
    "contiguous": lambda players, budget, draw: contiguous(players.n, budget.width, budget.cap, draw("")),
    "prefix": lambda players, budget, draw: prefix(players.n),
    "leave-one-out": lambda players, budget, draw: leave_one_out(players.n),
    "powerset": lambda players, budget, draw: powerset(players.n),
    "permutation": lambda players, budget, draw: _passed_through(orders_of("permutation", players, budget, draw)),
    "two-level": _two_level_family,
    "subsets": lambda players, budget, draw: union_of(empty_and_grand(players.n), subsets_of(players, budget, draw)),
}


def is_drawn(name: str, players: Players, budget: Budget) -> bool:
    """Tell whether a family's coalitions depend on the rollout's random numbers."""
    if name == "contiguous":
        return budget.cap > 0 and len(windows(players.n, min(budget.width, players.n - 1))[0]) > budget.cap - 2
    if name == "two-level":
        return two_level_count(players) > budget.exact
    return name in ("permutation", "subsets")


def family(name: str, players: Players, budget: Budget, draw: Draw) -> Masks:
    """Return the named family's coalitions.

    Raises:
        CreditError: there is no such family.
    """
    if name not in FAMILIES:
        raise CreditError("score_coalitions.families", "unknown coalition family", found=name, expected=", ".join(FAMILIES))
    return FAMILIES[name](players, budget, draw)


def most_coalitions(name: str, players: Players, budget: Budget) -> int:
    """Return at most how many coalitions a family has, without making them.

    Raises:
        CreditError: there is no such family.
    """
    n, width = players.n, max(min(budget.width, players.n - 1), 0)
    if name not in FAMILIES:
        raise CreditError("score_coalitions.families", "unknown coalition family", found=name, expected=", ".join(FAMILIES))
    if name == "contiguous":
        windows_of_all = width * n - width * (width - 1) // 2
        return min(windows_of_all + 2, budget.cap or windows_of_all + 2)
    if name in ("prefix", "leave-one-out"):
        return n + (1 if name == "prefix" else 2)
    if name == "powerset":
        return int(2 ** min(n, LARGEST_POWERSET))
    if name == "two-level":
        count = two_level_count(players)
        return count if count <= budget.exact else budget.orders * (n + 1)
    if name == "subsets":
        return budget.orders * max(n - 1, 1) + 3
    return budget.orders * (n + 1)


def undrawn(stream: str) -> np.random.Generator:
    """Return a generator for families that draw nothing."""
    return np.random.Generator(np.random.Philox(key=0))


def union_of(*masks: Masks) -> Masks:
    """Return the distinct rows of all families, by size, then by members (segment 0 first)."""
    rows = np.concatenate(masks) if len(masks) > 1 else masks[0]
    if rows.shape[1] == 0:
        return rows[:1]
    packed = np.packbits(rows, axis=1)
    _, first = np.unique(packed, axis=0, return_index=True)
    rows, packed = rows[first], packed[first]
    # Keys of lexsort from last to first: size, then the packed bytes descending (a leading 1 means an earlier first member).
    order = np.lexsort((*(255 - packed[:, ::-1].astype(np.int16)).T, rows.sum(axis=1)))
    return rows[order]


def to_mask_string(mask: Masks) -> str:
    """Return one character per segment: 1 present, 0 absent.

    >>> to_mask_string(np.array([False, True, True, False]))
    '0110'
    """
    return (np.asarray(mask, dtype=np.uint8) + 48).tobytes().decode("ascii")


def to_mask_strings(masks: Masks) -> list[str]:
    """Return the mask string of each row."""
    rows, n = masks.shape
    letters = to_mask_string(np.ascontiguousarray(masks).reshape(-1))  # one string cut up: rows one by one take ten times as long
    return [letters[at * n : (at + 1) * n] for at in range(rows)]


def row_of(masks: Masks, mask: Masks) -> int:
    """Return the row that holds the coalition; raise CreditError where none does."""
    rows = np.flatnonzero((masks == mask).all(axis=1))
    if len(rows) == 0:
        raise CreditError("coalitions", "not among the coalitions", found=to_mask_string(mask))
    return int(rows[0])


def empty_and_grand(n: int) -> Masks:
    """Return the two coalitions that every estimate needs."""
    return np.stack([np.zeros(n, dtype=bool), np.ones(n, dtype=bool)])


def _with_reverses(drawn: Orders) -> Orders:
    return np.stack([drawn, drawn[:, ::-1]], axis=1).reshape(2 * len(drawn), drawn.shape[1])


def _check(n: int) -> None:
    if n < 0:
        raise CreditError("coalitions", "negative number of segments", found=n, expected="≥ 0")
