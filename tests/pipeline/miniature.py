"""A project small enough that the whole loop runs in seconds: the demo shop with few products, prompts and steps."""

import copy
from pathlib import Path

from ospo_cli import presets
from ospo_cli.params import whole
from ospo_cli.params.whole import Params

SMALL = {
    "train": {"iterations": 2},
    "policy": {"hidden_size": 32, "intermediate_size": 64, "layers": 2, "heads": 2, "vocabulary_size": 600, "threads": 1},
    # Long enough that most answers are closed: an unclosed one has no segments, and nothing of credit would be tried.
    "warm_start": {"steps": 100, "batch_size": 16, "learning_rate": 0.01},
    "rollout": {"prompts_per_iteration": 6, "group_size": 4, "max_new_tokens": 24},
    "update": {"groups_per_step": 3},
    "evaluate": {"every": 1, "max_prompts": 8, "samples": 2, "oracle_edits": 2, "bootstrap": 100},
}


def make(directory: Path, **changes: dict) -> Params:
    """Write a miniature project and return its parameters; `changes` are sections that override."""
    presets.init(directory, "demo")
    content = copy.deepcopy(whole.to_mapping(presets.load("demo")))
    for source in (SMALL, changes):
        for section, values in source.items():
            content[section].update(values)
    values = whole.from_mapping(content)
    rewrite(directory, values)
    return values


def rewrite(directory: Path, values: Params) -> None:
    """Write params.yaml and what follows from it."""
    from ospo_cli.graph import dvc

    (directory / "params.yaml").write_text(presets.render(values), encoding="utf-8")
    dvc.write(directory, values)


def tables(directory: Path) -> dict[str, bytes]:
    """Return every table of the project by its path."""
    data = directory / "data"
    return {str(path.relative_to(data)): path.read_bytes() for path in sorted(data.rglob("*.parquet")) if "cache" not in path.parts}
