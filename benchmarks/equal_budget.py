"""Error of each estimator against exact Shapley values at an equal number of coalitions, on games recorded from real catalogues.

    python benchmarks/equal_budget.py [--data FOLDER ...] [--games 12] [--out FOLDER]
    python benchmarks/equal_budget.py --draw FOLDER        # equal_budget.svg again from equal_budget.parquet

A game: n words (from a judged product's title, the query, and words of other products) are the segments, unions are threes of neighbours,
v is nDCG@10 under BM25 over a pool of 100. Without --data: chorus-icecat and msrd-movies in ../shared/data beside the repository.
Each estimator gets at most the budget; one that needs less takes less ("used"), and one that cannot begin with so few is left out.
Errors are root mean squares over segments and games of share - Shapley value (for owen: - exact Owen value), with a bootstrap over games.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ospo_cli.maths import coalitions, seeding
from ospo_cli.maths.adaptive import AdaptiveGroup
from ospo_cli.maths.coalitions import Budget, Masks, Players
from ospo_cli.maths.estimators import ESTIMATORS, evaluated_coalitions, needed_coalitions, sample, sampled_shares
from ospo_cli.maths.shapley import exact_owen, exact_shapley
from ospo_cli.params.whole import Params
from ospo_cli.report.charts import Frame, Line, line_chart
from ospo_cli.report.pages import svg
from ospo_cli.rewards.judged_reward import JudgedReward
from ospo_cli.tables.prepared import DOCUMENTS, POOLS, PROMPTS, QRELS
from ospo_cli.text.words import words

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SIZES = (4, 6, 8, 10, 12, 14)
BUDGETS = (24, 48, 96, 192)
POOL, UNION = 100, 3
NAMES = (
    "contiguous-mean", "contiguous-shapley", "myerson", "leave-one-out", "alone", "shapley", "shapley adaptive",
    "banzhaf", "uniform", "owen",
)  # fmt: skip


LENGTHS = (4, 6, 8, 10, 12, 14, 20, 30)
COLUMNS = ("estimator", "n", "budget", "used", "error", "low", "high")
DRAWN_SIZES = (8, 10, 12, 14)
WIDTH, HEIGHT, TITLE = 600, 340, 30
COLOURS = (
    "#1d5fa6",
    "#b4500f",
    "#47707a",
    "#7d6f55",
    "#9c3587",
    "#3b7d23",
    "#c23b3b",
    "#5b55c9",
    "#8a8d94",
    "#1b1d22",
    "#b58900",
    "#2aa198",
)
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1b1d22; } .title { font-size: 15px; font-weight: 600; } .tick { fill: #5c6068; }
.end { text-anchor: end; } .middle { text-anchor: middle; } .grid { stroke: #e7e4dd; } .line { fill: none; stroke-width: 2; }
.dashed { stroke-dasharray: 5 4; }
"""


@dataclass(frozen=True)
class Game:
    """A recorded game: v of all coalitions, by their bits."""

    name: str
    players: Players
    table: np.ndarray
    shapley: np.ndarray
    owen: np.ndarray

    def values(self, masks: Masks) -> np.ndarray:
        return self.table[masks @ (1 << np.arange(self.players.n))]


def read(folder: Path, seed: int) -> tuple[JudgedReward, list[str], dict[str, list[str]]]:
    """Return the reward, prompts with a judged product, and the words that answers are drawn from."""
    products = pl.read_parquet(folder / "products.parquet").rename({"product_id": "doc_id"}).unique("doc_id").sort("doc_id")
    documents = products.select("doc_id", pl.col("title").fill_null(""), pl.lit("").alias("category"))
    judged = pl.read_parquet(folder / "judgments.parquet").rename({"query_id": "prompt_id", "product_id": "doc_id", "grade": "relevance"})
    qrels = judged.select("prompt_id", "doc_id", pl.col("relevance").cast(pl.Float64)).filter(pl.col("relevance") > 0)
    qrels = qrels.join(documents, on="doc_id", how="semi").unique(("prompt_id", "doc_id")).sort("prompt_id", "doc_id")
    queries = pl.read_parquet(folder / "queries.parquet").filter(pl.col("query_id").is_in(qrels["prompt_id"].unique().implode()))
    rng = np.random.default_rng(seed)
    ids, titles = documents["doc_id"].to_list(), dict(documents.select("doc_id", "title").iter_rows())
    prompts, pools, drawn = [], [], {}
    for prompt_id, query in queries.sort("query_id").select("query_id", "query").iter_rows():
        targets = qrels.filter(prompt_id=prompt_id)["doc_id"].to_list()
        others = [ids[index] for index in rng.choice(len(ids), POOL + len(targets), replace=False) if ids[index] not in set(targets)]
        pool = sorted([*targets[:10], *others[: POOL - len(targets[:10])]])
        prompts.append((prompt_id, "train", query, [], query))
        pools += [(prompt_id, doc_id) for doc_id in pool]
        helpful = [word for target in targets[:3] for word in words(titles[target])]
        filler = [word for other in others[:6] for word in words(titles[other])]
        drawn[prompt_id] = list(dict.fromkeys(rng.permuted(words(query) + helpful + filler).tolist()))
    frames = (
        documents.cast({"doc_id": pl.String}).select(list(DOCUMENTS.schema)),
        pl.DataFrame(prompts, schema=PROMPTS.schema, orient="row"),
        qrels.select(list(QRELS.schema)),
        pl.DataFrame(pools, schema=POOLS.schema, orient="row"),
    )
    return JudgedReward(frames, Params()), [row[0] for row in prompts], drawn


def recorded(folders: Sequence[Path], n: int, count: int, seed: int) -> list[Game]:
    """Return games of n words in which something is earned, the same number from each catalogue."""
    games = []
    masks = (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(bool)
    for folder in folders:
        reward, prompt_ids, drawn = read(folder, seed)
        rng = np.random.default_rng(seed + n)
        found = 0
        for prompt_id in rng.permuted(prompt_ids).tolist():
            if found == count or len(drawn[prompt_id]) < n:
                continue
            chosen = np.array(drawn[prompt_id])[np.sort(rng.choice(len(drawn[prompt_id]), n, replace=False))]
            texts = [" ".join(chosen[mask]) for mask in masks]
            if reward.values([prompt_id], [texts[-1]])[0] == 0:
                continue
            table = reward.values([prompt_id] * len(texts), texts)
            players = Players(n, tuple(index // UNION for index in range(n)))
            owen = exact_owen(masks, table, players)
            games.append(Game(f"{folder.name}:{prompt_id}", players, table, exact_shapley(masks, table), owen))
            found += 1
    return games


def estimate(name: str, group: list[Game], limit: int, seed: int) -> tuple[list[np.ndarray], float]:
    """Return the shares of each game and how many coalitions they took on average."""
    n = group[0].players.n
    draws = [seeding.streams(seed, game.name) for game in group]
    plain, is_adaptive = name.removesuffix(" adaptive"), name.endswith("adaptive")
    estimator = ESTIMATORS[plain]
    if not estimator.sampling:
        budget = Budget(width=n, cap=limit)
        shares, used = [], []
        for game, draw in zip(group, draws, strict=True):
            read = evaluated_coalitions([plain], [], game.players, budget, draw)
            masks = needed_coalitions(estimator, n, n)
            known = {mask.tobytes() for mask in read}
            values = np.where([mask.tobytes() in known for mask in masks], game.values(masks), np.nan)
            shares.append(estimator.shares(masks, values, players=game.players).share)
            used.append(len(read))
        return shares, float(np.mean(used))
    if 2**n <= limit:
        return [game.owen if plain == "owen" else game.shapley for game in group], float(2**n)
    orders = max(2, 2 * ((limit - 2) // (2 * (n - 1)))) if plain != "banzhaf" else max(2, (limit - 2) // (n - 1) // 2 * 2)
    if is_adaptive:
        orders = max(4, orders // 2 // 2 * 2)
        budget = Budget(width=n, exact=2, orders=orders, further=1)
        first = np.mean([len(evaluated_coalitions([plain], [], game.players, budget, seeding.streams(seed, game.name))) for game in group])
        further = max(1, int(limit - first))
        sampler = AdaptiveGroup(estimator, [game.players for game in group], Budget(n, 0, 2, orders, further), draws)
        seen: list[set[bytes]] = [set() for _ in group]
        while asked := sampler.request():
            for index, masks in asked:
                seen[index] |= {mask.tobytes() for mask in masks}
            sampler.receive([group[index].values(masks) for index, masks in asked])
        return [shares.share for shares in sampler.shares()], float(np.mean([len(each) for each in seen]))
    budget = Budget(width=n, exact=2, orders=orders)
    drawn = sample(estimator, [game.players for game in group], budget, draws)
    values = np.stack([game.values(masks) for game, masks in zip(group, drawn.coalitions, strict=True)])
    used = [len(np.unique(masks, axis=0)) for masks in drawn.coalitions]
    return list(sampled_shares(drawn, values).share), float(np.mean(used))


def least(name: str, n: int) -> int:
    """Return how many coalitions an estimator needs at the least: four orders where they adapt, else two."""
    estimator = ESTIMATORS[name.removesuffix(" adaptive")]
    if name == "leave-one-out":
        return n + 2
    if not estimator.sampling:
        return 2
    return 2 + (4 if name.endswith("adaptive") else 2) * (n - 1)


def root_mean_square(errors: np.ndarray) -> float:
    return float(np.sqrt(errors.mean()))


def interval(errors: np.ndarray, measure: Callable[[np.ndarray], float], seed: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    found = [measure(errors[rng.integers(0, len(errors), len(errors))]) for _ in range(500)]
    return float(np.quantile(found, 0.025)), float(np.quantile(found, 0.975))


def needed(n: int) -> dict[str, int]:
    """Return how many coalitions values of n segments take, in unions of UNION neighbours."""
    return {
        "windows": n * (n + 1) // 2 + 1,
        "16 sampled orders": min(2**n, 16 * (n - 1) + 2),
        "two levels (Owen)": coalitions.two_level_count(Players(n, tuple(index // UNION for index in range(n)))),
        "one level (Shapley)": 2**n,
    }


def write_chart(table: pl.DataFrame, path: Path) -> None:
    """Write the table as one SVG: error by coalitions for some n, and how many coalitions an exact value takes by n."""
    names = [name for name in NAMES if name in set(table["estimator"])]
    charts = []
    for n in (size for size in DRAWN_SIZES if size in set(table["n"])):
        own = table.filter(pl.col("n") == n).sort("used")
        lines = [
            Line((name,), _style(index, name), tuple(own.filter(estimator=name).select("used", "error").iter_rows()))
            for index, name in enumerate(names)
            if own.filter(estimator=name).height
        ]
        chart = svg(
            line_chart(lines, Frame(f"n = {n}", "coalitions", width=WIDTH, height=HEIGHT, is_log=True, ticks_at=BUDGETS, margin_right=210))
        )
        charts.append((f"root mean square error, n = {n}", chart))
    kinds = list(needed(LENGTHS[0]))
    lines = [
        Line((kind,), f"c{index}", tuple((float(n), math.log10(needed(n)[kind])) for n in LENGTHS)) for index, kind in enumerate(kinds)
    ]
    chart = svg(line_chart(lines, Frame("coalitions", "segments n", width=WIDTH, height=HEIGHT, margin_right=210)))
    charts.append((f"coalitions needed, powers of ten; unions of {UNION}", chart))
    rows = -(-len(charts) // 2)
    parts = [
        f'<g transform="translate({index % 2 * WIDTH} {index // 2 * (HEIGHT + TITLE)})"><text class="title" x="8" y="20">{title}</text>'
        f'<g transform="translate(0 {TITLE})">{chart}</g></g>'
        for index, (title, chart) in enumerate(charts)
    ]
    colours = "".join(
        f".line.c{index} {{ stroke: {colour}; }} .dot.c{index}, .name.c{index} {{ fill: {colour}; }}"
        for index, colour in enumerate(COLOURS)
    )
    width, height = 2 * WIDTH, rows * (HEIGHT + TITLE)
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f'<style>{STYLE}{colours}</style><rect width="{width}" height="{height}" fill="#fff"/>{"".join(parts)}</svg>\n',
        encoding="utf-8",
    )


def _style(index: int, name: str) -> str:
    return f"c{index % len(COLOURS)}" + (" dashed" if name.endswith("adaptive") else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", default=[SHARED / "chorus-icecat", SHARED / "msrd-movies"])
    parser.add_argument("--games", type=int, default=12, help="games per catalogue and n")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=5, help="times that sampling is repeated")
    parser.add_argument("--out", type=Path, help="folder for equal_budget.parquet and equal_budget.svg")
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="measure nothing: draw the folder's equal_budget.parquet")
    arguments = parser.parse_args()
    if arguments.draw:
        write_chart(pl.read_parquet(arguments.draw / "equal_budget.parquet"), arguments.draw / "equal_budget.svg")
        return
    rows: list[tuple[str, int, int, float, float, float, float]] = []
    print(f"{'n':>3} {'budget':>6}  {'estimator':<26} {'used':>7}  {'error':>7}  95 % over games")
    for n in SIZES:
        games = recorded(arguments.data, n, arguments.games, arguments.seed)
        groups = [games[at : at + 4] for at in range(0, len(games), 4)]
        for limit in BUDGETS:
            for name in NAMES:
                squares = np.zeros((arguments.draws, len(games)))
                used = []
                if least(name, n) > limit:
                    continue
                for draw in range(arguments.draws):
                    shares: list[np.ndarray] = []
                    for group in groups:
                        found, took = estimate(name, group, limit, arguments.seed * 1_000 + draw)
                        shares += found
                        used.append(took)
                    truth = [game.owen if name == "owen" else game.shapley for game in games]
                    squares[draw] = [((share - exact) ** 2).mean() for share, exact in zip(shares, truth, strict=True)]
                error = squares.mean(axis=0)
                low, high = interval(error, root_mean_square, arguments.seed)
                rows.append((name, n, limit, float(np.mean(used)), root_mean_square(error), low, high))
                print(f"{n:>3} {limit:>6}  {name:<26} {np.mean(used):>7.1f}  {rows[-1][4]:>7.4f}  [{low:.4f}, {high:.4f}]", flush=True)
    print(f"\ncoalitions, unions of {UNION}:  n  " + "  ".join(needed(LENGTHS[0])))
    for n in LENGTHS:
        print(f"{n:>30}  " + "  ".join(f"{count:>{len(kind)},}" for kind, count in needed(n).items()))
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        table = pl.DataFrame(rows, schema=list(COLUMNS), orient="row")
        table.write_parquet(arguments.out / "equal_budget.parquet")
        write_chart(table, arguments.out / "equal_budget.svg")


if __name__ == "__main__":
    main()
