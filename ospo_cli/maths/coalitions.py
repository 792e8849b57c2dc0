"""Families of coalitions: which sets of segments are evaluated. Rows of bool[m, n], by size, then by members."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import CreditError

Masks = NDArray[np.bool_]

LARGEST_POWERSET = 12


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


FAMILIES: dict[str, Callable[[int, int, int, np.random.Generator], Masks]] = {
    "contiguous": contiguous,
    "prefix": lambda n, width, cap, rng: prefix(n),
    "leave-one-out": lambda n, width, cap, rng: leave_one_out(n),
    "powerset": lambda n, width, cap, rng: powerset(n),
}


def family(name: str, n: int, width: int, cap: int, rng: np.random.Generator) -> Masks:
    """Return the named family's coalitions of n segments; width and cap concern `contiguous` alone.

    Raises:
        CreditError: there is no such family.
    """
    if name not in FAMILIES:
        raise CreditError("score_coalitions.families", "unknown coalition family", found=name, expected=", ".join(FAMILIES))
    return FAMILIES[name](n, width, cap, rng)


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
    return [to_mask_string(mask) for mask in masks]


def from_mask_string(text: str) -> Masks:
    """Return bool[n] of a mask string; raise CreditError where it holds anything but 0 and 1."""
    if text.strip("01"):
        raise CreditError("coalition", "is not a bit mask", found=text, expected="characters 0 and 1")
    bits: Masks = np.frombuffer(text.encode("ascii"), dtype=np.uint8) == 49
    return bits


def row_of(masks: Masks, mask: Masks) -> int:
    """Return the row that holds the coalition; raise CreditError where none does."""
    rows = np.flatnonzero((masks == mask).all(axis=1))
    if len(rows) == 0:
        raise CreditError("coalitions", "not among the coalitions", found=to_mask_string(mask))
    return int(rows[0])


def empty_and_grand(n: int) -> Masks:
    """Return the two coalitions that every estimate needs."""
    return np.stack([np.zeros(n, dtype=bool), np.ones(n, dtype=bool)])


def _check(n: int) -> None:
    if n < 0:
        raise CreditError("coalitions", "negative number of segments", found=n, expected="≥ 0")
