"""The page: self-contained, equal bytes for equal data, hostile text without effect, numbers that agree with the tables."""

import json
import re

import numpy as np
import polars as pl
import pytest

from ospo_cli.report.page import render
from ospo_cli.stages.report import report
from ospo_cli.tables import parquet
from ospo_cli.tables.attribute import ATTRIBUTIONS
from ospo_cli.tables.evaluate import QUERY_METRICS
from ospo_cli.tables.rollout import ROLLOUTS
from tests.report import small_project
from tests.report.reader import Reader

HOSTILE = '</script><img src=x onerror="alert(1)"><b>\u202e\x1b]0;x\x07&amp;\u2028{{7*7}}'


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory):
    """Data and page of an ordinary project."""
    layout, values = small_project.write_project(tmp_path_factory.mktemp("ordinary"), iterations=3)
    data = report(layout, values)
    return layout, data, render(data)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Page of a project whose every text tries to break out."""
    layout, values = small_project.write_project(tmp_path_factory.mktemp("hostile"), iterations=2, hostile=HOSTILE)
    return render(report(layout, values) | {"title": HOSTILE})


def test_hostile_text_is_shown_as_text(hostile):
    reader = Reader(hostile)
    assert '</script><img src=x onerror="alert(1)"><b>' in reader.text
    assert "⟨U+202E⟩⟨U+001B⟩]0;x⟨U+0007⟩&amp;⟨U+2028⟩" in reader.text
    assert not set("\u202e\x1b\x07\u2028") & set(hostile)


def test_the_data_block_survives_hostile_text(hostile):
    content = json.loads(Reader(hostile).scripts[0])
    assert content["groups"][0]["query"].endswith("{{7*7}}")
    assert "</script>" in content["groups"][0]["query"]


def test_there_is_no_address_in_the_page(ordinary):
    assert (
        re.findall(r"(?:https?:)?//[a-z0-9.]+\.[a-z]{2,}|url\(|@import|fetch\(|XMLHttpRequest|innerHTML|document\.write", ordinary[2]) == []
    )


def test_equal_data_gives_equal_bytes(ordinary, tmp_path):
    layout, values = small_project.write_project(tmp_path, iterations=3)
    assert render(report(layout, values)) == ordinary[2]


def test_a_field_of_100_kilobytes_is_cut_with_a_mark(tmp_path):
    layout, values = small_project.write_project(tmp_path, iterations=1, hostile="y" * 100_000, prompts=6)
    page = render(report(layout, values))
    assert "characters in all]" in page
    assert max(map(len, re.findall("y+", page))) <= 2000
    assert len(page) < 1_000_000


def test_the_result_shows_the_numbers_of_the_summary(ordinary):
    _, data, page = ordinary
    text = Reader(page).text
    for system, decoding in (("raw-query", "none"), ("policy-003", "greedy"), ("policy-003", "sampled"), ("oracle", "none")):
        cell = data["summary"]["values"][system][decoding]["bm25"]["ndcg@10"]
        assert f"{cell['mean']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]" in text


def test_the_page_begins_with_the_verdict_against_the_raw_query_whatever_the_warm_start_is_worth(ordinary):
    _, data, _ = ordinary

    def page(answer):
        changed = json.loads(json.dumps(data["summary"]))
        changed["against_raw_query"]["answer"] = answer
        return render(data | {"summary": changed})

    claims = {answer: re.search(r'<p class="claim">(.*?)</p>', page(answer))[1] for answer in ("better", "worse", "not shown")}
    assert claims["better"].startswith("Rewriting helps: nDCG@10")
    assert claims["worse"].startswith("Do not switch this on: rewritten queries find less than the queries as typed")
    assert claims["not shown"].startswith("Not shown to help")
    shown = page("worse")
    order = ["Do not switch this on", 'class="sentence"', "Which is best", "Wins and losses</h2>", "Learning curves</h2>"]
    assert [shown.index(text) for text in order] == sorted(shown.index(text) for text in order)


def test_the_number_that_stands_out_above_is_that_of_the_policy_in_the_claim(ordinary):
    _, data, _ = ordinary
    changed = json.loads(json.dumps(data["summary"]))
    changed["against_raw_query"]["system"] = "policy-002"
    shown = render(data | {"summary": changed}).split('<dl class="facts">')[0]
    tiles = re.findall(r"<div( class=\"final\")?><dt>(.*?)</dt>", shown)
    assert [name for _, name in tiles] == [
        "raw query",
        "warm start",
        "iteration 2, chosen on dev",
        "iteration 3, the last policy",
        "oracle",
    ]
    assert [name for marked, name in tiles if marked] == ["iteration 2, chosen on dev"]


def test_wins_are_sorted_and_agree_with_query_metrics(ordinary):
    layout, data, _ = ordinary
    metrics = parquet.read(layout.evaluation("query_metrics.parquet"), QUERY_METRICS)
    chosen = metrics.filter(
        (pl.col("retriever") == "bm25") & (pl.col("metric") == "ndcg@10") & pl.col("decoding").is_in(["none", "greedy"])
    )
    values = {(system, prompt_id): value for system, prompt_id, value in chosen.select("system", "prompt_id", "metric_value").iter_rows()}
    assert [found["base"] for found in data["queries"]] == ["policy-000", "raw-query"]
    for found in data["queries"]:
        gains, losses = ([row["difference"] for row in found[name]] for name in ("wins", "losses"))
        assert gains == sorted(gains, reverse=True)
        assert losses == sorted(losses)
        assert all(
            row["difference"] == values["policy-003", row["prompt_id"]] - values[found["base"], row["prompt_id"]] for row in found["wins"]
        )
        assert found["better"] + found["equal"] + found["worse"] == data["summary"]["prompts"]


def test_pieces_of_the_browser_spell_each_completion_and_carry_its_shares(ordinary):
    layout, data, _ = ordinary
    group = data["groups"][0]
    rollouts = parquet.read(layout.iteration(group["iteration"], "rollouts.parquet"), ROLLOUTS).filter(
        pl.col("prompt_id") == group["prompt"]
    )
    attributions = parquet.read(layout.iteration(group["iteration"], "attributions.parquet"), ATTRIBUTIONS)
    by_sample = {row["sample_index"]: row for row in rollouts.iter_rows(named=True)}
    for rollout in group["rollouts"]:
        row = by_sample[rollout["sample"]]
        shares = attributions.filter(pl.col("rollout_id") == row["rollout_id"]).sort("segment_index")["share"].to_list()
        assert "".join(piece[0] for piece in rollout["pieces"]) == row["completion"]
        assert [piece[1] for piece in rollout["pieces"] if len(piece) > 1] == pytest.approx(shares, abs=1e-6)


def test_the_page_reads_without_script(ordinary):
    page = re.sub(r"<script.*?</script>", "", ordinary[2], flags=re.DOTALL)
    text = Reader(page).text
    assert all(
        title in text
        for title in ("Result", "Learning curves", "Methods and retrievers", "Warnings", "Training", "Wins and losses", "What was run")
    )
    assert page.count("<svg") > 10


def test_changed_parameters_are_marked_with_their_default(ordinary):
    assert re.search(r'<div class="changed" title="default: 2000"><dt>bootstrap</dt><dd><bdi>200</bdi></dd></div>', ordinary[2])


def test_the_legend_has_as_many_steps_as_script_and_style_know(ordinary):
    _, _, page = ordinary
    script = Reader(page).scripts[1]
    assert "const steps = 4;" in script
    assert all(f'[data-level="{level}"]' in page and f'data-level="{level}"></span>' in page for level in range(-4, 5))


def test_without_sampled_answers_there_is_no_column_for_them(tmp_path):
    layout, values = small_project.write_project(tmp_path, iterations=1)
    data = report(layout, values)
    for by_decoding in data["summary"]["values"].values():
        by_decoding.pop("sampled", None)
    headline = re.search(r'<table class="headline">.*?</table>', render(data), re.DOTALL)[0]
    assert "greedy" in headline
    assert "sampled" not in headline


def test_credit_of_the_group_game_is_not_called_a_share_of_the_reward(ordinary):
    _, data, page = ordinary
    other = Reader(render(data | {"shown_estimator": None})).text
    assert "what the answer gained there over what the other answers say instead (estimator splice)" in " ".join(other.split())
    assert "its share of the reward (estimator" not in other
    told = " ".join(Reader(page).text.split())
    assert "its share of the reward (estimator myerson)" in told
    assert "the advantage that estimator splice gave to its tokens: not by that share" in told


def test_values_stand_against_entropy_and_divergence_in_their_order(ordinary):
    _, data, page = ordinary
    sharpness, values = data["summary"]["sharpness"], data["summary"]["values"]
    for name in ("entropy", "divergence"):
        line = re.search(rf'aria-label="nDCG@10 by {name}, bm25".*?<polyline points="([^"]*)" class="line greedy"', page, re.DOTALL)
        points = [tuple(map(float, pair.split(","))) for pair in line[1].split()]
        assert [x for x, _ in points] == sorted(x for x, _ in points)
        by_place = sorted((sharpness[system][name], values[system]["greedy"]["bm25"]["ndcg@10"]["mean"]) for system in sharpness)
        heights = [-y for _, y in points]
        assert np.argsort(heights).tolist() == np.argsort([value for _, value in by_place]).tolist()
    assert page.count("<figcaption>by ") == 2
