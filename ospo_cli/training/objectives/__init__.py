"""What an update learns from and how; a new objective is an `Objective` in a file of its own and a line in OBJECTIVES."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ospo_cli.params.update import Update
    from ospo_cli.training.objectives.base import Objective

OBJECTIVES: dict[str, str] = {
    "policy-gradient": "ospo_cli.training.objectives.policy_gradient:PolicyGradient",
    "mirror-descent": "ospo_cli.training.objectives.mirror_descent:MirrorDescent",
    "sft": "ospo_cli.training.objectives.imitation:Imitation",
    "dpo": "ospo_cli.training.objectives.preference:Preference",
}


def objective_of(settings: Update) -> Objective:
    """Return update.objective under section update."""
    module, name = OBJECTIVES[settings.objective].split(":")
    made: Objective = getattr(importlib.import_module(module), name)(settings)
    return made
