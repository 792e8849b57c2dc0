"""Tables of other trainers: the exported format, and what is read of theirs."""

from __future__ import annotations

import polars as pl

from ospo_cli.tables.declare import Column, Table

CREDIT = Table(
    "credit",
    "an exported iteration for other trainers (docs/export.md); ordered by prompt_id, then sample_index",
    ("prompt_id", "sample_index"),
    (
        Column("rollout_id", pl.String, "identity of the rollout"),
        Column(
            "group_id",
            pl.Int32,
            "number of the rollout group, from 0 in the order of prompt_id; its rollouts were compared with each other",
        ),
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("sample_index", pl.Int32, "from 0 within a rollout group"),
        Column("prompt", pl.String, "the user message, before the chat template"),
        Column("completion", pl.String, "text of completion_token_ids without special tokens"),
        Column("finish_reason", pl.String, "stop (end token sampled) or length (cut off)"),
        Column("prompt_token_ids", pl.List(pl.Int32), "token ids that the policy was given, chat template included"),
        Column("completion_token_ids", pl.List(pl.Int32), "sampled token ids, end token included where it was sampled"),
        Column(
            "old_logprobs",
            pl.List(pl.Float32),
            "natural log-probability of each sampled token under the sampling policy, at its temperature",
        ),
        Column(
            "advantages",
            pl.List(pl.Float32),
            "advantage of each sampled token, in standard deviations of the group's rewards (normalize: none: in units of reward)",
        ),
        Column("reward", pl.Float64, "reward of the whole completion"),
        Column("is_degenerate_group", pl.Boolean, "all rewards of the rollout group are equal: every advantage is 0"),
    ),
)
FOREIGN_ROLLOUTS = Table(
    "foreign_rollouts",
    "rollouts of another trainer, as `ospo attribute --rollouts` reads them",
    ("rollout_id",),
    (
        Column("prompt_id", pl.String, "a prompt_id of table prompts; rollouts with the same one are a rollout group"),
        Column("completion", pl.String, "text of completion_token_ids without special tokens"),
        Column("completion_token_ids", pl.List(pl.Int32), "sampled token ids without padding, end token included where it was sampled"),
        Column("old_logprobs", pl.List(pl.Float32), "natural log-probability of each sampled token, at most 0"),
        Column("rollout_id", pl.String, "identity; where absent: foreign:prompt_id:sample_index", nullable=True),
        Column("sample_index", pl.Int32, "from 0 within a rollout group; where absent: in the order of the file", nullable=True),
        Column(
            "prompt_token_ids",
            pl.List(pl.Int32),
            "ids that the policy was given; where absent: none, and no export to trl or verl",
            nullable=True,
        ),
        Column(
            "finish_reason",
            pl.String,
            "stop or length; where absent: stop if the last id is a special token, else length (the reward's format part reads it)",
            nullable=True,
        ),
    ),
)
