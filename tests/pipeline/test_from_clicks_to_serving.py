"""The page from clicks to serving names the preset and the commands of the path."""

import json
import re
import signal
import subprocess
import sys

import polars as pl
import pytest

from ospo_cli import presets
from ospo_cli.params import whole
from tests.instruments.serve.processes import ROOT, free_port, is_up, posted, started, until

PAGE = (ROOT / "docs" / "from-clicks-to-serving.md").read_text(encoding="utf-8")


def commands():
    """Return the lines of the page's code blocks."""
    return [line for block in re.findall(r"(?s)```\n(.*?)```", PAGE) for line in block.splitlines()]


def test_the_page_names_the_preset_and_the_commands_of_the_path():
    lines = commands()
    assert [line.split(" #")[0] for line in lines if line.startswith("ospo ") and "init" not in line] == [
        "ospo prepare-data", "ospo run", "ospo gate", "ospo run", "ospo serve --port 8017",
        "ospo prepare-data", "ospo run", "ospo gate", "ospo serve --port 8018",
    ]  # fmt: skip
    (made,) = [line.split() for line in lines if line.startswith("ospo init")]
    assert made[-1] in presets.NAMES


def done(*arguments):
    """Run an ospo command to its end and return what it printed."""
    process = started(*arguments)
    out, err = process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


def shortened(project):
    """Make the parameters of preset clicks small: one iteration of a policy that has learned some words."""
    content = whole.to_mapping(whole.load(project / "params.yaml"))
    content["train"]["iterations"] = 1
    content["warm_start"].update(steps=400)
    content["rollout"].update(prompts_per_iteration=8)
    content["evaluate"].update(retrievers=["bm25"], samples=1, temperatures=[], oracle_edits=0, bootstrap=200)
    (project / "params.yaml").write_text(presets.render(whole.from_mapping(content)), encoding="utf-8")


@pytest.mark.slow
def test_a_catalogue_and_a_click_log_become_a_gated_rewriter_behind_http(tmp_path):
    project = tmp_path / "my-shop"
    done("init", project, "--preset", "clicks")
    shop = [sys.executable, ROOT / "docs" / "examples" / "simulated_shop.py", project / "catalogue", "--queries", "400"]
    subprocess.run(shop, check=True, env={"PYTHONPATH": str(ROOT)})
    shortened(project)
    done("prepare-data", "--project", project)
    assert "queries as typed" in done("run", "--project", project)
    said = done("gate", "--bound", "0.5", "--project", project)
    assert said.startswith(("certified on", "nothing gains"))
    assert ", gated" in done("run", "--project", project)
    queries = pl.read_parquet(project / "data/prepared/prompts.parquet").filter(split="test")["query"].to_list()[:20]
    (tmp_path / "queries.txt").write_text("\n".join(queries) + "\n")
    done("rewrite", tmp_path / "queries.txt", "--out", tmp_path / "out.jsonl", "--project", project)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    port = free_port()
    service = started("serve", "--port", port, "--deadline", 30_000, "--project", project)
    try:
        until(lambda: is_up(port), service)
        answers = [posted(port, query) for query in queries]
    finally:
        service.send_signal(signal.SIGTERM)
        _, err = service.communicate(timeout=60)
    assert b"Traceback" not in err
    assert [(one["engine_query"], one["why"]) for one in answers] == [(row["engine_query"], row["why"]) for row in rows]
    chosen = json.loads((project / "data/evaluation/summary.json").read_text())["choice"]["best_policy"]
    gate = json.loads((project / "data/gates" / f"{chosen.removeprefix('policy-')}.json").read_text())
    assert gate["retriever"] == "bm25"
    assert gate["threshold"] is not None or "rewritten" not in {row["why"] for row in rows}
