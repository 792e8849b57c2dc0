"""The report as one string: data in, HTML out. Functions of the sections say what is shown, templates of the same names how."""

from __future__ import annotations

from typing import Any

from ospo_cli.report import audit_section, kept_sections, pages, plan_sections, result_sections, run_sections, training_sections


def render(data: dict[str, Any]) -> str:
    """Return the report; equal data gives equal bytes."""
    sections = {
        "verdict": ("Verdict", result_sections.verdict(data)),
        "queries": ("Queries", result_sections.queries(data)),
        "result": ("Result", result_sections.result(data)),
        "curves": ("Learning", result_sections.curves(data)),
        "methods": ("Retrievers", result_sections.methods(data)),
        "kept": ("Runs", kept_sections.section(data.get("kept"))),
        "warnings": ("Warnings", training_sections.warnings(data)),
        "training": ("Training", training_sections.training(data)),
        "credit": ("Credit", data["groups"]),
        "audit": ("Audit", audit_section.audit(data)),
        "plan": ("Plan", plan_sections.section(data.get("plan"))),
        "run": ("Run", run_sections.parameters(data)),
    }
    shown = {identity: content for identity, (_, content) in sections.items() if content}
    nav = [(identity, name) for identity, (name, _) in sections.items() if identity in shown]
    content = {"data": data, "header": run_sections.header(data), "sections": shown, "nav": nav}
    return pages.render(pages.TEMPLATES / "report.html", content, script=pages.TEMPLATES / "page.js")
