"""Two rewards of the same rollouts: do they order the answers alike, and do they credit the same words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.errors import MissingInputError, OspoError
from ospo_cli.layout import Layout
from ospo_cli.maths import seeding
from ospo_cli.maths.audit_measures import spearman
from ospo_cli.maths.rank_correlation import TIE, best_items, kendall
from ospo_cli.maths.statistics import Resamples
from ospo_cli.params.evaluate import Evaluate
from ospo_cli.params.train import Train
from ospo_cli.report import pages
from ospo_cli.report.number_text import plain
from ospo_cli.report.terminal import Terminal
from ospo_cli.tables import files, parquet, placed
from ospo_cli.tables.attribute import ATTRIBUTIONS
from ospo_cli.tables.compare_rewards import REWARD_COMPARISON, REWARD_COMPARISON_GROUPS
from ospo_cli.tables.prepared import PROMPTS
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.tables.score_coalitions import REWARDS
from ospo_cli.text.visible import visible

LOOP = "loop"
_TEXT = 100
_NOTHING = float("nan")

Values = NDArray[np.float64]


class Reads(Protocol):
    """What the intervals read of the parameters."""

    @property
    def train(self) -> Train: ...
    @property
    def evaluate(self) -> Evaluate: ...


@dataclass(frozen=True)
class Scored:
    """One reward of the rollouts: tables rewards and attributions, and its name."""

    name: str
    rewards: pl.DataFrame
    attributions: pl.DataFrame


def execute(layout: Layout, params: Reads, iteration: int, a: str, b: str) -> tuple[pl.DataFrame, pl.DataFrame, Path]:
    """Read both, compare, write both tables; return them and their folder."""
    if a == b:
        raise OspoError("ospo compare-rewards", "compares a reward with itself", found=a, expected="two names")
    rollouts = placed.read(ROLLOUTS, layout, iteration)
    first, second = (_read(layout, iteration, name) for name in (a, b))
    overview, groups = compare_rewards(rollouts, first, second, params)
    folder = layout.rescored(iteration, f"{a}--{b}")
    parquet.write(overview, folder / "comparison.parquet", REWARD_COMPARISON)
    parquet.write(groups, folder / "comparison_groups.parquet", REWARD_COMPARISON_GROUPS)
    return overview, groups, folder


def compare_rewards(rollouts: pl.DataFrame, a: Scored, b: Scored, params: Reads) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return tables reward_comparison and reward_comparison_groups of two rewards of the same rollouts.

    Orders are compared within rollout groups, where rewards are compared in training too; a measure of a group that it is not defined for
    (such as τ where all rewards are equal) is left out and n says how many are left. Intervals are over rollout groups.

    Raises:
        OspoError: the two do not hold the same rollouts.
    """
    ids = rollouts["rollout_id"].sort().to_list()
    for scored in (a, b):
        if scored.rewards["rollout_id"].sort().to_list() != ids:
            raise OspoError(
                f"reward {scored.name}", "holds other rollouts than the iteration", found=f"{scored.rewards.height} rewards",
                expected=f"{len(ids)}", remedy="run `ospo rescore` (or the stages) again",
            )  # fmt: skip
    has_shares = _same_segments(a.attributions, b.attributions)
    shares = _shares(rollouts, a.attributions, b.attributions) if has_shares else {}
    wide = a.rewards.select("rollout_id", "prompt_id", a="reward").join(b.rewards.select("rollout_id", b="reward"), on="rollout_id")
    rows = []
    for (prompt_id,), group in wide.sort("prompt_id", "rollout_id").group_by(["prompt_id"], maintain_order=True):
        of_shares = shares.get(str(prompt_id), (_NOTHING, _NOTHING, _NOTHING))
        rows.append((str(prompt_id), group.height, *_orders(group["a"].to_numpy(), group["b"].to_numpy()), *of_shares))
    names = list(REWARD_COMPARISON_GROUPS.schema)
    frame = pl.DataFrame(dict(zip(names, (list(column) for column in zip(*rows, strict=True)), strict=True)), strict=False)
    frame = frame.cast(REWARD_COMPARISON_GROUPS.schema).with_columns(pl.col(pl.Float64).fill_nan(None))  # type: ignore[arg-type]
    return _overview(frame, params.evaluate.bootstrap, params.train.seed), frame


def page_data(
    overview: pl.DataFrame, groups: pl.DataFrame, rollouts: pl.DataFrame, prompts: pl.DataFrame, a: Scored, b: Scored, shown: int
) -> dict[str, Any]:
    """Return what is shown: the measures, and the `shown` rollout groups that the two order most unlike, answer by answer."""
    queries = dict(prompts.select("prompt_id", "query").iter_rows())
    values = {name: dict(scored.rewards.select("rollout_id", "reward").iter_rows()) for name, scored in (("a", a), ("b", b))}
    examples = []
    unlike = groups.filter(pl.col("kendall").is_not_null()).sort("kendall", "prompt_id").head(shown)
    for prompt_id, tau in unlike.select("prompt_id", "kendall").iter_rows():
        own = rollouts.filter(pl.col("prompt_id") == prompt_id).select("rollout_id", "completion", "answer_start", "answer_end")
        answers = [(values["a"][rollout_id], values["b"][rollout_id], text[start:end]) for rollout_id, text, start, end in own.iter_rows()]
        answers.sort(key=lambda answer: (-answer[0], -answer[1], answer[2]))
        examples.append({"prompt_id": prompt_id, "query": queries.get(prompt_id, ""), "kendall": tau, "answers": answers})
    counts = {"groups": groups.height, "rollouts": rollouts.height}
    return {"a": a.name, "b": b.name, "measures": overview.to_dicts(), "examples": examples} | counts


def print_result(data: dict[str, Any], stream: TextIO | None = None) -> None:
    """Print the measures, then the examples; text of models and users is made visible."""
    output = Terminal(stream)
    names = f"A = {visible(data['a'], 80)}, B = {visible(data['b'], 80)}"
    output.line(f"{names}: {data['groups']} rollout groups, {data['rollouts']} rollouts", style="bold")
    rows = [
        [row["measure"], plain(row["value"]), "" if row["low"] is None else f"[{plain(row['low'])}, {plain(row['high'])}]", str(row["n"])]
        for row in data["measures"]
    ]
    order = {name: place for place, name in enumerate(MEASURES)}
    rows.sort(key=lambda row: order[row[0]])
    output.grid(["measure", "value", "95 % interval", "n"], rows, numbers=("value", "95 % interval", "n"))
    for example in data["examples"]:
        output.line()
        head = f"{visible(example['prompt_id'], _TEXT)}: {visible(example['query'], _TEXT)}"
        output.line(f"{head}, τ {plain(example['kendall'])}", style="bold")
        cells = [[plain(x), plain(y), visible(text, _TEXT)] for x, y, text in example["answers"]]
        output.grid(["A", "B", "answer"], cells, numbers=("A", "B"))


def page(data: dict[str, Any]) -> str:
    """Return the comparison as one self-contained page; equal data gives equal bytes."""
    return pages.render(Path(__file__).with_name("page.html"), data)


def write_page(data: dict[str, Any], path: Path) -> None:
    """Write the page."""
    files.write_text(path, page(data))


def read_pair(layout: Layout, iteration: int, a: str, b: str) -> tuple[Scored, Scored, pl.DataFrame, pl.DataFrame]:
    """Return both rewards, the rollouts and the prompts, for printing."""
    rollouts = placed.read(ROLLOUTS, layout, iteration)
    prompts = placed.read(PROMPTS, layout)
    return _read(layout, iteration, a), _read(layout, iteration, b), rollouts, prompts


def _read(layout: Layout, iteration: int, name: str) -> Scored:
    if name == LOOP:
        paths = [layout.iteration(iteration, f"{table}.parquet") for table in ("rewards", "attributions")]
        made_by = [f"ospo {stage} --iter {iteration}" for stage in ("score-coalitions", "attribute")]
    else:
        folder = layout.rescored(iteration, name)
        known = sorted(path.parent.name for path in folder.parent.glob("*/rescored.json"))
        if name not in known:
            expected, remedy = ", ".join([LOOP, *known]), f"run `ospo rescore --iter {iteration}`"
            raise MissingInputError(f"ospo compare-rewards {name}", "no such reward", expected=expected, remedy=remedy)
        paths = [folder / f"{table}.parquet" for table in ("rewards", "attributions")]
        made_by = [f"ospo rescore --iter {iteration} --name {name}"] * 2
    tables = [parquet.read(path, table, made_by=by) for path, table, by in zip(paths, (REWARDS, ATTRIBUTIONS), made_by, strict=True)]
    return Scored(name, *tables)


def _orders(a: Values, b: Values) -> tuple[float, float, float, float, float | None, float]:
    """Return mean a, mean b, τ, Spearman's correlation, whether no best answer stays a best one, share of advantages that turn."""
    is_flat = [np.ptp(values) <= TIE for values in (a, b)]
    changes = None if any(is_flat) else float(not best_items(a) & best_items(b))
    turned = _NOTHING if any(is_flat) else float(np.mean((a - a.mean()) * (b - b.mean()) < -TIE))
    return float(a.mean()), float(b.mean()), kendall(a, b), spearman(a, b), changes, turned


def _same_segments(a: pl.DataFrame, b: pl.DataFrame) -> bool:
    keys = ["rollout_id", "segment_index"]
    return bool(a.select(keys).sort(keys).equals(b.select(keys).sort(keys)))


def _shares(rollouts: pl.DataFrame, a: pl.DataFrame, b: pl.DataFrame) -> dict[str, tuple[float, float, float]]:
    """Return per prompt, means over its rollouts: Spearman's correlation of shares, part of signs that turn, whether the best changes."""
    keys = ["rollout_id", "segment_index"]
    joined = a.select(*keys, a="share", a_case="special_case").join(b.select(*keys, b="share", b_case="special_case"), on=keys)
    joined = joined.drop_nulls(["a", "b"]).filter(
        ~pl.col("a_case").str.contains("degenerate-group"), ~pl.col("b_case").str.contains("degenerate-group")
    )
    joined = joined.join(rollouts.select("rollout_id", "prompt_id"), on="rollout_id").sort("prompt_id", *keys)
    found: dict[str, list[tuple[float, float, float]]] = {}
    for (prompt_id, _), own in joined.group_by(["prompt_id", "rollout_id"], maintain_order=True):
        x, y = own["a"].to_numpy(), own["b"].to_numpy()
        turned = float(np.mean((np.sign(x) * np.sign(y) < 0) & (np.minimum(np.abs(x), np.abs(y)) > TIE)))
        best = _NOTHING if len(x) < 2 else float(not best_items(x) & best_items(y))
        found.setdefault(str(prompt_id), []).append((spearman(x, y), turned, best))
    return {prompt_id: tuple(map(_mean, zip(*rows, strict=True))) for prompt_id, rows in found.items()}  # type: ignore[misc]


def _mean(values: tuple[float, ...]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else _NOTHING


def _overview(groups: pl.DataFrame, resamples: int, seed: int) -> pl.DataFrame:
    rows: list[tuple[str, float | None, float | None, float | None, int]] = []
    for name, column in MEASURES.items():
        known = groups[column].drop_nulls().cast(pl.Float64).to_numpy()
        if not len(known):
            rows.append((name, None, None, None, 0))
            continue
        generator = seeding.generator(seed, f"compare-rewards/{column}")
        mean, low, high = Resamples(len(known), resamples, generator).mean(known)
        rows.append((name, mean, low, high, len(known)))
    return pl.DataFrame(rows, schema=REWARD_COMPARISON.schema, orient="row")


# What is printed, in this order -> column of reward_comparison_groups whose mean it is.
MEASURES = {
    "mean reward A": "mean_a",
    "mean reward B": "mean_b",
    "order of answers: Kendall's τ-b": "kendall",
    "order of answers: Spearman's ρ": "spearman",
    "groups whose best answer changes": "best_changes",
    "answers whose advantage turns its sign": "advantages_turned",
    "shares within an answer: Spearman's ρ": "share_spearman",
    "segments whose share turns its sign": "shares_turned",
    "answers whose best segment changes": "best_segment_changes",
}
