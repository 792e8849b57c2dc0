"""Every table by its name, and the reference of tables in Markdown."""

from __future__ import annotations

from ospo_cli.tables.advise import ADVICE, RATE_SEARCH
from ospo_cli.tables.attribute import ATTRIBUTIONS, INTERACTIONS, PREFERENCE_PAIRS, TARGETS, TOKEN_ADVANTAGES
from ospo_cli.tables.audit import AUDIT, AUDIT_CURVES, GRADIENT_AUDIT
from ospo_cli.tables.compare_rewards import REWARD_COMPARISON, REWARD_COMPARISON_GROUPS
from ospo_cli.tables.declare import Table
from ospo_cli.tables.evaluate import CHOICE_VALUES, COMPLETIONS, QUERY_METRICS, RUN
from ospo_cli.tables.experiment import EXPERIMENT_ITERATIONS, EXPERIMENT_VALUES
from ospo_cli.tables.gate import GATE_CURVE
from ospo_cli.tables.headroom import HEADROOM, HEADROOM_QUERIES
from ospo_cli.tables.keep import KEPT_VALUES
from ospo_cli.tables.lab import LAB_CONVERGENCE, LAB_CURVES, LAB_GRADIENT_QUALITY, LAB_NOISE
from ospo_cli.tables.plan import PLAN
from ospo_cli.tables.prepared import DOCUMENTS, POOLS, PROMPTS, QRELS, TEACHER_PAIRS
from ospo_cli.tables.rewrite import REWRITES
from ospo_cli.tables.rollout import ROLLOUTS, SAMPLING_LOGPROBS
from ospo_cli.tables.score_coalitions import COALITION_VALUES, RECOMBINED, REWARDS, SPLICED_VALUES
from ospo_cli.tables.score_queries import RAW_QUERY_VALUES
from ospo_cli.tables.segment import SEGMENTS
from ospo_cli.tables.store import STORED_VALUES

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        DOCUMENTS, PROMPTS, QRELS, POOLS, TEACHER_PAIRS, RAW_QUERY_VALUES, ROLLOUTS, SAMPLING_LOGPROBS, SEGMENTS, REWARDS,
        COALITION_VALUES, SPLICED_VALUES, RECOMBINED,
        ATTRIBUTIONS, INTERACTIONS, TOKEN_ADVANTAGES, TARGETS, PREFERENCE_PAIRS, COMPLETIONS, RUN,
        QUERY_METRICS, CHOICE_VALUES, AUDIT, AUDIT_CURVES, GRADIENT_AUDIT, ADVICE, RATE_SEARCH, STORED_VALUES,
        REWARD_COMPARISON, REWARD_COMPARISON_GROUPS, HEADROOM, HEADROOM_QUERIES, PLAN, KEPT_VALUES, REWRITES,
        EXPERIMENT_VALUES, EXPERIMENT_ITERATIONS, GATE_CURVE,
        LAB_CONVERGENCE, LAB_CURVES, LAB_GRADIENT_QUALITY, LAB_NOISE,
    )
}  # fmt: skip


def reference() -> str:
    """Return the table reference in Markdown: docs/tables.md."""
    head = "# Tables\n\nKeys in bold. Made by `ospo tables > docs/tables.md` from the declarations.\n"
    return "\n".join([head, *(f"## `{table.name}`: {table.meaning}\n\n{column_reference(table)}" for table in TABLES.values())])


def column_reference(table: Table) -> str:
    """Return the columns of one table in Markdown, for docs/."""
    return "\n".join(_column_lines(table)) + "\n"


def _column_lines(table: Table) -> list[str]:
    lines = ["| column | type | meaning |", "|---|---|---|"]
    for column in table.columns:
        name = f"**{column.name}**" if column.name in table.key else column.name
        lines.append(f"| {name} | {column.dtype}{' or null' if column.nullable else ''} | {column.meaning.replace('|', '/')} |")
    if table.extra is not None:
        lines.append(f"| any other | {table.extra} | {table.extra_meaning} |")
    return lines
