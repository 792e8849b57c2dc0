"""`ospo gate`: what it certifies holds on fresh queries, and `ospo rewrite` does as it says."""

import dataclasses
import json
import math
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from ospo_cli.errors import OspoError, PolicyError
from ospo_cli.graph.nodes import plan
from ospo_cli.graph.runner import execute
from ospo_cli.instruments import gate as instrument
from ospo_cli.instruments.gate import Answered, Wanted, curve, fit, in_words, outcome, passes
from ospo_cli.instruments.rewrite import command
from ospo_cli.instruments.rewrite.command import Request
from ospo_cli.layout import Layout
from ospo_cli.maths import seeding
from ospo_cli.params.retrieval import Retrieval
from ospo_cli.params.whole import Params
from ospo_cli.retrievers.opening import build
from ospo_cli.rewriting import gate as gates
from ospo_cli.rewriting.chosen import Chosen
from ospo_cli.rewriting.gate import POLICY_FEATURES, Gate, feature_names
from ospo_cli.rewriting.rewriter import Asked, Rewrite, Rewriter
from ospo_cli.rewriting.search_signs import SEARCH_FEATURES, search_features
from ospo_cli.rewriting.setup import GATE
from ospo_cli.sources.base import MORE_QUERIES
from ospo_cli.tables import files, parquet
from ospo_cli.tables.gate import GATE_CURVE
from ospo_cli.tables.prepared import PROMPTS
from tests.pipeline import miniature
from tests.policies.tiny import write_tiny_policy
from tests.rewriting.scripted import SETUP, ScriptedSampler, gate_of_words, scripted


def queries(draw, size, signal=1.0):
    """Return queries whose rewrites gain where the policy is confident and lose where it is not, as far as there is a signal."""
    confidence = draw.normal(size=size)
    features = np.column_stack(
        [confidence - 1, 3 * confidence - 4, draw.integers(1, 6, size), draw.integers(1, 9, size), draw.random(size), draw.random(size)]
    )
    raw = draw.uniform(0.3, 0.6, size)
    gain = 0.15 * (signal * confidence + np.sqrt(1 - signal**2) * draw.normal(size=size)) + 0.05
    return Answered(features, raw, np.clip(raw + gain, 0, 1), draw.random(size) < 0.95)


def test_the_bound_holds_on_fresh_queries_at_least_as_often_as_was_said():
    broken = certified = 0
    for seed in range(120):
        draw = np.random.default_rng(seed)
        made, _ = fit(queries(draw, 400, signal=0.5), Wanted("p", "", 0.04, 0.8), seed)
        fresh = queries(draw, 4000, signal=0.5)
        used = passes(fresh, made)
        certified += made.threshold is not None
        broken += bool(used.any()) and fresh.losses[used].mean() >= 0.04
    assert certified > 20
    assert broken <= 0.2 * 120


def at_the_bound(draw, size, bound):
    """Return queries of which one in so many loses all that it has, whatever is known of it: no share is below the bound."""
    loses = draw.random(size) < bound
    raw = np.where(loses, 1.0, draw.random(size) / 2)
    return Answered(draw.normal(size=(size, 6)), raw, np.where(loses, 0.0, raw + 0.2 * draw.random(size)), np.full(size, True))


def best_of(draw, policies, size, has_chosen):
    """Return the queries of the policy that gains most where `has_chosen`."""
    found = [at_the_bound(draw, size, 0.1) for _ in range(policies)]
    return dataclasses.replace(max(found, key=lambda each: each.gains[has_chosen].mean()), has_chosen=has_chosen)


def test_where_the_mean_loss_is_the_bound_a_certificate_is_no_more_frequent_than_its_error_also_for_the_best_of_many_policies():
    size = 120
    has_chosen = np.arange(size) < 0.6 * size
    found = [fit(best_of(np.random.default_rng(seed), 40, size, has_chosen), Wanted("p", "", 0.1, 0.9), seed)[1] for seed in range(200)]
    assert not any(facts["certified_on_choosing"] for facts in found)
    assert np.mean([bool(facts["certified"]) for facts in found]) < 0.1


@pytest.mark.parametrize(("chosen", "fitted", "chosen_held"), [(0, 60, 0), (30, 60, 0), (80, 80, 0), (100, 60, 40), (120, 60, 60)])
def test_queries_that_chose_the_policy_fit_the_gate_and_where_some_certify_it_is_said(chosen, fitted, chosen_held):
    dev = queries(np.random.default_rng(1), 130)
    dev = dataclasses.replace(dev, is_open=np.arange(130) < 120, has_chosen=np.arange(130) < chosen)
    made, facts = fit(dev, Wanted("p", "", 0.1, 0.9), 3)
    assert (facts["fitted_on"], facts["certified_on"], facts["certified_on_choosing"]) == (fitted, 120 - fitted, chosen_held)
    said = in_words(dataclasses.replace(made, facts=facts | outcome(dev, made, 3)))
    assert any(line.startswith(f"{chosen_held} of these queries also chose") for line in said) == (chosen_held > 0)


@pytest.mark.parametrize(("loses", "is_certified"), [("fitted", True), ("certified", False)])
def test_what_certifies_is_the_half_that_was_not_fitted(loses, is_certified):
    dev = queries(np.random.default_rng(0), 400)
    rows = seeding.generator(7, "gate").permutation(np.flatnonzero(dev.is_open))
    halves = {"fitted": rows[: len(rows) // 2], "certified": rows[len(rows) // 2 :]}
    rewritten = dev.raw + 0.1
    rewritten[halves[loses]] = 0.0
    made, _ = fit(dataclasses.replace(dev, rewritten=rewritten), Wanted("p", "", 0.1, 0.9), 7)
    assert (made.threshold is not None) == is_certified


def test_a_gate_keeps_the_gain_and_halves_the_harm_where_confidence_tells():
    draw = np.random.default_rng(0)
    made, facts = fit(queries(draw, 1600), Wanted("p", "", 0.01, 0.8), 0)
    test = queries(draw, 2000)
    found = outcome(test, made, 0)
    assert 0.2 < facts["chosen_share"] < 0.95
    assert found["gated"]["worse"] < found["all"]["worse"] / 2
    assert found["gated"]["gain"] > found["all"]["gain"]
    assert found["gated"]["low"] > 0


def test_without_a_signal_and_with_harm_nothing_is_certified_and_the_raw_query_stays():
    draw = np.random.default_rng(0)
    made, facts = fit(queries(draw, 300, signal=0.0), Wanted("p", "", 0.01, 0.95), 0)
    assert made.threshold is None
    assert not passes(queries(draw, 100), made).any()
    assert outcome(queries(draw, 100), made, 0)["gated"]["gain"] == 0.0
    lines = in_words(Gate(**{**vars(made), "facts": facts | outcome(queries(draw, 100), made, 0)}))
    assert lines[0].startswith("nothing is certified")


@pytest.mark.parametrize(("cut", "is_near"), [(0.54, True), (0.56, False)])
def test_where_a_share_would_pass_alone_but_stands_behind_one_that_fails_what_is_named_is_not_what_is_there(cut, is_near):
    # The half that fits never loses, so that all queries are tested first; in the other half whatever scores below the cut loses all.
    place, has_chosen = np.concatenate([np.linspace(0, 1, 200)] * 2), np.arange(400) < 200
    features = np.column_stack([place, *np.zeros((5, 400))])
    rewritten = np.where(has_chosen, 0.9 + 0.05 * place, np.where(place > cut, 0.95, 0.0))
    dev = Answered(features, np.full(400, 0.9), rewritten, np.full(400, True), has_chosen)
    made, facts = fit(dev, Wanted("p", "", 0.1, 0.9), 0)
    assert not facts["certified"]
    assert 0 < max(facts["pass_alone"]) < 0.5
    assert (facts["nearest"] is not None) == is_near
    assert not is_near or facts["nearest"]["dev_queries"] > 400
    said = in_words(dataclasses.replace(made, facts=facts | outcome(dev, made, 0)))[1]
    assert "one that is picked by its own test certifies nothing" in said


def test_what_would_certify_is_said_in_dev_queries_and_does_certify():
    draw = np.random.default_rng(2)
    dev = dataclasses.replace(queries(draw, 60), is_open=np.full(60, True))
    dev = dataclasses.replace(dev, rewritten=np.where(np.arange(60) % 9 == 0, dev.raw - 0.2, dev.raw + 0.1))
    wanted = Wanted("p", "", 0.05, 0.9)
    made, facts = fit(dev, wanted, 0)
    nearest = facts["nearest"]
    assert not facts["certified"]
    assert 60 < nearest["dev_queries"] < 2000
    assert nearest["queries"] <= facts["certified_on"] == 30
    said = in_words(dataclasses.replace(made, facts=facts | outcome(dev, made, 0)))[1]
    assert f"{nearest['queries']} queries with a mean loss of {nearest['loss']:.3f}" in said
    assert f"about {nearest['dev_queries']:,} dev queries are needed (60 now)" in said
    times = math.ceil(nearest["dev_queries"] / 60)
    longer = {name: np.concatenate([getattr(dev, name)] * times) for name in ("features", "raw", "rewritten", "is_open")}
    assert fit(Answered(**longer), wanted, 0)[1]["certified"]
    harmed = dataclasses.replace(dev, rewritten=dev.raw - 0.2)
    made, facts = fit(harmed, wanted, 0)
    assert facts["nearest"] is None
    assert (
        "more dev queries that lose as these do would certify nothing"
        in in_words(dataclasses.replace(made, facts=facts | outcome(dev, made, 0)))[1]
    )


def test_the_curve_ends_at_all_rewrites_and_marks_the_gate():
    draw = np.random.default_rng(3)
    made, _ = fit(queries(draw, 600), Wanted("p", "", 0.03, 0.9), 0)
    test = queries(draw, 300)
    table = curve(test, made, "004", 0)
    parquet.check(table, GATE_CURVE, where="curve")
    last = table.row(-1, named=True)
    assert last["gain"] == pytest.approx(np.where(test.is_open, test.gains, 0).mean())
    assert table.row(0, named=True)["gain"] == 0.0
    (chosen,) = table.filter(pl.col("is_chosen")).iter_rows(named=True)
    assert chosen["gain"] == pytest.approx(outcome(test, made, 0)["gated"]["gain"])
    assert len(instrument.curve_lines(table)) == table.height + 3


def made_for(policy, threshold, retriever=""):
    """Return a gate that looks at the query's number of words alone."""
    return gate_of_words(policy.content_hash, threshold, retriever)


def test_a_rewriter_uses_what_passes_and_says_why_not_otherwise(tiny_policy):
    rewriter = scripted(tiny_policy)
    asked = [Asked("navy coat"), Asked("coat"), Asked("")]
    before = rewriter.identity
    rewriter.gate = made_for(tiny_policy, 2.0)
    found = rewriter.rewrite(asked)
    assert [one.why for one in found] == ["rewritten", "not trusted by the gate", "empty"]
    assert [one.engine_query for one in found] == ["wool coat", "coat", ""]
    assert found[1].rewrite == "wool coat"
    assert rewriter.identity != before
    rewriter.gate = made_for(tiny_policy, None)
    assert {one.why for one in rewriter.rewrite(asked[:2])} == {"not trusted by the gate"}


def test_a_gate_is_found_beside_its_weights_and_refused_for_others(tiny_policy, tmp_path):
    gates.write(tmp_path / GATE, made_for(tiny_policy, 2.0))
    chosen = Chosen(tmp_path, SETUP, "", None, None)
    found = gates.read(chosen.gate_path, tiny_policy.content_hash)
    assert found == made_for(tiny_policy, 2.0)
    assert gates.read(tmp_path / "none.json", tiny_policy.content_hash) is None
    with pytest.raises(PolicyError, match="is another policy's gate"):
        gates.read(tmp_path / GATE, "another")
    for change in (
        {"weights": [1.0]},
        {"threshold": "x"},
        {"format": "ospo-gate 0"},
        {"bound": None},
        {"features": ["x"]},
        {"weights": [math.nan] * 27},
        {"scale": [0.0] * 6},
        {"retriever": "bm25"},
        {"facts": 3},
    ):
        content = json.loads((tmp_path / GATE).read_text()) | change
        (tmp_path / "broken.json").write_text(json.dumps(content))
        with pytest.raises(PolicyError, match=r"another format|not what it should be"):
            gates.read(tmp_path / "broken.json", tiny_policy.content_hash)


def test_a_gate_looks_at_confidence_lengths_and_what_stays(tiny_policy):
    known = gates.policy_features("navy coat", "wool coat", -0.5, 0.3)
    assert known == [-0.5, math.log(0.3), 2.0, 2.0, 0.5, 0.5]
    assert made_for(tiny_policy, 1.0).scores(np.array([known])).tolist() == [2.0]


def test_a_product_of_two_features_is_weighed_and_far_ones_are_held():
    known = gates.expanded(np.array([[3.0, 8.0], [1.0, 1e9]]), np.array([1.0, 2.0]), np.array([2.0, 3.0]))
    assert known.tolist() == [[1.0, 2.0, 1.0, 2.0, 4.0], [0.0, 3.0, 0.0, 0.0, 9.0]]


def test_few_queries_and_a_folder_without_a_project_are_one_line(tiny_policy, tmp_path, monkeypatch):
    monkeypatch.setattr(instrument, "choose", lambda project, policy: Chosen(tmp_path, SETUP, "", None, None))
    with pytest.raises(OspoError, match="has no project"):
        instrument.execute(tmp_path, "", 0.05, 0.9)


@pytest.mark.parametrize(("card", "remedy"), [({MORE_QUERIES: "set that"}, "set that"), ({MORE_QUERIES: ""}, "judge more"), ({}, "judge")])
def test_a_refusal_of_few_queries_says_what_prepare_data_found_to_do(tmp_path, monkeypatch, card, remedy):
    layout = Layout(tmp_path)
    layout.prepared("card.json").parent.mkdir(parents=True)
    files.write_json(layout.prepared("card.json"), card)
    few = instrument.Answered(np.zeros((31, 1)), np.zeros(31), np.zeros(31), np.arange(31) > 0)
    monkeypatch.setattr(instrument, "choose", lambda project, policy: Chosen(tmp_path, SETUP, "", layout, Params()))
    monkeypatch.setattr(instrument.Rewriter, "opened", lambda chosen, with_gate: None)
    monkeypatch.setattr(instrument, "answered", lambda *arguments: few)
    message = rf"too few dev queries with a rewrite: found 30 of 31, expected at least 40; {remedy}"
    with pytest.raises(OspoError, match=message):
        instrument.execute(tmp_path, "", 0.05, 0.9, looks_at_lists=False)


@pytest.mark.parametrize("looks_at_lists", [True, False])
def test_a_policy_that_leaves_all_queries_as_typed_needs_no_gate(tmp_path, monkeypatch, looks_at_lists):
    ids = [f"{number:03d}" for number in range(90)]
    prompts = pl.DataFrame([(own, "dev", f"coat {own}", [], "") for own in ids], schema=PROMPTS.schema, orient="row")
    layout = Layout(tmp_path)
    parquet.write(prompts, layout.prepared("prompts.parquet"), PROMPTS)
    as_typed = [Rewrite(query, "", query, "malformed: empty", -0.1, 0.9) for query in prompts["query"]]
    rewriter = SimpleNamespace(rewrite_all=lambda asked: as_typed, engine=SimpleNamespace(name="bm25") if looks_at_lists else None)
    monkeypatch.setattr(instrument, "choose", lambda project, policy: Chosen(tmp_path, SETUP, "", layout, Params()))
    monkeypatch.setattr(instrument.Rewriter, "opened", lambda chosen, with_gate: rewriter)
    monkeypatch.setattr(Chosen, "engine", lambda own, name, command: rewriter.engine)
    monkeypatch.setattr(instrument, "open_reward", lambda *given, **named: SimpleNamespace(values=lambda ids, texts: np.zeros(len(texts))))
    message = r"too few dev queries with a rewrite: found 0 of 90, expected at least 40; most stay as typed"
    with pytest.raises(OspoError, match=message):
        instrument.execute(tmp_path, "", 0.05, 0.9, looks_at_lists=looks_at_lists)


def test_result_lists_say_how_sure_they_are_and_how_far_they_agree():
    texts = ["navy wool coat", "navy coat", "wool scarf", "red shoes"]
    documents = pl.DataFrame({"doc_id": list("abcd"), "title": texts})
    engine = build("bm25", documents, Retrieval(), None)
    found = dict(zip(SEARCH_FEATURES, search_features(engine, ["navy", "navy", "zzz"], ["navy", "red shoes", "red"]).T, strict=True))
    (scores,) = (ranking.scores for ranking in engine.rank(["navy"], [None], 10))
    assert found["query_top_score"].tolist() == [scores[0], scores[0], 0.0]
    assert found["query_second"][:2] == pytest.approx([scores[1] / scores[0]] * 2)
    assert found["query_tenth"].tolist() == [0.0] * 3
    assert found["overlap"].tolist() == [1.0, 0.0, 0.0]
    assert found["query_score_kept"] == pytest.approx([1.0, 0.0, 0.0])
    assert found["rewrite_score_kept"] == pytest.approx([1.0, 0.0, 0.0])
    assert found["rewrite_top_share"][[0, 2]] == pytest.approx([0.5, 1.0])


def test_what_each_query_keeps_of_the_others_list_is_its_own_score_of_it():
    documents = pl.DataFrame({"doc_id": list("abc"), "title": ["navy wool coat", "navy coat", "wool scarf"]})
    engine = build("bm25", documents, Retrieval(), None)
    found = dict(zip(SEARCH_FEATURES, search_features(engine, ["navy wool coat"], ["scarf wool"])[0], strict=True))
    query, rewrite = (
        dict(zip(each.documents.tolist(), each.scores, strict=True))
        for each in engine.rank(["navy wool coat", "scarf wool"], [None] * 2, 10)
    )
    assert (set(query), set(rewrite)) == ({0, 1, 2}, {0, 2})
    assert found["query_score_kept"] == pytest.approx((query[0] + query[2]) / sum(query.values()))
    assert found["rewrite_score_kept"] == pytest.approx(1.0)
    assert found["query_score_kept_first"] == pytest.approx(1.0)
    assert found["query_score_per_word"] == pytest.approx(query[0] / 3)
    assert found["overlap"] == pytest.approx(2 / 3)
    assert found["rewrite_second"] == pytest.approx(rewrite[0] / rewrite[2])


def test_a_share_that_passes_and_gains_nothing_opens_no_gate():
    draw = np.random.default_rng(0)
    dev = queries(draw, 600)
    made, facts = fit(dataclasses.replace(dev, rewritten=dev.raw - 0.01), Wanted("p", "", 0.05, 0.9), 0)
    assert facts["certified"][-1] == 1.0
    assert made.threshold is None
    assert in_words(dataclasses.replace(made, facts=facts | outcome(dev, made, 0)))[0].startswith("nothing gains")


def test_a_small_share_is_found_where_the_rest_harms():
    draw = np.random.default_rng(1)
    dev, test = (queries(draw, size) for size in (3000, 3000))
    worse = [dataclasses.replace(each, rewritten=np.clip(each.rewritten - 0.2, 0, 1)) for each in (dev, test)]
    made, facts = fit(worse[0], Wanted("p", "", 0.03, 0.9), 0)
    assert 0 < facts["chosen_share"] < 0.5
    assert outcome(worse[1], made, 0)["gated"]["low"] > 0 > outcome(worse[1], made, 0)["all"]["gain"]


def test_of_the_certified_shares_the_one_that_gains_most_is_taken_and_not_the_largest():
    dev = queries(np.random.default_rng(1), 800)
    dev = dataclasses.replace(dev, rewritten=np.clip(dev.rewritten - 0.1, 0, 1))
    made, facts = fit(dev, Wanted("p", "", 0.4, 0.9), 0)
    assert facts["certified"][-1] == 1.0 > facts["chosen_share"]
    assert facts["dev_gain"][round(20 * facts["chosen_share"]) - 1] == max(facts["dev_gain"])
    assert made.threshold is not None


def test_a_gate_that_looks_at_lists_needs_a_catalogue(tiny_policy, tmp_path):
    with pytest.raises(OspoError, match=r"needs the project's documents.*--without-search"):
        Chosen(tmp_path, SETUP, "", None, None).engine("bm25", "gate")
    assert len(made_for(tiny_policy, 2.0, "bm25").centre) == len(POLICY_FEATURES) + len(SEARCH_FEATURES) == len(feature_names("bm25"))


@pytest.mark.slow
def test_a_project_gets_its_gate_and_its_rewrites_obey(tmp_path, monkeypatch):
    (tmp_path / "queries.txt").write_text("i need slim kicks\nboots\n")
    layout = Layout(tmp_path / "shop")
    values = miniature.make(layout.root)
    execute(next(node for node in plan(values) if node.stage == "prepare-data"), layout, values)
    write_tiny_policy(layout.policy(0))

    def opened(chosen, with_gate=True):
        rewriter = real(chosen, with_gate)
        rewriter.sampler = ScriptedSampler({})
        return rewriter

    real = Rewriter.opened
    monkeypatch.setattr(Rewriter, "opened", opened)
    gates.write(layout.gates("000.json"), gate_of_words("the policy before", 0.0))
    with pytest.raises(PolicyError, match="run `ospo gate` again"):
        command.execute(layout.root, tmp_path / "queries.txt", Request(), tmp_path / "out.csv")
    made, table, path = instrument.execute(layout.root, "", 0.3, 0.6)
    assert path == layout.gates("000.json")
    assert made.facts["dev_queries"] == made.facts["test_queries"] == 256
    assert parquet.read(path.with_name("000_curve.parquet"), GATE_CURVE).equals(table.sort("share"))
    assert made.retriever == made.facts["retriever"] == "bm25"
    gates.write(path, dataclasses.replace(made, threshold=-1e9))
    assert command.execute(layout.root, tmp_path / "queries.txt", Request(), tmp_path / "out.csv")["why"] == {"rewritten": 2}
    gates.write(path, dataclasses.replace(made, threshold=None))
    counts = command.execute(layout.root, tmp_path / "queries.txt", Request(), tmp_path / "out.csv")
    assert counts["why"] == {"not trusted by the gate": 2}
