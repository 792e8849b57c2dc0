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
    found = []
    for row in rows:
        answer = find_answer(row.completion)
        found.append(vars(row) | {"answer_start": answer.start, "answer_end": answer.end, "has_answer_tags": answer.has_tags})
    return pl.DataFrame(found, schema=ROLLOUTS.schema)
