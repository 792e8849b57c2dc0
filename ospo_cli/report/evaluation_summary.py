"""What an evaluation comes to: means with intervals, paired differences, and the few numbers that experiments are compared by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl

from ospo_cli.errors import FileError
from ospo_cli.layout import Layout
from ospo_cli.maths import seeding
from ospo_cli.maths.ranking import parse_metric
from ospo_cli.maths.statistics import Resamples, holm
from ospo_cli.report.system_names import RAW_QUERY
from ospo_cli.tables.evaluate import gated_name
from ospo_cli.tables.files import read_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ospo_cli.params.evaluate import Evaluate
    from ospo_cli.params.score_coalitions import ScoreCoalitions
    from ospo_cli.params.train import Train

ORACLE = "oracle"
OWN_BEST = "own best"  # decoding of a gap: each policy at the temperature that is best for it on the choosing prompts


class Sections(Protocol):
    """What a summary reads of the parameters."""

    @property
    def train(self) -> Train: ...
    @property
    def score_coalitions(self) -> ScoreCoalitions: ...
    @property
    def evaluate(self) -> Evaluate: ...
    @property
    def evaluated_iterations(self) -> list[int]: ...


def summarise(query_metrics: pl.DataFrame, params: Sections, best: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return means with intervals, paired differences to the raw query and to the warm start, and the gaps that have to show.

    Args:
        query_metrics: the table.
        params: what was evaluated.
        best: policy -> its own best decoding, chosen on other prompts; gaps between policies at their best come first.
    """
    settings = params.evaluate
    cells: dict[tuple[str, ...], NDArray[np.float64]] = {}
    order = ["system", "decoding", "retriever", "metric"]
    for key, rows in query_metrics.sort(*order, "prompt_id").group_by(order, maintain_order=True):
        cells[tuple(map(str, key))] = rows["metric_value"].to_numpy()
    policies = [policy_name(iteration) for iteration in params.evaluated_iterations]
    present = {key[0] for key in cells}
    systems = [system for system in (RAW_QUERY, *policies, *map(gated_name, policies), ORACLE) if system in present]

    draws = draws_of(query_metrics["prompt_id"].n_unique(), params)

    def paired(key: tuple[str, ...], base: tuple[str, ...]) -> dict[str, float] | None:
        if key[0] == base[0] or key not in cells or base not in cells:
            return None
        return draws.difference(cells[key], cells[base])._asdict()

    values: dict[str, Any] = {}
    for key in sorted(cells, key=lambda key: (systems.index(key[0]), *key[1:])):
        cell: dict[str, Any] = draws.mean(cells[key])._asdict() | {"n": len(cells[key])}
        warm = (policies[0], "greedy" if key[1] == "none" else key[1], *key[2:])
        for label, base in (("to_raw_query", (RAW_QUERY, "none", *key[2:])), ("to_warm_start", warm)):
            if (found := paired(key, base)) is not None:
                cell[label] = found
        values.setdefault(key[0], {}).setdefault(key[1], {}).setdefault(key[2], {})[key[3]] = cell
    training, metric = params.score_coalitions.retriever, parse_metric(settings.metric).name
    gaps: list[dict[str, Any]] = []
    raw, oracle = (RAW_QUERY, "none"), (ORACLE, "none")
    for decoding in (OWN_BEST, "greedy", "sampled"):
        if decoding == OWN_BEST and not best:
            continue
        warm, final = ((policy, best[policy] if best and decoding == OWN_BEST else decoding) for policy in (policies[0], policies[-1]))
        for better, worse in ((warm, raw), (final, warm), (final, raw), (oracle, final)):
            if (found := paired((*better, training, metric), (*worse, training, metric))) is not None:
                gaps.append({"better": better[0], "worse": worse[0], "decoding": decoding} | found)
    for gap, adjusted in zip(gaps, holm([gap["p_value"] for gap in gaps]), strict=True):
        gap["p_holm"] = adjusted
    return {
        "split": settings.split,
        "prompts": query_metrics["prompt_id"].n_unique(),
        "samples": settings.samples,
        "training_retriever": training,
        "retrievers": list(settings.retrievers),
        "metric": metric,
        "level": 0.95,
        "resamples": settings.bootstrap,
        "systems": systems,
        "values": values,
        "gaps": gaps,
    }


def read_summary(layout: Layout) -> dict[str, Any]:
    """Return the project's summary.json.

    Raises:
        MissingInputError: nothing is evaluated.
        FileError: it was written by an earlier version, without a verdict.
    """
    path = layout.evaluation("summary.json")
    summary: dict[str, Any] = read_json(path, "ospo evaluate")
    if "against_raw_query" not in summary:
        raise FileError(path, "is of an earlier version", expected="a verdict against the raw query", remedy="run `ospo evaluate` again")
    return summary


def best_of_group(values: pl.DataFrame, params: Sections) -> dict[str, Any]:
    """Return the mean over prompts of the best value of a group and of its mean, with intervals (columns prompt_id, value)."""
    groups = (
        values.group_by("prompt_id")
        .agg(pl.col("value").max().alias("best"), pl.col("value").mean().alias("mean"), pl.len())
        .sort("prompt_id")
    )
    draws = draws_of(groups.height, params)
    intervals = {name: draws.mean(groups[name].to_numpy())._asdict() for name in ("best", "mean")}
    return intervals | {"prompts": groups.height, "group_size": int(groups["len"].to_numpy().max())}


def curves(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row per policy for DVC's plots: the headline metric under the training retriever, with intervals."""
    rows = []
    for system in summary["systems"]:
        if not system.startswith("policy-"):
            continue
        row: dict[str, Any] = {"iteration": int(system.removeprefix("policy-"))}
        for decoding, by_retriever in sorted(summary["values"][system].items()):
            cell = by_retriever[summary["training_retriever"]][summary["metric"]]
            row |= {decoding: cell["mean"], f"{decoding}_low": cell["low"], f"{decoding}_high": cell["high"]}
        rows.append(row)
    return rows


def headline(summary: dict[str, Any]) -> dict[str, float]:
    """Return the few numbers that `dvc metrics show` compares between experiments: headline metric, training retriever."""
    policies = [system for system in summary["systems"] if system.startswith("policy-")]
    names = {RAW_QUERY: "raw_query", policies[0]: "warm_start", policies[-1]: "final", ORACLE: "oracle"}
    found = {}
    for system, name in names.items():
        for decoding, by_retriever in summary["values"].get(system, {}).items():
            if decoding.startswith("sampled-"):
                continue
            suffix = "" if decoding == "none" else f"_{decoding}"
            found[f"{name}{suffix}"] = by_retriever[summary["training_retriever"]][summary["metric"]]["mean"]
    return found


def policy_name(iteration: int) -> str:
    """Return the system name of a policy: policy-000 is the warm start."""
    return f"policy-{iteration:03d}"


def draws_of(prompts: int, params: Sections) -> Resamples:
    """Return the draws on which all intervals over so many prompts rest."""
    return Resamples(prompts, params.evaluate.bootstrap, seeding.generator(params.train.seed, "evaluate/bootstrap"), bounds=(0.0, 1.0))
