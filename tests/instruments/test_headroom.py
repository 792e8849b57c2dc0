"""Headroom: what is a bound of what, that edits help as they should, and what is left out without a policy."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ospo_cli.errors import OspoError, SourceError
from ospo_cli.instruments import headroom as stage
from ospo_cli.instruments.headroom import Request
from ospo_cli.layout import Layout
from ospo_cli.params.evaluate import Evaluate
from ospo_cli.params.policy import Policy
from ospo_cli.params.rollout import Rollout
from ospo_cli.params.score_coalitions import ScoreCoalitions
from ospo_cli.params.whole import Params
from ospo_cli.rewards.judged_reward import JudgedReward
from ospo_cli.tables import parquet
from ospo_cli.tables.headroom import HEADROOM, HEADROOM_QUERIES
from ospo_cli.tables.prepared import DOCUMENTS, POOLS, PROMPTS, QRELS
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.text.composition import compose, served
from tests.policies.tiny import write_tiny_policy
from tests.stages.small_catalogue import frames, prepared, sampled_rows

REQUEST = Request(split="train", words=6, edits=3, retrievers=("bm25", "tfidf-char"))


def values_of(**settings: object) -> Params:
    section = dataclasses.replace(ScoreCoalitions(), **settings)  # type: ignore[arg-type]
    evaluate = dataclasses.replace(Evaluate(), bootstrap=100, retrievers=["bm25", "tfidf-char"])
    policy = dataclasses.replace(Policy(), hidden_size=32, intermediate_size=64, layers=2, heads=2, vocabulary_size=400)
    rollout = dataclasses.replace(Rollout(), group_size=3, max_new_tokens=6)
    return dataclasses.replace(Params(), score_coalitions=section, evaluate=evaluate, policy=policy, rollout=rollout)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    for table, frame in zip((DOCUMENTS, PROMPTS, QRELS, POOLS), prepared(), strict=True):
        parquet.write(frame, layout.prepared(f"{table.name}.parquet"), table)
    rollouts, _ = frames(*sampled_rows())
    parquet.write(rollouts, layout.iteration(1, "rollouts.parquet"), ROLLOUTS)
    return layout


def by_prompt(layout: Layout, retriever: str) -> dict[str, np.ndarray]:
    found = parquet.read(layout.headroom("headroom_queries.parquet"), HEADROOM_QUERIES).filter(pl.col("retriever") == retriever)
    return {system: own.sort("prompt_id")["value"].to_numpy() for (system,), own in found.group_by(["system"])}


@pytest.mark.parametrize("metric", ["ndcg@10", "mrr", "recall@2", "precision@5", "ap"])
def test_no_system_is_above_the_ideal_ranking_and_no_edit_below_the_raw_query(layout: Layout, metric: str) -> None:
    stage.execute(layout, values_of(metric=metric), dataclasses.replace(REQUEST, iteration=1))
    for retriever in REQUEST.retrievers:
        found = by_prompt(layout, retriever)
        assert all((values <= found["ideal ranking"] + 1e-12).all() for values in found.values())
        edited = [values for system, values in found.items() if system.startswith("best") and "of" not in system]
        assert len(edited) == 4
        assert all((values >= found["raw query"]).all() for values in edited)
        assert found["ideal ranking"].max() == (0.6 if metric == "precision@5" else pytest.approx(2 / 3) if metric == "recall@2" else 1.0)


def test_several_edits_do_no_worse_than_the_best_single_one(layout: Layout) -> None:
    stage.execute(layout, values_of(), REQUEST)
    found = by_prompt(layout, "bm25")
    single = np.max([values for system, values in found.items() if system.startswith("best word")], axis=0)
    assert (found["best 3 words, greedy"] >= single - 1e-12).all()
    assert found["best 3 words, greedy"].mean() > found["raw query"].mean() + 0.1


def test_best_and_mean_of_the_saved_rollouts_are_those_of_their_rewards(layout: Layout) -> None:
    values = values_of()
    stage.execute(layout, values, dataclasses.replace(REQUEST, iteration=1))
    reward, rows = JudgedReward(prepared(), values), parquet.read(layout.iteration(1, "rollouts.parquet"), ROLLOUTS)
    answers = rows["completion"].str.slice(rows["answer_start"], rows["answer_end"] - rows["answer_start"]).to_list()
    scored = rows.with_columns(value=pl.Series(reward.values(rows["prompt_id"].to_list(), answers)))
    expected = scored.group_by("prompt_id").agg(best=pl.col("value").max(), mean=pl.col("value").mean()).sort("prompt_id")
    found = by_prompt(layout, "bm25")
    assert found["rollouts 001: best of 4"].tolist() == expected["best"].to_list()
    assert found["rollouts 001: mean of 4"] == pytest.approx(expected["mean"].to_numpy(), abs=1e-12)


def test_each_query_that_is_named_is_worth_what_stands_beside_it(layout: Layout) -> None:
    stage.execute(layout, values_of(), dataclasses.replace(REQUEST, iteration=1))
    found = parquet.read(layout.headroom("headroom_queries.parquet"), HEADROOM_QUERIES).filter(
        pl.col("retriever") == "tfidf-char", pl.col("query") != ""
    )
    reward = JudgedReward(prepared(), values_of(), retriever="tfidf-char")
    assert reward.values(found["prompt_id"].to_list(), found["query"].to_list()).tolist() == found["value"].to_list()
    assert found["system"].n_unique() == 7


def test_the_answer_chosen_at_query_time_is_the_one_whose_first_document_scores_highest(layout: Layout) -> None:
    values = values_of()
    stage.execute(layout, values, dataclasses.replace(REQUEST, iteration=1))
    found = parquet.read(layout.headroom("headroom_queries.parquet"), HEADROOM_QUERIES).filter(pl.col("retriever") == "bm25")
    chosen = dict(found.filter(pl.col("system") == "rollouts 001: one of 4 by its score").select("prompt_id", "query").iter_rows())
    best = dict(found.filter(pl.col("system") == "rollouts 001: best of 4").select("prompt_id", "query").iter_rows())
    reward, rows = JudgedReward(prepared(), values), parquet.read(layout.iteration(1, "rollouts.parquet"), ROLLOUTS)
    for prompt_id, query in chosen.items():
        own = rows.filter(pl.col("prompt_id") == prompt_id)["completion"].to_list()
        tried = [served(reward.raw_query(prompt_id), completion, "replace").query for completion in own]
        tops = [ranking.scores.max(initial=0.0) for ranking in reward.rankings([prompt_id] * len(tried), tried, 5)]
        assert query == tried[int(np.argmax(tops))]
    assert chosen != best


def test_under_append_words_are_only_added_and_the_raw_query_stays_in_front(layout: Layout) -> None:
    stage.execute(layout, values_of(composition="append"), REQUEST)
    found = parquet.read(layout.headroom("headroom_queries.parquet"), HEADROOM_QUERIES)
    assert set(found["system"]) == {"raw query", "RM3 feedback", "Bo1 feedback", "best word: add", "best 3 words, greedy", "ideal ranking"}
    raw = dict(prepared()[1].select("prompt_id", "query").iter_rows())
    named = found.filter(pl.col("query") != "", ~pl.col("system").str.contains("feedback"))  # weights stand beside its words
    assert all(query.startswith(raw[prompt_id]) for prompt_id, query in named.select("prompt_id", "query").iter_rows())
    assert compose("a", "", "append") == "a"


def test_differences_are_paired_with_the_raw_query_of_the_same_prompts(layout: Layout) -> None:
    table, _ = stage.execute(layout, values_of(), REQUEST)
    found = by_prompt(layout, "bm25")
    row = table.row(by_predicate=(pl.col("retriever") == "bm25") & (pl.col("system") == "best word: add"), named=True)
    difference = found["best word: add"] - found["raw query"]
    assert row["gain"] == pytest.approx(difference.mean(), abs=1e-12)
    assert row["improved"] == np.mean(difference > 0)
    assert row["gain_low"] <= row["gain"] <= row["gain_high"]
    parquet.read(layout.headroom("headroom.parquet"), HEADROOM)


def test_without_a_policy_samples_are_left_out_and_that_is_said(layout: Layout) -> None:
    table, facts = stage.execute(layout, values_of(), REQUEST)
    assert facts["answers"] is None
    assert not table.filter(pl.col("system").str.contains(" of "))["system"].to_list()
    stream = io.StringIO()
    stage.print_result(table, facts, stream)
    assert "samples are left out" in stream.getvalue()
    with pytest.raises(OspoError, match="no such policy to sample"):
        stage.execute(layout, values_of(), dataclasses.replace(REQUEST, samples=2))


def test_a_policy_is_sampled_once_and_its_answers_are_found_again(layout: Layout) -> None:
    write_tiny_policy(layout.policy(0))
    tables = [stage.execute(layout, values_of(), REQUEST)[0] for _ in range(2)]
    assert tables[0].equals(tables[1])
    assert {"warm start: mean of 3", "warm start: best of 3"} < set(tables[0]["system"])
    assert len(list((layout.cache / "headroom").rglob("completions.parquet"))) == 1


def test_the_search_is_the_same_however_its_prompts_are_cut_into_shards(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    request = dataclasses.replace(REQUEST, iteration=1)
    whole = stage.execute(layout, values_of(), request)[0]
    queries = parquet.read(layout.headroom("headroom_queries.parquet"), HEADROOM_QUERIES)
    assert queries["prompt_id"].n_unique() > 2
    monkeypatch.setattr(stage, "_SEARCHED_PER_SHARD", 1)
    assert stage.execute(layout, values_of(), request)[0].equals(whole)
    assert parquet.read(layout.headroom("headroom_queries.parquet"), HEADROOM_QUERIES).equals(queries)


def test_another_question_is_searched_anew_and_the_same_one_is_found_again(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [REQUEST, REQUEST, dataclasses.replace(REQUEST, words=2), dataclasses.replace(REQUEST, metric="mrr")]
    from_cache = []
    for request in asked:
        stage.execute(layout, values_of(), request)
        from_cache.append("bm25: 6/6 prompts (6 from cache)" in capsys.readouterr().err)
    assert from_cache == [False, True, False, False]


def test_a_split_without_prompts_is_named(layout: Layout) -> None:
    with pytest.raises(SourceError, match="no prompt in split dev: found train"):
        stage.execute(layout, values_of(), dataclasses.replace(REQUEST, split="dev"))


def test_of_equal_values_the_first_query_stays() -> None:
    start = (["raw", "other"], np.array([0.5, 0.5]))
    queries, best = stage._best_of(start, [(0, "equal"), (1, "better"), (1, "as good as better")], np.array([0.5, 0.75, 0.75]))
    assert (queries, best.tolist()) == (["raw", "better"], [0.5, 0.75])
    assert start[0] == ["raw", "other"]


def test_the_mean_of_samples_is_that_of_each_prompts_own_number(layout: Layout) -> None:
    rows = parquet.read(layout.iteration(1, "rollouts.parquet"), ROLLOUTS)
    answers = rows["completion"].str.slice(rows["answer_start"], rows["answer_end"] - rows["answer_start"]).to_list()
    values = JudgedReward(prepared(), values_of()).values(rows["prompt_id"].to_list(), answers)
    few = rows.with_columns(value=values).filter(pl.col("sample_index") < 2).group_by("prompt_id").agg(pl.col("value").mean())
    prompt_id, expected = few.sort("value", "prompt_id").row(-1)
    parquet.write(
        rows.filter((pl.col("prompt_id") != prompt_id) | (pl.col("sample_index") < 2)), layout.iteration(1, "rollouts.parquet"), ROLLOUTS
    )
    stage.execute(layout, values_of(), dataclasses.replace(REQUEST, iteration=1))
    place = sorted(set(rows["prompt_id"])).index(prompt_id)
    assert by_prompt(layout, "bm25")["rollouts 001: mean of 4"][place] == pytest.approx(expected)
    assert expected > 0


def test_no_more_words_are_tried_than_asked_for(layout: Layout) -> None:
    def added(words: int) -> list[int]:
        stage.execute(layout, values_of(), dataclasses.replace(REQUEST, words=words, edits=5))
        found = parquet.read(layout.headroom("headroom_queries.parquet"), HEADROOM_QUERIES)
        greedy = found.filter(retriever="bm25", system="best 5 words, greedy").sort("prompt_id")["query"].to_list()
        raw = prepared()[1].filter(split="train").sort("prompt_id")["query"].to_list()
        return [len(set(query.split()) - set(own.split())) for query, own in zip(greedy, raw, strict=True)]

    assert max(added(1)) == 1
    assert max(added(6)) > 1
