"""Tables of stage score-coalitions."""

from __future__ import annotations

import polars as pl

from ospo_cli.tables.declare import Column, Place, Table

SCORED = Place("ospo score-coalitions --iter {iteration}", "iteration")
REWARDS = Table(
    "rewards",
    "reward of each whole answer and its parts",
    ("rollout_id",),
    (
        Column("rollout_id", pl.String, "identity of the rollout"),
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("reward", pl.Float64, "weighted sum of the parts"),
        Column("retrieval", pl.Float64, "metric of the ranking, unweighted"),
        Column("format", pl.Float64, "0 if answer tags and end token are there, else minus their missing share; unweighted"),
        Column("length", pl.Float64, "minus the words over the limit, as a share of the limit; unweighted"),
        Column("repetition", pl.Float64, "minus the number of repeated words; unweighted"),
        Column("is_degenerate_group", pl.Boolean, "all rewards of the rollout group are equal: no advantage, no coalitions"),
    ),
    extra=pl.Float64,
    extra_meaning="a further part by its name: a metric, or own.NAME for a part of score_coalitions.own_reward; unweighted",
    place=SCORED,
)
COALITION_VALUES = Table(
    "coalition_values",
    "the characteristic function v(S), for rollouts of groups that are not degenerate",
    ("rollout_id", "coalition"),
    (
        Column("rollout_id", pl.String, "identity of the rollout"),
        Column("coalition", pl.String, "bit mask, one character per segment in order: 1 present, 0 absent"),
        Column("query", pl.String, "text that the retriever was given"),
        Column("coalition_value", pl.Float64, "v(S): weighted sum of the parts that a text can earn or lose (all but format)"),
        Column("retrieval", pl.Float64, "metric of the ranking, unweighted"),
        Column("length", pl.Float64, "as in rewards, of this text; unweighted"),
        Column("repetition", pl.Float64, "as in rewards, of this text; unweighted"),
    ),
    extra=pl.Float64,
    extra_meaning="a further part, as in rewards, of this text; unweighted",
    place=SCORED,
)
SPLICED_VALUES = Table(
    "spliced_values",
    "values of an answer's segments with what another answer of its rollout group says (the group game, where an estimator needs it), "
    "for rollouts of groups that are not degenerate; the mean over the other answers is the baseline of the place",
    ("rollout_id", "game", "place", "other_rollout_id"),
    (
        Column("rollout_id", pl.String, "identity of the rollout"),
        Column("game", pl.String, "splice, swap or stopping"),
        Column(
            "place",
            pl.Int32,
            "splice: so many first segments are the rollout's own; swap: segment_index of the one that is replaced, or the number of "
            "segments: all are its own, and the other answer goes on",
        ),
        Column("other_rollout_id", pl.String, "the answer of the same rollout group that the other segments are from"),
        Column("query", pl.String, "text that the retriever was given"),
        Column("spliced_value", pl.Float64, "v of the text, as coalition_value"),
        Column("retrieval", pl.Float64, "metric of the ranking, unweighted"),
        Column("length", pl.Float64, "as in rewards, of this text; unweighted"),
        Column("repetition", pl.Float64, "as in rewards, of this text; unweighted"),
    ),
    extra=pl.Float64,
    extra_meaning="a further part, as in rewards, of this text; unweighted",
    place=SCORED,
)
RECOMBINED = Table(
    "recombined",
    "answers made of what a rollout group's answers say that are worth more than its best (`score_coalitions.recombine` above 0)",
    ("rollout_id",),
    (
        Column("rollout_id", pl.String, "identity: that of the answer which the search started from, and /recombined"),
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("start_rollout_id", pl.String, "the best well-formed answer of the rollout group, which the search started from"),
        Column("completion", pl.String, "the made answer, with what stands around the start's"),
        Column("recombined_value", pl.Float64, "v of its segments: its reward, unless words stand outside them"),
        Column("best_value", pl.Float64, "the highest v of an answer of the rollout group"),
        Column("moves", pl.Int32, "strictly improving moves taken"),
    ),
    place=SCORED,
)
# Beside a shard's tables, for the counts: not in the project's folder.
SEARCHED = Table(
    "searched",
    "texts that were scored on the way to table recombined",
    ("prompt_id",),
    (Column("prompt_id", pl.String, "identity of the prompt"), Column("texts", pl.Int64, "distinct ones that no other table holds")),
)
