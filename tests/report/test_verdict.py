"""The verdict against the raw query: what is chosen, what is said, and the file of wins and losses."""

import csv
import dataclasses
import io
import json

import polars as pl
import pytest

from ospo_cli import presets
from ospo_cli.errors import FileError, MissingInputError
from ospo_cli.graph.nodes import node
from ospo_cli.params.declared import Declared
from ospo_cli.report import verdict, verdict_text
from ospo_cli.report.evaluation_summary import OWN_BEST, read_summary, summarise
from ospo_cli.report.result_table import print_result
from ospo_cli.tables import parquet
from ospo_cli.tables.evaluate import COMPLETIONS, QUERY_METRICS
from ospo_cli.tables.prepared import PROMPTS
from tests.report import small_project

VALUES = {
    ("raw-query", "none"): 0.5,
    ("policy-000", "greedy"): 0.4,
    ("policy-000", "sampled"): 0.3,
    ("policy-001", "greedy"): 0.6,
    ("policy-001", "sampled"): 0.55,
    ("policy-001", "sampled-0.5"): 0.7,
}


def choice_values(changes=None):
    """Return values on three prompts whose mean is as said."""
    rows = [
        (system, decoding, f"p{place}", mean + shift)
        for (system, decoding), mean in (VALUES | (changes or {})).items()
        for place, shift in enumerate((-0.1, 0.0, 0.1))
    ]
    return pl.DataFrame(rows, schema=["system", "decoding", "prompt_id", "value"], orient="row")


def test_each_policy_is_taken_at_its_own_best_decoding_and_the_raw_query_is_a_candidate():
    found = verdict.choice(choice_values(), "dev")
    assert found["decodings"] == {"policy-000": "greedy", "policy-001": "sampled-0.5"}
    assert (found["best"], found["best_policy"], found["prompts"]) == ("policy-001", "policy-001", 3)
    assert found["values"]["policy-001"]["sampled-0.5"] == pytest.approx(0.7)
    better_raw = verdict.choice(choice_values({("raw-query", "none"): 0.8}), "dev")
    assert (better_raw["best"], better_raw["best_policy"]) == ("raw-query", "policy-001")


def test_what_is_chosen_is_what_is_served_however_good_its_samples_are():
    found = verdict.choice(choice_values({("policy-000", "greedy"): 0.62, ("raw-query", "none"): 0.65}), "dev")
    assert found["decodings"]["policy-001"] == "sampled-0.5"
    assert (found["best"], found["best_policy"]) == ("raw-query", "policy-000")


def test_a_policy_that_leaves_each_query_as_it_is_changes_nothing_and_no_power_is_claimed():
    none = {"count": 0, "share": 0.0, "mean": 0.0}
    difference = {"mean": 0.0, "low": 0.0, "high": 0.0, "p_value": 1.0, "detectable": 0.0}
    found = {
        "prompts": 9, "value": 0.7, "raw": 0.7, "answer": "not shown", "better": none, "worse": none, "equal": 9, "difference": difference,
        "system": "policy-001", "decoding": "greedy", "other_retrievers": {},
    }  # fmt: skip
    summary = {"against_raw_query": found, "metric": "ndcg@10", "choice": verdict.choice(choice_values(), "dev"), "retrievers": ["bm25"]}
    assert verdict_text.claim(summary).startswith("Rewriting changes nothing: each query finds as much as it does as typed, nDCG@10 0.700")
    assert "four times in five" not in " ".join(verdict_text.sentences(summary))
    one = {"count": 1, "share": 1 / 9, "mean": 0.2}
    summary["against_raw_query"] = found | {"better": one, "equal": 8, "difference": difference | {"detectable": 0.05}}
    assert verdict_text.claim(summary).startswith("Not shown to help")
    assert "a true difference of 0.050 would be shown four times in five" in " ".join(verdict_text.sentences(summary))


def test_of_equal_means_the_raw_query_and_greedy_answers_are_taken():
    rows = [(system, decoding, "p", 0.5) for system, decoding in reversed(VALUES)]
    found = verdict.choice(pl.DataFrame(rows, schema=["system", "decoding", "prompt_id", "value"], orient="row"), "dev")
    assert (found["best"], found["best_policy"]) == ("raw-query", "policy-000")
    assert set(found["decodings"].values()) == {"greedy"}


@pytest.mark.parametrize(
    ("low", "high", "p_value", "expected"),
    [
        (0.1, 0.3, 0.01, "better"),
        (-0.3, -0.1, 0.05, "worse"),
        (-0.1, 0.3, 0.01, "not shown"),
        (0.0, 0.0, 0.01, "not shown"),
        (0.1, 0.3, 0.06, "not shown"),
        (-0.3, -0.1, 0.5, "not shown"),
    ],
)
def test_better_and_worse_need_an_interval_without_zero_and_a_small_p(low, high, p_value, expected):
    assert verdict.answer({"low": low, "high": high, "p_value": p_value}) == expected


def test_without_a_choice_the_reason_is_told():
    nothing = verdict.choice(choice_values().clear(), "dev", "there are no dev prompts")
    assert nothing == {"split": "dev", "prompts": 0, "reason": "there are no dev prompts"}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    layout, values = small_project.write_project(tmp_path_factory.mktemp("verdict"), iterations=2, prompts=30)
    return layout, values, read_summary(layout)


def judged(project, shift):
    """Return summary and rows where every value of the last policy is that of the raw query plus `shift`, and the choice was its greedy answers."""
    layout, values, summary = project
    metrics = parquet.read(layout.evaluation("query_metrics.parquet"), QUERY_METRICS)
    keys = ["prompt_id", "retriever", "metric"]
    raw = metrics.filter(pl.col("system") == "raw-query").select(*keys, raw="metric_value").sort(keys)
    # One query in five moves the other way, half as far.
    way = pl.when(pl.col("prompt_id").hash(1) % 5 == 0).then(-0.5).otherwise(1.0)
    is_last = (pl.col("system") == "policy-002") & (pl.col("decoding") == "greedy")
    moved = metrics.join(raw, on=keys).with_columns(
        metric_value=pl.when(is_last).then(pl.col("raw") + shift * way).otherwise("metric_value")
    )
    moved = moved.select(list(QUERY_METRICS.schema))
    prompts = parquet.read(layout.prepared("prompts.parquet"), PROMPTS).filter(pl.col("split") == "test")
    completions = parquet.read(layout.evaluation("completions.parquet"), COMPLETIONS)
    chosen = verdict.choice(choice_values({("policy-002", "greedy"): 0.9}), "dev")
    found, rows = verdict.verdict(moved, completions, prompts, chosen, values)
    return summary | {"against_raw_query": found, "choice": chosen}, rows


def test_a_policy_below_the_raw_query_is_called_so_first_of_all(project):
    summary, _ = judged(project, -0.2)
    stream = io.StringIO()
    print_result(summary, stream)
    first, second, *_ = stream.getvalue().splitlines()
    assert first.startswith("Do not switch this on: rewritten queries find less than the queries as typed")
    found = summary["against_raw_query"]
    assert f"{found['worse']['count']} got worse" in second
    assert found["difference"]["high"] < 0


def test_who_gains_and_who_loses_add_up_to_the_mean_difference(project):
    found, rows = judged(project, 0.2)
    found = found["against_raw_query"]
    assert found["answer"] == "better"
    assert found["better"]["count"] + found["worse"]["count"] + found["equal"] == found["prompts"] == rows.height
    assert found["worse"]["share"] == pytest.approx(found["worse"]["count"] / rows.height)
    total = sum(found[name]["count"] * found[name]["mean"] for name in ("better", "worse"))
    assert total / rows.height == pytest.approx(found["difference"]["mean"]) == pytest.approx(found["value"] - found["raw"])
    assert found["worse"]["count"] > 0 > found["worse"]["mean"]


def test_the_worst_losses_come_first_with_what_was_typed_and_what_was_searched(project):
    summary, rows = judged(project, 0.2)
    losses = summary["against_raw_query"]["worst_losses"]
    assert [row["difference"] for row in losses] == sorted(row["difference"] for row in losses)
    assert losses[0]["difference"] == pytest.approx(rows["difference"].to_numpy().min())
    assert all(row["difference"] < 0 for row in losses)
    assert "something warm" in losses[0]["query"]
    assert "policy-002" in losses[0]["rewrite"]


def test_a_policy_of_no_effect_loses_nothing_and_shows_nothing(project):
    found = judged(project, 0.0)[0]["against_raw_query"]
    assert (found["answer"], found["equal"], found["worst_losses"]) == ("not shown", found["prompts"], [])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "the best is iteration 2, greedy (0.900; queries as typed 0.500)"),
        ({("raw-query", "none"): 0.95}, "nothing beats the queries as typed (0.950)"),
    ],
)
def test_what_was_chosen_is_told_with_the_raw_query_among_the_candidates(project, changes, said):
    summary = judged(project, 0.2)[0] | {"choice": verdict.choice(choice_values({("policy-002", "greedy"): 0.9} | changes), "dev")}
    assert said in " ".join(verdict_text.sentences(summary))


def test_the_other_search_engines_have_a_verdict_of_their_own(project):
    found = judged(project, -0.2)[0]
    assert {name: each["answer"] for name, each in found["against_raw_query"]["other_retrievers"].items()} == {"tfidf-char": "worse"}
    assert "tfidf-char worse" in verdict_text.sentences(found)[-1]


def test_summary_json_begins_with_the_verdict(project):
    layout, _, _ = project
    text = layout.evaluation("summary.json").read_text(encoding="utf-8")
    assert next(iter(json.loads(text))) == "against_raw_query"


def test_a_summary_of_an_earlier_version_and_a_missing_one_are_named(tmp_path):
    layout, _ = small_project.write_project(tmp_path, iterations=1)
    path = layout.evaluation("summary.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["against_raw_query"]
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(FileError, match=r"is of an earlier version.*run `ospo evaluate` again"):
        read_summary(layout)
    path.unlink()
    with pytest.raises(MissingInputError, match="run `ospo evaluate` first"):
        read_summary(layout)


def test_gaps_between_policies_at_their_own_best_come_first_and_all_are_adjusted_together(project):
    layout, values, _ = project
    frame = parquet.read(layout.evaluation("query_metrics.parquet"), QUERY_METRICS)
    gaps = summarise(frame, values, {"policy-000": "sampled", "policy-002": "greedy"})["gaps"]
    assert [gap["decoding"] for gap in gaps] == [OWN_BEST] * 4 + ["greedy"] * 4 + ["sampled"] * 4
    cells = {
        key: rows.sort("prompt_id")["metric_value"].to_numpy().mean()
        for key, rows in frame.filter(pl.col("retriever") == "bm25", pl.col("metric") == "ndcg@10").group_by("system", "decoding")
    }
    assert gaps[1]["mean"] == pytest.approx(cells["policy-002", "greedy"] - cells["policy-000", "sampled"])
    assert all(gap["p_value"] <= gap["p_holm"] <= 1 for gap in gaps)
    assert min(gap["p_holm"] for gap in gaps) >= 12 * min(gap["p_value"] for gap in gaps)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_text_that_a_spreadsheet_would_compute_gets_a_quote_and_numbers_do_not(start):
    rows = pl.DataFrame(
        {"prompt_id": ["a", "b"], "query": [f"{start}1+1", 'plain, "quoted"\nline'], "rewrite": ["x", f"{start}HYPERLINK(1)"]}
        | {"raw": [0.5, 0.5], "value": [0.25, 0.5], "difference": [-0.25, 0.0]}
    )
    read = list(csv.DictReader(io.StringIO(verdict.as_csv(rows), newline="")))
    assert read[0]["query"] == f"'{start}1+1"
    assert read[1]["rewrite"] == f"'{start}HYPERLINK(1)"
    assert read[1]["query"] == 'plain, "quoted"\nline'
    assert [(row["outcome"], row["difference"]) for row in read] == [("worse", "-0.250000"), ("equal", "0.000000")]


@pytest.mark.parametrize(("warm", "is_said"), [(0.3, True), (0.38, False), (0.5, False)])
def test_a_warm_start_that_loses_where_the_policy_was_chosen_is_named(project, warm, is_said):
    _, _, summary = project
    chosen = verdict.choice(choice_values(), "dev")
    chosen["values"] |= {"raw-query": {"none": 0.4}, "policy-000": {"greedy": warm}}
    said = " ".join(verdict_text.sentences(summary | {"choice": chosen}))
    assert ("The warm start already loses 0.100 against" in said) == is_said
    assert ("The warm start" in said) == is_said


def test_the_verdict_says_what_serves_what_it_judges_and_what_it_does_not_judge(project):
    _, _, summary = project
    chosen = verdict.choice(choice_values(), "dev")

    def said(system):
        return " ".join(
            verdict_text.sentences(summary | {"choice": chosen, "against_raw_query": summary["against_raw_query"] | {"system": system}})
        )

    assert "is what `ospo rewrite`, `ospo gate` and `ospo serve` take" in said("policy-001")
    assert "better sampled at 0.5 (0.700), which is not judged here" in said("policy-001")
    assert "not judged here" not in said("policy-000")


def test_other_retrievers_stand_in_the_order_of_the_parameters(project):
    _, _, summary = project
    other = summary["against_raw_query"]["other_retrievers"]["tfidf-char"]
    found = {"against_raw_query": summary["against_raw_query"] | {"other_retrievers": {"lsa": other, "tfidf-char": other}}}
    (line,) = [
        line for line in verdict_text.sentences(summary | found | {"retrievers": ["bm25", "tfidf-char", "lsa"]}) if "no reward" in line
    ]
    assert line.index("tfidf-char") < line.index("lsa")


def test_guessed_judgments_are_named_beside_the_verdict(project):
    _, _, summary = project
    said = "Part of the judgments are guesses"
    assert said not in " ".join(verdict_text.sentences(summary))
    assert said in " ".join(verdict_text.sentences(summary | {"has_guessed_judgments": True}))


@pytest.mark.parametrize(
    ("preset", "changes", "expected"),
    [("clicks", {}, True), ("clicks", {"unshown": "irrelevant"}, False), ("demo", {"unshown": "shared-words"}, False)],
)
def test_judgments_of_a_click_log_may_be_guesses_and_an_evaluation_depends_on_it(preset, changes, expected):
    params = presets.load(preset)
    clicks = dataclasses.replace(params.prepare_data.clicks, **changes)
    params = dataclasses.replace(params, prepare_data=dataclasses.replace(params.prepare_data, clicks=clicks))
    assert params.prepare_data.has_guesses is expected
    wanted = node("evaluate", None, params)
    assert Declared(params, wanted.sections, "ospo evaluate").prepare_data.has_guesses is expected
