"""Credit rules on the demo shop: the same warm start and first rollouts per seed, several rules and learning rates, paired tests.

Run: python benchmarks/compare_rules.py FOLDER [--seeds 0 1 2] [--methods uniform myerson+group-additive …] [--learning-rates 5e-4 …]

FOLDER keeps one project per seed and method; run it again and only what is missing is computed. Every seed is a shop, a warm start and a
training of its own. A method is RULE or ESTIMATOR+RULE; the first is what the others are compared with. Of each method the learning rate
with the best reward in the last iteration's rollouts is compared (train prompts: test prompts choose nothing); all of them stand below.
Intervals resample prompts; the spread (±) is the standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ospo_cli import params as parameters
from ospo_cli import presets
from ospo_cli.layout import Layout
from ospo_cli.maths import seeding
from ospo_cli.maths.statistics import Resamples

METHODS = (
    "uniform",
    "myerson+group-additive",
    "alone+group-additive",
    "random+group-additive",
    "myerson+signed",
    "myerson+proportional",
    "potential",
)


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[2.5e-4, 5e-4])
    options = parser.parse_args()
    found: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for seed in options.seeds:
        base: Path | None = None
        for method in options.methods:
            for rate in options.learning_rates:
                project = options.folder / f"seed-{seed}" / f"{method}-{rate:g}"
                run(project, settings(seed, method, rate), base)
                base = base or project
                found.setdefault((method, rate), []).append(outcome(project))
    print_tables(found, options)


def settings(seed: int, method: str, rate: float) -> parameters.Params:
    """Return the demo preset at a seed, with a method's estimator and rule; the warm start and the last policy are evaluated."""
    values = presets.load("demo")
    estimator, _, rule = method.rpartition("+")
    attribute = dataclasses.replace(values.attribute, rule=rule, estimator=estimator or "myerson")
    return dataclasses.replace(
        values,
        train=dataclasses.replace(values.train, seed=seed),
        attribute=attribute,
        update=dataclasses.replace(values.update, learning_rate=rate),
        evaluate=dataclasses.replace(values.evaluate, every=max(1, values.train.iterations), retrievers=["bm25"]),
    )


def run(project: Path, values: parameters.Params, base: Path | None) -> None:
    """Run a project to its end; what it shares with `base` is linked from there."""
    if not project.is_dir():
        if base is not None:
            # Links: stages replace files and never write into them.
            shutil.copytree(base, project, copy_function=os.link, ignore=shutil.ignore_patterns("run.log"))
        project.mkdir(parents=True, exist_ok=True)
    text = presets.render(values)
    path = project / "params.yaml"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.unlink(missing_ok=True)
        path.write_text(text, encoding="utf-8")
    sys.stderr.write(f"== {project}\n")
    with open(project / "run.log", "wb") as log:
        ended = subprocess.run([sys.executable, "-m", "ospo_cli", "run", "--project", str(project)], stderr=log, stdout=log, check=False)
    if ended.returncode:
        sys.exit(f"{project}: ospo run failed, see {project / 'run.log'}")


def outcome(project: Path) -> dict[str, Any]:
    """Return per-prompt values by (system, decoding), and sums over the iterations."""
    layout = Layout(project)
    summary = json.loads(layout.evaluation("summary.json").read_text(encoding="utf-8"))
    values = pl.read_parquet(layout.evaluation("query_metrics.parquet")).filter(
        (pl.col("metric") == summary["metric"]) & (pl.col("retriever") == summary["training_retriever"])
    )
    final = [system for system in summary["systems"] if system.startswith("policy-")][-1]
    names = {"raw-query": "raw query", "policy-000": "warm start", final: "final", "oracle": "oracle"}
    cells = {
        (names[system], decoding): rows.sort("prompt_id")["metric_value"].to_numpy()
        for (system, decoding), rows in values.group_by("system", "decoding")
        if system in names
    }
    scores = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((layout.data / "iterations").glob("*/score_metrics.json"))]
    rollouts = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted((layout.data / "iterations").glob("*/rollout_metrics.json"))
    ]
    return {
        "cells": cells,
        "training_reward": float(np.mean([score["mean_reward"] for score in scores])),
        "last_reward": float(scores[-1]["mean_reward"]),
        "tokens": sum(rollout["tokens"] for rollout in rollouts),
        "texts": sum(score["distinct_values"] for score in scores),
    }


def print_tables(found: dict[tuple[str, float], list[dict[str, Any]]], options: argparse.Namespace) -> None:
    """Print the anchors, the comparison at each method's own learning rate, and all learning rates."""
    first = next(iter(found.values()))
    prompts = sum(len(seed["cells"]["final", "greedy"]) for seed in first)
    print(f"demo shop, seeds {' '.join(map(str, options.seeds))}, {prompts} test prompts in all, nDCG@10 under the reward's bm25\n")
    for name, decoding in (("raw query", "none"), ("warm start", "greedy"), ("warm start", "sampled"), ("oracle", "none")):
        print(f"{name} ({decoding}): {_mean(first, name, decoding)}" if decoding != "none" else f"{name}: {_mean(first, name, decoding)}")
    best = {
        method: max(options.learning_rates, key=lambda rate, method=method: _average(found[method, rate], "last_reward"))
        for method in options.methods
    }
    draws = Resamples(prompts, 2000, seeding.generator(0, "compare rules"))
    reference = found[options.methods[0], best[options.methods[0]]]
    head = ("method", "learning rate", "greedy", f"minus {options.methods[0]}", "sampled", f"minus {options.methods[0]}")
    print("\n| " + " | ".join((*head, "mean training reward", "tokens sampled", "texts scored")) + " |\n|" + " --- |" * 9)
    for method in options.methods:
        rows = found[method, best[method]]
        cells = [method, f"{best[method]:g}"]
        for decoding in ("greedy", "sampled"):
            cells.append(_mean(rows, "final", decoding))
            paired = draws.difference(_pooled(rows, decoding), _pooled(reference, decoding))
            is_reference = rows is reference
            cells.append("" if is_reference else f"{paired.mean:+.3f} [{paired.low:+.3f}, {paired.high:+.3f}] p {paired.p_value:.4f}")
        cells += [f"{_average(rows, 'training_reward'):.3f}", f"{_average(rows, 'tokens'):,.0f}", f"{_average(rows, 'texts'):,.0f}"]
        print("| " + " | ".join(cells) + " |")
    print("\n| method | learning rate | greedy | sampled | mean training reward | in the last iteration |\n|" + " --- |" * 6)
    for (method, rate), rows in found.items():
        ends = f"{_mean(rows, 'final', 'greedy')} | {_mean(rows, 'final', 'sampled')}"
        print(f"| {method} | {rate:g} | {ends} | {_average(rows, 'training_reward'):.3f} | {_average(rows, 'last_reward'):.3f} |")


def _mean(rows: list[dict[str, Any]], name: str, decoding: str) -> str:
    means = [float(row["cells"][name, decoding].mean()) for row in rows]
    spread = f" ± {np.std(means, ddof=1):.3f}" if len(means) > 1 else ""
    return f"{np.mean(means):.3f}{spread}"


def _pooled(rows: list[dict[str, Any]], decoding: str) -> np.ndarray:
    return np.concatenate([row["cells"]["final", decoding] for row in rows])


def _average(rows: list[dict[str, Any]], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


if __name__ == "__main__":
    main()
