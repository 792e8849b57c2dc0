"""Tables of stage evaluate."""

from __future__ import annotations

import dataclasses

import polars as pl

from ospo_cli.tables.declare import Column, Place, Table

EVALUATED = Place("ospo evaluate", "evaluation")
COMPLETIONS = Table(
    "completions",
    "what each evaluated system answered",
    ("system", "decoding", "prompt_id", "sample_index"),
    (
        Column("system", pl.String, "raw-query, oracle, policy-000 (warm start), policy-001, …, gated-policy-001 (behind its gate)"),
        Column("decoding", pl.String, "greedy, sampled (as rollouts are), sampled-T (at temperature T), or none where nothing is decoded"),
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("sample_index", pl.Int32, "from 0"),
        Column("completion", pl.String, "full text (of gated systems the rewrite); empty where nothing is decoded"),
        Column("query", pl.String, "text that the retriever was given"),
        Column(
            "problem",
            pl.String,
            "why the raw query counts: no answer (docs/rewards.md), or a rewrite that is not used (docs/rewrite.md)",
        ),
    ),
    place=EVALUATED,
)


def gated_name(system: str) -> str:
    """Return the system name of a policy behind its gate."""
    return f"gated-{system}"


# What a cache of sampled completions holds: how they are read may change without sampling again.
DECODED = dataclasses.replace(COMPLETIONS, columns=COMPLETIONS.columns[:-1], place=None)
RUN = Table(
    "run",
    "rankings, TREC sense; exported as TREC run files too",
    ("system", "prompt_id", "retriever", "rank"),
    (
        Column("system", pl.String, "as in completions; greedy decoding"),
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("retriever", pl.String, "name of the retriever"),
        Column("rank", pl.Int32, "from 1"),
        Column("doc_id", pl.String, "identity of the product"),
        Column("score", pl.Float64, "score given by the retriever"),
    ),
    place=EVALUATED,
)
QUERY_METRICS = Table(
    "query_metrics",
    "one value per prompt, system, decoding, retriever and metric",
    ("split", "system", "decoding", "prompt_id", "retriever", "metric"),
    (
        Column("split", pl.String, "split of the prompt"),
        Column("system", pl.String, "as in completions"),
        Column("decoding", pl.String, "as in completions; sampled values are means over the samples"),
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("retriever", pl.String, "name of the retriever"),
        Column("metric", pl.String, "ndcg@10, ndcg@pool, mrr, recall@10, the reward's metric, evaluate.metric"),
        Column("metric_value", pl.Float64, "0 to 1"),
    ),
    place=EVALUATED,
)
CHOICE_VALUES = Table(
    "choice_values",
    "evaluate.metric under the reward's retriever on the prompts by which policy and decoding are chosen (evaluate.choose_on)",
    ("system", "decoding", "prompt_id"),
    (
        Column("system", pl.String, "raw-query, policy-000 (warm start), policy-001, …"),
        Column("decoding", pl.String, "as in completions"),
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("value", pl.Float64, "of samples the mean"),
    ),
    place=EVALUATED,
)
