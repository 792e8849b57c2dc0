"""A project of forty products and a policy of some hundred weights: all stages run in seconds, and use every kind of file."""

from __future__ import annotations

import copy
import hashlib
import shutil
from pathlib import Path

from ospo_cli import presets
from ospo_cli.graph.nodes import plan
from ospo_cli.layout import Layout
from ospo_cli.params import whole
from ospo_cli.tables.unfinished import remove

COLOURS = ("red", "blue", "green", "olive", "navy", "black", "white", "grey")
THINGS = ("coat", "boot", "scarf", "glove", "hat")
SMALL = {
    "train": {"iterations": 2},
    "prepare_data": {"test_share": 0.3},
    "policy": {"hidden_size": 16, "intermediate_size": 16, "layers": 1, "heads": 2, "vocabulary_size": 300, "threads": 1},
    "warm_start": {"steps": 24, "max_epochs": 100, "batch_size": 8, "learning_rate": 0.02},
    "rollout": {"prompts_per_iteration": 4, "group_size": 3, "max_new_tokens": 20, "temperature": 0.7},
    "segment": {"level": "word"},
    "update": {"groups_per_step": 2},
    "score_coalitions": {"retriever": "dense"},
    "retrieval": {"dense": {"index": "hnsw"}},
    "evaluate": {"max_prompts": 4, "samples": 2, "oracle_edits": 1, "bootstrap": 100, "retrievers": ["dense", "bm25", "tfidf-char"]},
    "store": {"values": "always"},
}
# What a stage writes and names in dvc.yaml; the others may differ from run to run.
DURATIONS = ("metrics.json",)


def make(folder: Path) -> Path:
    """Write the project; nothing of it has run."""
    presets.init(folder, "tables")
    content = copy.deepcopy(whole.to_mapping(presets.load("tables")))
    for section, values in SMALL.items():
        for name, value in values.items():
            content[section][name] = content[section][name] | value if isinstance(value, dict) else value
    (folder / "params.yaml").write_text(presets.render(whole.from_mapping(content)), encoding="utf-8")
    (folder / "catalogue").mkdir()
    products = [f"{colour} wool {thing}" for colour in COLOURS for thing in THINGS]
    texts = {
        "products": ["product_id,title", *(f"p{n:02d},{title}" for n, title in enumerate(products))],
        "queries": ["query_id,query", *(f"q{n},{products[n].split()[0]} outerwear {n}" for n in range(0, 40, 2))],
        "judgments": ["query_id,product_id,grade", *(f"q{n},p{n:02d},1" for n in range(0, 40, 2))],
    }
    for name, lines in texts.items():
        (folder / "catalogue" / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def outputs(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that equal input gives with equal bytes, by its path."""
    data, found = Layout(folder).data, {}
    for place in ("prepared", "policies", "iterations", "evaluation", "raw_query_values.parquet"):
        for path in sorted((data / place).rglob("*")) if (data / place).is_dir() else [data / place]:
            is_final = path.is_file() and ".tmp" not in {part[-4:] for part in path.parts}
            if is_final and not path.name.endswith(DURATIONS) and not path.name.startswith("audit"):  # of no stage
                found[str(path.relative_to(data))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def undo_from(folder: Path, stage: str) -> None:
    """Delete what a stage, such as `rollout --iter 1`, and all that follow it wrote, and everything that was kept to spare time."""
    nodes = plan(whole.load(folder / "params.yaml"))
    first = next(position for position, made in enumerate(nodes) if made.command == f"ospo {stage}")
    for made in nodes[first:]:
        for path in (*made.outputs, *made.metrics, f"data/manifests/{made.label}.json"):
            remove(folder / path)
    for kept in ("cache", "store"):
        remove(folder / "data" / kept)


def leftovers(folder: Path) -> list[str]:
    """Return what is half written: temporary files, and a lock."""
    data = Layout(folder).data
    found = [path for path in data.rglob("*") if path.name.endswith(".tmp") or path.name == "project.lock"]
    return sorted(str(path.relative_to(folder)) for path in found)


def copied(folder: Path, to: Path) -> Path:
    """Return a copy, in place of what lies there."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(folder, to, symlinks=True)
    return to
