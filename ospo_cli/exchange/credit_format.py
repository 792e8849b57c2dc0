"""The rows of an exported iteration and the header that goes with them: format ospo-credit, version 1."""

from __future__ import annotations

from typing import Any

import polars as pl

from ospo_cli.errors import TableError
from ospo_cli.tables.exchange import CREDIT

FORMAT = "ospo-credit"
# Raised when a field changes its meaning, type or alignment, or goes; a new field alone does not raise it.
VERSION = 1


def credit_rows(
    rollouts: pl.DataFrame, rewards: pl.DataFrame, advantages: pl.DataFrame, prompts: pl.DataFrame, keep_degenerate: bool = True
) -> pl.DataFrame:
    """Return table credit: one row per rollout, ordered by prompt_id and sample_index, groups numbered in that order.

    Args:
        rollouts, rewards, advantages, prompts: the tables of the same name (advantages: token_advantages).
        keep_degenerate: keep rollout groups without any difference of reward (their advantages are 0), or leave them out.

    Raises:
        TableError: tables that do not belong together, values that are not finite, or nothing is left.
    """
    ids = set(rollouts["rollout_id"])
    for name, table in (("rewards", rewards), ("token_advantages", advantages)):
        odd = sorted(ids ^ set(table["rollout_id"]))
        if odd:
            raise TableError(
                f"table {name}",
                "rows are not those of the rollouts",
                found=f"{odd[0]} in one table only",
                expected=f"the {len(ids)} rollouts",
                remedy="run `ospo score-coalitions` and `ospo attribute` for this iteration again",
            )
    strangers = rollouts.join(prompts, on="prompt_id", how="anti")
    if strangers.height:
        raise TableError(
            "table rollouts",
            "names a prompt that is not in table prompts",
            found=strangers["prompt_id"][0],
            remedy="run `ospo prepare-data` and the iteration again",
        )
    joined = (
        rollouts.join(rewards.select("rollout_id", "reward", "is_degenerate_group"), on="rollout_id", how="inner")
        .join(advantages, on="rollout_id", how="inner")
        .join(prompts.select("prompt_id", "prompt"), on="prompt_id", how="inner")
        .rename({"token_ids": "completion_token_ids", "behavior_logprobs": "old_logprobs"})
    )
    if not keep_degenerate:
        joined = joined.filter(~pl.col("is_degenerate_group"))
    if not joined.height:
        found = f"{rollouts.height} rollouts, all in degenerate groups" if rollouts.height else "no rollouts"
        raise TableError("export", "nothing is left to write", found=found, expected="at least one rollout")
    tokens = pl.col("completion_token_ids").list.len()
    wrong = joined.filter((tokens != pl.col("advantages").list.len()) | (tokens != pl.col("old_logprobs").list.len()))
    if wrong.height:
        row = wrong.row(0, named=True)
        raise TableError(
            f"rollout {row['rollout_id']}",
            "token ids, log-probabilities and advantages differ in number",
            found=", ".join(str(len(row[name])) for name in ("completion_token_ids", "old_logprobs", "advantages")),
            expected="one per sampled token",
            remedy="run `ospo attribute` for this iteration again",
        )
    for name in ("advantages", "old_logprobs"):
        bad = joined.filter(~pl.col(name).list.eval(pl.element().is_finite()).list.all())
        if bad.height:
            raise TableError(f"rollout {bad['rollout_id'][0]}", f"{name} that are not finite", expected="finite numbers")
    ordered = joined.sort("prompt_id", "sample_index")
    return ordered.with_columns(group_id=(pl.col("prompt_id").rank("dense") - 1).cast(pl.Int32)).select(*CREDIT.schema)


def header(rows: pl.DataFrame, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what every file says of itself: format, version, counts, and what the reader needs to know of the sampling and the credit."""
    degenerate = rows.filter("is_degenerate_group")
    return {
        "format": FORMAT,
        "version": VERSION,
        "rollouts": rows.height,
        "groups": rows["group_id"].n_unique(),
        "degenerate_groups": degenerate["group_id"].n_unique(),
        **settings,
    }
