"""How much of the move that a batch asks for its update has taken, measured behind the last step.

The steps' own measures are taken before each step, on tokens that it has not moved yet: with one epoch nobody sees a batch after its move.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ospo_cli.executors import peers
from ospo_cli.params.update import Update
from ospo_cli.policies.folder import LoadedPolicy
from ospo_cli.training import forward
from ospo_cli.training.objectives import objective_of
from ospo_cli.training.policy_loss import Tokens, k3
from ospo_cli.training.rows import Rows
from ospo_cli.training.token_batches import Group

FACTORS = (0.5, 2.0)  # of the move, beside none and the whole
MEASURED_GROUPS = 16  # at most: of 96 a sixth


def after_the_steps(
    policy: LoadedPolicy, rows: Rows, settings: Update, move: tuple[Mapping[str, torch.Tensor], Mapping[str, torch.Tensor]] | None = None
) -> dict[str, Any]:
    """Return what the trained policy makes of the batch, on some of its groups, evenly spaced.

    Args:
        policy, rows, settings: after the steps.
        move: `update_sizes.copied` of the weights before the steps, and the weights; they are left at another place of the line. None
            searches no line.

    Returns:
        `after_kl`, divergence from the sampler, nats per token; `after_clipped_fraction`, share of the tokens with an advantage that lie
        beyond the clip (None without a clip); `taken_share`, what the batch's objective has gained, as a share of the most that it could
        (None where there is no most, or nothing to gain); `line_half`, `line_whole`, `line_double`, that share on some of these groups with
        half of, the whole and twice the move, and `line_factor`, the best of 0, 1/2, 1 and 2 times it. All None where no group has a token.
    """
    names = ("after_kl", "after_clipped_fraction", "taken_share", "line_half", "line_whole", "line_double", "line_factor")
    found: dict[str, Any] = dict.fromkeys(names)
    some = [group for group in rows.groups if group.tokens]
    groups = spaced(some, how_many(len(some)))
    if not groups:
        return found
    own, places = forward.logprobs_without_dropout(policy, rows, groups, settings), rows.tokens_of(groups)
    found["after_kl"] = float(k3(torch.from_numpy(rows.behavior_logprobs[places]), torch.from_numpy(own[places])).mean())
    objective = objective_of(settings)
    if not objective.has_gain:
        return found
    tokens = _tokens(rows, groups, settings, own)
    has_advantage = tokens.advantages != 0
    if tokens.is_imitated is not None:
        has_advantage &= ~tokens.is_imitated
    if objective.has_clip and bool(has_advantage.any()):
        found["after_clipped_fraction"] = float(objective.loss(tokens).is_clipped[has_advantage].double().mean())
    found["taken_share"] = _share(tokens, settings)
    few = spaced([group for group in groups if rows.is_alive(group)], max(2, len(some) // 8))
    if move is not None and few:
        found |= _line(policy, rows, settings, few, own, move)
    return found


def how_many(groups: int) -> int:
    """Return how many groups are measured: a sixth of a large batch, of a small one a quarter up to six, to stay cheap beside the steps.

    >>> [how_many(groups) for groups in (1, 4, 16, 24, 96, 384)]
    [1, 2, 4, 6, 16, 16]
    """
    return min(groups, MEASURED_GROUPS, max(groups // 6, min(groups // 4, 6), 2))


def _line(
    policy: LoadedPolicy, rows: Rows, settings: Update, few: list[Group], own: NDArray[np.float32], move: tuple[Mapping[str, Any], ...]
) -> dict[str, Any]:
    """Search the line from the weights before the steps through those after them: a forward pass over few groups for each of FACTORS."""
    start, weights = move
    shares: dict[float, Any] = {1.0: _share(_tokens(rows, few, settings, own), settings), 0.0: 0.0}  # of equal ones the first is taken
    if shares[1.0] is None:  # these groups' advantages are all of targets, which are imitated whatever the ratio
        return {}
    at = 1.0
    for factor in FACTORS:
        with torch.no_grad():
            for name, weight in weights.items():
                part = peers.own_part(weight)
                begun = start[name].to(part.device)
                part.copy_(begun + (part - begun) * (factor / at))
        at = factor
        logprobs = forward.logprobs_without_dropout(policy, rows, few, settings)
        shares[factor] = _share(_tokens(rows, few, settings, logprobs), settings)
    best = max(shares, key=shares.__getitem__)
    return {"line_half": shares[0.5], "line_whole": shares[1.0], "line_double": shares[2.0], "line_factor": best}


def _tokens(rows: Rows, groups: list[Group], settings: Update, own: NDArray[np.float32]) -> Tokens:
    """Return the groups' tokens as one step's, under log-probabilities of all of the rows."""
    places = rows.tokens_of(groups)
    weights, _ = objective_of(settings).weights(rows, groups, lambda some: own)
    return Tokens(
        _at(own, places),
        _at(rows.behavior_logprobs if rows.old_logprobs is None else rows.old_logprobs, places),
        _at(rows.advantages, places),
        _at(weights, places),
        rows.lengths[rows.rows_of(groups)].tolist(),
        correction=None if rows.corrections is None else _at(rows.corrections, places),
        is_imitated=None if rows.is_given is None else torch.from_numpy(rows.is_given[rows.owner[places]]),
    )


def _share(tokens: Tokens, settings: Update) -> float | None:
    gained, most = objective_of(settings).gain(tokens)
    return gained / most if most > 0 else None


def spaced(groups: list[Group], most: int) -> list[Group]:
    """Return at most so many of the groups, evenly spaced.

    >>> [group.first for group in spaced([Group([1], [[2]], first) for first in range(5)], 2)]
    [0, 2]
    """
    return [groups[index * len(groups) // min(most, len(groups))] for index in range(min(most, len(groups)))]


def _at(values: NDArray[Any], places: NDArray[np.int64]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values[places], dtype=np.float64))
