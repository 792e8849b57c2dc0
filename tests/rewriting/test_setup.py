"""Which policy rewrites, and how it is asked."""

import dataclasses
import json
import shutil

import polars as pl
import pytest

from ospo_cli.errors import OspoError, PolicyError
from ospo_cli.instruments import merge
from ospo_cli.layout import Layout
from ospo_cli.params import written
from ospo_cli.policies.folder import content_hash
from ospo_cli.rewriting import chosen, setup
from ospo_cli.rewriting import gate as gates
from ospo_cli.tables import evaluated_data, files
from ospo_cli.text.prompt_template import user_message
from tests.policies.tiny import tiny_params, write_project
from tests.rewriting.scripted import SETUP, gate_of_words


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    made = write_project(tmp_path_factory.mktemp("rewriting") / "shop")
    made.params.write_text(written.render(tiny_params(score_coalitions={"composition": "append"})))
    shutil.copytree(made.policy(0), made.policy(2))
    return made


def test_a_number_is_that_policy_with_the_projects_parameters(layout):
    found = chosen.choose(layout.root, "2")
    assert (found.folder, found.why) == (layout.policy(2), "named by --policy")
    assert (found.setup.composition, found.setup.max_new_tokens, found.setup.template) == ("append", 12, "{query}\nbought: {history}")
    assert chosen.choose(layout.root, "0", threads=3).setup.threads == 3
    assert chosen.choose(layout.root, "0").folder == layout.policy(0)


def evaluated(layout, **changed):
    """Write a summary in which policy 000 was chosen on dev; `changed` goes on top."""
    names = {f"policy-{number:03d}": content_hash(layout.policy(number)) for number in (0, 2)}
    choice = {"best_policy": "policy-000", "best": "policy-000", "prompts": 64, "split": "dev"}
    verdict = {"against_raw_query": {"answer": "better"}, "split": "test", "policies": names, "choice": choice}
    files.write_json(layout.evaluation("summary.json"), verdict | changed)
    return verdict


@pytest.fixture
def own(layout, tmp_path):
    shutil.copytree(layout.root, tmp_path / "own")
    return Layout(tmp_path / "own")


def test_without_a_name_the_evaluations_choice_is_taken_and_said_on_stderr(own, capsys):
    assert chosen.choose(own.root, "").folder == own.policy(2)
    assert capsys.readouterr().err == "policy 002: the last one; nothing is evaluated yet\n"
    evaluated(own)
    found = chosen.choose(own.root, "")
    assert found.folder == own.policy(0)
    assert (found.why, found.made_by) == ("the best on 64 dev queries", "ospo warm-start")
    assert capsys.readouterr().err == "policy 000: the best on 64 dev queries\n"
    assert chosen.choose(own.root, "2").folder == own.policy(2)
    assert capsys.readouterr().err == ""


def test_the_choice_of_an_evaluation_of_other_weights_is_not_taken(own):
    summary = evaluated(own)
    weights = own.policy(0) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert chosen.by_default(own) == (
        2,
        "the last one; 000, which the evaluation chose, is gone or has other weights now: run `ospo evaluate`",
    )
    shutil.rmtree(own.policy(0))
    assert chosen.by_default(own)[0] == 2
    evaluated_none = summary | {"choice": {"split": "none", "prompts": 0, "reason": "evaluate.choose_on: none"}}
    files.write_json(own.evaluation("summary.json"), evaluated_none)
    assert chosen.by_default(own) == (2, "the last one; the evaluation chose none (evaluate.choose_on: none)")


def test_a_choice_that_harms_or_is_older_than_the_last_policy_says_so(own):
    summary = evaluated(own)
    harm = {"choice": summary["choice"] | {"best": "raw-query"}, "against_raw_query": {"answer": "worse"}}
    evaluated(own, **harm, policies={"policy-000": summary["policies"]["policy-000"]})
    number, why = chosen.by_default(own)
    assert (number, why.split("; ")) == (
        0,
        ["the best on 64 dev queries, where nothing beats the queries as typed",
         "on test queries it finds less than they do as typed: do not switch it on without a gate", "002 is not evaluated"],
    )  # fmt: skip


def test_where_a_gate_is_in_force_what_it_does_is_said_in_the_place_of_advice(own, capsys):
    evaluated(own, against_raw_query={"answer": "worse"})
    weights = content_hash(own.policy(0))
    gated = {"rewritten": 38, "gain": 0.015, "low": -0.003, "high": 0.036}
    gate = dataclasses.replace(gate_of_words(weights, 2.0), facts={"test_queries": 100, "gated": gated})
    harms = "the best on 64 dev queries; on test queries it finds less than they do as typed"
    for written_gate, said in (
        (gate, f"{harms}; gate: rewrites 38% of test queries, +0.015 [-0.003, +0.036]"),
        (dataclasses.replace(gate, facts={}), f"{harms}; gate: mean loss of rewritten queries below 0.05 with 90% confidence"),
        (dataclasses.replace(gate, threshold=None), f"{harms}; gate: rewrites nothing"),
        (dataclasses.replace(gate, policy="another"), f"{harms}: do not switch it on without a gate"),
    ):
        gates.write(own.gates("000.json"), written_gate)
        assert chosen.choose(own.root, "").why == said
        assert capsys.readouterr().err == f"policy 000: {said}\n"
    gates.write(own.gates("000.json"), gate)
    assert chosen.choose(own.root, "0").why == "named by --policy; gate: rewrites 38% of test queries, +0.015 [-0.003, +0.036]"
    assert capsys.readouterr().err == ""
    own.gates("000.json").write_text("{")
    assert chosen.choose(own.root, "").why.endswith("without a gate")


HARM = {
    "against_raw_query": {
        "answer": "worse", "system": "policy-000", "raw": 0.3, "value": 0.25, "prompts": 1240,
        "difference": {"mean": -0.05, "low": -0.0714, "high": -0.0286},
    },
    "metric": "ndcg@10",
}  # fmt: skip


@pytest.mark.parametrize("name", ["", "0", "its folder"])
def test_a_policy_that_the_verdict_finds_worse_serves_behind_its_gate_or_where_one_insists(own, name, capsys):
    evaluated(own, **HARM)
    name = name.replace("its folder", str(own.policy(0)))
    with pytest.raises(PolicyError) as caught:
        chosen.to_serve(own.root, name)
    line = caught.value.line()
    assert line.startswith(f"{own.evaluation('summary.json')}: the verdict on policy 000 is that rewritten queries find less than")
    assert "found ndcg@10 0.250 against 0.300 on 1,240 test queries, -0.050 [-0.071, -0.029]" in line
    assert "`ospo gate`" in line
    assert line.endswith("insist with --ungated")
    assert capsys.readouterr().err == ""
    insisted = chosen.to_serve(own.root, name, ungated=True)
    assert (insisted.folder, insisted.ungated) == (own.policy(0), True)
    assert insisted.why.endswith("; no gate is asked (--ungated)")
    gates.write(own.gates("000.json"), gate_of_words(content_hash(own.policy(0)), 2.0))
    assert not chosen.to_serve(own.root, name).ungated


def test_what_the_verdict_does_not_find_worse_serves_as_it_is(own):
    assert chosen.to_serve(own.root, "").folder == own.policy(2)  # nothing is evaluated
    for changed in (
        HARM | {"against_raw_query": HARM["against_raw_query"] | {"answer": "not shown"}},
        HARM | {"against_raw_query": HARM["against_raw_query"] | {"answer": "better"}},
        HARM | {"policies": {"policy-000": "other weights"}},
    ):
        evaluated(own, **changed)
        assert not chosen.to_serve(own.root, "0").ungated
    weights = own.policy(2) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    evaluated(own, **HARM)
    assert chosen.to_serve(own.root, "2").folder == own.policy(2)  # the verdict is on another policy


def test_where_the_data_was_prepared_anew_since_the_verdict_the_line_says_so(own):
    evaluated(own, data=evaluated_data.of(own))
    assert chosen.by_default(own) == (0, "the best on 64 dev queries")
    judgments = own.prepared("qrels.parquet")
    pl.read_parquet(judgments).with_columns(pl.col("relevance") + 1).write_parquet(judgments)
    assert chosen.by_default(own)[1].startswith("the best on 64 dev queries; evaluated on other data than `ospo prepare-data` wrote since")


def test_a_merged_policy_carries_its_verdict_and_is_refused_alone_as_in_its_project(own, tmp_path, capsys):
    evaluated(own, **HARM)
    merged, elsewhere = tmp_path / "rewriter", tmp_path / "elsewhere"
    elsewhere.mkdir()
    merge.execute(own, 0, merged, SETUP)
    with pytest.raises(PolicyError) as caught:
        chosen.to_serve(elsewhere, str(merged))
    line = caught.value.line()
    assert line.startswith(f"{merged / setup.CARD}: the verdict on policy rewriter is that rewritten queries find less than")
    assert "found ndcg@10 0.250 against 0.300 on 1,240 test queries, -0.050 [-0.071, -0.029]" in line
    assert chosen.to_serve(elsewhere, str(merged), ungated=True).setup == SETUP
    with pytest.raises(PolicyError, match="verdict on policy rewriter"):
        chosen.to_serve(own.root, str(merged))  # its weights may be none that the project evaluated: an adapter's are not
    gates.write(merged / setup.GATE, gate_of_words(content_hash(merged), 2.0))
    capsys.readouterr()
    chosen.to_serve(elsewhere, str(merged))
    said = capsys.readouterr().err
    assert said.startswith("policy rewriter: named by --policy; it finds less than the queries as typed (ndcg@10 0.250 against 0.300")
    assert said.endswith("; gate: mean loss of rewritten queries below 0.05 with 90% confidence\n")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"answer": "better"}, "it finds more than the queries as typed (ndcg@10 0.250 against"),
        ({"answer": "not shown"}, "not shown to find more than the queries as typed (ndcg@10 0.250 against"),
        ({"system": "policy-002"}, "is not known (no evaluation of these weights)"),
    ],
)
def test_what_is_known_of_a_policy_folder_alone_is_said(own, tmp_path, capsys, changed, said):
    weights = own.policy(2) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    evaluated(own, **HARM | {"against_raw_query": HARM["against_raw_query"] | changed})
    merge.execute(own, 0, tmp_path / "rewriter", SETUP)
    found = chosen.to_serve(tmp_path, str(tmp_path / "rewriter"))
    assert said in found.why
    assert capsys.readouterr().err == f"policy rewriter: {found.why}\n"


def test_the_verdict_of_a_folder_whose_weights_have_changed_is_not_believed_and_a_damaged_one_is_named(own, tmp_path):
    evaluated(own, **HARM)
    merged = tmp_path / "rewriter"
    merge.execute(own, 0, merged, SETUP)
    weights = merged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert "is not known" in chosen.to_serve(tmp_path, str(merged)).why
    card = json.loads((merged / setup.CARD).read_text())
    (merged / setup.CARD).write_text(json.dumps(card | {"verdict": {"answer": 3}}))
    with pytest.raises(PolicyError, match=r"verdict is not what it should be.*run `ospo merge` again"):
        chosen.to_serve(tmp_path, str(merged))


def test_a_verdict_that_cannot_be_read_is_one_line(own):
    evaluated(own, against_raw_query={"answer": "worse", "system": "policy-000"})
    with pytest.raises(OspoError, match=r"holds no verdict that can be read.*ospo evaluate"):
        chosen.to_serve(own.root, "0")


@pytest.mark.parametrize(
    "damage", [{"choice": 3}, {"choice": {"best_policy": "policy-../x"}}, {"policies": []}, {"against_raw_query": None}]
)
def test_a_summary_that_is_no_summary_is_one_line(own, damage):
    evaluated(own, **damage)
    with pytest.raises(OspoError, match=r"holds no choice that can be read.*ospo evaluate"):
        chosen.choose(own.root, "")


def test_a_folder_with_its_card_needs_no_project_and_its_card_counts_before_params(layout, tmp_path):
    folder = tmp_path / "bare"
    shutil.copytree(layout.policy(0), folder)
    card = setup.Setup("find {query}", "replace", 7, 3)
    setup.write_card(folder, card)
    alone = chosen.choose(tmp_path, str(folder))
    assert (alone.setup, alone.project, alone.params) == (card, None, None)
    within = chosen.choose(layout.root, str(folder))
    assert within.setup.card == card.card
    assert within.setup.batch_size == 8


def test_a_policy_of_clicks_is_asked_in_one_spelling_and_its_card_says_so(tmp_path):
    clicks, tables = (setup.of_project(tiny_params(prepare_data={"source": source})) for source in ("clicks", "tables"))
    assert (clicks.folds, tables.folds) == (True, False)
    assert clicks.card == tables.card | {"folds": True}
    for asked in (clicks, tables):
        setup.write_card(tmp_path, asked)
        assert setup.of_card(tmp_path).card == asked.card


def test_what_cannot_be_chosen_is_one_line_with_a_remedy(layout, tmp_path):
    with pytest.raises(OspoError, match=r"has no ospo_rewrite.json, and there is no params.yaml.*ospo merge"):
        chosen.choose(tmp_path, str(layout.policy(0)))
    (tmp_path / "params.yaml").write_text(layout.params.read_text())
    with pytest.raises(OspoError, match="no policy"):
        chosen.choose(tmp_path, "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "x"}, "of another format"),
        ({"template": 3}, "template is no str"),
        ({"template": "no place"}, "is no template"),
        ({"composition": "prepend"}, "unknown composition"),
        ({"max_new_tokens": 0}, "out of range"),
        ({"max_new_tokens": True}, "is no int"),
        ({"seed": None}, "is no int"),
        ({"folds": 1}, "folds is no bool"),
    ],
)
def test_a_card_that_is_wrong_is_refused_by_its_field(tmp_path, change, message):
    card = setup.Setup("{query}", "replace", 7).card | change
    (tmp_path / setup.CARD).write_text(json.dumps(card))
    with pytest.raises(OspoError, match=message):
        setup.of_card(tmp_path)


def test_braces_of_a_hostile_card_are_plain_text(tmp_path):
    (tmp_path / setup.CARD).write_text(json.dumps(setup.Setup("{query.__class__} {query}", "replace", 7).card))
    assert user_message(setup.of_card(tmp_path).template, "coat", []) == "{query.__class__} coat"
