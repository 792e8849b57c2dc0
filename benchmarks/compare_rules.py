"""Credit rules: the same warm start and first rollouts per seed, several rules and learning rates, paired tests, learning curves.

Run: python benchmarks/compare_rules.py FOLDER [--seeds 0 1 2] [--methods uniform myerson+group-additive …] [--learning-rates 5e-4 …]
     python benchmarks/compare_rules.py FOLDER --preset smollm2-movies --inputs movies --learning-rates 2e-4 --methods …

FOLDER keeps one project per seed and method; run it again and only what is missing is computed. Every seed is a warm start and a training
of its own (of the demo: a shop too). A method is RULE, ESTIMATOR+RULE (as in splice+none), or ospo-prop or ospo-rank for all that the
paper says of credit (section attribute of that algorithm); the first is what the others are compared with. --inputs is a folder whose
content every project needs (a catalogue, data/pretrained); it is linked, not copied. Of each method the learning rate with the best
reward in the last iteration's rollouts is compared (train prompts: held-out prompts choose nothing); all of them stand below. From two
seeds on the first table compares trainings: 95 % t intervals over seeds and prompts with their degrees of freedom
(maths/over_trainings.py), ± the standard deviation over seeds. The table "over prompts" says what other prompts would have given for these
trained policies, and nothing of other trainings; of seeds with the same held-out prompts (not the demo's) a prompt's value is its mean
over the seeds. Holm: adjusted for all comparisons of the table. "could show": the smallest true difference that this design shows four
times in five. Curves: mean reward of the rollouts, in tenths of the training, against the tokens sampled and the minutes of processor time
from rollout to update. --curves FILE.svg
draws them. --outcomes FOLDER keeps each project's values as a small Parquet file, and takes them from there where FOLDER has no such
project: seeds may be added later or elsewhere.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ospo_cli import presets
from ospo_cli.layout import Layout
from ospo_cli.maths import seeding
from ospo_cli.maths.group_game import GROUP_GAMES
from ospo_cli.maths.over_trainings import TrainingDifference, over_trainings
from ospo_cli.maths.statistics import PairedDifference, Resamples, holm
from ospo_cli.params.whole import Params
from ospo_cli.report.charts import Frame, Line, line_chart, nice_ticks
from ospo_cli.report.pages import svg

METHODS = (
    "uniform",
    "myerson+group-additive",
    "alone+group-additive",
    "random+group-additive",
    "myerson+signed",
    "myerson+proportional",
    "potential",
)
Chosen = dict[str, list[dict[str, Any]]]
Comparison = tuple[str, str, str]
PAPERS = ("ospo-prop", "ospo-rank")
TENTHS = 10


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[2.5e-4, 5e-4])
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--inputs", type=Path, help="folder whose content is linked into every project")
    parser.add_argument("--evaluations", type=int, default=1, help="policies that are evaluated after the warm start, evenly spaced")
    parser.add_argument("--threads", type=int, help="over the preset's policy.threads")
    parser.add_argument("--curves", type=Path, metavar="FILE.svg", help="draw reward against tokens and minutes")
    parser.add_argument(
        "--outcomes", type=Path, metavar="FOLDER", help="keep each project's values here, and take those of absent projects"
    )
    options = parser.parse_args()
    found: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for seed in options.seeds:
        base: Path | None = None
        for method in options.methods:
            for rate in options.learning_rates:
                project = options.folder / f"seed-{seed}" / f"{method}-{rate:g}"
                kept = options.outcomes / f"seed-{seed}" / f"{method}-{rate:g}.parquet" if options.outcomes else None
                if kept is not None and kept.is_file() and not project.is_dir():
                    found.setdefault((method, rate), []).append(read_outcome(kept))
                    continue
                run(project, settings(options, seed, method, rate), base or options.inputs)
                base = base or project
                found.setdefault((method, rate), []).append(outcome(project))
                if kept is not None:
                    write_outcome(found[method, rate][-1], kept)
    print_tables(found, options)


def settings(options: argparse.Namespace, seed: int, method: str, rate: float) -> Params:
    """Return the preset at a seed, with a method's estimator and rule; the warm start and the last policy are evaluated."""
    values = presets.load(options.preset)
    if method in PAPERS:
        changes = presets.algorithm_row(method)["attribute"]
    else:
        estimator, _, rule = method.rpartition("+")
        changes = {"rule": rule, "estimator": estimator or "myerson"}
    attribute, scoring = dataclasses.replace(values.attribute, **changes), values.score_coalitions
    if attribute.estimator in GROUP_GAMES:
        scoring = dataclasses.replace(scoring, estimators=[attribute.estimator], families=[])
    every = max(1, values.train.iterations // options.evaluations)
    return dataclasses.replace(
        values,
        train=dataclasses.replace(values.train, seed=seed),
        policy=dataclasses.replace(values.policy, threads=options.threads or values.policy.threads),
        attribute=attribute,
        score_coalitions=scoring,
        update=dataclasses.replace(values.update, learning_rate=rate),
        evaluate=dataclasses.replace(
            values.evaluate, every=every, retrievers=[values.score_coalitions.retriever], temperatures=[], choose_on="none"
        ),
    )


def run(project: Path, values: Params, base: Path | None) -> None:
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
        "rewards": [score["mean_reward"] for score in scores],
        "summed_tokens": np.cumsum([rollout["tokens"] for rollout in rollouts]).tolist(),
        "summed_minutes": (np.cumsum([_seconds(layout, place) for place in range(1, len(scores) + 1)]) / 60).tolist(),
        "training_reward": float(np.mean([score["mean_reward"] for score in scores])),
        "last_reward": float(scores[-1]["mean_reward"]),
        "tokens": sum(rollout["tokens"] for rollout in rollouts),
        "texts": sum(score["distinct_values"] for score in scores),
    }


def write_outcome(found: dict[str, Any], path: Path) -> None:
    """Keep an outcome: a row per system, decoding and prompt (by number), the sums over iterations in the file's metadata."""
    frames = [
        pl.DataFrame({"system": name, "decoding": decoding, "prompt": np.arange(len(values)), "value": values})
        for (name, decoding), values in sorted(found["cells"].items())
    ]
    sums = {name: value for name, value in found.items() if name != "cells"}
    path.parent.mkdir(parents=True, exist_ok=True)
    pl.concat(frames).write_parquet(path, compression="zstd", compression_level=19, metadata={"sums": json.dumps(sums)})


def read_outcome(path: Path) -> dict[str, Any]:
    """Return what `write_outcome` kept."""
    sums = json.loads(pl.read_parquet_metadata(path)["sums"])
    cells = {
        (str(name), str(decoding)): rows.sort("prompt")["value"].to_numpy()
        for (name, decoding), rows in pl.read_parquet(path).group_by("system", "decoding")
    }
    return {"cells": cells, **sums}


def _seconds(layout: Layout, iteration: int) -> float:
    """Return the processor seconds of an iteration from rollout to update, as `ospo run` noted them."""
    stages = ("rollout", "segment", "score-coalitions", "attribute", "update")
    paths = [layout.plan(f"actual/{stage}@{iteration}.json") for stage in stages]
    return sum(float(json.loads(path.read_text(encoding="utf-8"))["cpu_seconds"]) for path in paths)


def curve(rows: list[dict[str, Any]], along: str) -> list[tuple[float, float]]:
    """Return (tokens or minutes so far, mean reward) of each tenth of the training, averaged over seeds."""
    points = []
    for part in np.array_split(np.arange(len(rows[0]["rewards"])), min(TENTHS, len(rows[0]["rewards"]))):
        place = np.mean([np.asarray(row[along])[part].mean() for row in rows])
        points.append((float(place), float(np.mean([np.asarray(row["rewards"])[part].mean() for row in rows]))))
    return points


def print_curves(found: dict[str, list[dict[str, Any]]], path: Path | None) -> None:
    """Print the learning curves of the methods, and draw them."""
    for along, unit in (("summed_tokens", "tokens"), ("summed_minutes", "CPU minutes")):
        print(f"\nmean reward of the rollouts by {unit} so far\n")
        for method, rows in found.items():
            print(f"{method:<28} " + "  ".join(f"{place:,.0f}: {reward:.3f}" for place, reward in curve(rows, along)))
    if path is not None:
        charts = []
        for along, label in (("summed_tokens", "1,000 tokens sampled"), ("summed_minutes", "CPU minutes")):
            unit = 1000 if along == "summed_tokens" else 1
            series = [
                Line((method,), f"c{index}", tuple((x / unit, y) for x, y in curve(rows, along)))
                for index, (method, rows) in enumerate(found.items())
            ]
            longest = max(x for each in series for x, _ in each.points)
            ticks = [tick for tick in nice_ticks(0, longest) if tick <= longest]
            charts.append(svg(line_chart(series, Frame(f"reward by {label}", label, ticks_at=ticks, margin_right=210))))
        path.write_text(stacked(charts), encoding="utf-8")


def stacked(charts: list[str]) -> str:
    """Return one SVG file of charts, one below the other."""
    style = ["text{font:12px sans-serif;fill:#444}.end{text-anchor:end}.middle{text-anchor:middle}.grid{stroke:#ddd}"]
    style.append(".line{fill:none;stroke-width:2}")
    for index, colour in enumerate(("#1f5fa8", "#c0392b", "#2e8b57", "#8e44ad", "#b9770e", "#117a8b", "#555555")):
        style.append(f".line.c{index}{{stroke:{colour}}}.dot.c{index},.name.c{index}{{fill:{colour}}}")
    placed = [chart.replace("<svg", f'<svg x="0" y="{340 * index}"', 1) for index, chart in enumerate(charts)]
    height = 340 * len(charts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 520 {height}" width="520" height="{height}"><style>{"".join(style)}</style>'
        f'<rect width="520" height="{height}" fill="#fff"/>{"".join(placed)}</svg>\n'
    )


def print_tables(found: dict[tuple[str, float], list[dict[str, Any]]], options: argparse.Namespace) -> None:
    """Print the anchors, the comparison at each method's own learning rate, and all learning rates."""
    first = next(iter(found.values()))
    prompts = len(_pooled(first, "greedy"))
    seeds = " ".join(map(str, options.seeds))
    print(f"{options.preset}, seeds {seeds}, {prompts} held-out prompts in all, the reward's metric and retriever\n")
    draws = Resamples(prompts, 2000, seeding.generator(0, "compare rules"))
    for name, decoding in (("raw query", "none"), ("warm start", "greedy"), ("warm start", "sampled"), ("oracle", "none")):
        print(f"{name}{f' ({decoding})' if decoding != 'none' else ''}: {_mean(first, name, decoding, draws)}")
    best = {
        method: max(options.learning_rates, key=lambda rate, method=method: _average(found[method, rate], "last_reward"))
        for method in options.methods
    }
    chosen = {method: found[method, best[method]] for method in options.methods}
    compared = differences(chosen, draws)
    if len(options.seeds) > 1:
        over_seeds = {key: pair[1] for key, pair in compared.items() if pair[1] is not None}
        print_comparison("over seeds and prompts, for other trainings", chosen, best, over_seeds, _spread)
    over_prompts = {key: pair[0] for key, pair in compared.items()}
    print_comparison(
        "over prompts, for these trained policies", chosen, best, over_prompts, lambda rows, decoding: _mean(rows, "final", decoding, draws)
    )
    print_curves(chosen, options.curves)
    print("\n| method | learning rate | greedy | sampled | mean training reward | in the last iteration |\n|" + " --- |" * 6)
    for (method, rate), rows in found.items():
        ends = f"{_mean(rows, 'final', 'greedy', draws)} | {_mean(rows, 'final', 'sampled', draws)}"
        print(f"| {method} | {rate:g} | {ends} | {_average(rows, 'training_reward'):.3f} | {_average(rows, 'last_reward'):.3f} |")


def _mean(rows: list[dict[str, Any]], name: str, decoding: str, draws: Resamples) -> str:
    found = draws.mean(_pooled(rows, decoding, name))
    spread = f" ± {np.std([row['cells'][name, decoding].mean() for row in rows], ddof=1):.3f}" if len(rows) > 1 else ""
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]{spread}"


def differences(chosen: Chosen, draws: Resamples) -> dict[Comparison, tuple[PairedDifference, TrainingDifference | None]]:
    """Return (method, decoding, compared with) -> the difference over prompts, and over seeds and prompts where there are seeds."""
    reference, found = next(iter(chosen)), {}
    for method, rows in chosen.items():
        for decoding in ("greedy", "sampled"):
            others = {reference: (chosen[reference], ("final", decoding)), "raw query": (rows, ("raw query", "none"))}
            for name, (other, cell) in others.items():
                if name == method:
                    continue
                apart = [one["cells"]["final", decoding] - two["cells"][cell] for one, two in zip(rows, other, strict=True)]
                over_seeds = over_trainings(apart, _same_prompts(rows)) if len(rows) > 1 else None
                over_prompts = draws.difference(_pooled(rows, decoding), _pooled(other, cell[1], cell[0]))
                found[method, decoding, name] = (over_prompts, over_seeds)
    return found


def print_comparison(
    heading: str,
    chosen: Chosen,
    rates: dict[str, float],
    compared: dict[Comparison, PairedDifference] | dict[Comparison, TrainingDifference],
    value: Callable[[list[dict[str, Any]], str], str],
) -> None:
    """Print a row per method: its values, and what it is above the first method and the raw query, with p adjusted over the table."""
    reference = next(iter(chosen))
    adjusted = dict(zip(compared, holm([each.p_value for each in compared.values()]), strict=True))
    apart = (f"minus {reference}", "minus raw query")
    head = (
        "method",
        "learning rate",
        "greedy",
        *apart,
        "sampled",
        *apart,
        "mean training reward",
        "tokens sampled",
        "texts scored",
        "CPU minutes",
    )
    print(f"\n{heading}\n\n| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    for method, rows in chosen.items():
        cells = [method, f"{rates[method]:g}"]
        for decoding in ("greedy", "sampled"):
            keys = [(method, decoding, name) for name in (reference, "raw query")]
            cells += [value(rows, decoding), *(_difference(compared[key], adjusted[key]) if key in compared else "" for key in keys)]
        cells += [f"{_average(rows, 'training_reward'):.3f}", f"{_average(rows, 'tokens'):,.0f}", f"{_average(rows, 'texts'):,.0f}"]
        cells.append(f"{np.mean([row['summed_minutes'][-1] for row in rows]):,.0f}")
        print("| " + " | ".join(cells) + " |")


def _difference(found: PairedDifference | TrainingDifference, adjusted: float) -> str:
    text = f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}] p {found.p_value:.4f}, Holm {adjusted:.3f}"
    text += f", could show {found.detectable:.3f}"
    if isinstance(found, TrainingDifference):
        text += f", {found.degrees:.1f} df (by seed {', '.join(f'{each:+.3f}' for each in found.by_seed)})"
    return text


def _spread(rows: list[dict[str, Any]], decoding: str) -> str:
    means = [row["cells"]["final", decoding].mean() for row in rows]
    return f"{np.mean(means):.3f} ± {np.std(means, ddof=1):.3f}"


def _pooled(rows: list[dict[str, Any]], decoding: str, name: str = "final") -> np.ndarray:
    # One value per prompt: of seeds with the same prompts their mean, of seeds with prompts of their own each.
    values = [row["cells"][name, decoding] for row in rows]
    return np.mean(values, axis=0) if _same_prompts(rows) else np.concatenate(values)


def _same_prompts(rows: list[dict[str, Any]]) -> bool:
    # A prompt's raw query is worth the same under every seed, and no other prompts have all the same values.
    raw = [row["cells"]["raw query", "none"] for row in rows]
    return all(np.array_equal(raw[0], other) for other in raw[1:])


def _average(rows: list[dict[str, Any]], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


if __name__ == "__main__":
    main()
