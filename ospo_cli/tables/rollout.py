"""Tables of stage rollout."""

from __future__ import annotations

import polars as pl

from ospo_cli.errors import TableError
from ospo_cli.layout import Layout
from ospo_cli.tables import placed
from ospo_cli.tables.declare import Column, Place, Table

SAMPLED = Place("ospo rollout --iter {iteration}", "iteration")
ROLLOUTS = Table(
    "rollouts",
    "sampled completions; no reward, so that a change of reward never samples again",
    ("rollout_id",),
    (
        Column("rollout_id", pl.String, "iteration:prompt_id:sample_index, unique over all iterations"),
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("sample_index", pl.Int32, "from 0 within a rollout group"),
        Column("prompt_token_ids", pl.List(pl.Int32), "token ids that the policy was given"),
        Column("completion", pl.String, "text of token_ids without the end token"),
        Column("token_ids", pl.List(pl.Int32), "sampled token ids, end token included where it was sampled"),
        Column(
            "behavior_logprobs",
            pl.List(pl.Float32),
            "natural log-probability of each sampled token under the sampling policy at rollout.temperature, no token cut off",
        ),
        Column("answer_start", pl.Int32, "first character of the answer within completion, from 0"),
        Column("answer_end", pl.Int32, "character after the answer; answer_start where it is malformed (docs/rewards.md)"),
        Column("has_answer_tags", pl.Boolean, "whether the answer stands in a closed <answer> pair outside the think block, no tag inside"),
        Column("finish_reason", pl.String, "stop (end token sampled) or length (cut off)"),
    ),
    place=SAMPLED,
)
SAMPLING_LOGPROBS = Table(
    "sampling_logprobs",
    "two more natural log-probabilities of each sampled token; all three are equal at temperature 1 without top-k and top-p",
    ("rollout_id",),
    (
        Column("rollout_id", pl.String, "identity of the rollout"),
        Column("sampled_logprobs", pl.List(pl.Float32), "of the distribution that was drawn from: temperature, then top_k, then top_p"),
        Column("policy_logprobs", pl.List(pl.Float32), "of the raw policy: temperature 1, no token cut off"),
    ),
    place=SAMPLED,
)


def read_rollouts(layout: Layout, iteration: int) -> pl.DataFrame:
    """Return table rollouts of an iteration.

    Raises:
        MissingInputError, TableError: as `placed.read`; or its ids say that another iteration sampled them.
    """
    frame = placed.read(ROLLOUTS, layout, iteration)
    # Ids of ours begin with the iteration; those of others may be anything.
    numbers = frame["rollout_id"].str.extract(r"^(\d{3,}):", 1).cast(pl.Int64, strict=False)
    others = frame["rollout_id"].filter((numbers != iteration).fill_null(False))
    if len(others):
        raise TableError(
            f"{ROLLOUTS.path(layout, iteration)}: table rollouts", "holds rollouts of another iteration", found=others[0],
            expected=f"{iteration:03d}:…", remedy=f"run `{ROLLOUTS.command(iteration)}` again",
        )  # fmt: skip
    return frame
