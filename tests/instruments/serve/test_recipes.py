"""What docs/serve.md tells to run."""

import json
import re
import runpy
from pathlib import Path

import polars as pl

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")


def test_head_queries_become_lines_of_two_sides_that_no_sign_of_a_query_breaks():
    rows = [
        ("red shoes", "boots, crimson", True),
        ("blue", "blue", False),
        ("red shoes", "boots, crimson", True),
        ("#1 a => b\\, c", "x\ny", True),
        (",", "z", True),
    ]
    frame = pl.DataFrame(rows, schema=["query", "engine_query", "is_used"], orient="row")
    found = runpy.run_path(str(ROOT / "docs/examples/head_queries.py"))["lines"](frame)
    assert found == ["red shoes => boots crimson", "1 a b c => x y"]


def test_the_union_of_raw_query_and_rewrite_is_json_with_a_weight_for_each():
    body = json.loads(re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)[1])
    assert [part["multi_match"]["boost"] for part in body["query"]["bool"]["should"]] == [1.0, 0.5]


def test_the_page_shows_the_ids_of_the_prompt_that_a_rewriter_asks_with(tiny_folder, tiny_policy, tmp_path, monkeypatch, capsys):
    import shutil

    from ospo_cli.rewriting.rewriter import Asked
    from ospo_cli.rewriting.setup import write_card
    from tests.rewriting.scripted import SETUP, scripted

    shutil.copytree(tiny_folder, tmp_path / "rewriter")
    write_card(tmp_path / "rewriter", SETUP)
    monkeypatch.chdir(tmp_path)
    exec(compile(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1], "serve.md", "exec"), {})
    rewriter = scripted(tiny_policy)
    rewriter.rewrite([Asked("kubrick space")])
    assert capsys.readouterr().out.splitlines() == [str(rewriter.sampler.requests[0].prompts[0]), "2001 a space odyssey"]


def test_every_reason_of_the_service_is_explained():
    from ospo_cli.instruments.serve import batching

    assert [why for why in (batching.DEADLINE, batching.OVERLOAD, batching.ERROR, batching.SHUTTING_DOWN) if f"`{why}`" not in PAGE] == []
