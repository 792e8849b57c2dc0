"""What a search engine gains without training, beside what training gains: one table over several projects (seeds) of one task.

    python benchmarks/without_training.py shop-0 shop-1 shop-2 --samples 8

Each folder is a project that was evaluated (`ospo run`). Feedback, and the sample that the retriever scores highest, are those of
`ospo headroom`, of the warm start and of the last policy; greedy answers are read from the evaluation. One retriever, the reward's.
Differences to the raw query have 95 % intervals over seeds and prompts (over prompts where there is one project).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl

from ospo_cli.instruments import headroom
from ospo_cli.layout import Layout
from ospo_cli.maths.over_trainings import over_trainings
from ospo_cli.maths.seeding import generator
from ospo_cli.maths.statistics import Resamples
from ospo_cli.params import whole
from ospo_cli.tables import placed
from ospo_cli.tables.evaluate import QUERY_METRICS
from ospo_cli.tables.headroom import HEADROOM_QUERIES

Values = dict[str, np.ndarray]
LEFT_OUT = ("best word", "best 0 words", "ideal")


def of_project(root: Path, samples: int) -> Values:
    """Return the values of each system on the evaluated prompts, in the order of their ids."""
    layout, params = Layout(root), whole.load(root / "params.yaml")
    retriever, settings, last = params.score_coalitions.retriever, params.evaluate, params.train.iterations
    found: Values = {}
    for policy in (0, last):
        request = headroom.Request(settings.split, 0, policy, samples, settings.max_prompts, 0, 1, (retriever,), settings.metric)
        headroom.execute(layout, params, request)
        for (system,), own in placed.read(HEADROOM_QUERIES, layout).sort("prompt_id").group_by("system", maintain_order=True):
            if not str(system).startswith(LEFT_OUT):
                found[str(system).replace(f"policy {last:03d}", "trained")] = own["value"].to_numpy()
    metrics = placed.read(QUERY_METRICS, layout).filter(pl.col("metric") == settings.metric, pl.col("retriever") == retriever)
    for system, name in (("policy-000", "warm start: greedy"), (f"policy-{last:03d}", "trained: greedy"), ("oracle", "oracle")):
        rows = metrics.filter(pl.col("system") == system, pl.col("decoding").is_in(["greedy", "none"])).sort("prompt_id")
        found[name] = rows["metric_value"].to_numpy()
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("projects", nargs="+", type=Path)
    parser.add_argument("--samples", type=int, default=8)
    options = parser.parse_args()
    values = [of_project(root, options.samples) for root in options.projects]
    print(f"{len(values)} projects, {sum(len(own['raw query']) for own in values)} prompts\n")
    print("| system | value | minus the raw query |\n| --- | --- | --- |")
    for system in sorted(values[0], key=lambda name: float(np.mean([own[name].mean() for own in values]))):
        differences = [own[system] - own["raw query"] for own in values]
        text = ""
        if system != "raw query":
            several = over_trainings(differences, same_prompts=False) if len(values) > 1 else None
            each = several or Resamples(len(differences[0]), 2000, generator(0, "without training")).difference(
                differences[0], np.zeros(len(differences[0]))
            )
            text = f"{each.mean:+.3f} [{each.low:+.3f}, {each.high:+.3f}]"
        print(f"| {system} | {np.mean([own[system].mean() for own in values]):.3f} | {text} |")


if __name__ == "__main__":
    main()
