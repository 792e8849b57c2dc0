"""The audit tells a right estimator from a broken one, twice with equal bytes, and says what it cannot do."""

import dataclasses
import functools
import io
import json
import re

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from ospo_cli import presets
from ospo_cli.cli import app
from ospo_cli.errors import CreditError, MissingInputError, ParameterError
from ospo_cli.instruments.audit import estimators as audit
from ospo_cli.instruments.audit import games, measures, shards
from ospo_cli.layout import Layout
from ospo_cli.maths.estimators import ESTIMATORS
from ospo_cli.params.evaluate import Evaluate
from ospo_cli.params.score_coalitions import ScoreCoalitions
from ospo_cli.params.whole import Params
from ospo_cli.rewards.judged_reward import JudgedReward
from ospo_cli.stages import score_coalitions
from ospo_cli.tables import parquet
from ospo_cli.tables.attribute import ATTRIBUTIONS
from ospo_cli.tables.audit import AUDIT
from ospo_cli.tables.prepared import DOCUMENTS, POOLS, PROMPTS, QRELS
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.tables.score_coalitions import COALITION_VALUES, REWARDS
from ospo_cli.tables.segment import SEGMENTS
from ospo_cli.tables.unfinished import remove
from tests.stages.small_catalogue import frames, prepared, rollout, sampled_rows


def settings(**scoring):
    return dataclasses.replace(
        Params(),
        score_coalitions=dataclasses.replace(ScoreCoalitions(), **scoring),
        evaluate=dataclasses.replace(Evaluate(), bootstrap=200, retrievers=["bm25", "tfidf-char"]),
    )


def project(folder, rows=None, values=None):
    layout = Layout(folder)
    for table, frame in zip((DOCUMENTS, PROMPTS, QRELS, POOLS), prepared(), strict=True):
        parquet.write(frame, layout.prepared(f"{table.name}.parquet"), table)
    rollouts, segments = frames(*(sampled_rows() if rows is None else rows))
    parquet.write(rollouts, layout.iteration(1, "rollouts.parquet"), ROLLOUTS)
    parquet.write(segments, layout.iteration(1, "segments.parquet"), SEGMENTS)
    if rollouts.height:
        score_coalitions.execute(layout, values or settings(families=["powerset"]), 1)
    return layout


def reading(table, estimator, check, measure):
    row = table.filter((pl.col("estimator") == estimator) & (pl.col("check") == check) & (pl.col("measure") == measure))
    assert row.height == 1
    return row.row(0, named=True)


def flipped(masks, u, order, players):
    share, count, error = ESTIMATORS["shapley"].formula(masks, u, order, players)
    return -share, count, error


def last_takes_all(masks, u, order, players):
    share, count, error = ESTIMATORS["shapley"].formula(masks, u, order, players)
    total = share.sum(axis=-1, keepdims=True)
    return np.where(np.arange(players.n) == players.n - 1, total, 0.0), count, error


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    return project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def audited(layout):
    """Table and metrics with two broken estimators registered."""
    with pytest.MonkeyPatch.context() as patch:
        shapley = ESTIMATORS["shapley"]
        patch.setitem(ESTIMATORS, "flipped", dataclasses.replace(shapley, name="flipped", formula=flipped))
        patch.setitem(ESTIMATORS, "last", dataclasses.replace(shapley, name="last", formula=last_takes_all, sampling=""))
        return audit.execute(layout, settings(), 1)


def test_every_estimator_has_the_same_numbers(audited):
    table, _ = audited
    assert set(table["estimator"].unique()) == {*ESTIMATORS, "flipped", "last"}
    assert table.group_by("estimator").len()["len"].n_unique() == 1


@pytest.mark.parametrize("name", ["shapley", "owen"])
def test_exact_values_keep_what_they_promise(audited, name):
    table, _ = audited
    for check, measure in [("efficiency", "largest gap"), ("null player", "largest |share|"), ("symmetry", "largest difference")]:
        assert reading(table, name, check, measure)["value"] == pytest.approx(0, abs=1e-12)
        assert reading(table, name, check, measure)["n"] > 0


def test_a_flipped_sign_shows(audited):
    table, _ = audited
    assert reading(table, "shapley", "rank", "Spearman with exact Shapley")["value"] == pytest.approx(1)
    assert reading(table, "flipped", "rank", "Spearman with exact Shapley")["value"] == pytest.approx(-1)
    assert reading(table, "flipped", "efficiency", "largest gap")["value"] > 0.1
    assert reading(table, "flipped", "deletion", "minus random orders")["low"] > 0
    assert reading(table, "flipped", "insertion", "minus random orders")["high"] < 0
    exact, broken = (reading(table, name, "calibration", "coverage")["value"] for name in ("shapley", "flipped"))
    assert broken < exact - 0.2


def test_credit_for_the_place_shows(audited):
    table, _ = audited
    assert reading(table, "last", "position", "slope")["low"] > 0
    assert reading(table, "last", "position", "spread")["low"] > 0
    assert reading(table, "last", "null player", "largest |share|")["value"] > 0.1
    assert reading(table, "shapley", "position", "spread")["value"] == pytest.approx(0, abs=1e-12)
    assert reading(table, "shapley", "position", "slope")["value"] == pytest.approx(0, abs=1e-12)


def test_equal_parts_are_chance_in_the_filler_check(audited):
    table, _ = audited
    found = reading(table, "uniform", "filler", "AUC")
    assert (found["value"], found["low"], found["high"]) == (0.5, 0.5, 0.5)
    said_nothing, exact = (reading(table, name, "rank", "Spearman with exact Shapley") for name in ("uniform", "shapley"))
    assert said_nothing["value"] == 0
    assert said_nothing["n"] == exact["n"]


def test_the_audited_games_are_those_of_coalition_values(layout):
    values = settings(length_weight=0.3, length_limit=2, repetition_weight=0.05, empty_value="query", families=["powerset"])
    made = project(layout.root.parent / "weighted", values=values)
    known = parquet.read(made.iteration(1, "coalition_values.parquet"), COALITION_VALUES)
    tables = [parquet.read(made.prepared(f"{table.name}.parquet"), table) for table in (DOCUMENTS, PROMPTS, QRELS, POOLS)]
    rollouts, segments = frames(*sampled_rows())
    rewards = parquet.read(made.iteration(1, "rewards.parquet"), REWARDS)
    drawn, _ = audit._drawn(rollouts, segments, rewards, 100, 0, 1)
    auditor = games.Auditor(JudgedReward(tables, values), {}, games.Vocabulary(tables[0], ["title"]), values.score_coalitions, 0)
    compared = 0
    for row in drawn:
        own = known.filter(pl.col("rollout_id") == row["rollout_id"])
        masks = np.array([[bit == "1" for bit in mask] for mask in own["coalition"]])
        assert auditor.case(row).base.value(masks) == pytest.approx(own["coalition_value"].to_numpy(), abs=1e-12)
        compared += own.height
    assert compared > 100


def test_a_judged_word_and_one_of_none_stand_where_the_case_says_and_controls_are_taken_off_their_own_curve(layout):
    rollouts, segments = frames(*sampled_rows())
    drawn, _ = audit._drawn(rollouts, segments, parquet.read(layout.iteration(1, "rewards.parquet"), REWARDS), 100, 0, 1)
    auditor = audit._auditor(layout, settings())
    cases = [(auditor.case(row), auditor.vocabulary.judged(auditor.reward.judged(row["prompt_id"])[0])) for row in drawn]
    orders = set()
    for case, judged in cases:
        helpful, filler = (case.injected.text[slice(*case.injected.spans[place])] for place in (case.helpful, case.filler))
        assert helpful in judged
        assert filler not in judged
        orders.add(case.helpful < case.filler)
        found = auditor.measured(ESTIMATORS["alone"], case)
        assert found["deletion"] - found["deletion control"] == pytest.approx(case.control_deletion)
        assert found["insertion"] - found["insertion control"] == pytest.approx(case.control_insertion)
    assert orders == {True, False}
    assert any(case.control_deletion != case.control_insertion for case, _ in cases)


def test_largest_values_have_no_interval_and_undefined_ones_do_not_count():
    found = {"shapley": [{"gap": 1.0}, {"gap": 3.0}, {"gap": float("nan")}, {}]}
    table = measures.audit_table(found, measures.measures_of([])[:2], 0, 100)
    assert table.select("measure", "value", "n").rows() == [("mean gap", 2.0, 2), ("largest gap", 3.0, 2)]
    assert table["low"].to_list() == [pytest.approx(2 - 12.7062), None]  # Student's t of two values


def test_two_runs_write_equal_bytes(layout):
    chosen = ["shapley", "random"]
    audit.execute(layout, settings(), 1, 6, chosen)
    first = layout.iteration(1, "audit.parquet").read_bytes()
    remove(layout.cache)
    audit.execute(layout, settings(), 1, 6, chosen)
    assert layout.iteration(1, "audit.parquet").read_bytes() == first


def test_an_audit_that_was_ended_goes_on_with_what_is_finished(layout, tmp_path, monkeypatch):
    table, metrics = audit.execute(layout, settings(), 1, 20, ["myerson", "random"], 3)
    curves = layout.iteration(1, "audit_curves.parquet").read_bytes()
    other, case, cases = project(tmp_path), games.Auditor.case, []

    def counted(self, rollout, ends_at=None):
        if len(cases) == ends_at:
            raise KeyboardInterrupt
        cases.append(rollout["rollout_id"])
        return case(self, rollout)

    monkeypatch.setattr(games.Auditor, "case", functools.partialmethod(counted, ends_at=11))
    with pytest.raises(KeyboardInterrupt):
        audit.execute(other, settings(), 1, 20, ["myerson", "random"], 3)
    assert not other.iteration(1, "audit.parquet").exists()
    monkeypatch.setattr(games.Auditor, "case", counted)
    del cases[:]
    resumed, found = audit.execute(other, settings(), 1, 20, ["myerson", "random"], 3)
    assert len(cases) == 10  # five shards of two are there
    assert resumed.equals(table)
    assert other.iteration(1, "audit_curves.parquet").read_bytes() == curves
    assert (found["examples"], found["evaluated_texts"]) == (metrics["examples"], metrics["evaluated_texts"])
    assert 0 < found["reused_values"] < found["asked_values"] == metrics["asked_values"]


@pytest.mark.parametrize(
    "changed",
    [
        {"score_coalitions": {"length_weight": 0.5}},
        {"score_coalitions": {"retriever": "tfidf-char"}},
        {"retrieval": {"folding": "turkish"}},
        {"evaluate": {"retrievers": ["bm25"]}},
        {"train": {"seed": 1}},
    ],
)
def test_what_an_audit_depends_on_names_its_shards(layout, changed):
    params = settings()
    for section, fields in changed.items():
        params = dataclasses.replace(params, **{section: dataclasses.replace(getattr(params, section), **fields)})
    rollouts, segments = frames(*sampled_rows())
    drawn, _ = audit._drawn(rollouts, segments, parquet.read(layout.iteration(1, "rewards.parquet"), REWARDS), 8, 0, 1)
    methods = shards.Methods([ESTIMATORS["myerson"]], "", {})

    def name(own, methods):
        return next(shards._shards(audit._auditor(layout, own), drawn, methods)).key

    assert name(settings(), methods) == name(settings(), methods)
    assert name(params, methods) != name(settings(), methods)
    credited = shards.Methods(methods.estimators, "splice", {drawn[0]["rollout_id"]: np.ones(len(drawn[0]["start"]))})
    doubled = shards.Methods(methods.estimators, "splice", {name: 2 * credit for name, credit in credited.credit.items()})
    assert len({name(settings(), each) for each in (methods, credited, doubled)}) == 3


def test_what_other_estimators_are_chosen_changes_no_number(layout):
    alone, _ = audit.execute(layout, settings(), 1, 6, ["random"])
    both, _ = audit.execute(layout, settings(), 1, 6, ["myerson", "random"])
    assert both.filter(pl.col("estimator") == "random").equals(alone)


def test_the_grid_has_a_line_for_each_estimator_and_says_what_each_column_is(layout):
    table, metrics = audit.execute(layout, settings(), 1, 5, ["myerson", "alone"])
    stream = io.StringIO()
    measures.print_result(table, metrics, stream)
    lines = stream.getvalue().splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["estimator", "myerson", "alone"]
    columns = lines[1].split()[1:]
    assert [line.partition(":")[0] for line in lines[5:]] == columns
    stored = json.loads(layout.iteration(1, "audit_metrics.json").read_text())
    assert stored["audited"] == 5
    assert parquet.read(layout.iteration(1, "audit.parquet"), AUDIT).equals(table.sort(AUDIT.key))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_narrow_terminal_loses_no_column(layout, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    table, metrics = audit.execute(layout, settings(), 1, 5, ["myerson", "alone"])
    stream = Terminal()
    measures.print_result(table, metrics, stream)
    text = re.sub("\x1b\\[[0-9;]*m", "", stream.getvalue())
    headers = [word for line in text.splitlines() if line.split()[:1] == ["estimator"] for word in line.split()[1:]]
    assert headers == [measure.column for measure in measures.measures_of(["tfidf-char"]) if measure.column]
    assert "…" not in text


def test_the_command_prints_the_grid_and_names_the_file(layout):
    layout.params.write_text(presets.render(settings()), encoding="utf-8")
    done = CliRunner().invoke(app, ["audit", "-k", "1", "--rollouts", "3", "--estimators", "myerson, alone", "-p", str(layout.root)])
    assert done.exit_code == 0, done.output
    assert [line.split()[0] for line in done.stdout.splitlines()[2:4]] == ["myerson", "alone"]
    assert "audit.parquet" in done.output


def test_an_unknown_estimator_is_named_with_what_exists(layout):
    with pytest.raises(ParameterError, match=r"shaply.*expected contiguous-mean.*did you mean shapley"):
        audit.execute(layout, settings(), 1, 5, ["shaply"])


def test_missing_rollouts_name_the_command_that_makes_them(layout):
    with pytest.raises(MissingInputError, match="ospo rollout --iter 2"):
        audit.execute(layout, settings(), 2)


def test_no_rollouts_at_all_is_an_error(tmp_path):
    layout = project(tmp_path, rows=[])
    parquet.write(REWARDS.empty(), layout.iteration(1, "rewards.parquet"), REWARDS)
    with pytest.raises(CreditError, match="holds no rollout"):
        audit.execute(layout, settings(), 1)


def test_no_fit_rollout_is_an_error_that_counts_the_reasons(tmp_path):
    rows = [rollout("p0", 0, ["red"]), rollout("p0", 1, ["wool coat"]), rollout("p1", 0, ["red", "coat"])]
    with pytest.raises(CreditError, match="no rollout is fit for it: found 1 degenerate, 2 too few segments, 0 too many"):
        audit.execute(project(tmp_path, rows), settings(), 1)


def with_credit(folder, sign, values):
    """A project whose attributions credit each segment with its exact Shapley value times the sign."""
    layout = project(folder)
    _, metrics = audit.execute(layout, values, 1, estimators=["shapley"], examples=1000)
    rows = [
        (example["rollout_id"], index, share, sign * share, 0, None, "", 0.0)
        for example in metrics["examples"]
        for index, share in enumerate(example["shares"]["shapley"])
    ]
    parquet.write(pl.DataFrame(rows, schema=ATTRIBUTIONS.schema, orient="row"), layout.iteration(1, "attributions.parquet"), ATTRIBUTIONS)
    return layout


@pytest.mark.parametrize("sign", [1, -1])
def test_the_credit_of_a_group_game_is_measured_as_shares_are(tmp_path, monkeypatch, sign):
    values = settings(families=["powerset"])
    values = dataclasses.replace(values, attribute=dataclasses.replace(values.attribute, estimator="splice", rule="none"))
    # One method agrees with itself everywhere: every answer is an example here, and its shares are told.
    monkeypatch.setattr(audit, "combinations", lambda shares, _: [(share, share) for share in shares])
    monkeypatch.setattr(audit, "spearman", lambda *_: 1.0)
    layout = with_credit(tmp_path, sign, dataclasses.replace(values, attribute=settings().attribute))
    monkeypatch.undo()
    table, metrics = audit.execute(layout, values, 1, estimators=["shapley", "splice"], examples=3)
    checks = [("deletion", "area"), ("insertion", "minus random orders"), ("leave-one-out", "tfidf-char")]
    for check, measure in checks:
        own, shapley = (reading(table, name, check, measure)["value"] for name in ("splice", "shapley"))
        assert (own == pytest.approx(shapley)) == (sign == 1)
    assert reading(table, "splice", "rank", "Spearman with exact Shapley")["value"] == pytest.approx(sign)
    assert reading(table, "splice", "efficiency", "mean gap")["n"] == 0  # it has no game of coalitions
    assert [example["agreement"] for example in metrics["examples"]] == pytest.approx([sign] * len(metrics["examples"]))
    output = io.StringIO()
    measures.print_result(table, metrics, output)
    shown = output.getvalue()
    assert all(segment in shown for example in metrics["examples"] for segment in example["segments"])
    without, _ = audit.execute(layout, values, 1, estimators=["shapley"])
    assert "splice" not in without["estimator"].to_list()


def test_answers_are_shown_from_the_least_agreement_on(layout):
    _, metrics = audit.execute(layout, settings(families=["powerset"]), 1, estimators=["alone", "leave-one-out", "uniform"], examples=4)
    agreement = [example["agreement"] for example in metrics["examples"]]
    assert agreement == sorted(agreement)
    assert all(set(example["shares"]) == {"alone", "leave-one-out"} for example in metrics["examples"])
    for example in metrics["examples"]:
        first, second = example["shares"].values()
        assert example["agreement"] == pytest.approx(measures_of_rank(first, second))


def measures_of_rank(first, second):
    """Spearman's correlation as the correlation of mean ranks, by numpy."""
    ranks = [[np.mean([place for place, other in enumerate(sorted(own), 1) if abs(other - value) < 1e-12]) for value in own]
             for own in (first, second)]  # fmt: skip
    return np.corrcoef(*ranks)[0, 1]
