"""A project of a few prompts and a two-layer policy, for tests that need a model that runs."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import polars as pl

from ospo_cli.credit import examples
from ospo_cli.layout import Layout
from ospo_cli.params.attribute import Attribute
from ospo_cli.params.whole import Params
from ospo_cli.policies.small_llama import write_small_llama
from ospo_cli.tables import parquet, reference
from ospo_cli.tables.attribute import TOKEN_ADVANTAGES
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.tables.score_coalitions import RECOMBINED
from tests.params.deletion import by_deletion

COLOURS = ("navy", "red", "olive", "black")
THINGS = ("coat", "dress", "boots", "scarf")
MATERIALS = ("wool", "linen", "leather")
TEXTS = [f"{colour} {material} {thing} for the office, slim fit" for colour in COLOURS for material in MATERIALS for thing in THINGS]


def tiny_params(**sections: dict) -> Params:
    """Return parameters of a model of 20,000 weights and credit by deletion, with some values replaced: section={name: value}."""
    params = by_deletion()
    small = {
        "policy": {"hidden_size": 32, "intermediate_size": 64, "layers": 2, "heads": 2, "vocabulary_size": 400, "threads": 1},
        "warm_start": {"steps": 8, "batch_size": 8, "warmup_steps": 2, "learning_rate": 5e-3},
        "rollout": {"prompts_per_iteration": 6, "group_size": 4, "max_new_tokens": 12, "batch_size": 8},
        "update": {"groups_per_step": 3, "learning_rate": 1e-2},
    }
    for name in {**small, **sections}:
        values = {**small.get(name, {}), **sections.get(name, {})}
        params = dataclasses.replace(params, **{name: dataclasses.replace(getattr(params, name), **values)})
    return params


def write_tiny_policy(folder: Path, seed: int = 0, scale: float = 8.0) -> Path:
    """Write a random policy; weights are scaled up so that its distributions are far from uniform."""
    import torch
    from safetensors.torch import load_file, save_file

    folder.mkdir(parents=True, exist_ok=True)
    write_small_llama(TEXTS, tiny_params().policy, seed, folder)
    path = folder / "model.safetensors"
    weights = {name: weight * scale if weight.ndim > 1 else weight for name, weight in load_file(path).items()}
    path.unlink()
    save_file({name: weight.to(torch.float32).contiguous() for name, weight in weights.items()}, path, metadata={"format": "pt"})
    return folder


def write_prepared(root: Path, prompts: int = 16) -> Layout:
    """Write prompts (the last two held out), teacher pairs, documents, qrels and no pools."""
    layout = Layout(root)
    rng = np.random.default_rng(7)
    asked, pairs, documents, qrels = [], [], [], []
    for index in range(prompts):
        colour, thing, material = rng.choice(COLOURS), rng.choice(THINGS), rng.choice(MATERIALS)
        split = "train" if index < prompts - 2 else "test"
        asked.append((f"p{index:02d}", split, f"{thing}", [], f"{thing} for the office {colour}"))
        documents.append((f"d{index:02d}", f"{colour} {material} {thing}", str(thing)))
        qrels.append((f"p{index:02d}", f"d{index:02d}", 1.0))
        if split == "train":
            pairs.append((f"p{index:02d}", 0, f"<answer>{colour} {thing}, {material}</answer>"))
    tables = {"prompts": asked, "teacher_pairs": pairs, "documents": documents, "qrels": qrels, "pools": []}
    for name, rows in tables.items():
        table = reference.TABLES[name]
        parquet.write(pl.DataFrame(rows, schema=table.schema, orient="row"), layout.prepared(f"{name}.parquet"), table)
    return layout


def write_project(root: Path) -> Layout:
    """Write prepared tables and a random policy 000."""
    layout = write_prepared(root)
    write_tiny_policy(layout.policy(0))
    return layout


def write_advantages(layout: Layout, iteration: int, word: str = "a") -> pl.DataFrame:
    """Write token advantages, targets and pairs that favour completions with many of a letter (none recombined); return the first."""
    rollouts = parquet.read(layout.iteration(iteration, "rollouts.parquet"), ROLLOUTS)
    reward = rollouts["completion"].str.count_matches(word, literal=True).cast(pl.Float64)
    scored = rollouts.with_columns(reward.alias("reward")).with_columns(
        (pl.col("reward") - pl.col("reward").mean().over("prompt_id")).alias("a")
    )
    lists = [[row["a"]] * len(row["token_ids"]) for row in scored.iter_rows(named=True)]
    table = pl.DataFrame({"rollout_id": scored["rollout_id"], "advantages": pl.Series(lists, dtype=pl.List(pl.Float32))})
    parquet.write(table, layout.iteration(iteration, "token_advantages.parquet"), TOKEN_ADVANTAGES)
    parquet.write(RECOMBINED.empty(), layout.iteration(iteration, "recombined.parquet"), RECOMBINED)
    for name, choose in (("targets", examples.targets), ("preference_pairs", examples.preference_pairs)):
        found = choose(rollouts, scored.select("rollout_id", "prompt_id", "reward"), Attribute())
        parquet.write(found, layout.iteration(iteration, f"{name}.parquet"), reference.TABLES[name])
    return table


def folder_bytes(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def copy_project(layout: Layout, root: Path) -> Layout:
    """Return a copy of a project without its cache."""
    shutil.copytree(layout.root, root, ignore=shutil.ignore_patterns("cache"))
    return Layout(root)
