"""The lab: rules and estimators on small decision problems, before any policy is trained. Needs no project."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import polars as pl

import ospo_cli
from ospo_cli.errors import OspoError
from ospo_cli.executors.progress import Progress
from ospo_cli.instruments.lab.convergence import climb, expected_advantages, steps_to
from ospo_cli.instruments.lab.decision_problems import PROBLEMS
from ospo_cli.instruments.lab.gradient_noise import measured
from ospo_cli.instruments.lab.gradient_quality import (
    INTERACTIONS,
    Condition,
    conditions,
    draw,
    middle,
    qualities,
    shares,
    standard_error,
    standings,
)
from ospo_cli.instruments.lab.page import render
from ospo_cli.instruments.lab.tables import print_lab
from ospo_cli.maths.estimators import ESTIMATORS
from ospo_cli.maths.gradient_noise import FEWEST_PROMPTS
from ospo_cli.maths.redistribution import RULES, Rule, Settings
from ospo_cli.own_code import rules as rule_file
from ospo_cli.tables import files, parquet
from ospo_cli.tables.lab import LAB_CONVERGENCE, LAB_CURVES, LAB_GRADIENT_QUALITY, LAB_NOISE

STEP_SIZE = 0.5
LEVEL = 0.95
LARGEST = 20_000_000  # tokens of one condition; beyond, memory is out of reach of most machines


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        rules: by name, in the order of tables.
        estimators: names; the first is that of convergence and of every condition, the others run where G is in its middle.
        segments, group_sizes, noises, interactions: the axes of gradient quality.
        problems: names of the decision problems.
        seeds: problems drawn per condition.
        seed: root of every random number.
        steps: steps of convergence.
        is_crossed: every combination of the axes, in place of one axis at a time.
        settings: parameters of the rules.
    """

    rules: Mapping[str, Rule] = field(default_factory=lambda: dict(RULES))
    estimators: tuple[str, ...] = ("myerson", *(name for name in ESTIMATORS if name != "myerson"))
    segments: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    group_sizes: tuple[int, ...] = (2, 4, 8, 16, 32, 64)
    noises: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0)
    interactions: tuple[str, ...] = tuple(INTERACTIONS)
    problems: tuple[str, ...] = tuple(PROBLEMS)
    seeds: int = 300
    seed: int = 0
    steps: int = 2000
    is_crossed: bool = False
    settings: Settings = field(default_factory=Settings)


@dataclass(frozen=True)
class Lab:
    """The four tables."""

    convergence: pl.DataFrame
    curves: pl.DataFrame
    quality: pl.DataFrame
    noise: pl.DataFrame


def run(folder: Path, lists: Mapping[str, str], numbers: Mapping[str, Any], file: Path | None) -> Lab:
    """Run the lab as the command line asks for: lists are separated by commas, and empty where the default is meant."""
    default = Plan()
    names = {option: tuple(part.strip() for part in text.split(",") if part.strip()) for option, text in lists.items()}
    plan = Plan(
        rules=chosen_rules(names["rules"], file),
        estimators=names["estimators"] or default.estimators,
        segments=tuple(_number(text, "--segments", int) for text in names["segments"]),
        group_sizes=tuple(_number(text, "--group-sizes", int) for text in names["group_sizes"]),
        noises=tuple(_number(text, "--noise", float) for text in names["noise"]),
        interactions=names["interactions"] or default.interactions,
        problems=() if names["problems"] == ("none",) else names["problems"] or default.problems,
        seeds=numbers["seeds"],
        seed=numbers["seed"],
        steps=numbers["steps"],
        is_crossed=numbers["is_crossed"],
        settings=Settings(beta=numbers["beta"], alpha=numbers["alpha"]),
    )
    words = [f"--{name.replace('_', '-')} {text}" for name, text in lists.items() if text]
    words += [f"--{name} {numbers[name]}" for name in ("seeds", "seed", "steps", "beta", "alpha")]
    words += ["--full"] * numbers["is_crossed"] + ([f"--rule-file {file}"] if file is not None else [])
    return execute(folder, plan, command=" ".join(["ospo lab", *words]))


def execute(folder: Path, plan: Plan, stream: TextIO | None = None, command: str = "ospo lab") -> Lab:
    """Run the lab; write its tables as Parquet and lab.html; print the tables."""
    started = time.perf_counter()
    found = lab(plan)
    written = (LAB_CONVERGENCE, LAB_CURVES, LAB_GRADIENT_QUALITY, LAB_NOISE)
    for frame, table in zip((found.convergence, found.curves, found.quality, found.noise), written, strict=True):
        parquet.write(frame, folder / f"{table.name}.parquet", table)
    facts: dict[str, Any] = {
        "version": ospo_cli.__version__,
        "command": command,
        "seeds": plan.seeds,
        "seed": plan.seed,
        "step_size": STEP_SIZE,
        "level": LEVEL,
        "rules": list(plan.rules),
        "middle": {"segments": middle(plan.segments, 8), "group_size": middle(plan.group_sizes, 8), "noise": middle(plan.noises, 0)},
        "estimator": plan.estimators[0],
        "problems": {name: PROBLEMS[name].meaning for name in plan.problems},
        "group_sizes": {name: PROBLEMS[name].group_size for name in plan.problems},
        "interactions": {name: INTERACTIONS[name].meaning for name in plan.interactions},
    }
    tables = {"convergence": found.convergence.to_dicts(), "curves": found.curves.to_dicts(), "quality": found.quality.to_dicts()}
    tables |= {"noise": found.noise.to_dicts()}
    page = render(facts | tables)
    files.write_text(folder / "lab.html", page)
    print_lab(facts | tables, stream if stream is not None else sys.stdout)
    sys.stderr.write(f"ospo lab: wrote {folder}/lab.html and four tables, {time.perf_counter() - started:.1f} s\n")
    return found


def lab(plan: Plan) -> Lab:
    """Return where every rule converges, and how good its gradients are.

    Raises:
        OspoError: a name that does not exist, a number out of range, or a condition too large.
        CreditError: a user's rule fails.
    """
    _check(plan)
    convergence, curves = _converged(plan)
    return Lab(convergence, curves, _measured(plan), _noisy(plan))


def chosen_rules(names: Sequence[str], file: Path | None) -> dict[str, Rule]:
    """Return the rules of these names, all if there are none; a user's file adds its own, always."""
    own = rule_file.load("" if file is None else str(file), Path())
    known = {**RULES, **own}
    for name in names:
        _known(name, known, "--rules")
    return {name: rule for name, rule in known.items() if not names or name in names or name in own}


def _number(text: str, where: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise OspoError(where, "is no number", found=text, expected="numbers separated by commas") from None


def _known(name: str, known: Mapping[str, object], where: str) -> None:
    if name not in known:
        raise OspoError(where, "unknown name", found=name, expected=", ".join(known))


def _check(plan: Plan) -> None:
    for names, known, where in (
        (plan.estimators, ESTIMATORS, "--estimators"),
        (plan.interactions, INTERACTIONS, "--interactions"),
        (plan.problems, PROBLEMS, "--problems"),
    ):
        for name in names:
            _known(name, known, where)
    for where, values, low, high in (
        ("--segments", plan.segments, 1, 64),
        ("--group-sizes", plan.group_sizes, 2, 4096),
        ("--noise", plan.noises, 0, 1000),
        ("--seeds", (plan.seeds,), 2, 1_000_000),
        ("--steps", (plan.steps,), 1, 1_000_000),
        ("--seed", (plan.seed,), 0, 2**31 - 1),
    ):
        for value in values:
            if not low <= value <= high:
                raise OspoError(where, "out of range", found=value, expected=f"{low} to {high}")
    filled: dict[str, Sized] = {"--estimators": plan.estimators, "--segments": plan.segments, "--rules": plan.rules}
    filled |= {"--group-sizes": plan.group_sizes, "--noise": plan.noises, "--interactions": plan.interactions}
    for where, given in filled.items():
        if not given:
            raise OspoError(where, "is empty", expected="at least one")
    largest = plan.seeds * max(plan.segments) * max(plan.group_sizes)
    if largest > LARGEST:
        raise OspoError("--seeds", "too much for one condition", found=f"{largest:,} tokens", expected=f"at most {LARGEST:,}")


def _converged(plan: Plan) -> tuple[pl.DataFrame, pl.DataFrame]:
    rows, ways = [], []
    name, rules = plan.estimators[0], list(plan.rules.values())
    marks = np.unique(np.concatenate([[0], np.geomspace(1, plan.steps, 60).round()]).astype(int))
    cases = [
        (PROBLEMS[problem], outside)
        for problem in plan.problems
        for outside in (("sequence", "zero") if PROBLEMS[problem].has_outside else ("sequence",))
    ]
    progress = Progress("lab, convergence", len(cases), "problems")
    for problem, outside in cases:
        settings = Settings(**{**vars(plan.settings), "outside": outside})
        way = climb(problem, expected_advantages(problem, rules, settings, ESTIMATORS[name]), plan.steps, STEP_SIZE)
        best = problem.best()
        for index, rule in enumerate(plan.rules):
            curve = way.expected_reward[:, index]
            start, end = float(curve[0]), float(curve[-1])
            key = {"problem": problem.name, "outside": outside if problem.has_outside else "-", "estimator": name, "rule": rule}
            rows.append(
                key
                | {
                    "start_reward": start,
                    "end_reward": end,
                    "best_reward": best,
                    "steps": plan.steps,
                    "steps_to_95": steps_to(curve, start + 0.95 * (end - start)) if end - start > 1e-6 else None,
                    "steps_to_level": steps_to(curve, LEVEL * best),
                    "first_gradient": float(np.linalg.norm(way.first_gradient[index])),
                    "last_gradient": float(np.linalg.norm(way.last_gradient[index])),
                }
            )
            ways += [key | {"step": int(step), "expected_reward": float(curve[step])} for step in marks]
        progress.advance(detail=problem.name)
    progress.close()
    return pl.DataFrame(rows, schema=LAB_CONVERGENCE.schema), pl.DataFrame(ways, schema=LAB_CURVES.schema)


def _measured(plan: Plan) -> pl.DataFrame:
    cells = _cells(plan)
    progress = Progress("lab, gradient quality", sum(len(names) for names in cells.values()), "conditions")
    rows = []
    for condition, names in cells.items():
        drawn = draw(condition, plan.seeds, plan.seed)
        for name in names:
            found = qualities(drawn, shares(drawn, ESTIMATORS[name]), plan.rules, plan.settings)
            standing = {each.rule: each for each in standings(found)}
            for rule, quality in found.items():
                over = quality.cosine - found["uniform"].cosine if "uniform" in found else None
                rows.append(
                    {
                        "interaction": condition.interaction,
                        "segments": condition.n,
                        "group_size": condition.group_size,
                        "noise": condition.noise,
                        "estimator": name,
                        "rule": rule,
                        "seeds": plan.seeds,
                        "cosine": float(quality.cosine.mean()),
                        "cosine_standard_error": standard_error(quality.cosine),
                        "squared_error": float(quality.squared_error.mean()),
                        "squared_error_standard_error": standard_error(quality.squared_error),
                        "silent_share": float(quality.is_silent.mean()),
                        "behind_best": standing[rule].behind,
                        "behind_standard_error": standing[rule].standard_error,
                        "is_tied": standing[rule].is_tied,
                        "over_uniform": None if over is None else float(over.mean()),
                        "over_uniform_standard_error": None if over is None else standard_error(over),
                    }
                )
            progress.advance(detail=f"{condition.interaction}, n = {condition.n}, G = {condition.group_size}, {name}")
    progress.close()
    return pl.DataFrame(rows, schema=LAB_GRADIENT_QUALITY.schema)


def _noisy(plan: Plan) -> pl.DataFrame:
    """Return table lab_noise: the lengths at the middle group size; fewer than three prompts have no jackknife, and no row."""
    group_size = int(middle(plan.group_sizes, 8))
    chosen = conditions(plan.interactions, plan.segments, (group_size,), (0,), True) if plan.seeds >= FEWEST_PROMPTS else []
    rows: list[dict[str, Any]] = []
    progress = Progress("lab, gradient noise", len(chosen), "conditions")
    for condition in chosen:
        rows += measured(condition, plan.seeds, plan.seed, plan.rules, plan.settings, plan.estimators[0])
        progress.advance(detail=f"{condition.interaction}, n = {condition.n}")
    progress.close()
    return pl.DataFrame(rows, schema=LAB_NOISE.schema)


def _cells(plan: Plan) -> dict[Condition, tuple[str, ...]]:
    """Return which estimators run under which condition: all of them where G stands in the middle of its axis."""
    every = conditions(plan.interactions, plan.segments, plan.group_sizes, plan.noises, plan.is_crossed)
    group_size = middle(plan.group_sizes, 8)
    return {
        condition: plan.estimators if plan.is_crossed or condition.group_size == group_size else plan.estimators[:1] for condition in every
    }
