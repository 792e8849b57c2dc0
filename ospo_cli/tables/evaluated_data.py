"""Which prepared data an evaluation is of, so that a verdict on last week's judgments is not read as one on this week's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ospo_cli.layout import Layout
from ospo_cli.tables.files import sha256_of

NAMES = ("prompts.parquet", "qrels.parquet")


def of(layout: Layout) -> dict[str, str]:
    """Return the SHA-256 of the prepared queries and judgments, by file name."""
    return {name: sha256_of(layout.prepared(name)) for name in NAMES}


def moved_on(layout: Layout, summary: Mapping[str, Any]) -> str:
    """Return that queries or judgments were prepared anew since the evaluation; empty where they were not, or where it does not say."""
    evaluated = summary.get("data")
    if not isinstance(evaluated, dict) or evaluated == of(layout):
        return ""
    return "evaluated on other data than `ospo prepare-data` wrote since: `ospo run` trains and evaluates on it"
