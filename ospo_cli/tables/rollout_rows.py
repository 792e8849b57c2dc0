"""Rows of table rollouts from named fields: who samples, or reads what another sampled, makes them here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.text.answers import find_answer


@dataclass(frozen=True)
class RolloutRow:
    """A completion as it was sampled, by the columns of table rollouts; where its answer lies is found in its text."""

    rollout_id: str
    prompt_id: str
    sample_index: int
    prompt_token_ids: Sequence[int]
    completion: str
    token_ids: Sequence[int]
    behavior_logprobs: Sequence[float]
    finish_reason: str


def rollouts_frame(rows: Iterable[RolloutRow]) -> pl.DataFrame:
    """Return table rollouts, in the order of the rows."""
    return pl.DataFrame([vars(row) | _place(row.completion) for row in rows], schema=ROLLOUTS.schema)


def located(rollouts: pl.DataFrame) -> pl.DataFrame:
    """Return the rollouts with their answers looked for anew: completions of a cache stay of use when what an answer is changes."""
    places = [_place(completion) for completion in rollouts["completion"].to_list()]
    return rollouts.with_columns(pl.DataFrame(places, schema={name: ROLLOUTS.schema[name] for name in _PLACES}))


_PLACES = ("answer_start", "answer_end", "has_answer_tags")


def _place(completion: str) -> dict[str, int | bool]:
    answer = find_answer(completion)
    return dict(zip(_PLACES, (answer.start, answer.end, answer.has_tags), strict=True))
