"""Section train."""

from __future__ import annotations

from dataclasses import dataclass

from ospo_cli.params.declare import parameter


@dataclass(frozen=True)
class Train:
    """The loop as a whole."""

    seed: int = parameter(0, "root of every random number", minimum=0)
    iterations: int = parameter(4, "number of rollout-to-update rounds", minimum=0, maximum=10_000)
