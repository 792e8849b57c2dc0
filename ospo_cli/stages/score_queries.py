"""Score the raw queries by themselves: which prompts leave something to gain."""

from __future__ import annotations

from typing import Any

import polars as pl

from ospo_cli.layout import Layout
from ospo_cli.rewards.judged_reward import JudgedReward
from ospo_cli.rewards.judged_reward import Sections as Reads
from ospo_cli.rewards.judgments import read_prepared
from ospo_cli.rewards.store.folder import Store
from ospo_cli.rewards.unfound import say_unfound
from ospo_cli.tables import placed
from ospo_cli.tables.score_queries import RAW_QUERY_VALUES


def execute(layout: Layout, params: Reads) -> dict[str, Any]:
    """Read the prepared tables, write raw_query_values.parquet."""
    tables = read_prepared(layout)
    reward = JudgedReward(tables, params, cache=layout.cache, store=Store(layout.store))
    values = score_queries(tables.prompts, reward)
    placed.write(values, RAW_QUERY_VALUES, layout)
    raw = tables.prompts.select("prompt_id", "query").to_dict(as_series=False)
    say_unfound("score-queries", reward, raw["prompt_id"], raw["query"], values["value"].to_numpy())
    reward.tally.report("score-queries")
    return {"prompts": values.height, "mean_value": values["value"].mean()}


def score_queries(prompts: pl.DataFrame, reward: JudgedReward) -> pl.DataFrame:
    """Return the retrieval reward of what each user typed, as table raw_query_values."""
    return pl.DataFrame(
        {"prompt_id": prompts["prompt_id"], "value": reward.values(prompts["prompt_id"].to_list(), prompts["query"].to_list())},
        schema=RAW_QUERY_VALUES.schema,
    )
