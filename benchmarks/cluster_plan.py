"""`ospo plan --sample`, then `--cluster`, against what the run then takes, on catalogues of generated products: processor seconds by stage.

    python -m benchmarks.cluster_plan [--products 10000 100000 1000000] [--prompts 48]

Each catalogue is a project of its own (BM25, a policy of 70,000 weights, 48 prompts of 8 completions). It is prepared, planned on one core,
and then run: warm start, one iteration, evaluation. Printed are planned over taken seconds of every stage that took a second or more, and
of all together.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import random
import tempfile
from pathlib import Path

from ospo_cli import presets
from ospo_cli.graph import nodes, runner
from ospo_cli.instruments import cluster_plan
from ospo_cli.instruments.plan import command as plan
from ospo_cli.layout import Layout
from ospo_cli.params import whole
from ospo_cli.params.whole import Params

QUERIES, WORDS = 400, 4
SETTINGS = {
    "train": {"iterations": 1},
    "policy": {"hidden_size": 64, "intermediate_size": 128, "layers": 2, "heads": 4, "vocabulary_size": 600, "threads": 1},
    "warm_start": {"steps": 60, "max_epochs": 100},
    "rollout": {"group_size": 8, "max_new_tokens": 24},
    "score_coalitions": {"retriever": "bm25"},
    "evaluate": {"max_prompts": 64, "oracle_edits": 1, "retrievers": ["bm25"]},
    "store": {"values": "never"},
}


def make(folder: Path, products: int, prompts: int) -> tuple[Layout, Params]:
    """Write a project: titles of words whose frequency falls with their rank; a query is two words of one."""
    presets.init(folder, "tables")
    content = copy.deepcopy(whole.to_mapping(presets.load("tables")))
    for section, values in SETTINGS.items():
        for name, value in values.items():
            content[section][name] = content[section][name] | value if isinstance(value, dict) else value
    content["rollout"]["prompts_per_iteration"] = prompts
    (folder / "params.yaml").write_text(presets.render(whole.from_mapping(content)), encoding="utf-8")
    draw = random.Random(0)  # noqa: S311
    words = ["".join(draw.choice("bdfglmnprst") + draw.choice("aeiou") for _ in range(3)) for _ in range(5000)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    titles = [" ".join(draw.choices(words, weights, k=WORDS)) for _ in range(products)]
    asked = draw.sample(range(products), QUERIES)
    texts = {
        "products": ["product_id,title", *(f"p{number},{title}" for number, title in enumerate(titles))],
        "queries": ["query_id,query", *(f"q{number},{' '.join(titles[number].split()[:2])} {number}" for number in asked)],
        "judgments": ["query_id,product_id,grade", *(f"q{number},p{number},1" for number in asked)],
    }
    (folder / "catalogue").mkdir()
    for name, lines in texts.items():
        (folder / "catalogue" / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Layout(folder), whole.load(folder / "params.yaml")


def compared(products: int, prompts: int) -> dict[str, tuple[float, float]]:
    """Return stage -> planned and taken processor seconds on one core."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        layout, params = make(Path(folder), products, prompts)
        made = nodes.plan(params)
        runner.measured(made[0], layout, params)
        table, _ = plan.plan(layout, params, sample=True)
        cluster = cluster_plan.Cluster(0, 1, 0.0, 0.0, {}, {})
        expected = {each.stage: each.seconds for each in cluster_plan.expected(table, cluster, params)}
        taken = {each.stage: runner.measured(each, layout, params)[1]["cpu_seconds"] for each in made[1:]}
    return {stage: (expected[stage], seconds) for stage, seconds in taken.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--prompts", type=int, default=48)
    asked = parser.parse_args()
    for products in asked.products:
        found = compared(products, asked.prompts)
        sums = tuple(sum(column) for column in zip(*found.values(), strict=True))
        for stage, (planned, taken) in [*found.items(), ("all", sums)]:
            if taken >= 1 or stage == "all":
                print(
                    f"{products:>9,} products  {stage:17} planned {planned:7.1f} s  taken {taken:7.1f} s  ratio {planned / taken:.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
