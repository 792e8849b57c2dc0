"""A row of table rollouts is made from named fields; where its answer lies is found in its text."""

import polars as pl

from ospo_cli.tables import parquet
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.tables.rollout_rows import rollouts_frame
from tests.tables.sampled import sampled_row

ROW = sampled_row("001:p:00", "p", "<answer> navy coat </answer>", [3, 4], behavior_logprobs=[-0.5, -0.25])


def test_rows_make_the_declared_table():
    frame = parquet.check(rollouts_frame([ROW]), ROLLOUTS, where="here")
    assert frame.select("rollout_id", "token_ids", "behavior_logprobs", "finish_reason").row(0) == (
        "001:p:00",
        [3, 4],
        [-0.5, -0.25],
        "stop",
    )


def test_the_answers_place_is_that_of_the_words_between_the_tags():
    frame = rollouts_frame([ROW])
    assert frame.select("answer_start", "answer_end", "has_answer_tags").row(0) == (9, 18, True)
    assert frame.select(pl.col("completion").str.slice(9, 9)).item() == "navy coat"


def test_rows_keep_their_order_and_no_rows_make_an_empty_table():
    names = ["002:b:00", "001:a:00"]
    rows = [sampled_row(name, "p", "x", []) for name in names]
    assert rollouts_frame(rows)["rollout_id"].to_list() == names
    assert rollouts_frame([]).equals(ROLLOUTS.empty())
