"""A small project with made-up tables: a shop of coats and bags, prompts, rollouts with credit, metrics of a loop that learns."""

import dataclasses
import json

import numpy as np
import polars as pl

from ospo_cli.layout import Layout
from ospo_cli.maths import seeding
from ospo_cli.params.whole import Params
from ospo_cli.report import verdict
from ospo_cli.report.evaluation_summary import summarise
from ospo_cli.tables import parquet, placed
from ospo_cli.tables.attribute import ATTRIBUTIONS, INTERACTIONS, TOKEN_ADVANTAGES
from ospo_cli.tables.evaluate import COMPLETIONS, QUERY_METRICS
from ospo_cli.tables.prepared import DOCUMENTS, POOLS, PROMPTS, QRELS
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.tables.score_coalitions import REWARDS
from ospo_cli.tables.segment import SEGMENTS
from tests.tables.sampled import sampled_frame, sampled_row

COLOURS = ["navy", "olive", "rust", "ivory", "charcoal", "burgundy"]
MATERIALS = ["wool", "linen", "suede", "canvas", "denim"]
THINGS = {"coat": "outerwear", "tote bag": "bags", "chore jacket": "outerwear", "weekender": "bags"}
FILLERS = ["great quality", "for every day", "best seller", "perfect gift"]


def make_params(iterations=3, **changes) -> Params:
    """Return parameters of a small project; `changes` are sections of replaced values."""
    values = Params()
    small = {
        "train": {"iterations": iterations},
        "evaluate": {
            "split": "test",
            "max_prompts": 0,
            "samples": 2,
            "oracle_edits": 3,
            "bootstrap": 200,
            "retrievers": ["bm25", "tfidf-char"],
        },
        "rollout": {"max_new_tokens": 24, "batch_size": 16},
        "policy": {"hidden_size": 16, "intermediate_size": 32, "layers": 1, "heads": 2, "vocabulary_size": 400, "threads": 1},
    }
    for section in {*small, *changes}:
        merged = small.get(section, {}) | changes.get(section, {})
        values = dataclasses.replace(values, **{section: dataclasses.replace(getattr(values, section), **merged)})
    return values


def write_prepared(layout: Layout, with_pools=True, prompts=12, hostile="") -> None:
    """Write documents, prompts, qrels, pools and the card."""
    products = [(c, m, t) for c in COLOURS for m in MATERIALS for t in THINGS]
    documents = [
        (f"P{index:03d}", f"{c.title()} {m} {t}{hostile}", THINGS[t], f"A {t} in {c} {m}, number {index}. {FILLERS[index % 4]}.")
        for index, (c, m, t) in enumerate(products)
    ]
    write(layout.prepared("documents.parquet"), DOCUMENTS, documents, ["description"])
    rows, qrels, pools = [], [], []
    for number in range(prompts):
        draw = seeding.generator(0, f"prompt {number}")
        target = int(draw.integers(len(products)))
        c, m, t = products[target]
        split = "train" if number % 3 == 0 else "test"
        history = [f"{c.title()} {MATERIALS[int(draw.integers(5))]} scarf", f"{COLOURS[int(draw.integers(6))]} {m} gloves"]
        query = f"{t} something warm{hostile}"
        rows.append((f"q{number:03d}", split, query, history, f"{query} | " + " | ".join(history)))
        related = [i for i, p in enumerate(products) if p[2] == t and i != target][:12]
        for index, gain in [(target, 1.0), (related[0], 0.5)]:
            qrels.append((f"q{number:03d}", f"P{index:03d}", gain))
        pools += [(f"q{number:03d}", f"P{index:03d}") for index in {target, *related, *range(number, number + 10)}] if with_pools else []
    write(layout.prepared("prompts.parquet"), PROMPTS, rows)
    write(layout.prepared("qrels.parquet"), QRELS, qrels)
    write(layout.prepared("pools.parquet"), POOLS, pools)
    card = {
        "source": "demo-shop",
        "licence": "generated, no licence questions",
        "counts": {"documents": len(documents), "prompts": prompts},
    }
    write_text(layout.prepared("card.json"), json.dumps(card | {"hashes": {"documents.parquet": "0" * 64}}))


def write_iteration(layout: Layout, iteration: int, of: int, groups=6, group_size=4, hostile="") -> None:
    """Write rollouts, segments, rewards, attributions and metrics of one iteration; answers get better from one to the next."""
    prompts = parquet.read(layout.prepared("prompts.parquet"), PROMPTS)
    skill = iteration / (of + 1)
    rollouts, segments, rewards, attributions, interactions, advantages = [], [], [], [], [], []
    for row in prompts.filter(pl.col("split") == "train").head(groups).iter_rows(named=True):
        group = []
        for sample in range(group_size):
            draw = seeding.generator(iteration, f"{row['prompt_id']} {sample}")
            phrases = [
                (COLOURS[int(draw.integers(6))], skill * draw.normal(0.12, 0.1)),
                (MATERIALS[int(draw.integers(5))], skill * draw.normal(0.08, 0.1)),
                (list(THINGS)[int(draw.integers(4))], draw.normal(0.15, 0.08)),
                (FILLERS[int(draw.integers(4))] + hostile, draw.normal(-0.05, 0.04)),
            ][: 3 + int(draw.integers(2))]
            group.append((sample, phrases))
        totals = [sum(share for _, share in phrases) for _, phrases in group]
        spread = float(np.std(totals, ddof=1)) + 1e-4
        for (sample, phrases), total in zip(group, totals, strict=True):
            rollout_id = f"{iteration:03d}:{row['prompt_id']}:{sample:02d}"
            has_tags = sample != 3 or iteration > 1
            text = "<answer>" if has_tags else ""
            for index, (phrase, share) in enumerate(phrases):
                text += ", " if index else ""
                segments.append((rollout_id, index, 0, len(text), len(text) + len(phrase)))
                advantage = (total - float(np.mean(totals))) / spread + 0.5 * share / 0.1
                attributions.append((rollout_id, index, share, None, 6, None, "", advantage))
                text += phrase
                if index:
                    interactions.append((rollout_id, index - 1, index, 0.1 * index - 0.15))
            text += "</answer>" if has_tags else ""
            tokens = len(phrases) * 3
            stop = "stop" if sample != 2 else "length"
            logprobs = [-1.2 * (1 - skill / 2)] * tokens
            others = {"prompt_token_ids": [1, 5, 7], "behavior_logprobs": logprobs, "finish_reason": stop}
            rollouts.append(sampled_row(rollout_id, row["prompt_id"], text, range(tokens), **others))
            rewards.append((rollout_id, row["prompt_id"], max(total, 0.0), max(total, 0.0), 0.0 if has_tags else -0.5, 0.0, 0.0, False))
            advantages.append((rollout_id, [0.1] * tokens))
    placed.write(sampled_frame(*rollouts), ROLLOUTS, layout, iteration)
    write(layout.iteration(iteration, "segments.parquet"), SEGMENTS, segments)
    write(layout.iteration(iteration, "rewards.parquet"), REWARDS, rewards)
    write(layout.iteration(iteration, "attributions.parquet"), ATTRIBUTIONS, attributions)
    write(layout.iteration(iteration, "interactions.parquet"), INTERACTIONS, interactions)
    write(layout.iteration(iteration, "token_advantages.parquet"), TOKEN_ADVANTAGES, advantages)
    write_text(layout.iteration(iteration, "rollout_metrics.json"), json.dumps({"entropy": 1.9 - 0.3 * iteration}))
    write_text(
        layout.iteration(iteration, "update_metrics.json"),
        json.dumps({"clipped_fraction": 0.05 * iteration, "kl_reference": 0.01 * iteration, "loss": -0.02, "gradient_norm": 0.7}),
    )


def write_evaluation(layout: Layout, values: Params, hostile="") -> None:
    """Write completions, query_metrics and summary.json of systems that get better from one iteration to the next."""
    prompts = parquet.read(layout.prepared("prompts.parquet"), PROMPTS).filter(pl.col("split") == "test")
    systems = [("raw-query", "none", 0.3), ("oracle", "none", 0.85)]
    for iteration in range(values.train.iterations + 1):
        level = 0.42 + 0.22 * iteration / max(values.train.iterations, 1)
        systems += [(f"policy-{iteration:03d}", "greedy", level), (f"policy-{iteration:03d}", "sampled", level - 0.06)]
    metrics, completions = [], []
    for system, decoding, level in systems:
        for row in prompts.iter_rows(named=True):
            base = seeding.generator(1, row["prompt_id"]).normal(0, 0.12)
            noise = seeding.generator(2, f"{system} {decoding} {row['prompt_id']}").normal(0, 0.06)
            for retriever, factor in zip(values.evaluate.retrievers, (1.0, 0.9, 0.8), strict=False):
                for metric, shift in (("ndcg@10", 0.0), ("ndcg@pool", 0.05), ("mrr", -0.03), ("recall@10", 0.1)):
                    value = float(np.clip(level * factor + base + noise + shift, 0, 1))
                    metrics.append(("test", system, decoding, row["prompt_id"], retriever, metric, value))
            answer = "" if decoding == "none" else f"<answer>navy wool {system}{hostile}</answer>"
            for sample in range(2 if decoding == "sampled" else 1):
                completions.append(
                    (
                        system,
                        decoding,
                        row["prompt_id"],
                        sample,
                        answer,
                        row["query"] if decoding == "none" else f"navy wool {system}{hostile}",
                        "",
                    )
                )
    write(layout.evaluation("completions.parquet"), COMPLETIONS, completions)
    write(layout.evaluation("query_metrics.parquet"), QUERY_METRICS, metrics)
    frame = parquet.read(layout.evaluation("query_metrics.parquet"), QUERY_METRICS)
    interval = {"mean": 0.35, "low": 0.3, "high": 0.4}
    best = {"mean": 0.55, "low": 0.5, "high": 0.6}
    headroom = {"last_rollouts": {"iteration": values.train.iterations, "group_size": 4, "prompts": 6, "best": best, "mean": interval}}
    of_choice = frame.filter(pl.col("retriever") == "bm25", pl.col("metric") == "ndcg@10", pl.col("system") != "oracle")
    chosen = verdict.choice(of_choice.select("system", "decoding", "prompt_id", value="metric_value"), "dev")
    table = parquet.read(layout.evaluation("completions.parquet"), COMPLETIONS)
    judged, rows = verdict.verdict(frame, table, prompts, chosen, values)
    names = [system for system, _, _ in systems if system.startswith("policy-")]
    measures = {
        "entropy": 1.0,
        "divergence": 0.1,
        "prompts": 3,
        "tokens": 30,
        "best_of_samples": {"best": best, "mean": interval, "prompts": 3, "group_size": 2},
    }
    sharpness = {name: measures | {"entropy": 1.0 - 0.1 * k, "divergence": 0.1 * k} for k, name in enumerate(names)}
    sharpness = {"sharpness": sharpness, "malformed": {}}
    summary = summarise(frame, values, chosen["decodings"]) | {"against_raw_query": judged, "choice": chosen, "headroom": headroom}
    write_text(layout.evaluation("summary.json"), json.dumps(summary | sharpness, sort_keys=True))
    write_text(layout.evaluation("wins_and_losses.csv"), verdict.as_csv(rows))


def write_project(root, iterations=3, hostile="", prompts=18) -> tuple[Layout, Params]:
    """Write everything that the report reads; return layout and parameters."""
    layout, values = Layout(root), make_params(iterations)
    write_prepared(layout, prompts=prompts, hostile=hostile)
    for iteration in range(1, iterations + 1):
        write_iteration(layout, iteration, iterations, hostile=hostile)
    write_evaluation(layout, values, hostile=hostile)
    return layout, values


def write(path, table, rows, extra=()) -> None:
    """Write rows as a declared table."""
    parquet.write(pl.DataFrame(rows, schema=table.schema | dict.fromkeys(extra, pl.String), orient="row"), path, table)


def write_text(path, text) -> None:
    """Write text, folders included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
