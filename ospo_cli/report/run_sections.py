"""What the head of the page says: the result in one sentence, the numbers that matter, and what was run."""

from __future__ import annotations

from typing import Any

from ospo_cli.report import verdict_text
from ospo_cli.report.kept_runs import how
from ospo_cli.report.number_text import count, setting
from ospo_cli.report.result_table import final_policy, result_rows
from ospo_cli.report.system_names import metric_label


def header(data: dict[str, Any]) -> dict[str, Any]:
    """Return `claim`, `tiles` (label, cell, whether it is the claim's policy) and `facts` (name, text)."""
    summary = data["summary"]
    if summary is None:
        return {"claim": "Nothing is evaluated yet.", "tiles": [], "facts": _facts(data)}
    rows = {row["system"]: row for row in result_rows(summary)}
    judged, final, chosen, tiles = summary["against_raw_query"]["system"], final_policy(summary), summary["choice"], []
    notes = {final: ", the last policy", judged: f", chosen on {chosen['split']}" if "best" in chosen else ", judged", "policy-000": ""}
    for system in dict.fromkeys(["raw-query", "policy-000", judged, final, "oracle"]):
        if system in rows:
            row = rows[system]
            tiles.append((row["label"] + notes.get(system, ""), row["greedy"] or row["sampled"], system == judged))
    return {"claim": verdict_text.claim(summary), "tiles": tiles, "facts": _facts(data)}


def _facts(data: dict[str, Any]) -> list[tuple[str, str]]:
    params, counts, rounds = data["params"], data["counts"], data["iterations"]
    scoring, last = params["score_coalitions"], rounds[-1] if rounds else {}
    rollouts = "none"
    if last:
        each = last["rollouts"] // max(1, last["groups"])
        rollouts = f"{count(last['groups'])} prompts × {count(each)} × {len(rounds)} iterations"
    return [
        ("data", params["prepare_data"]["source"]),
        ("documents", count(counts["documents"])),
        ("prompts", ", ".join(f"{count(number)} {split}" for split, number in counts["prompts"].items())),
        ("candidates", f"{count(counts['pool_candidates'])} in pools" if counts["pool_candidates"] else "whole catalogue"),
        ("reward", f"{metric_label(scoring['metric'])}, {scoring['retriever']}, {scoring['composition']}"),
        ("learned from", how(params)),
        ("rollouts", rollouts),
        ("seed", str(params["train"]["seed"])),
    ]


def parameters(data: dict[str, Any]) -> dict[str, list[tuple[str, str, str | None]]]:
    """Return section -> (name, value, the default where the value is another)."""
    sections = {}
    for section, values in data["params"].items():
        defaults = data["defaults"].get(section, {})
        sections[section] = [
            (name, setting(value), setting(defaults.get(name)) if defaults.get(name) != value else None) for name, value in values.items()
        ]
    return sections
