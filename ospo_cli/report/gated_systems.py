"""What gates do to held-out queries: each gated policy, and the policy without its gate, against the raw query under every retriever."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import polars as pl

from ospo_cli.maths.ranking import parse_metric
from ospo_cli.report.evaluation_summary import Sections, draws_of
from ospo_cli.report.number_text import count, interval, plain, signed
from ospo_cli.report.system_names import RAW_QUERY, metric_label, system_label
from ospo_cli.tables.evaluate import gated_name

_SAME = 1e-12


class Certified(Protocol):
    """What is told of a gate."""

    @property
    def threshold(self) -> float | None: ...
    @property
    def bound(self) -> float: ...
    @property
    def confidence(self) -> float: ...
    @property
    def facts(self) -> dict[str, Any]: ...


def compared(
    gates: Mapping[str, Certified], tables: tuple[pl.DataFrame, pl.DataFrame], prompts: pl.DataFrame, refusal: str, params: Sections
) -> list[dict[str, Any]]:
    """Return what each gate lets through, and per retriever the difference to the raw query, with and without the gate.

    `lets` is `nothing` or `everything` where the gate is one of the two trivial ones, else `some`. `harm` is the mean loss (raw query minus
    rewrite where that is above 0) of the queries that are rewritten, as in table gate_curve; `loss` that of all queries.

    Args:
        gates: policy -> its gate.
        tables: query_metrics and completions.
        prompts: those that were evaluated.
        refusal: what column `problem` says of a rewrite that the gate holds back.
        params: what was evaluated.
    """
    query_metrics, completions = tables
    raw_queries, draws = prompts.select("prompt_id", raw_query="query"), draws_of(prompts.height, params)
    values = query_metrics.filter(
        (pl.col("metric") == parse_metric(params.evaluate.metric).name) & pl.col("decoding").is_in(["none", "greedy"])
    )
    found = []
    for policy, gate in gates.items():
        systems = {"gated": gated_name(policy), "ungated": policy}
        answered = {
            name: completions.filter((pl.col("system") == system) & (pl.col("decoding") == "greedy")).join(raw_queries, on="prompt_id")
            for name, system in systems.items()
        }
        used = {
            name: rows.select("prompt_id", is_used=(pl.col("problem") == "") & (pl.col("query") != pl.col("raw_query")))
            for name, rows in answered.items()
        }
        held_back = answered["gated"].filter(pl.col("problem") == refusal).height
        rewritten = int(used["gated"]["is_used"].sum())
        found.append(
            {
                "system": systems["gated"],
                "policy": policy,
                "lets": "nothing" if not rewritten else "everything" if not held_back else "some",
                "is_certified": gate.threshold is not None,
                "bound": gate.bound,
                "confidence": gate.confidence,
                "retriever": gate.facts.get("retriever", ""),
                "held_back": held_back,
                "retrievers": {
                    retriever: {
                        name: _against_raw(values.filter(pl.col("retriever") == retriever), system, used[name], draws)
                        for name, system in systems.items()
                    }
                    for retriever in params.evaluate.retrievers
                },
            }
        )
    return found


def _against_raw(values: pl.DataFrame, system: str, used: pl.DataFrame, draws: Any) -> dict[str, Any]:
    raw, own = (
        values.filter(pl.col("system") == name).select("prompt_id", pl.col("metric_value").alias(column))
        for name, column in ((RAW_QUERY, "raw"), (system, "value"))
    )
    rows = raw.join(own, on="prompt_id").join(used, on="prompt_id").sort("prompt_id")
    difference = (rows["value"] - rows["raw"]).to_numpy()
    is_used, losses = rows["is_used"].to_numpy(), np.maximum(-difference, 0.0)
    return {
        "rewritten": int(is_used.sum()),
        "share": float(is_used.mean()),
        "value": float(rows["value"].to_numpy().mean()),
        "difference": draws.difference(rows["value"].to_numpy(), rows["raw"].to_numpy())._asdict(),
        "better": int((difference > _SAME).sum()),
        "worse": int((difference < -_SAME).sum()),
        "harm": float(losses[is_used].mean()) if is_used.any() else 0.0,
        "loss": float(losses.mean()),
    }


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """Return what each gate comes to, in words, under the retriever of the reward and under the others."""
    return [_sentence(each, summary) for each in summary.get("gated", [])]


def _sentence(found: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    policy, prompts = system_label(found["policy"]), count(summary["prompts"])
    if found["lets"] == "nothing":
        why = "none of these rewrites passes" if found["is_certified"] else "nothing could be certified"
        return f"The gate of {policy} lets nothing through ({why}): all {prompts} queries stay as typed."
    if found["lets"] == "everything":
        return f"The gate of {policy} lets everything through: it held back none of {prompts} queries and changes nothing."
    own = found["retrievers"][summary["training_retriever"]]
    gated, ungated = own["gated"], own["ungated"]
    made_for = f" (made for {found['retriever']})" if found["retriever"] not in ("", summary["training_retriever"]) else ""
    metric = metric_label(summary["metric"])
    text = (
        f"With its gate{made_for} {policy}, greedy, rewrites {gated['share']:.0%} of the queries: {metric} {plain(gated['value'])}, "
        f"{_change(gated)}. Without it: {_change(ungated)}."
    )
    others = ", ".join(
        f"{name} {_gain(each['gated'])} (without it {signed(each['ungated']['difference']['mean'])})"
        for name in summary["retrievers"]  # JSON keeps no order of its own
        if name != summary["training_retriever"] and (each := found["retrievers"][name])
    )
    return text + (f" With its gate, other search engines: {others}." if others else "")


def _change(found: Mapping[str, Any]) -> str:
    better, worse = count(found["better"]), count(found["worse"])
    return f"{_gain(found)} to the queries as typed, {better} better, {worse} worse, lost per query {plain(found['loss'])}"


def _gain(found: Mapping[str, Any]) -> str:
    return f"{signed(found['difference']['mean'])} {interval(found['difference'], with_sign=True)}"


def rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row per gated policy, retriever, and with or without the gate, for a page."""
    found = []
    for gate in summary.get("gated", []):
        for retriever in summary["retrievers"]:
            for name, system in (("gated", gate["system"]), ("ungated", gate["policy"])):
                each = gate["retrievers"][retriever][name]
                found.append({"label": system_label(system), "retriever": retriever, "is_gated": name == "gated"} | each)
    return found
