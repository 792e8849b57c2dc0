"""The best answer that a rollout group's own segments make, by strictly improving moves: order of the segments, and moves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ospo_cli.maths.group_game import Flags, Precedence


def group_order(answers: Sequence[Sequence[int]]) -> list[int]:
    """Return the distinct segments in the order in which the answers say them.

    None comes before a segment that mostly stands before it; of those that are free the one at the smallest mean relative place (and
    smallest number) comes first. Where orders contradict each other in a circle, all that are left are free.

    >>> group_order([[7, 3], [3, 5], [7, 5]])
    [7, 3, 5]
    """
    precedence = Precedence(answers)
    chosen = np.flatnonzero(precedence.count)
    is_before = precedence.among(chosen) > 0
    place = precedence.place_sum[chosen] / precedence.count[chosen]
    is_left, found = np.ones(len(chosen), dtype=bool), []
    while is_left.any():
        is_free = is_left & ~(is_before & is_left[:, None]).any(axis=0)
        first = int(np.where(is_free if is_free.any() else is_left, place, np.inf).argmin())
        found.append(int(chosen[first]))
        is_left[first] = False
    return found


def moves(said: Flags) -> Flags:
    """Return [moves, n] what one move makes of the set of segments that an answer says: drop one, swap one, add one; never the empty set.

    >>> moves(np.array([True, False])).tolist()
    [[False, True], [True, True]]
    """
    own, other = np.flatnonzero(said), np.flatnonzero(~said)
    changes = [(place,) for place in own if len(own) > 1] + [(place, new) for place in own for new in other] + [(new,) for new in other]
    found = np.repeat(said[None, :], len(changes), axis=0)
    for row, places in enumerate(changes):
        found[row, list(places)] ^= True
    return found
