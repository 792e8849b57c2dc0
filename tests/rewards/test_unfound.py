"""Raw queries that retrieve nothing are said, with the retriever and an example."""

import dataclasses

import polars as pl
import pytest

from ospo_cli.instruments import headroom
from ospo_cli.params import whole
from ospo_cli.rewards.unfound import say_unfound
from ospo_cli.stages import score_coalitions, score_queries
from ospo_cli.tables import placed
from ospo_cli.tables.prepared import PROMPTS
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.tables.segment import SEGMENTS
from tests.rewards.test_judged_reward import judged
from tests.stages.test_score_coalitions import project

FOUND = ["coat"] * 8
NOTHING, WRONG = "parka", "blue boots"  # of value 0 both: one retrieves nothing, one the wrong products


def said(capsys, queries, reward=None, with_values=True):
    reward = reward or judged()
    ids = ["p1"] * len(queries)
    say_unfound("headroom", reward, ids, queries, reward.values(ids, queries) if with_values else None)
    return capsys.readouterr().err


@pytest.mark.parametrize("with_values", [True, False])
def test_more_than_a_tenth_without_a_product_is_said_in_one_line(capsys, with_values):
    assert said(capsys, [*FOUND, NOTHING, "\x1b[2J"], with_values=with_values) == (
        "headroom: bm25 retrieves nothing for 2 of 10 raw queries (20%), such as 'parka': worth 0 as typed, so that a rewrite can only "
        "gain there. If their words do stand in the catalogue, another retriever may find them, or other fields (docs/languages.md says what a word is)\n"
    )


@pytest.mark.parametrize("queries", [[*FOUND, NOTHING, "coat"], [*FOUND, WRONG, WRONG], [*FOUND, NOTHING, WRONG], []])
@pytest.mark.parametrize("with_values", [True, False])
def test_a_tenth_or_a_wrong_product_is_not_said(capsys, queries, with_values):
    assert said(capsys, queries, with_values=with_values) == ""


def test_the_pool_is_what_counts(capsys):
    pooled = judged(pooled=[("p1", "d004"), ("p1", "d001")])
    assert said(capsys, ["leather belt"], pooled).startswith("headroom: bm25 retrieves nothing for 1 of 1 raw queries (100%)")
    assert said(capsys, ["leather belt"]) == ""


def test_an_example_is_shown_with_its_control_characters_spelled_out(capsys):
    assert "'\\\\x1b[2J'" in said(capsys, ["\x1b[2J"])


@pytest.mark.parametrize("iteration", [1, 2])
def test_commands_say_it_before_training_and_scoring_only_once(tmp_path, capsys, iteration):
    layout, params = project(tmp_path), whole.Params()
    prompts = placed.read(PROMPTS, layout)
    placed.write(prompts.with_columns(query=pl.lit("パーカ")), PROMPTS, layout)
    for table in (ROLLOUTS, SEGMENTS):
        frame = placed.read(table, layout, 1).with_columns(pl.col("rollout_id").str.replace("^001", f"{iteration:03d}"))
        placed.write(frame, table, layout, iteration)
    score_coalitions.execute(layout, params, iteration)
    score_queries.execute(layout, params)
    headroom.execute(layout, params, headroom.Request(split="train", retrievers=("bm25",)))
    said = [line.partition(":")[0] for line in capsys.readouterr().err.splitlines() if "retrieves nothing for 6 of 6 raw queries" in line]
    first = ["score-coalitions"] * (iteration == 1)
    assert said == [*first, "score-queries", "headroom"]


@pytest.mark.parametrize("retriever", ["bm25", "dense"])
def test_a_retriever_that_finds_something_is_never_blamed(tmp_path, capsys, retriever):
    layout, params = project(tmp_path), whole.Params()
    params = dataclasses.replace(params, score_coalitions=dataclasses.replace(params.score_coalitions, retriever=retriever))
    score_coalitions.execute(layout, params, 1)
    score_queries.execute(layout, params)
    assert "retrieves nothing" not in capsys.readouterr().err
