"""The page as one string: data in, HTML out, nothing read but the style and script that lie beside this file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ospo_cli.report import audit_section, kept_sections, plan_sections, result_sections, run_sections, training_sections
from ospo_cli.report.markup import escape, json_script, source_hash, tag

_FOLDER = Path(__file__).resolve().parent


def render(data: dict[str, Any]) -> str:
    """Return the report; equal data gives equal bytes.

    The policy of the page (CSP) allows one style and one script, by their hashes, and no address at all.
    """
    style = (_FOLDER / "page.css").read_text(encoding="utf-8")
    script = (_FOLDER / "page.js").read_text(encoding="utf-8")
    sections = [
        ("result", "Result", result_sections.result(data)),
        ("curves", "Learning", result_sections.curves(data)),
        ("methods", "Retrievers", result_sections.methods(data)),
        ("kept", "Runs", kept_sections.section(data.get("kept"))),
        ("warnings", "Warnings", training_sections.warnings(data)),
        ("training", "Training", training_sections.training(data)),
        ("credit", "Credit", training_sections.credit(data)),
        ("audit", "Audit", audit_section.audit(data)),
        ("queries", "Queries", result_sections.queries(data)),
        ("plan", "Plan", plan_sections.section(data.get("plan"))),
        ("run", "Run", run_sections.run(data)),
    ]
    shown = [(identity, name, content) for identity, name, content in sections if content]
    links = "".join(tag("a", escape(name), href=f"#{identity}") for identity, name, _ in shown)
    body = "".join(tag("section", content, id=identity) for identity, _, content in shown)
    policy = f"default-src 'none'; style-src {source_hash(style)}; script-src {source_hash(script)}; base-uri 'none'; form-action 'none'"
    browser = json_script("rollout-data", {"groups": data["groups"], "scale": data["colour_scale"]})
    return (
        "<!doctype html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(data['title'])}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f'<a class="skip" href="#result">Skip to the result</a>\n'
        f'<header class="top"><div class="page">{run_sections.header(data)}</div></header>\n'
        f'<nav aria-label="Sections"><div class="page">{links}</div></nav>\n'
        f'<main class="page">\n{body}\n</main>\n'
        f'<footer class="page">{run_sections.footer(data)}</footer>\n'
        f"{browser}\n<script>{script}</script>\n</body>\n</html>\n"
    )
