"""Rows of token ids for training: a rollout group packed behind its prompt once, or each completion behind a prompt of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class Group:
    """A prompt and its completions (a rollout group, or one teacher pair); `first` numbers the completions over all groups."""

    prompt: Sequence[int]
    completions: Sequence[Sequence[int]]
    first: int = 0

    @property
    def width(self) -> int:
        """Tokens of the packed row."""
        return len(self.prompt) + sum(len(ids) for ids in self.completions)

    @property
    def tokens(self) -> int:
        """Completion tokens."""
        return sum(len(ids) for ids in self.completions)

    def apart(self) -> list[Group]:
        """Return one group per completion: the padded layout."""
        return [Group(self.prompt, [ids], self.first + index) for index, ids in enumerate(self.completions)]

    def cut(self, widest: int) -> list[Group]:
        """Return parts of neighbouring completions behind the prompt, each at most `widest` wide (one completion at least)."""
        parts: list[Group] = []
        for index, ids in enumerate(self.completions):
            if not parts or parts[-1].width + len(ids) > widest:
                parts.append(Group(self.prompt, [], self.first + index))
            parts[-1] = replace(parts[-1], completions=[*parts[-1].completions, ids])
        return parts


@dataclass(frozen=True)
class TokenBatch:
    """One forward pass.

    Attributes:
        input_ids: [rows, width], filled up on the right.
        position_ids: [rows, width], restarted behind the prompt for each completion.
        mask: None (plain causal) or [rows, 1, width, width] bool, True where a token may look.
        predict_rows, predict_positions: [tokens] place whose output predicts each completion token.
        targets: [tokens] the completion tokens, group by group, completion by completion.
        tokens_in_all: rows · width, filling included.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    mask: torch.Tensor | None
    predict_rows: torch.Tensor
    predict_positions: torch.Tensor
    targets: torch.Tensor

    @property
    def tokens_in_all(self) -> int:
        return self.input_ids.numel()

    def only(self, is_wanted: NDArray[np.bool_]) -> TokenBatch:
        """Return the batch that asks for some of its targets: [tokens] which."""
        if is_wanted.all():
            return self
        kept = torch.from_numpy(np.flatnonzero(is_wanted)).to(self.targets.device)
        return replace(
            self, predict_rows=self.predict_rows[kept], predict_positions=self.predict_positions[kept], targets=self.targets[kept]
        )


def build(groups: Sequence[Group], pad: int, device: torch.device | None = None) -> TokenBatch:
    """Return the batch of some groups; with one completion per group a plain causal mask is enough, since filling stands on the right.

    Without groups it is one filling token that predicts nothing.
    """
    groups = groups or [Group([pad], [[]])]
    width = max(group.width for group in groups)
    ids = np.full((len(groups), width), pad, dtype=np.int64)
    positions = np.zeros((len(groups), width), dtype=np.int64)
    # 0: prompt, 1..G: completion, -1: filling. A token sees the prompt and its own completion, never ahead.
    part = np.full((len(groups), width), -1, dtype=np.int64)
    rows, places, targets = [], [], []
    for row, group in enumerate(groups):
        length = len(group.prompt)
        ids[row, :length] = group.prompt
        positions[row, :length] = np.arange(length)
        part[row, :length] = 0
        start = length
        for index, completion in enumerate(group.completions):
            end = start + len(completion)
            ids[row, start:end] = completion
            positions[row, start:end] = np.arange(length, length + len(completion))
            part[row, start:end] = index + 1
            if len(completion):
                places.append(np.concatenate([[length - 1], np.arange(start, end - 1)]))
                rows.append(np.full(len(completion), row))
                targets.append(np.asarray(completion))
            start = end
    mask = None
    if any(len(group.completions) > 1 for group in groups):
        sees = (part[:, None, :] == 0) | (part[:, None, :] == part[:, :, None])
        sees &= np.tril(np.ones((width, width), dtype=bool))
        sees |= np.eye(width, dtype=bool)  # filling looks at itself: a row that sees nothing would give NaN
        mask = torch.from_numpy(sees[:, None]).to(device)

    def flat(parts: list[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)).to(device)

    return TokenBatch(
        torch.from_numpy(ids).to(device), torch.from_numpy(positions).to(device), mask, flat(rows), flat(places), flat(targets)
    )


def micro_batches(groups: Sequence[Group], token_budget: int) -> list[list[Group]]:
    """Cut groups into forward passes of at most `token_budget` tokens with filling (one completion at least), like widths together."""
    batches: list[list[Group]] = []
    parts = [part for group in groups for part in (group.cut(token_budget) if group.width > token_budget else [group]) if part.tokens]
    for group in sorted(parts, key=lambda group: (group.width, group.first)):
        if not batches or group.width * (len(batches[-1]) + 1) > token_budget:
            batches.append([])
        batches[-1].append(group)
    return batches


def dealt(groups: Sequence[Group], token_budget: int, processes: int) -> list[list[Group]]:
    """Return each process's part of the groups: the widest first, each to the process with the fewest tokens so far.

    Groups wider than a process's fair share are cut by completions. Which process takes what depends on nothing but the groups.
    """
    parts: list[list[Group]] = [[] for _ in range(processes)]
    if processes == 1:
        return [list(groups)]
    widest = min(token_budget, -(-sum(group.width for group in groups) // processes))
    singles = [single for group in groups for single in (group.cut(widest) if group.width > widest else [group]) if single.tokens]
    loads = [0] * processes
    for single in sorted(singles, key=lambda single: (-single.width, single.first)):
        process = loads.index(min(loads))
        parts[process].append(single)
        loads[process] += single.width
    return parts


def packing_pays(groups: Sequence[Group]) -> bool:
    """Tell whether packed rows are the quicker layout: clearly fewer tokens, and rows short enough for a dense mask."""
    packed = sum(group.width for group in groups)
    apart = sum((len(group.prompt) + max(len(ids) for ids in group.completions)) * len(group.completions) for group in groups)
    return packed * 1.25 < apart and max(group.width for group in groups) <= 4096


def attention_window(config: Any) -> int | None:
    """Return how many places back every layer of a model sees: None is all, 0 is unknown (some layer is no plain attention)."""
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention" if window is None else "sliding_attention"])
    if kinds == {"full_attention"}:
        return None
    return int(window or 0) if kinds <= {"full_attention", "sliding_attention"} else 0


def arranged(groups: Sequence[Group], window: int | None = None) -> list[Group]:
    """Return the groups as the forward passes take them: packed behind one prompt where that pays, else one row per completion.

    A packed row brings its own mask, which knows no sliding windows: it is for rows that lie within the model's `attention_window`.
    """
    filled = [group for group in groups if group.tokens]
    longest = max((len(group.prompt) + len(ids) for group in filled for ids in group.completions), default=0)
    if not filled or ((window is None or longest <= window) and packing_pays(filled)):
        return filled
    return [single for group in filled for single in group.apart() if single.tokens]
