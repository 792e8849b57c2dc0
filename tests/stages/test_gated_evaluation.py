"""A policy behind its gate as a system of the evaluation: what it gets is known beforehand, and a gate made later makes it stale."""

import dataclasses
import io
import shutil

import numpy as np
import polars as pl
import pytest

from ospo_cli.errors import PolicyError
from ospo_cli.graph import nodes
from ospo_cli.graph.records import Records
from ospo_cli.layout import Layout
from ospo_cli.policies.folder import content_hash
from ospo_cli.report.page import render
from ospo_cli.report.result_table import print_result
from ospo_cli.rewriting import gate as gates
from ospo_cli.rewriting.chosen import Chosen
from ospo_cli.rewriting.rewriter import Asked, Rewriter
from ospo_cli.rewriting.setup import of_project
from ospo_cli.stages import evaluate
from ospo_cli.stages import report as report_stage
from ospo_cli.tables import placed
from ospo_cli.tables.evaluate import COMPLETIONS, QUERY_METRICS
from ospo_cli.tables.prepared import PROMPTS
from tests.report import small_project
from tests.rewriting.scripted import gate_of_words
from tests.stages.test_evaluate import make

GATED = "gated-policy-001"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A project of 30 prompts and one policy, not evaluated yet."""
    values = small_project.make_params(iterations=1)
    layout = make(tmp_path_factory.mktemp("base"), values)
    small_project.write_prepared(layout, prompts=30)
    return layout, values


@pytest.fixture
def project(base, tmp_path, monkeypatch):
    """A copy in which every answer is a word that no product has: a rewrite finds nothing, whatever its query found."""
    monkeypatch.setattr("ospo_cli.policies.token_pieces.TokenPieces.text", lambda self, ids: "<answer>zzz</answer>")
    shutil.copytree(base[0].root, tmp_path / "project")
    return Layout(tmp_path / "project"), base[1]


def put_gate(layout, threshold, policy="", retriever=""):
    """Write the gate of policy 001 that looks at the query's number of words alone."""
    gates.write(layout.gates("001.json"), gate_of_words(policy or content_hash(layout.policy(1)), threshold, retriever))


def values_of(layout, system, retriever):
    wanted = (pl.col("system") == system) & (pl.col("retriever") == retriever) & (pl.col("metric") == "ndcg@10")
    rows = placed.read(QUERY_METRICS, layout).filter(wanted & pl.col("decoding").is_in(["none", "greedy"]))
    return dict(rows.select("prompt_id", "metric_value").iter_rows())


def test_queries_that_pass_get_what_the_rewrite_finds_and_the_others_what_they_found(project):
    layout, values = project
    put_gate(layout, 4.0)  # "tote bag …" and "chore jacket …" pass; "coat …" and "weekender …" do not
    summary = evaluate.execute(layout, values)
    assert summary["systems"] == ["raw-query", "policy-000", "policy-001", GATED, "oracle"]
    queries = dict(placed.read(PROMPTS, layout).filter(pl.col("split") == "test").select("prompt_id", "query").iter_rows())
    passing = {prompt_id for prompt_id, query in queries.items() if len(query.split()) == 4}
    assert 0 < len(passing) < len(queries)
    for retriever in values.evaluate.retrievers:
        raw = values_of(layout, "raw-query", retriever)
        expected = {prompt_id: 0.0 if prompt_id in passing else value for prompt_id, value in raw.items()}
        assert values_of(layout, GATED, retriever) == expected
        assert set(values_of(layout, "policy-001", retriever).values()) == {0.0}
        found = summary["gated"][0]["retrievers"][retriever]
        lost = np.array([raw[prompt_id] for prompt_id in passing])
        assert found["gated"]["rewritten"] == len(passing)
        assert found["gated"]["share"] == pytest.approx(len(passing) / len(queries))
        assert found["gated"]["harm"] == pytest.approx(lost.mean())
        assert found["gated"]["loss"] == pytest.approx(lost.sum() / len(queries))
        assert found["gated"]["worse"] == (lost > 0).sum()
        assert found["gated"]["difference"]["mean"] == pytest.approx(-lost.sum() / len(queries))
        assert found["ungated"]["loss"] == pytest.approx(np.mean(list(raw.values())))
        assert found["ungated"]["share"] == 1.0
    assert summary["gated"][0]["lets"] == "some"
    assert summary["gated"][0]["held_back"] == len(queries) - len(passing)
    held = placed.read(COMPLETIONS, layout).filter((pl.col("system") == GATED) & (pl.col("problem") != ""))
    assert set(held["problem"]) == {"not trusted by the gate"}
    assert GATED not in summary["malformed"]
    assert layout.evaluation(f"trec/{GATED}.bm25.run").is_file()


@pytest.mark.parametrize("retriever", ["", "bm25"])
def test_what_the_gated_system_is_given_is_what_ospo_rewrite_gives(retriever, project):
    layout, values = project
    put_gate(layout, 4.0, retriever=retriever)
    evaluate.execute(layout, values)
    prompts = placed.read(PROMPTS, layout).filter(pl.col("split") == "test")
    rewriter = Rewriter.opened(Chosen(layout.policy(1), of_project(values), "", layout, values))
    asked = [Asked(query, tuple(history)) for query, history in prompts.select("query", "history").iter_rows()]
    expected = dict(zip(prompts["prompt_id"], [one.engine_query for one in rewriter.rewrite(asked)], strict=True))
    rows = placed.read(COMPLETIONS, layout).filter(pl.col("system") == GATED)
    assert dict(rows.select("prompt_id", "query").iter_rows()) == expected


@pytest.mark.parametrize(
    ("threshold", "lets", "equal_to", "said"),
    [
        (None, "nothing", "raw-query", "lets nothing through (nothing could be certified)"),
        (99.0, "nothing", "raw-query", "lets nothing through (none of these rewrites passes)"),
        (0.0, "everything", "policy-001", "lets everything through: it held back none"),
    ],
)
def test_a_gate_that_lets_nothing_or_everything_through_is_named(threshold, lets, equal_to, said, project):
    layout, values = project
    put_gate(layout, threshold)
    summary = evaluate.execute(layout, values)
    assert summary["gated"][0]["lets"] == lets
    for retriever in values.evaluate.retrievers:
        assert values_of(layout, GATED, retriever) == values_of(layout, equal_to, retriever)
    printed = io.StringIO()
    print_result(summary, printed)
    assert said in printed.getvalue()


def test_result_and_report_show_the_gated_system_with_every_retriever(project):
    layout, values = project
    put_gate(layout, 4.0)
    summary = evaluate.execute(layout, values)
    printed = io.StringIO()
    print_result(summary, printed)
    assert "With its gate iteration 1, greedy, rewrites " in printed.getvalue()
    assert "\niteration 1, gated " in printed.getvalue()
    page = render(report_stage.report(layout, values))
    table = page[page.index("With and without the gate") :].partition("</table>")[0]
    assert [table.count(f"<td>{name}</td>") for name in values.evaluate.retrievers] == [2, 2]
    assert table.count("iteration 1, gated") == 2


def test_a_gate_of_other_weights_is_left_out_and_named_and_a_broken_one_is_refused(project, capsys):
    layout, values = project
    put_gate(layout, 4.0, policy="other weights")
    summary = evaluate.execute(layout, values)
    assert summary["gated"] == []
    assert GATED not in summary["systems"]
    assert "made for other weights than policy-001 has now, left out; run `ospo gate` again" in capsys.readouterr().err
    layout.gates("001.json").write_text("{}")
    with pytest.raises(PolicyError, match="another format"):
        evaluate.execute(layout, values)


def test_on_the_prompts_that_made_it_a_gate_is_not_judged(project, capsys):
    layout, values = project
    put_gate(layout, 4.0)
    on_train = dataclasses.replace(values, evaluate=dataclasses.replace(values.evaluate, split="train"))
    assert evaluate.execute(layout, on_train)["gated"] == []
    assert "gates are left out: they are made on dev prompts, and evaluate.split is train" in capsys.readouterr().err


def test_a_gate_that_is_made_changed_or_removed_makes_evaluate_stale_and_what_trains_not(project):
    layout, values = project

    def keys():
        records = Records(layout, values)
        return {wanted.label: records.key(wanted) for wanted in nodes.plan(values)}

    before = keys()
    put_gate(layout, 4.0)
    made = keys()
    put_gate(layout, 5.0)
    changed = keys()
    layout.gates("001.json").unlink()
    for one, other in ((before, made), (made, changed)):
        assert {label for label in one if one[label] != other[label]} == {"evaluate"}
    assert keys() == before
