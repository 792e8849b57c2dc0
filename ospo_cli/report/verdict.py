"""What decides whether a policy is switched on: chosen on one split with the raw query among the candidates, then judged on another."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

import polars as pl

from ospo_cli.maths.ranking import parse_metric
from ospo_cli.report.evaluation_summary import Sections, draws_of, policy_name
from ospo_cli.report.system_names import RAW_QUERY

CHANCE = 0.05  # above this p an interval that leaves out 0 shows nothing
_LOSSES = 10  # worst losses in the summary; all are in the CSV
_SAME = 1e-12
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def choice(values: pl.DataFrame, split: str, reason: str = "") -> dict[str, Any]:
    """Return the mean of every system and decoding on the choosing prompts, each policy's best decoding, and the best that can be served.

    Policies are served greedily, so `best` and `best_policy` are by their greedy answers; `decodings` is by all. Of equal means the earlier
    is taken: the raw query before policies, earlier policies before later ones, greedy before sampled.

    Args:
        values: system, decoding, prompt_id, value: a row per prompt; empty where nothing was chosen.
        split: the choosing prompts'.
        reason: why nothing was chosen.
    """
    if not values.height:
        return {"split": split, "prompts": 0, "reason": reason}
    is_raw = (pl.col("system") != RAW_QUERY).alias("is_policy")
    means = values.group_by("system", "decoding").agg(pl.col("value").mean()).sort(is_raw, "system", "decoding")
    found: dict[str, dict[str, float]] = {}
    for system, decoding, value in means.iter_rows():
        found.setdefault(system, {})[decoding] = value
    decodings = {system: max(by, key=by.__getitem__) for system, by in found.items()}
    served = {system: by["none" if system == RAW_QUERY else "greedy"] for system, by in found.items()}
    policies = [system for system in found if system != RAW_QUERY]
    return {
        "split": split,
        "prompts": values["prompt_id"].n_unique(),
        "values": found,
        "decodings": {system: decodings[system] for system in policies},
        "best": max(served, key=served.__getitem__),
        "best_policy": max(policies, key=served.__getitem__),
    }


def answer(difference: Mapping[str, float]) -> str:
    """Return `better`, `worse` or `not shown`: the interval leaves out 0, and signs by chance would seldom give as much."""
    if difference["p_value"] > CHANCE or difference["low"] <= 0 <= difference["high"]:
        return "not shown"
    return "better" if difference["low"] > 0 else "worse"


def per_query(values: pl.DataFrame, completions: pl.DataFrame, prompts: pl.DataFrame, system: str) -> pl.DataFrame:
    """Return prompt_id, query, rewrite, raw, value, difference of a policy's greedy answers, as it is served; the worst losses first.

    Args:
        values: system, decoding, prompt_id, metric_value, of one retriever and metric.
        completions: table completions.
        prompts: table prompts.
        system: the policy.
    """

    def of(name: str, by: str, column: str) -> pl.DataFrame:
        rows = values.filter((pl.col("system") == name) & (pl.col("decoding") == by))
        return rows.select("prompt_id", pl.col("metric_value").alias(column))

    is_shown = (pl.col("system") == system) & (pl.col("decoding") == "greedy") & (pl.col("sample_index") == 0)
    return (
        of(RAW_QUERY, "none", "raw")
        .join(of(system, "greedy", "value"), on="prompt_id")
        .join(prompts.select("prompt_id", "query"), on="prompt_id")
        .join(completions.filter(is_shown).select("prompt_id", rewrite="query"), on="prompt_id")
        .with_columns(difference=pl.col("value") - pl.col("raw"))
        .select("prompt_id", "query", "rewrite", "raw", "value", "difference")
        .sort("difference", "prompt_id")
    )


def verdict(
    query_metrics: pl.DataFrame, completions: pl.DataFrame, prompts: pl.DataFrame, chosen: Mapping[str, Any], params: Sections
) -> tuple[dict[str, Any], pl.DataFrame]:
    """Return the verdict on the chosen policy against the raw query, and `per_query` of it under the retriever of the reward.

    Args:
        query_metrics: the table.
        completions: the table.
        prompts: those that were evaluated.
        chosen: of `choice`.
        params: what was evaluated.
    """
    judged = chosen.get("best_policy", policy_name(max(params.evaluated_iterations)))
    metric, training = parse_metric(params.evaluate.metric).name, params.score_coalitions.retriever
    values = query_metrics.filter(pl.col("metric") == metric)
    rows = {
        name: per_query(values.filter(pl.col("retriever") == name), completions, prompts, judged) for name in params.evaluate.retrievers
    }
    own, draws = rows[training], draws_of(prompts.height, params)
    compared = {name: draws.difference(*(each.sort("prompt_id")[column] for column in ("value", "raw"))) for name, each in rows.items()}
    differences = {name: found._asdict() for name, found in compared.items()}
    better, worse = own.filter(pl.col("difference") > _SAME), own.filter(pl.col("difference") < -_SAME)
    return {
        "answer": answer(differences[training]),
        "system": judged,
        "decoding": "greedy",
        "prompts": own.height,
        "raw": _mean(own, "raw"),
        "value": _mean(own, "value"),
        "difference": differences[training],
        "better": _group(better, own.height),
        "worse": _group(worse, own.height),
        "equal": own.height - better.height - worse.height,
        "worst_losses": worse.head(_LOSSES).to_dicts(),
        "other_retrievers": {name: found | {"answer": answer(found)} for name, found in differences.items() if name != training},
    }, own


def _mean(rows: pl.DataFrame, column: str) -> float:
    return float(rows[column].to_numpy().mean())


def _group(rows: pl.DataFrame, of: int) -> dict[str, float | int]:
    """Return how many queries, which share of all, and by how much their values changed on average."""
    return {"count": rows.height, "share": rows.height / of, "mean": _mean(rows, "difference") if rows.height else 0.0}


def as_csv(rows: pl.DataFrame) -> str:
    """Return `per_query` as CSV for spreadsheets, the worst losses first: a text that one would compute gets a quote before it."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL)  # else a carriage return within a text would end its row
    writer.writerow(["outcome", *rows.columns])
    for row in rows.iter_rows(named=True):
        outcome = "better" if row["difference"] > _SAME else "worse" if row["difference"] < -_SAME else "equal"
        writer.writerow([outcome, *(_cell(value) for value in row.values())])
    return stream.getvalue()


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6f}"
    text = str(value)
    return "'" + text if text.startswith(_FORMULA) else text
