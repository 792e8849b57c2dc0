"""Tables of `ospo experiment`: what one training left, enough for every comparison without its project."""

from __future__ import annotations

import polars as pl

from ospo_cli.tables.declare import Column, Table

_TRAINING = (
    Column("task", pl.String, "name of the task in the experiment's file"),
    Column("method", pl.String, "name of the method in the experiment's file"),
    Column("learning_rate", pl.Float64, "update.learning_rate"),
    Column("seed", pl.Int64, "train.seed"),
)
_KEY = tuple(column.name for column in _TRAINING)
EXPERIMENT_VALUES = Table(
    "experiment_values",
    "per held-out prompt, the reward's metric with the reward's retriever; a file per training of `ospo experiment`",
    (*_KEY, "system", "decoding", "prompt_id"),
    (
        *_TRAINING,
        Column("system", pl.String, "raw query, warm start, final (the last policy) or oracle"),
        Column("decoding", pl.String, "as in query_metrics"),
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("value", pl.Float64, "0 to 1; of sampled answers their mean"),
    ),
)
EXPERIMENT_ITERATIONS = Table(
    "experiment_iterations",
    "per iteration, what it cost and what its rollouts earned; a file per training of `ospo experiment`",
    (*_KEY, "iteration"),
    (
        *_TRAINING,
        Column("iteration", pl.Int32, "from 1"),
        Column("tokens", pl.Int64, "tokens sampled"),
        Column("reward_calls", pl.Int64, "distinct texts scored"),
        Column("cpu_seconds", pl.Float64, "processor time from rollout to update", nullable=True),
        Column("mean_reward", pl.Float64, "of the rollouts, which the policy before this iteration sampled for train prompts"),
        Column("entropy", pl.Float64, "mean of -log-probability over the sampled tokens, in nats"),
    ),
)
