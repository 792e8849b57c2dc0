"""An iteration's rollouts as arrays, and which of their tokens a forward pass is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ospo_cli.maths import seeding
from ospo_cli.params.update import Update
from ospo_cli.training.token_batches import Group


@dataclass(frozen=True)
class Rows:
    """Groups number their completions by `Group.first`; per-token values lie row by row.

    Attributes:
        groups: rollout groups that take part in the steps.
        lengths: [rows] completion tokens.
        starts: [rows] first token of each row in the flat arrays.
        behavior_logprobs: [tokens] at sampling time, sampling temperature.
        advantages: [tokens]; for objectives that name rollouts 1 on the tokens of those, else 0.
        reference_logprobs: [tokens] under policy 000, or None where the loss does not ask for it.
        temperature: of the sampling.
        max_new_tokens: cap of the completions.
        old_logprobs: [tokens] under the policy that training starts from, where ratios are taken to it in place of the sampler.
        corrections: [tokens] importance weights of that policy over the sampler, or None.
        pairs: [pairs, 2] rows, the preferred one first, or None.
        is_given: [rows] those that nobody sampled; None: none. Under objective policy-gradient they are imitated.
    """

    groups: list[Group]
    lengths: NDArray[np.int64]
    starts: NDArray[np.int64]
    behavior_logprobs: NDArray[np.float32]
    advantages: NDArray[np.float32]
    reference_logprobs: NDArray[np.float32] | None
    temperature: float
    max_new_tokens: int
    old_logprobs: NDArray[np.float32] | None = None
    corrections: NDArray[np.float32] | None = None
    pairs: NDArray[np.int64] | None = None
    is_given: NDArray[np.bool_] | None = None

    @cached_property
    def owner(self) -> NDArray[np.int64]:
        """[tokens] the row of each token."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def rows_of(self, groups: Sequence[Group]) -> NDArray[np.int64]:
        """Return the numbers of the groups' rows."""
        return np.array([row for group in groups for row in range(group.first, group.first + len(group.completions))], dtype=np.int64)

    def tokens_of(self, groups: Sequence[Group]) -> NDArray[np.int64]:
        """Return the places of the groups' tokens in the flat arrays, in the order of `token_batches.build`."""
        parts = [
            np.arange(self.starts[group.first + index], self.starts[group.first + index] + len(ids))
            for group in groups
            for index, ids in enumerate(group.completions)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    def is_alive(self, group: Group) -> bool:
        """Tell whether the group has any advantage; without one its gradient is zero."""
        return bool(np.any(self.advantages[self.tokens_of([group])] != 0))

    def trimmed(self, groups: Sequence[Group], is_wanted: NDArray[np.bool_]) -> list[Group]:
        """Return the groups with every completion up to its last wanted token; those in which nothing is wanted are left out."""
        found = []
        for group in groups:
            kept = []
            for index, ids in enumerate(group.completions):
                start = self.starts[group.first + index]
                wanted = np.flatnonzero(is_wanted[start : start + len(ids)])
                kept.append(ids[: int(wanted[-1]) + 1] if len(wanted) else [])
            if any(kept):
                found.append(Group(group.prompt, kept, group.first))
        return found


def chosen(rows: Rows, settings: Update, seed: int, iteration: int) -> list[Group]:
    """Return the groups that take part in the steps: with `groups: alive` those with an advantage, at most `max_groups` by seed."""
    groups = [group for group in rows.groups if settings.groups == "all" or rows.is_alive(group)]
    if settings.max_groups and len(groups) > settings.max_groups:
        order = seeding.generator(seed, f"update/{iteration}/groups").permutation(len(groups))
        groups = [groups[index] for index in sorted(order[: settings.max_groups].tolist())]
    return groups
