"""Credit of the group game: from baselines of an answer's places to advantages of segments, of stopping, and of tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ospo_cli.maths.group_game import SPLICE
from ospo_cli.maths.shaping import prefix_advantages
from ospo_cli.maths.token_map import TokenMap

Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class GroupCredit:
    """What segments, and stopping after the last, are worth against the other answers of the rollout group.

    Attributes:
        share: [segments] δ_j (splice) or the advantage itself (swap, stopping), in units of reward.
        advantage: [segments] A_j, in units of reward.
        end: [rows] δ_end: what tokens behind the last segment get.
    """

    share: Values
    advantage: Values
    end: Values


def group_credit(game: str, baselines: Values, segments: Indices, reward: Values, trace: float) -> GroupCredit:
    """Return the credit of all rows from the means over the other answers.

    splice: δ_j = V_j - V_{j-1} for j = 1..n, δ_end = R - V_n, A_j = Σ_{l ≥ 0} λ^l δ_{j+l}, δ_end being the last of these. So
    Σδ + δ_end = R - V_0, the leave-one-out advantage, and λ = 1 gives A_j = R - V_{j-1}.
    swap: A_j = R - S_j, stopping: A_j = R - V_0; behind the last segment δ_end as above.

    Args:
        game: `splice`, `swap` or `stopping`.
        baselines: [Σ (n + 1)] of each row, one row after the other: V_0 to V_n, or S_1 to S_n and V_n, or V_0 n times and V_n.
        segments: [rows] n.
        reward: [rows] R.
        trace: λ of splice, 0 to 1.

    >>> credit = group_credit("splice", np.array([0.9, 1.5, 1.2]), np.array([2]), np.array([1.2]), 1.0)
    >>> credit.share.round(6).tolist(), credit.advantage.round(6).tolist(), credit.end.tolist()
    ([0.6, -0.3], [0.3, -0.3], [0.0])
    """
    first_place = np.cumsum(segments + 1) - (segments + 1)
    first_segment = np.cumsum(segments) - segments
    end = reward - baselines[first_place + segments]
    share, advantage = np.zeros(int(segments.sum())), np.zeros(int(segments.sum()))
    for n in np.unique(segments[segments > 0]).tolist():
        rows = np.flatnonzero(segments == n)
        own = baselines[first_place[rows][:, None] + np.arange(n + 1)]
        at = first_segment[rows][:, None] + np.arange(n)
        if game == SPLICE:
            share[at], advantage[at] = np.diff(own, axis=1), prefix_advantages(own, end[rows], trace)
        else:
            share[at] = advantage[at] = reward[rows][:, None] - own[:, :n]
    return GroupCredit(share, advantage, end)


def token_advantages(tokens: TokenMap, credit: GroupCredit, scale: Values, is_degenerate: Flags) -> Values:
    """Return [tokens] the advantage of each token's place over the scale of its row: all tokens are credited, those of no segment too.

    A token before a segment (tag, separator, thought) gets that segment's advantage, one across a border that of the first segment which it
    touches, one behind the last segment δ_end. Rows of degenerate groups get 0.

    Args:
        tokens: where segments lie.
        credit: in units of reward.
        scale: [rows] what Â's reward difference was divided by.
        is_degenerate: [rows].
    """
    inside = np.append(credit.advantage, 0.0)[tokens.place]  # index -1 reads the pad, whose place the row's end takes
    found = np.where(tokens.place >= 0, inside, credit.end[tokens.token_row])
    return np.asarray(np.where(is_degenerate[tokens.token_row], 0.0, found / scale[tokens.token_row]))
