"""Tables of stage segment."""

from __future__ import annotations

import polars as pl

from ospo_cli.errors import CreditError, shorten
from ospo_cli.tables.declare import Column, Place, Table

SEGMENTS = Table(
    "segments",
    "the players: disjoint spans of the answer, in order",
    ("rollout_id", "segment_index"),
    (
        Column("rollout_id", pl.String, "identity of the rollout"),
        Column("segment_index", pl.Int32, "from 0 within a rollout"),
        Column("union_index", pl.Int32, "block of the a-priori partition, from 0"),
        Column("start", pl.Int32, "first character within completion, from 0"),
        Column("end", pl.Int32, "character after the last"),
    ),
    place=Place("ospo segment --iter {iteration}", "iteration"),
)


def check_worded(rollouts: pl.DataFrame, segments: pl.DataFrame, iteration: int) -> None:
    """Refuse an answer that has letters or digits and no segment: it would be credited as an empty one is.

    Args:
        rollouts, segments: tables of one iteration.
        iteration: named in the remedy.

    Raises:
        CreditError: there is one.
    """
    bare = rollouts.join(segments, on="rollout_id", how="anti").sort("rollout_id")
    for rollout_id, completion, start, end in bare.select("rollout_id", "completion", "answer_start", "answer_end").iter_rows():
        answer = completion[start:end]
        if any(character.isalnum() for character in answer):
            remedy = f"run `{SEGMENTS.command(iteration)}` again; for a segmenter that leaves whole answers out set "
            raise CreditError(
                f"table segments, rollout {rollout_id}", "an answer that has words has no segment", found=shorten(answer, 60),
                expected="at least one", remedy=f"{remedy}score_coalitions.grand_value: any",
            )  # fmt: skip
