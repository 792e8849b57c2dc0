"""Section report."""

from __future__ import annotations

from dataclasses import dataclass

from ospo_cli.params.declare import parameter


@dataclass(frozen=True)
class Report:
    """What people look at."""

    title: str = parameter("ospo report", "title of the page")
    rollouts: int = parameter(60, "rollout groups in the browser of rollouts", minimum=1)
    queries: int = parameter(40, "queries in the lists of wins and losses", minimum=1)
