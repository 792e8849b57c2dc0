"""The verdict in words for whoever runs the shop: no term of the trade but the metric's name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ospo_cli.report import gated_systems
from ospo_cli.report.number_text import count, interval, p_value, plain, signed
from ospo_cli.report.system_names import RAW_QUERY, decoding_label, metric_label, system_label

WARM_START = "policy-000"
LOST = 0.05  # of the metric, by which a warm start is behind the raw query, from which on it is said


def claim(summary: Mapping[str, Any]) -> str:
    """Return the verdict in one sentence."""
    found, metric = summary["against_raw_query"], metric_label(summary["metric"])
    place = f"on {count(found['prompts'])} held\u2011out queries"
    values = f"{metric} {plain(found['value'])} against {plain(found['raw'])} {place}"
    if found["answer"] == "better":
        return f"Rewriting helps: {values}."
    if found["answer"] == "worse":
        return f"Do not switch this on: rewritten queries find less than the queries as typed, {values}."
    if not found["better"]["count"] and not found["worse"]["count"]:
        return f"Rewriting changes nothing: each query finds as much as it does as typed, {values}."
    return f"Not shown to help: rewritten queries against the queries as typed, {values}."


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """Return what stands below the claim: the difference, who gains and who loses, what was chosen, other search engines."""
    found = summary["against_raw_query"]
    difference = found["difference"]
    what = f"{system_label(found['system'])}, {decoding_label(found['decoding'])}"
    text = [
        _gains_and_losses(found),
        _chosen(summary, what),
        f"Difference to the queries as typed: {signed(difference['mean'])} {interval(difference, with_sign=True)}, "
        f"{p_value(difference['p_value'])} ({what}; over prompts, for this trained policy).",
    ]
    if difference["detectable"] > 0:  # where nothing varies, nothing can be said of what would have been shown
        text[-1] += f" With this many queries a true difference of {plain(difference['detectable'])} would be shown four times in five."
    text += _guesses(summary) + _sampled(summary) + _warm_start(summary)
    if found["other_retrievers"]:
        others = ", ".join(
            f"{name} {each['answer']} ({signed(each['mean'])} {interval(each, with_sign=True)})"
            for name in summary["retrievers"]  # JSON keeps no order of its own
            if (each := found["other_retrievers"].get(name))
        )
        text.append(f"With search engines that gave no reward: {others}.")
    return text + gated_systems.sentences(summary)


def _guesses(summary: Mapping[str, Any]) -> list[str]:
    """Return what judgments from clicks cannot say where those of products never shown are guesses."""
    if not summary.get("has_guessed_judgments"):
        return []
    return [
        "Part of the judgments are guesses: products that no shopper was shown, graded by words that the clicked titles share. A rewriter "
        "that adds such words gains by them; whether shoppers do, a test on the site says (prepare_data.clicks.unshown)."
    ]


def _sampled(summary: Mapping[str, Any]) -> list[str]:
    """Return a way to answer that was better than the greedy one where the policy was chosen."""
    system, chosen = summary["against_raw_query"]["system"], summary["choice"]
    own = chosen.get("decodings", {}).get(system, "greedy")
    if own == "greedy":
        return []
    return [
        f"On the {chosen['split']} queries it was better {decoding_label(own)} ({plain(chosen['values'][system][own])}), which is not "
        "judged here: `ospo rewrite` and `ospo serve` answer greedily."
    ]


def _warm_start(summary: Mapping[str, Any]) -> list[str]:
    """Return that the warm start already loses where the policy was chosen: what follows it starts from there."""
    chosen = summary["choice"]
    values = chosen.get("values", {})
    lost = values[RAW_QUERY]["none"] - values[WARM_START]["greedy"] if WARM_START in values else 0.0
    if lost < LOST:
        return []
    return [
        f"The warm start already loses {plain(lost)} against the queries as typed on the {chosen['split']} queries. "
        "Few train queries may be learned by heart. Before more iterations: more distinct train queries, fewer warm_start.steps, or a "
        "pretrained policy.base."
    ]


def _gains_and_losses(found: Mapping[str, Any]) -> str:
    better, worse, prompts = found["better"], found["worse"], found["prompts"]
    gained, lost = (
        f"{count(group['count'])} got {name} ({group['share']:.0%}), by {plain(abs(group['mean']))} on average"
        if group["count"]
        else f"none got {name}"
        for name, group in (("better", better), ("worse", worse))
    )
    return f"Of {count(prompts)} queries {gained}; {lost}; {count(found['equal'])} stayed as they were."


def _chosen(summary: Mapping[str, Any], what: str) -> str:
    chosen = summary["choice"]
    if "best" not in chosen:
        return f"Nothing was chosen on other queries ({chosen['reason']}): judged is {what}."
    place, values = f"On {count(chosen['prompts'])} {chosen['split']} queries", chosen["values"]
    policy, raw = chosen["best_policy"], values[RAW_QUERY]["none"]
    value = values[policy]["greedy"]
    if chosen["best"] == RAW_QUERY:
        return f"{place} nothing beats the queries as typed ({plain(raw)}); the best policy there is {what} ({plain(value)})."
    return (
        f"{place} the best is {what} ({plain(value)}; queries as typed {plain(raw)}). It was chosen there, is judged here, and is what "
        "`ospo rewrite`, `ospo gate` and `ospo serve` take."
    )


def losses(summary: Mapping[str, Any], most: int) -> list[Mapping[str, Any]]:
    """Return the worst losses: query, rewrite, raw, value, difference."""
    return list(summary["against_raw_query"]["worst_losses"][:most])


def choice_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row per candidate as it is served: the value on the choosing prompts, and the value on those that are shown."""
    chosen = summary["choice"]
    if "best" not in chosen:
        return []
    rows = []
    for system in (system for system in summary["systems"] if system in chosen["values"]):
        values = chosen["values"][system]
        decoding = "none" if system == RAW_QUERY else "greedy"
        cells = summary["values"][system][decoding][summary["training_retriever"]][summary["metric"]]
        rows.append(
            {
                "label": system_label(system),
                "value": values[decoding],
                "shown": cells,
                "is_best": system == chosen["best"],
            }
        )
    return rows
