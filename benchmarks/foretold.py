"""What gradients foretell of credit rules, beside what training showed: noise, direction, progress, tokens to GRPO's level.

    python benchmarks/foretold.py WORK                                          # makes the projects that are missing, then measures
    python benchmarks/foretold.py WORK --vary alignment --tasks demo=2 controlled=2     # splice under each score_coalitions.alignment
    python benchmarks/foretold.py WORK --vary size --tasks demo=0      # GRPO and splice by the first 2 and 4 rollouts of a group, by all

The tasks are those of benchmarks/experiments/credit.yaml and controlled.yaml. WORK/TASK/seed-S is a project of the task after its warm
start with --groups rollout groups of 8 (`ospo prepare-data`, `warm-start`, `rollout`; several minutes each, kept). Every rule is judged on
the same groups, as `ospo audit --gradients` does it. Progress is of a step of 32 or 128 rollouts. Numbers are means over seeds, each a
policy of its own; ± is a standard error by jackknife over prompts, policy by policy. What was trained is read from the outcomes kept beside
the experiments' files, at 2.5e-4, the rate at which each method was trained.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli import presets
from ospo_cli.instruments.audit import gradient_vectors, gradients
from ospo_cli.instruments.audit.gradients import GRPO, TRUE, Method, Request
from ospo_cli.instruments.experiment import outcomes
from ospo_cli.instruments.experiment.analysis import Found, rows_of, to_level
from ospo_cli.instruments.experiment.plan import Doors, Plan, Training, read
from ospo_cli.instruments.experiment.running import Folders, is_done
from ospo_cli.layout import Layout
from ospo_cli.maths import gradient_noise as noise
from ospo_cli.maths import student
from ospo_cli.maths.rank_correlation import kendall
from ospo_cli.params.score_coalitions import ScoreCoalitions
from ospo_cli.params.whole import Params
from ospo_cli.params.written import render

EXPERIMENTS = Path(__file__).parent / "experiments"
TASKS = {"demo": "credit.yaml", "dial-6": "credit.yaml", "controlled": "controlled.yaml"}
RATE, STEPS = 2.5e-4, (32, 128)  # rollouts in a step: 4 groups of 8 as in the experiments, 16 as in preset demo
# Names are those of the experiments' methods where one was trained.
GROUP_GAME = Method("splice(0.5)", "none", "none")
RULES = {
    "grpo": GRPO,
    "mirror-descent": GRPO,
    "splice": GROUP_GAME,
    "splice-std": GROUP_GAME._replace(normalize="std"),
    "splice, λ 0": GROUP_GAME._replace(estimator="splice(0)"),
    "splice, λ 1": GROUP_GAME._replace(estimator="splice(1)"),
    "swap": GROUP_GAME._replace(estimator="swap"),
    "stopping": Method("stopping", "none", "std"),
    "ours": Method("myerson", "group-additive", "std"),
    "signed": Method("myerson", "signed", "std"),
    "proportional": Method("contiguous-mean", "proportional", "std"),
    "share-only": Method("myerson", "share-only", "std"),
    "potential": Method("any", "potential", "std"),
}
ALIGNMENTS: tuple[Literal["batch", "group", "group-first", "index"], ...] = ("batch", "group", "group-first", "index")
Values = NDArray[np.float64]
Measured = dict[str, noise.Gradients]


def project(root: Path, params: Params) -> Layout:
    """Return the project after its rollouts; make what is missing."""
    layout = Layout(root)
    root.mkdir(parents=True, exist_ok=True)
    layout.root.joinpath("params.yaml").write_text(render(params), encoding="utf-8")
    if not layout.iteration(1, "rollouts.parquet").is_file():
        for stage in ("prepare-data", "warm-start", "rollout"):
            subprocess.run([sys.executable, "-m", "ospo_cli", stage, "--project", str(root)], check=True, stdout=sys.stderr)
    return layout


def measured(layout: Layout, params: Params, groups: int, vary: str) -> Measured:
    """Return gradients by name, all of the same rollout groups, the true one first: of every rule, or as `variants` says."""
    sets: list[Any] = []
    names: list[str] = []
    for methods, scoring, size in variants(params, vary):
        own = replace(params, score_coalitions=scoring)
        with gradients._sampled(layout, own, 1, Request(prompts=groups)) as (here, used, rollouts):
            part = rollouts.filter(pl.int_range(pl.len()).over("prompt_id") < size)
            sets += gradients._credited(here, used, 1, list(methods.values()), part)  # no advantage is none of the gradient
            names += methods
    alike = {name: np.zeros(len(ids), dtype=np.int64) for name, ids in rollouts.select("rollout_id", "token_ids").iter_rows()}
    found, _ = gradient_vectors.vectors(layout, params, 1, rollouts, gradient_vectors.Judged([sets], [], alike))
    return {name: noise.of_groups(found.whole(number)) for number, name in enumerate(names)}


def variants(params: Params, vary: str) -> list[tuple[dict[str, Method], ScoreCoalitions, int]]:
    """Return methods by name, with the section score_coalitions and the rollouts of a group that they are judged under."""
    usual, size = params.score_coalitions, params.rollout.group_size
    if vary == "rules":
        return [({"true": TRUE, **RULES}, usual, size)]
    found = [({"true": TRUE, "grpo": GRPO}, usual, size)]
    if vary == "alignment":
        return found + [({name: GROUP_GAME}, replace(usual, alignment=name), size) for name in ALIGNMENTS]
    return found + [({f"grpo of {part}": GRPO, f"splice of {part}": GROUP_GAME}, usual, part) for part in (size // 4, size // 2, size)]


def progress(own: Measured, name: str, rollouts: int) -> Values:
    """Return [1 + prompts] progress of a step of so many rollouts, in groups of the size that the name ends with, else of 8."""
    _, _, size = name.partition(" of ")
    return noise.progress(own[name], own["true"], rollouts // int(size or 8))


def over_seeds(each: Sequence[Values]) -> tuple[float, float]:
    """Return the mean over policies of a measure ([1 + prompts] each), and its standard error."""
    found = [noise.estimate(values) for values in each]
    return float(np.mean([value for value, _ in found])), float(np.sqrt(sum(error**2 for _, error in found)) / len(found))


def tokens(found: Sequence[Measured], name: str) -> tuple[float, float]:
    """Return the part of GRPO's rollouts for the same progress, the mean over policies above and below, and its standard error."""
    above, below = ([progress(own, each, STEPS[0]) for own in found] for each in ("grpo", name))
    most, least = (sum(values[0] for values in part) for part in (above, below))
    parts = [(most - a[0] + a) / (least - b[0] + b) for a, b in zip(above, below, strict=True)]  # each without prompts of one policy
    return float(most / least), float(np.sqrt(sum(noise.estimate(part)[1] ** 2 for part in parts)))


def trained(plan: Plan, task: str, found: Found) -> dict[str, tuple[str, Values]]:
    """Return method -> part of GRPO's tokens to its last level as text, and [seeds] mean reward of all rollouts less its; at RATE."""
    rows = rows_of(plan, task, found, RATE)
    levels = {each.method: each for each in to_level(rows, "tokens")}
    told = {}
    for row in rows[1:]:
        each, seeds = levels[row.method], [rows[0].seeds.index(seed) for seed in row.seeds]
        bounds = f" [{each.low:.2f}, {each.high:.2f}]" if each.low is not None else ""
        text = "not reached" if each.share is None else f"{each.share:.2f}{bounds}"
        told[row.method] = (text, (row.along("mean_reward") - rows[0].along("mean_reward")[seeds]).mean(axis=1))
    return told


def outcomes_of(file: str) -> tuple[Plan, Found]:
    """Return an experiment and the outcomes kept beside it."""
    path = EXPERIMENTS / file
    plan, folders = read(path, Doors(presets.load, presets.algorithm_row)), Folders(path.with_suffix(""))
    kept = {one: outcomes.read(folders.outcome(one), one) for one in plan.trainings() if is_done(plan, folders, one)}
    return plan, {one: outcome for one, outcome in kept.items() if outcome is not None}


def row(name: str, found: Sequence[Measured], usual: str) -> list[str]:
    """Return the cells of what the gradients say."""
    scale = over_seeds([noise.noise_scale(own[name]) for own in found])
    direction = over_seeds([noise.direction(own[name], own["true"]) for own in found])
    gained = [over_seeds([progress(own, name, step) for own in found]) for step in STEPS]
    less = over_seeds([progress(own, name, STEPS[1]) - progress(own, usual, STEPS[1]) for own in found])
    cells = ["{:.0f} ± {:.0f}".format(*scale), "{:.2f} ± {:.2f}".format(*direction), *("{:.3f} ± {:.3f}".format(*each) for each in gained)]
    return [
        *cells,
        "" if name == usual else "{:+.3f} ± {:.3f}".format(*less),
        "1" if name == "grpo" else "{:.2f} ± {:.2f}".format(*tokens(found, name)),
    ]


def print_task(task: str, found: Sequence[Measured], vary: str, told: dict[str, tuple[str, Values]]) -> list[tuple[float, float]]:
    """Print a task's table; return 1 - tokens foretold and the gain while training of each trained method but the reference.

    Mirror descent is left out there: its first gradient is GRPO's, whatever it does later.
    """
    usual, pairs = "batch" if vary == "alignment" else "grpo", []
    heads = [
        "method",
        "B",
        "direction",
        *(f"progress@{step}" for step in STEPS),
        f"@{STEPS[1]} less {usual}",
        f"tokens, foretold@{STEPS[0]}",
    ]
    heads += ["tokens, trained", "reward while training"] if vary == "rules" else []
    print(f"\n**{task}**, {len(found)} policies\n\n| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for name in list(found[0])[1:]:
        cells = row(name, found, usual)
        if name in told:
            text, apart = told[name]
            half = float(student.quantile(len(apart) - 1, 0.95)) * float(apart.std(ddof=1)) / np.sqrt(len(apart))
            cells += [text, f"{apart.mean():+.3f} [{apart.mean() - half:+.3f}, {apart.mean() + half:+.3f}]"]
            pairs += [(1.0 - tokens(found, name)[0], float(apart.mean()))] if name != "mirror-descent" else []
        elif vary == "rules":
            cells += ["1", "0"] if name == "grpo" else ["–", "–"]
        print(f"| {name} | " + " | ".join(cells) + " |")
    return pairs


def main() -> None:
    """Print the tables, and how the order of the foretold savings agrees with that of the rewards while training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--tasks", nargs="+", default=["demo=0,1", "dial-6=0", "controlled=0,1"], help="TASK=SEED,SEED")
    parser.add_argument("--groups", type=int, default=96)
    parser.add_argument("--vary", choices=("rules", "alignment", "size"), default="rules")
    options = parser.parse_args()
    of_tasks: list[list[tuple[float, float]]] = []
    for task, _, seeds in (given.partition("=") for given in options.tasks):
        plan, outcome = outcomes_of(TASKS[task])
        found = []
        for seed in map(int, seeds.split(",")):
            params = plan.params(Training(task, "splice", seed, RATE))
            params = replace(params, rollout=replace(params.rollout, prompts_per_iteration=options.groups))
            layout = project(options.work / task / f"seed-{seed}", params)
            found.append(measured(layout, params, options.groups, options.vary))
        of_tasks.append(print_task(task, found, options.vary, trained(plan, task, outcome) if options.vary == "rules" else {}))
    if options.vary == "rules":
        taus = ", ".join(f"{kendall(*np.array([(0.0, 0.0), *pairs]).T):.2f}" for pairs in of_tasks)
        print(f"\nKendall's τ of 1 - tokens foretold and reward while training: {taus} by task, GRPO among them at 0;")
        apart = [pair for pairs in of_tasks for pair in pairs]
        print(f"{kendall(*np.array(apart).T):.2f} of the {len(apart)} differences to GRPO together")


if __name__ == "__main__":
    main()
