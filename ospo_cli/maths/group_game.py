"""The group game: segments that an answer does not say come from the other answers of its rollout group, instead of nothing."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ospo_cli.maths.estimators import ESTIMATORS

Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]

SPLICE, SWAP, STOPPING = "splice", "swap", "stopping"


@dataclass(frozen=True)
class GroupGame:
    """A way to value an answer's segments against what the other answers of its rollout group say.

    Attributes:
        name: as in `attribute.estimator`.
        meaning: one line for people.
        has_trace: whether it is a family over λ (`attribute.splice_trace`).
    """

    name: str
    meaning: str
    has_trace: bool


GROUP_GAMES: dict[str, GroupGame] = {
    game.name: game
    for game in (
        GroupGame(SPLICE, "own prefix, then what another answer says after that point; λ-returns of the differences", True),
        GroupGame(SWAP, "the answer minus itself with the segment that another answer says there in one place", False),
        GroupGame(STOPPING, "the answer minus the mean of the others; behind the last segment minus itself going on as they do", False),
    )
}
# What `attribute.estimator` and `score_coalitions.estimators` take.
ESTIMATOR_NAMES: ChainMap[str, Any] = ChainMap(ESTIMATORS, GROUP_GAMES)


def shown_estimator(estimator: str, evaluated: Sequence[str]) -> str | None:
    """Return the estimator of the shares that people look at: itself, or beside a group game the first evaluated one that divides v(N).

    >>> shown_estimator("owen", ["myerson"]), shown_estimator("splice", ["splice", "myerson", "alone"]), shown_estimator("swap", ["swap"])
    ('owen', 'myerson', None)
    """
    return next((name for name in (estimator, *evaluated) if name in ESTIMATORS), None)


class Precedence:
    """Which segments stand before which in the answers of a batch, and where each stands in the mean.

    Args:
        answers: the segments of each answer in order, as numbers from 0; equal segments have equal numbers.
    """

    def __init__(self, answers: Sequence[Sequence[int]]) -> None:
        by_length: dict[int, list[Sequence[int]]] = {}
        for answer in answers:
            if len(answer):
                by_length.setdefault(len(answer), []).append(answer)
        self.size = 1 + max((max(answer) for answer in answers if len(answer)), default=-1)
        # Whole numbers, so that an answer taken out leaves exactly what was there without it.
        self.count, self.place_sum = np.zeros(self.size, dtype=np.int64), np.zeros(self.size, dtype=np.int64)
        codes, nets = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        for length in sorted(by_length):
            said = np.array(by_length[length], dtype=np.int64)
            self.count += np.bincount(said.ravel(), minlength=self.size)
            self.place_sum += _summed(said.ravel(), np.tile(_places(length), len(said)), self.size)
            code, net = _net_pairs(said, self.size)
            codes.append(code)
            nets.append(net)
        self._codes, which = np.unique(np.concatenate(codes), return_inverse=True)
        self._net = _summed(which, np.concatenate(nets), len(self._codes))

    def among(self, chosen: Indices) -> Indices:
        """Return [a, b] how often segment a stands before b, minus how often b before a, for distinct segments in ascending order."""
        first, second = np.triu_indices(len(chosen), 1)
        net = np.zeros((len(chosen), len(chosen)), dtype=np.int64)
        if len(self._codes) and len(first):
            wanted = chosen[first] * self.size + chosen[second]
            at = np.minimum(np.searchsorted(self._codes, wanted), len(self._codes) - 1)
            net[first, second] = np.where(self._codes[at] == wanted, self._net[at], 0)
        return np.asarray(net - net.T)


def continuations(
    answers: Sequence[Sequence[int]], precedence: Precedence | None, nearer: Precedence | None = None
) -> list[list[list[Flags]]]:
    """Return, for each answer g, point j of it and answer h of a rollout group, which segments h says after that point: bool[n_h].

    Point j, from 0 to n_g, is behind the first j segments of g. With `precedence`, the answer h goes on with the segments that g has not
    said yet and that stand behind g's last segment a: more often behind it than before it, or where that is level, at a greater mean
    relative place. g itself is taken out of these counts, so that what it says after the point decides nothing. Where no other answer says
    a, the last of g's segments that one says takes its place, and each segment of g since then takes the place of one of h's.
    Without precedence h goes on by index, from its segment j on.

    Args:
        answers: numbers of the segments of each answer of the group.
        precedence: of answers among which these are.
        nearer: of fewer of them, these among them: two segments that stand in one order more often there stand in that order.
    """
    lengths = [len(answer) for answer in answers]
    ends = np.cumsum(lengths)
    flat = np.array([segment for answer in answers for segment in answer], dtype=np.int64)
    if precedence is None:
        index = np.arange(len(flat)) - np.repeat(ends - lengths, lengths)
        return [[np.split(index >= point, ends[:-1]) for point in range(length + 1)] for length in lengths]
    chosen, own = np.unique(flat, return_inverse=True)
    net, count, place = precedence.among(chosen), precedence.count[chosen], precedence.place_sum[chosen]
    near = nearer.among(chosen) if nearer is not None else net
    begin = np.repeat(ends - lengths, lengths)
    found = []
    for length, end in zip(lengths, ends.tolist(), strict=True):
        said = own[end - length : end]
        others = count - np.bincount(said, minlength=len(chosen))
        places = place - _summed(said, _places(length), len(chosen))
        mean_place = np.divide(places, others, out=np.zeros(len(chosen)), where=others > 0)
        itself = _own_net(said, len(chosen))
        left = net - itself
        if nearer is not None:
            left = np.where(near != itself, near - itself, left)
        is_new, anchor, since = np.ones(len(chosen), dtype=bool), -1, 0
        points = [np.split(is_new[own], ends[:-1])]
        for segment in said.tolist():
            is_new[segment] = False
            anchor, since = (segment, 0) if others[segment] > 0 else (anchor, since + 1)
            kept = is_new[own]
            if anchor >= 0:
                is_behind = (left[anchor] > 0) | ((left[anchor] == 0) & (mean_place > mean_place[anchor]))
                kept = kept & is_behind[own]
            if since and len(kept):
                before = np.concatenate([[0], np.cumsum(kept)])
                kept = kept & (before[1:] - before[begin] > since)
            points.append(np.split(kept, ends[:-1]))
        found.append(points)
    return found


def _places(length: int) -> Indices:
    # Relative places of n segments, (j - 1/2) / n, as multiples of 2^-20.
    return np.asarray(((2 * np.arange(length) + 1) << 19) // max(length, 1))


def _summed(index: Indices, weights: Indices, size: int) -> Indices:
    return np.bincount(index, weights=weights, minlength=size).astype(np.int64)  # exact: far below 2^53


def _net_pairs(said: Indices, size: int) -> tuple[Indices, Indices]:
    # Pairs of unlike segments of answers [answers, n], coded smaller · size + larger: how often the smaller number stands first, less the
    # contrary.
    first, second = np.triu_indices(said.shape[1], 1)
    before, behind = said[:, first].ravel(), said[:, second].ravel()
    codes, which = np.unique(np.minimum(before, behind) * size + np.maximum(before, behind), return_inverse=True)
    return codes, _summed(which, np.sign(behind - before), len(codes))


def _own_net(said: Indices, size: int) -> Indices:
    net = np.zeros((size, size), dtype=np.int64)
    first, second = np.triu_indices(len(said), 1)
    np.add.at(net, (said[first], said[second]), 1)
    return np.asarray(net - net.T)
