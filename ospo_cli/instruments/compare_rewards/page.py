"""Two rewards of the same rollouts as one self-contained page: no script, no address, one style by its hash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ospo_cli
from ospo_cli.report.markup import escape, isolated, source_hash, tag
from ospo_cli.report.number_text import count, plain

_FOLDER = Path(__file__).resolve().parents[2] / "report"
_TEXT = 400


def render(data: dict[str, Any]) -> str:
    """Return the page; equal data gives equal bytes.

    Args:
        data: names `a` and `b`, counts `groups` and `rollouts`, `measures` (rows of table reward_comparison), and `examples`: prompt_id,
            query, kendall and answers [(reward under A, reward under B, text)].
    """
    style = (_FOLDER / "page.css").read_text(encoding="utf-8")
    policy = f"default-src 'none'; style-src {source_hash(style)}; base-uri 'none'; form-action 'none'"
    title = f"{escape(data['a'], 80)} and {escape(data['b'], 80)}"
    lead = (
        f"A is <strong>{escape(data['a'], 80)}</strong>, B is <strong>{escape(data['b'], 80)}</strong>: {count(data['groups'])} rollout "
        f"groups, {count(data['rollouts'])} rollouts. Means over rollout groups with 95 % bootstrap intervals; a group that a measure is "
        "not defined for is left out."
    )
    sections = tag("section", f"<h2>How they differ</h2>{_measures(data['measures'])}", id="measures")
    if data["examples"]:
        examples = "".join(_example(example) for example in data["examples"])
        sections += tag("section", f"<h2>Ordered most unlike</h2>{examples}", id="examples")
    return (
        "<!doctype html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{title}: compared</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f'<header class="top"><div class="page"><h1>{title}</h1><p class="lead">{lead}</p></div></header>\n'
        f'<main class="page">\n{sections}\n</main>\n'
        f'<footer class="page"><p>ospo {escape(ospo_cli.__version__)}, <code>ospo compare-rewards</code></p></footer>\n</body>\n</html>\n'
    )


def _measures(rows: list[dict[str, Any]]) -> str:
    body = []
    for row in rows:
        interval = "–" if row["low"] is None else f"[{plain(row['low'])}, {plain(row['high'])}]"
        cells = "".join(tag("td", text, class_="number") for text in (plain(row["value"]), interval, count(row["n"])))
        body.append(tag("tr", tag("th", escape(row["measure"]), scope="row") + cells))
    return _table(("measure", "value", "95 % interval", "groups"), body, "Measures")


def _example(example: dict[str, Any]) -> str:
    body = [
        tag("tr", tag("td", plain(a), class_="number") + tag("td", plain(b), class_="number") + tag("td", isolated(text, _TEXT)))
        for a, b, text in example["answers"]
    ]
    head = f"<h3>{isolated(example['query'], _TEXT)} <small>{escape(example['prompt_id'], 100)}, τ {plain(example['kendall'])}</small></h3>"
    return head + _table(("A", "B", "answer"), body, "Answers")


def _table(names: tuple[str, ...], body: list[str], label: str) -> str:
    left = ("measure", "answer")
    head = tag("tr", "".join(tag("th", escape(name), scope="col", class_=None if name in left else "number") for name in names))
    table = tag("table", tag("thead", head) + tag("tbody", "".join(body)), class_="methods")
    return tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=label)
