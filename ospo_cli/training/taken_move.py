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
MEASURED_GROUPS = 16  # a forward pass over these alone: a few hundredths of an update of 96 groups


def after_the_steps(policy: LoadedPolicy, rows: Rows, settings: Update) -> dict[str, Any]:
    """Return what the trained policy makes of the batch, on at most MEASURED_GROUPS groups of it, evenly spaced.

    Returns:
        `after_kl`, divergence from the sampler, nats per token; `after_clipped_fraction`, share of the tokens with an advantage that lie
        beyond the clip (None without a clip); `taken_share`, what the batch's objective has gained, as a share of the most that it could
        (None where there is no most, or nothing to gain). All None where no group has a token.
    """
    found: dict[str, Any] = dict.fromkeys(("after_kl", "after_clipped_fraction", "taken_share"))
    groups = _measured(rows)
    if not groups:
        return found
    own, places = forward.logprobs_without_dropout(policy, rows, groups, settings), rows.tokens_of(groups)
    found["after_kl"] = float(k3(torch.from_numpy(rows.behavior_logprobs[places]), torch.from_numpy(own[places])).mean())
    objective = objective_of(settings)
    if not objective.has_gain:
        return found
    tokens = _tokens(rows, groups, settings, own)
    has_advantage = tokens.advantages != 0
    if objective.has_clip and bool(has_advantage.any()):
        found["after_clipped_fraction"] = float(objective.loss(tokens).is_clipped[has_advantage].double().mean())
    found["taken_share"] = _share(tokens, settings)
    return found


def along_the_move(
    policy: LoadedPolicy, rows: Rows, settings: Update, start: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor], whole: Any
) -> dict[str, float | None]:
    """Return where on the line from the weights before the steps through those after them the batch's objective is highest.

    A forward pass over MEASURED_GROUPS groups for each of FACTORS. The weights stay at the last of these.

    Args:
        policy, rows, settings: as in `after_the_steps`.
        start: `update_sizes.copied` of the weights before the steps.
        weights: those that train, after the steps.
        whole: `taken_share` of the whole move.

    Returns:
        `taken_share_half` and `taken_share_double`, `taken_share` for half and for twice the move; `line_factor`, the best of 0, 1/2, 1 and
        2. None where `whole` is: the batch has nothing to gain, or its objective no most.
    """
    if whole is None:
        return dict.fromkeys(("taken_share_half", "taken_share_double", "line_factor"))
    groups, at = _measured(rows), 1.0
    shares: dict[float, Any] = {1.0: whole, 0.0: 0.0}  # of equal ones the first is taken: no move is no overshoot
    for factor in FACTORS:
        with torch.no_grad():
            for name, weight in weights.items():
                part = peers.own_part(weight)
                begun = start[name].to(part.device)
                part.copy_(begun + (part - begun) * (factor / at))
        at = factor
        own = forward.logprobs_without_dropout(policy, rows, groups, settings)
        shares[factor] = _share(_tokens(rows, groups, settings, own), settings)
    best = max(shares, key=shares.__getitem__)
    return {"taken_share_half": shares[0.5], "taken_share_double": shares[2.0], "line_factor": best}


def _measured(rows: Rows) -> list[Group]:
    return spaced([group for group in rows.groups if group.tokens], MEASURED_GROUPS)


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
