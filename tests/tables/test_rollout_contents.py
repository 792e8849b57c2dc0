"""Table rollouts: what no sampler writes is refused with file and row, by every stage that reads it."""

import polars as pl
import pytest

from ospo_cli.errors import CreditError, TableError
from ospo_cli.layout import Layout
from ospo_cli.stages import attribute
from ospo_cli.tables import parquet
from ospo_cli.tables.rollout import ROLLOUTS, checked, read_rollouts
from tests.exchange import small_shop


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return small_shop.write_project(tmp_path_factory.mktemp("shop"))


def changed(frame, column, value):
    """Return the frame with another value in the third row."""
    values = frame[column].to_list()
    values[2] = value
    return frame.with_columns(pl.Series(column, values, dtype=frame.schema[column]))


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("token_ids", [5, None], "token_ids hold a null or negative id: found .5, None."),
        ("token_ids", [5, -1], "token_ids hold a null or negative id"),
        ("prompt_token_ids", [-1], "prompt_token_ids hold a null or negative id"),
        ("prompt_token_ids", [None], "prompt_token_ids hold a null or negative id"),
        ("behavior_logprobs", [None], "behavior_logprobs hold what is no log-probability"),
        ("behavior_logprobs", [float("nan")], "behavior_logprobs hold what is no log-probability"),
        ("behavior_logprobs", [float("-inf")], "behavior_logprobs hold what is no log-probability"),
        ("behavior_logprobs", [0.5], "behavior_logprobs hold what is no log-probability"),
        ("behavior_logprobs", [-1.0], "token_ids and behavior_logprobs differ in number"),
        ("answer_start", -(2**31), "answer_start is no place in the completion: found -2147483648"),
        ("answer_start", 10**6, "answer_start is no place in the completion"),
        ("answer_end", 10**6, "answer_end is no place in the completion"),
        ("finish_reason", "eos", "finish_reason is unknown: found eos"),
    ],
)
def test_what_no_sampler_writes_is_refused_with_its_row(column, value, problem):
    frame = small_shop.rollouts().sort("rollout_id")
    rollout_id = frame["rollout_id"][2]
    with pytest.raises(TableError, match=rf"theirs\.parquet: row 3, rollout {rollout_id}: {problem}"):
        checked(changed(frame, column, value), "theirs.parquet", "again")


def test_a_sampled_table_is_taken_as_it_is(project):
    frame = small_shop.rollouts().sort("rollout_id")
    assert checked(frame, "ours", "").equals(frame)
    assert read_rollouts(project, 1).equals(frame)


def test_an_id_beyond_the_vocabulary_is_named_with_its_rollout(project, tmp_path):
    import shutil

    layout = Layout(shutil.copytree(project.root, tmp_path / "copy"))
    frame = read_rollouts(layout, 1)
    ids = [100_000, *frame["token_ids"][2].to_list()[1:]]
    parquet.write(changed(frame, "token_ids", ids), layout.iteration(1, "rollouts.parquet"), ROLLOUTS)
    with pytest.raises(CreditError, match=rf"rollout {frame['rollout_id'][2]}, .*token id outside the vocabulary: found 100000"):
        attribute.execute(layout, small_shop.PARAMS, 1)
