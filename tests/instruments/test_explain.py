"""`ospo explain`: known answers on a tiny catalogue, which value is shared out, hostile text, one-line errors, equal bytes."""

import dataclasses
import io
import json
import re

import polars as pl
import pytest
from typer.testing import CliRunner

from ospo_cli.cli import app
from ospo_cli.errors import OspoError
from ospo_cli.instruments.explain.command import Request, execute, execute_all, explain
from ospo_cli.layout import Layout
from ospo_cli.maths.estimators import ESTIMATORS
from ospo_cli.params import whole
from ospo_cli.params.whole import Params
from ospo_cli.report.explanation_text import interaction_line
from ospo_cli.rewards.opening import Prepared
from ospo_cli.tables import parquet
from ospo_cli.tables.prepared import DOCUMENTS, POOLS, PROMPTS, QRELS
from tests.retrievers.catalogues import documents

EFFICIENT = sorted(name for name, each in ESTIMATORS.items() if each.is_efficient)
HOSTILE = "\x1b[2J\u202e<script>alert(1)</script>\x07"
# "red shoe" finds d000 alone on the first rank; each of its words alone finds twelve products that stand before it.
TOGETHER = ["red shoe", *(["red"] * 12), *(["shoe"] * 12), *(["hat"] * 12)]


def tables(titles, queries=(), qrels=(), pools=()):
    """Return documents, prompts (id, query), qrels and pools."""
    prompts = [(prompt_id, "test", query, [], query) for prompt_id, query in queries]
    return (
        documents(titles),
        pl.DataFrame(prompts, schema=PROMPTS.schema, orient="row"),
        pl.DataFrame(list(qrels), schema=QRELS.schema, orient="row"),
        pl.DataFrame(list(pools), schema=POOLS.schema, orient="row"),
    )


def explained(tmp_path, given, **request):
    return explain(Request(**request), Prepared(*given), Params(), tmp_path)


@pytest.fixture
def project(tmp_path):
    """Layout of a project that holds the prepared tables alone."""
    layout = Layout(tmp_path)
    given = tables(
        ["navy wool coat" + HOSTILE, "navy linen coat", "wool hat", "red shoe"],
        [("q1", "navy wool coat"), ("q2", "hat")],
        [("q1", "d000", 1.0), ("q1", "d001", 0.0), ("q2", "d002", 1.0)],
    )
    for frame, table in zip(given, (DOCUMENTS, PROMPTS, QRELS, POOLS), strict=True):
        parquet.write(frame, layout.prepared(f"{table.name}.parquet"), table)
    return layout


class Terminal(io.StringIO):
    def isatty(self):
        return True


def printed(layout, stream=None, **options):
    html, as_json = options.pop("html", None), options.pop("as_json", False)
    stream = stream or io.StringIO()
    execute(layout, Params(), Request(**options), html, as_json, stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    "estimator", [*sorted(set(EFFICIENT) - {"uniform", "random"}), "alone", "leave-one-out", "banzhaf", "contiguous-mean"]
)
def test_a_score_that_is_a_sum_over_words_is_shared_out_word_by_word(tmp_path, estimator):
    given = tables(["navy wool coat", "navy hat", "red shoe", "green shoe"])
    found = explained(tmp_path, given, query="navy wool coat", doc_id="d000", estimator=estimator)
    alone = [explained(tmp_path, given, query=word, doc_id="d000").grand for word in ("navy", "wool", "coat")]
    assert [part.share for part in found.parts] == pytest.approx(alone)
    assert found.grand == pytest.approx(sum(alone))
    assert found.interactions == []


@pytest.mark.parametrize("estimator", EFFICIENT)
@pytest.mark.parametrize("query", ["shoe", "red shoe", "red big shoe, hat", " ".join(["red", "shoe", "hat", "navy"] * 4)])
def test_shares_of_efficient_estimators_sum_to_what_the_query_gains(tmp_path, estimator, query):
    found = explained(tmp_path, tables(TOGETHER), query=query, relevant=("d000",), estimator=estimator)
    assert sum(part.share for part in found.parts) == pytest.approx(found.grand - found.empty, abs=1e-9)
    assert found.efficiency_gap < 1e-9


def test_words_that_find_the_target_only_together_have_a_positive_dividend(tmp_path):
    found = explained(tmp_path, tables(TOGETHER), query="red shoe", relevant=("d000",), estimator="shapley")
    assert (found.grand, [part.alone for part in found.parts]) == (1.0, [0.0, 0.0])
    assert [part.share for part in found.parts] == pytest.approx([0.5, 0.5])
    assert [(each.first_text, each.last_text, each.dividend) for each in found.interactions] == [("red", "shoe", 1.0)]
    assert found.target.rank == 1
    assert all(part.rank_alone > 10 and part.rank_without > 10 for part in found.parts)


def test_words_that_do_the_same_have_a_negative_dividend(tmp_path):
    found = explained(tmp_path, tables(["navy coat", "hat", "shoe"]), query="navy coat", relevant=("d000",))
    assert [each.dividend for each in found.interactions] == [-1.0]
    assert [part.share for part in found.parts] == [0.5, 0.5]


def test_ranks_alone_and_without_are_those_of_the_queries_that_a_person_would_type(tmp_path):
    given = tables(["red", "red red", "navy red", "navy hat", "hat"])
    found = explained(tmp_path, given, query="navy red hat", doc_id="d002")
    alone = [explained(tmp_path, given, query=word, doc_id="d002").target.rank for word in ("navy", "red", "hat")]
    without = [explained(tmp_path, given, query=text, doc_id="d002").target.rank for text in ("red hat", "navy hat", "navy red")]
    assert [part.rank_alone for part in found.parts] == alone == [1, 3, None]
    assert [part.rank_without for part in found.parts] == without
    assert alone != without


def test_the_product_followed_is_the_one_of_the_highest_gain_and_of_several_the_best_ranked(tmp_path):
    judged = [("p", "d000", 1.0), ("p", "d001", 3.0), ("p", "d002", 3.0)]
    found = explained(tmp_path, tables(["red", "red hat", "red"], [("p", "red")], judged), prompt_id="p")
    assert (found.target.doc_id, found.target.gain, found.target.rank) == ("d002", 3.0, 2)


def test_more_and_less_together_are_told_apart_in_words(tmp_path):
    together = interaction_line(explained(tmp_path, tables(TOGETHER), query="red shoe", relevant=("d000",)).interactions[0])
    twice = interaction_line(explained(tmp_path, tables(["navy coat", "hat"]), query="navy coat", relevant=("d000",)).interactions[0])
    assert together == "+1.000  red + shoe: earn 1.000 more together than apart"
    assert twice == "-1.000  navy + coat: earn 1.000 less together than apart"


def test_with_a_prompt_the_judgments_and_the_pool_count(tmp_path):
    given = tables(["red", "red", "red"], [("p", "red")], [("p", "d002", 2.0), ("p", "d001", 0.0)], [("p", "d001"), ("p", "d002")])
    found = explained(tmp_path, given, prompt_id="p")
    assert (found.value_kind, found.candidates, found.is_pool) == ("judgments", 2, True)
    assert [(each.doc_id, each.gain) for each in found.products] == [("d001", 0.0), ("d002", 2.0)]
    assert (found.target.doc_id, found.target.rank) == ("d002", 2)
    assert found.grand == pytest.approx(0.63093, abs=1e-5)
    assert "judgments of prompt p" in found.value


@pytest.mark.parametrize("query", ["Red SHOE", "  red shoe "])
def test_a_query_that_a_prompt_has_takes_that_prompt_and_says_so(tmp_path, query):
    given = tables(TOGETHER, [("a", "red shoe"), ("b", "red shoe"), ("c", "hat")], [("b", "d000", 1.0)])
    found = explained(tmp_path, given, query=query)
    assert found.prompt_id == "b"
    assert "prompt b has this query" in found.notes[0]


def test_without_judgments_the_best_products_score_is_shared_out_and_the_output_says_so(tmp_path):
    found = explained(tmp_path, tables(TOGETHER, [("c", "red shoe")]), query="red shoe")
    assert (found.value_kind, found.target.doc_id, found.target.rank) == ("score", "d000", 1)
    assert found.value == "score that bm25 gives to product d000"
    assert found.grand == found.products[0].score
    assert any("no relevant product" in note for note in found.notes)
    assert any("no judgments are known" in note for note in found.notes)


@pytest.mark.parametrize("retriever", ["bm25", "tfidf-char", "lsa"])
def test_any_retriever_can_be_explained(tmp_path, retriever):
    given = tables(["navy wool coat", "navy hat", "red shoe", "green shoe"])
    found = explained(tmp_path, given, query="navy shoe", retriever=retriever)
    assert found.retriever == retriever
    assert found.grand == pytest.approx(found.products[0].score)


@pytest.mark.parametrize("retriever", ["bm25", "hybrid", "dense"])
@pytest.mark.parametrize("doc_id", ["d000", "d002"])
def test_the_score_that_is_shared_out_is_the_one_that_stands_beside_the_product(tmp_path, retriever, doc_id):
    given = tables(["navy wool coat", "navy wool hat", "red wool shoe", "navy coat", "linen tie"])
    found = explained(tmp_path, given, query="navy wool", doc_id=doc_id, retriever=retriever)
    assert found.grand == next(each.score for each in found.products if each.doc_id == doc_id)


def test_words_that_the_catalogue_does_not_know_are_told_and_earn_nothing(tmp_path):
    found = explained(tmp_path, tables(TOGETHER), query="red xyzzy shoe", relevant=("d000",), estimator="shapley")
    assert [part.unknown_words for part in found.parts] == [[], ["xyzzy"], []]
    assert found.parts[1].share == pytest.approx(0.0, abs=1e-12)
    assert any("retrieves no product at all by itself: xyzzy" in note for note in found.notes)


def test_a_query_of_a_hundred_words_is_sampled_with_errors_shown(tmp_path):
    query = " ".join(f"red{index % 7} shoe" for index in range(50))
    given = tables([f"red{index} shoe" for index in range(7)])
    found = explained(tmp_path, given, query=query, relevant=("d003",), estimator="shapley")
    assert len(found.parts) == 100
    assert all(part.standard_error is not None for part in found.parts)
    assert max(part.standard_error for part in found.parts) > 0
    assert found.special_case == "sampled-orders"
    assert {part.n_contributions for part in found.parts} == {64}  # orders, more than the project's own


def test_errors_are_in_the_table_where_shares_are_sampled_and_only_there(project):
    assert "± s.e." in printed(project, query="navy wool coat red shoe hat linen a b c d e f", doc_id="d000", estimator="shapley")
    assert "± s.e." not in printed(project, query="navy wool coat", estimator="shapley")


def test_hostile_text_reaches_neither_terminal_nor_page(project, tmp_path):
    page = tmp_path / "x.html"
    query = f"navy {HOSTILE} wool"
    for stream in (io.StringIO(), Terminal()):
        text = printed(project, stream, query=query, html=page)
        assert "\x1b[2J" not in text
        assert "\u202e" not in text
        assert "\x07" not in text
        assert "⟨U+202E⟩" in text
    written = page.read_text(encoding="utf-8")
    assert "<script" not in written
    assert "\u202e" not in written
    assert "\x1b" not in written
    assert "&lt;script&gt;" in written


def test_a_query_of_broken_bytes_is_shown_and_written(project, tmp_path):
    text = printed(project, query="navy \udcff wool", html=tmp_path / "x.html")
    assert "⟨U+DCFF⟩" in text
    assert "⟨U+DCFF⟩" in (tmp_path / "x.html").read_text(encoding="utf-8")
    assert json.loads(printed(project, query="navy \udcff wool", as_json=True))["query"] == "navy \udcff wool"


def test_the_page_names_no_address_and_runs_no_script(project, tmp_path):
    printed(project, query="navy wool coat", html=tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert re.findall(r"https?:|//[a-z]|<script|<link|<img|@import|url\(|\son[a-z]+=", page) == []
    assert "default-src &#39;none&#39;" in page


def test_equal_questions_give_equal_bytes(project, tmp_path):
    texts = []
    for name in ("a", "b"):
        asked = {"query": "navy wool coat red shoe hat linen a b c d e", "doc_id": "d000", "estimator": "shapley"}
        texts.append(
            (printed(project, html=tmp_path / name, **asked), (tmp_path / name).read_bytes(), printed(project, as_json=True, **asked))
        )
    assert texts[0] == texts[1]


def test_json_holds_format_version_and_every_field(project):
    content = json.loads(printed(project, query="navy wool coat", as_json=True))
    assert (content["format"], content["version"], content["prompt_id"]) == ("ospo-explanation", 1, "q1")
    assert [part["text"] for part in content["parts"]] == ["navy", "wool", "coat"]
    assert sum(part["share"] for part in content["parts"]) == pytest.approx(content["grand"] - content["empty"])


def test_a_terminal_gets_colours_and_a_pipe_gets_none(project):
    assert "\x1b[" in printed(project, Terminal(), query="navy wool")
    assert "\x1b" not in printed(project, query="navy wool")


def test_no_product_is_listed_beyond_the_asked_number(project):
    assert len(json.loads(printed(project, query="navy wool", top=1, as_json=True))["products"]) == 1
    assert json.loads(printed(project, query="navy wool", top=0, as_json=True))["products"] == []


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "--query: is empty"),
        ({"query": " \t "}, "--query: is empty"),
        ({"query": "--- !!"}, "query: holds no word"),
        ({"prompt_id": "q3"}, r"--prompt-id: no such prompt: found q3, expected q\d, q\d"),
        ({"query": "navy", "level": "letter"}, "--level: unknown level: found letter, expected phrase, word"),
        ({"query": "navy", "estimator": "guess"}, "--estimator: unknown estimator: found guess, expected contiguous-mean"),
        ({"query": "navy", "retriever": "guess"}, "retriever: unknown retriever: found guess, expected bm25"),
        ({"query": "navy", "doc_id": "d00"}, "--doc: no such product: found d00, expected d00"),
        ({"query": "navy", "relevant": ("nope",)}, "--relevant: no such product: found nope"),
        ({"query": "navy", "relevant": ("d000",), "doc_id": "d000"}, "name two values"),
        ({"query": "xyzzy plugh"}, "retrieves no product, so that there is no score to explain"),
        ({"query": "wool " * 3000, "estimator": "shapley"}, "needs too many coalitions: found 3000 segments"),
    ],
)
def test_what_cannot_be_explained_is_one_line(project, request_, message):
    with pytest.raises(OspoError, match=message) as raised:
        printed(project, **request_)
    assert len(raised.value.line().splitlines()) == 1


def test_the_command_needs_the_prepared_tables_alone_and_says_what_makes_them(project, tmp_path):
    empty = tmp_path / "empty"
    for folder in (project.root, empty):
        folder.mkdir(exist_ok=True)
        defaults = whole.to_mapping(Params())
        (folder / "params.yaml").write_text(json.dumps(defaults), encoding="utf-8")
    good, bad = (CliRunner().invoke(app, ["explain", "--query", "navy wool coat", "-p", str(at)]) for at in (project.root, empty))
    assert (good.exit_code, bad.exit_code) == (0, 1), good.stderr
    assert "judgments of prompt q1" in good.stdout
    assert "run `ospo prepare-data`" in bad.exception.line()
    assert bad.stderr == ""


def test_the_projects_estimator_is_taken_where_none_is_named(tmp_path):
    values = Params()
    values = dataclasses.replace(values, attribute=dataclasses.replace(values.attribute, estimator="shapley"))
    assert explain(Request("red shoe"), Prepared(*tables(TOGETHER)), values, tmp_path).estimator == "shapley"


def test_a_products_score_asks_for_no_value_and_says_nothing_of_any(project, capsys):
    execute(project, Params(), Request(query="wool coat", doc_id="d001"), stream=io.StringIO())
    assert "values:" not in capsys.readouterr().err


def test_without_judgments_a_word_that_the_product_lacks_says_why_it_earns_nothing(project, capsys):
    execute(project, Params(), Request(query="navy hat shoe"))
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert lines["product:"].endswith("rank 1")
    lacking = [word for word in ("navy", "hat", "shoe") if lines[word].endswith("  does not find the product above")]
    title = lines["product:"].partition(",")[2]
    assert lacking == [word for word in ("navy", "hat", "shoe") if word not in title]
    assert 0 < len(lacking) < 3
    execute(project, Params(), Request(query="navy hat", relevant=("d002",)))
    assert "does not find the product above" not in capsys.readouterr().out


def test_many_queries_are_explained_in_one_call_as_each_by_itself(project, capsys):
    requests = [Request(query="navy coat"), Request(query="wool hat")]
    together = "\n".join(_said(project, [request], capsys) for request in requests)
    assert _said(project, requests, capsys) == together


def _said(project, requests, capsys):
    execute_all(project, Params(), requests)
    return capsys.readouterr().out


def test_an_empty_query_is_refused_before_any_table_is_read(tmp_path):
    with pytest.raises(OspoError, match="--query: is empty"):
        execute(Layout(tmp_path / "nothing"), Params(), Request(query="  "))
