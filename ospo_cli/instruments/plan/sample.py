"""What a unit of each stage's work takes where no run has recorded it: the stages themselves on a few prompts, in a folder of its own."""

from __future__ import annotations

import dataclasses
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ospo_cli.graph import declared, nodes, runner
from ospo_cli.layout import Layout
from ospo_cli.params.whole import Params

SECONDS, CPU_SECONDS = 60.0, 10.0  # where a round of one rollout group takes longer, the last one is of two
EVALUATED = 16  # most prompts
ORACLE = "evaluate: oracle"
Record = dict[str, Any]


@dataclass(frozen=True)
class Scratch(Layout):
    """The project's folder for its inputs, and another one for everything that is written."""

    folder: Path

    @property
    def data(self) -> Path:
        """The scratch folder."""
        return self.folder


def sampled(layout: Layout, scratch: Scratch, params: Params) -> dict[str, list[Record]]:
    """Return stage -> records of two rounds of the loop on prepared tables: of one rollout group, and of as many as one batch samples.

    Policy 000 of the project is sampled where it is there. Else one that was trained for some steps is, which hardly ever stops: it may
    go on for as many tokens as the teacher's answers have in the mean.
    """
    rounds: list[dict[str, Record]] = []
    batch = max(2, params.rollout.batch_size // params.rollout.group_size)
    # The first round also pays for what is imported and compiled once.
    for groups in (1, 1, min(batch, params.rollout.prompts_per_iteration)):
        for folder in scratch.folder.iterdir():
            if folder.name != "prepared":
                shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
        seconds, cpu = (sum(record[name] for record in rounds[-1].values()) if rounds else 0.0 for name in ("seconds", "cpu_seconds"))
        rounds.append(_round(layout, scratch, _few(params, min(groups, 2) if seconds > SECONDS or cpu > CPU_SECONDS else groups)))
    found: dict[str, list[Record]] = {stage: [each[stage] for each in rounds[-2:]] for stage in rounds[0]}
    if declared.uses_raw_query_values(params):
        found["score-queries"] = [runner.measured(nodes.node("score-queries", None, params), scratch, _few(params, 1))[1]]
    return found


def _few(params: Params, groups: int) -> Params:
    wanted: dict[str, dict[str, Any]] = {
        "train": {"iterations": 1},
        "warm_start": {"steps": min(1 if groups == 1 else 4, params.warm_start.steps), "max_epochs": 0.0},
        "rollout": {"prompts_per_iteration": groups, "prompts": "all", "further_rounds": 0},
        # How many rollout groups will be degenerate, or hold a target, is not known: all count.
        "score_coalitions": {"degenerate_groups": "evaluate"},
        "update": {"objective": "policy-gradient", "groups": "all", "examples_file": ""},
        "evaluate": {"max_prompts": min(groups, EVALUATED)},
        "store": {"values": "never"},  # what the store holds would make the rates those of a look-up
    }
    return _replaced(params, wanted)


def _replaced(params: Params, wanted: dict[str, dict[str, Any]]) -> Params:
    return dataclasses.replace(params, **{name: dataclasses.replace(getattr(params, name), **own) for name, own in wanted.items()})


def _round(layout: Layout, scratch: Scratch, params: Params) -> dict[str, Record]:
    """Run every stage once; return their records, the oracle's part of the evaluation by itself."""
    records = {}
    for made in nodes.plan(params)[1:]:
        result, records[made.stage] = runner.measured(made, scratch, params)
        if made.stage == "warm-start" and (layout.policy(0) / "tokenizer.json").is_file():
            shutil.rmtree(scratch.policy(0))
            shutil.copytree(layout.policy(0), scratch.policy(0))
        elif made.stage == "warm-start" and "mean_completion_tokens" in result:
            most = min(params.rollout.max_new_tokens, math.ceil(result["mean_completion_tokens"]))
            params = _replaced(params, {"rollout": {"max_new_tokens": most}})
    if params.evaluate.oracle_edits:
        shutil.rmtree(scratch.cache, ignore_errors=True)
        whole, params = records["evaluate"], _replaced(params, {"evaluate": {"oracle_edits": 0}})
        records["evaluate"] = runner.measured(nodes.node("evaluate", None, params), scratch, params)[1]
        records[ORACLE] = whole | {name: max(whole[name] - records["evaluate"][name], 0) for name in ("seconds", "cpu_seconds", "bytes")}
    return records
