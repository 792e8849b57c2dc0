"""What the commands of an iteration load, each in a process of its own: small iterations are dear only where these grow."""

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from ospo_cli.params.written import render
from ospo_cli.rewards.opening import open_reward
from ospo_cli.tables.files import write_text
from ospo_cli.tables.parquet import write
from ospo_cli.tables.prepared import POOLS
from tests.policies.tiny import tiny_params, write_project

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "import json, sys\nfrom ospo_cli import cli\ntry: cli.main()\nexcept SystemExit: pass\nprint(json.dumps(sorted(sys.modules)))"
HEAVY = {
    "dvc", "faiss", "httpx", "jinja2", "numba", "numpy", "peft", "polars", "pyarrow", "rich", "scipy", "sympy", "tokenizers", "torch",
    "torch._dynamo", "transformers", "yaml",
}  # fmt: skip


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Return the modules that each command of an iteration has loaded at its end, by command."""
    layout = write_project(tmp_path_factory.mktemp("loaded") / "project")
    write_text(layout.params, render(tiny_params()))
    # Pools: rankings of a whole catalogue load compiled loops.
    ids = [
        pl.read_parquet(layout.prepared(f"{name}.parquet")).get_column(f"{key}_id").sort()
        for name, key in (("prompts", "prompt"), ("documents", "doc"))
    ]
    write(pl.DataFrame({"prompt_id": ids[0]}).join(pl.DataFrame({"doc_id": ids[1]}), how="cross"), layout.prepared("pools.parquet"), POOLS)
    open_reward(layout, tiny_params())  # makes the index, which a project's first iteration does
    found = {}
    for command in ("rollout", "segment", "score-coalitions", "attribute", "update"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, command, "--iter", "1", "--project", str(layout.root)],
            cwd=ROOT, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found[command] = json.loads(done.stdout.splitlines()[-1])
    return found


# Modules: 1562, 671, 699, 713 and 1574 when this was written, and a tenth on top. Arrow reads every Parquet file.
@pytest.mark.parametrize(
    ("command", "heavy", "most"),
    [
        ("rollout", {"numpy", "polars", "pyarrow", "tokenizers", "torch", "yaml"}, 1720),
        ("segment", {"numpy", "polars", "pyarrow", "yaml"}, 740),
        ("score-coalitions", {"numpy", "polars", "pyarrow", "yaml"}, 770),
        ("attribute", {"numpy", "polars", "pyarrow", "tokenizers", "yaml"}, 790),
        ("update", {"numpy", "polars", "pyarrow", "tokenizers", "torch", "yaml"}, 1735),
    ],
)
def test_a_command_of_an_iteration_loads_what_it_needs_and_no_more(loaded, command, heavy, most):
    assert HEAVY & set(loaded[command]) == heavy
    assert len(loaded[command]) <= most
