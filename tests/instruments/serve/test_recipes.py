"""What docs/serve.md tells to run."""

import importlib.util
import itertools
import json
import re
import runpy
from pathlib import Path

import polars as pl
import pytest

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


@pytest.mark.skipif(importlib.util.find_spec("tantivy") is None, reason="pip install tantivy: an engine to ask")
def test_an_engine_given_the_union_keeps_every_hit_of_the_raw_query_and_adds_both_scores_by_weight():
    import tantivy

    body = json.loads(re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)[1])
    builder = tantivy.SchemaBuilder()
    for field in ("title", "description"):
        builder.add_text_field(field, stored=True)
    schema = builder.build()
    index = tantivy.Index(schema)
    writer = index.writer(heap_size=15_000_000, num_threads=1)
    for title, description in itertools.product(
        ["red shoes", "leather boots", "rain coat"], ["for rain", "crimson and warm", "of leather"]
    ):
        writer.add_document(tantivy.Document(title=[title], description=[description]))
    writer.commit()
    writer.wait_merging_threads()
    index.reload()

    def asked(part):
        """Return the engine's query of a part: `bool` and `should` add, the fields of a multi_match compete (its type best_fields)."""
        if "bool" in part:
            return tantivy.Query.boolean_query([(tantivy.Occur.Should, asked(inner)) for inner in part["bool"]["should"]])
        match, fields = part["multi_match"], []
        for field, weight in (name.split("^") if "^" in name else (name, "1") for name in part["multi_match"]["fields"]):
            terms = [tantivy.Query.term_query(schema, field, word) for word in match["query"].split()]
            either = tantivy.Query.boolean_query([(tantivy.Occur.Should, term) for term in terms])
            fields.append(tantivy.Query.boost_query(either, float(weight)))
        return tantivy.Query.boost_query(tantivy.Query.disjunction_max_query(fields), match.get("boost", 1.0))

    def hits(part):
        searcher = index.searcher()
        return {tuple(searcher.doc(place).to_dict()["title"] + searcher.doc(place).to_dict()["description"]): score for score, place in searcher.search(asked(part), 20).hits}  # fmt: skip

    raw, rewrite = (hits(part | {"multi_match": part["multi_match"] | {"boost": 1.0}}) for part in body["query"]["bool"]["should"])
    union = hits(body["query"])
    assert set(union) == set(raw) | set(rewrite)
    assert set(raw) - set(rewrite)
    assert set(rewrite) - set(raw)
    assert union == pytest.approx({hit: raw.get(hit, 0.0) + 0.5 * rewrite.get(hit, 0.0) for hit in union}, rel=1e-5)


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
