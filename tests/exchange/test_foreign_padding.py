"""Foreign rollouts: what fills a batch up is no token that was sampled."""

import pytest

from ospo_cli.errors import TableError
from ospo_cli.exchange.foreign_rollouts import to_rollouts

PIECES = [b"", b"", b"red", b" coat"]  # 0 fills up, 1 ends


def rollouts(*rows, end_ids=()):
    import polars as pl

    records = [
        {"prompt_id": "p", "completion": text, "completion_token_ids": ids, "old_logprobs": [-0.5] * len(ids), "prompt_token_ids": prompt}
        for text, ids, prompt in rows
    ]
    frame = pl.DataFrame(records, schema_overrides={"prompt_token_ids": pl.List(pl.Int32), "completion_token_ids": pl.List(pl.Int32)})
    return to_rollouts(frame, ["p"], lambda ids: [PIECES[token_id] for token_id in ids], "theirs", end_ids)


def test_rollouts_that_end_once_are_taken_and_cut_off_ones_too():
    assert rollouts(("red coat", [2, 3, 1], [1, 2]), ("red", [2], [1, 2])).height == 2


@pytest.mark.parametrize(
    ("ids", "prompt", "message"),
    [
        ([2, 3, 1, 0], [2], r"row 2: .*padding among completion_token_ids: found ids 1 and 0"),
        ([2, 3, 1, 1], [2], r"row 2: .*padding among completion_token_ids: found ids 1 and 1"),
        ([2, 1, 3], [2], r"row 2, token 1: goes on behind an end token: found id 1"),
        ([2, 3, 1], [0, 0, 2], r"row 2: begins with several equal .*padding among prompt_token_ids: found id 0 twice"),
        ([2, 3, 1], [2, 0, 0], r"row 2: ends in several equal .*padding among prompt_token_ids: found id 0 twice"),
        ([2, 3, 1], [0, 2], r"row 2: prompt_token_ids differ from those of its rollout group's first row"),
    ],
)
def test_what_fills_up_is_refused_with_its_row(ids, prompt, message):
    with pytest.raises(TableError, match=message):
        rollouts(("red coat", [2, 3, 1], [2]), ("red coat", ids, prompt))


def test_a_rollout_that_a_stop_string_ended_makes_its_last_word_no_end_token():
    import polars as pl

    rows = [("red coat", [2, 3], "stop"), ("red coat coat", [2, 3, 3], "length")]
    records = [
        {"prompt_id": "p", "completion": text, "completion_token_ids": ids, "old_logprobs": [-0.5] * len(ids), "finish_reason": reason}
        for text, ids, reason in rows
    ]
    assert to_rollouts(pl.DataFrame(records), ["p"], lambda ids: [PIECES[token_id] for token_id in ids], "theirs").height == 2


def test_an_end_token_of_the_folder_in_the_middle_is_refused_though_no_rollout_ends_in_it():
    rows = [("red coat", [2, 0, 3, 1], [2]), ("red coat", [2, 3, 1], [2])]
    assert rollouts(*rows).height == 2
    with pytest.raises(TableError, match=r"row 1, token 1: goes on behind an end token: found id 0, which ends answers"):
        rollouts(*rows, end_ids={0, 1})
