"""Two rewards of the same rollouts: what a comparison says of games with known answers, and that text cannot harm a terminal."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ospo_cli.errors import MissingInputError, OspoError
from ospo_cli.instruments import rescore as rescoring
from ospo_cli.instruments.compare_rewards import command as stage
from ospo_cli.instruments.compare_rewards.command import Scored
from ospo_cli.params.whole import Params
from ospo_cli.tables import parquet
from ospo_cli.tables.attribute import ATTRIBUTIONS
from ospo_cli.tables.compare_rewards import REWARD_COMPARISON, REWARD_COMPARISON_GROUPS
from ospo_cli.tables.prepared import PROMPTS
from ospo_cli.tables.score_coalitions import REWARDS
from tests.exchange.small_shop import PARAMS, write_project
from tests.tables.sampled import sampled_frame


def rollouts(groups: int, size: int, text: str = "red coat") -> pl.DataFrame:
    return sampled_frame(*((f"001:p{group}:{index:02d}", f"p{group}", text) for group in range(groups) for index in range(size)))


def scored(name: str, rewards: list[list[float]], shares: list[list[list[float]]] | None = None) -> Scored:
    """Return rewards per group and answer, and shares per group, answer and segment."""
    ids = [(f"001:p{group}:{index:02d}", f"p{group}") for group, values in enumerate(rewards) for index in range(len(values))]
    flat = [value for values in rewards for value in values]
    frame = pl.DataFrame(
        [(rollout_id, prompt_id, value, value, 0.0, 0.0, 0.0, False) for (rollout_id, prompt_id), value in zip(ids, flat, strict=True)],
        schema=REWARDS.schema,
        orient="row",
    )
    segments = [
        (f"001:p{group}:{index:02d}", place, share, None, 1, None, "", 0.0)
        for group, answers in enumerate(shares or [])
        for index, own in enumerate(answers)
        for place, share in enumerate(own)
    ]
    return Scored(name, frame, pl.DataFrame(segments, schema=ATTRIBUTIONS.schema, orient="row"))


def measures(overview: pl.DataFrame) -> dict[str, tuple[float | None, int]]:
    return {row["measure"]: (row["value"], row["n"]) for row in overview.iter_rows(named=True)}


def test_a_reward_and_a_rising_function_of_it_order_every_answer_alike() -> None:
    rewards = np.random.default_rng(5).random((6, 8))
    a, b = scored("a", rewards.tolist()), scored("b", (rewards**3).tolist())
    overview, groups = stage.compare_rewards(rollouts(6, 8), a, b, Params())
    assert groups["kendall"].to_list() == pytest.approx([1.0] * 6)
    assert groups["best_changes"].to_list() == [0.0] * 6
    assert measures(overview)["order of answers: Spearman's ρ"] == (pytest.approx(1.0), 6)


def test_the_reverse_order_is_seen_as_such() -> None:
    rewards = [[0.1, 0.2, 0.6], [0.0, 0.5, 1.0]]
    a, b = scored("a", rewards), scored("b", [[-value for value in values] for values in rewards])
    overview, groups = stage.compare_rewards(rollouts(2, 3), a, b, Params())
    assert groups["kendall"].to_list() == pytest.approx([-1.0, -1.0])
    assert groups["advantages_turned"].to_list() == pytest.approx([1.0, 2 / 3])  # the middle one of the second group is at its mean
    assert measures(overview)["groups whose best answer changes"] == (1.0, 2)


def test_a_group_of_equal_rewards_has_no_order_and_is_counted_out() -> None:
    a, b = scored("a", [[0.5, 0.5], [0.0, 1.0]]), scored("b", [[0.0, 1.0], [0.0, 1.0]])
    overview, groups = stage.compare_rewards(rollouts(2, 2), a, b, Params())
    assert groups["kendall"].to_list() == [None, 1.0]
    assert groups["best_changes"].to_list() == [None, 0.0]
    assert measures(overview)["order of answers: Kendall's τ-b"] == (1.0, 1)
    assert measures(overview)["mean reward A"] == (0.5, 2)


def test_ties_for_the_best_answer_do_not_count_as_a_change() -> None:
    _, groups = stage.compare_rewards(rollouts(1, 3), scored("a", [[1.0, 1.0, 0.0]]), scored("b", [[0.2, 0.9, 0.0]]), Params())
    assert groups["best_changes"].to_list() == [0.0]


def test_shares_that_turn_their_sign_and_their_order_are_counted_and_zero_is_no_sign() -> None:
    rewards = [[0.0, 1.0]]
    a = scored("a", rewards, [[[0.3, -0.1, 0.0], [0.2, 0.1, 0.0]]])
    b = scored("b", rewards, [[[-0.3, 0.1, 0.5], [0.2, 0.1, 0.0]]])
    overview, groups = stage.compare_rewards(rollouts(1, 2), a, b, Params())
    assert groups["shares_turned"].to_list() == pytest.approx([(2 / 3 + 0) / 2])
    assert groups["best_segment_changes"].to_list() == [0.5]
    assert measures(overview)["shares within an answer: Spearman's ρ"][0] == pytest.approx((-0.5 + 1.0) / 2)


def test_other_segments_are_not_compared() -> None:
    a, b = scored("a", [[0.0, 1.0]], [[[0.3], [0.2]]]), scored("b", [[0.0, 1.0]], [[[0.3, 0.1], [0.2]]])
    overview, _ = stage.compare_rewards(rollouts(1, 2), a, b, Params())
    assert measures(overview)["segments whose share turns its sign"] == (None, 0)


def test_rewards_of_other_rollouts_are_refused() -> None:
    with pytest.raises(OspoError, match="reward b: holds other rollouts than the iteration: found 3 rewards, expected 2"):
        stage.compare_rewards(rollouts(1, 2), scored("a", [[0.0, 1.0]]), scored("b", [[0.0, 1.0, 0.5]]), Params())


def test_hostile_text_is_made_visible() -> None:
    hostile = "red \x1b[31m\u202ecoat</td><script>"
    made = rollouts(1, 2, hostile)
    a, b = scored("a", [[0.0, 1.0]]), scored("b", [[1.0, 0.0]])
    overview, groups = stage.compare_rewards(made, a, b, Params())
    prompts = pl.DataFrame([("p0", "train", hostile, [], hostile)], schema=PROMPTS.schema, orient="row")
    data = stage.page_data(overview, groups, made, prompts, a, b, 3)
    stream = io.StringIO()
    stage.print_result(data, stream)
    assert "⟨U+202E⟩" in stream.getvalue()
    assert not {"\x1b", "\u202e"} & set(stream.getvalue())
    page = stage.page(data)
    assert "red ⟨U+001B⟩[31m⟨U+202E⟩coat&lt;/td&gt;&lt;script&gt;" in page
    assert "<script" not in page
    assert not {"\x1b", "\u202e"} & set(page)


def test_the_page_shows_the_numbers_of_the_tables_and_no_address() -> None:
    made, a, b = rollouts(2, 3), scored("a", [[0.0, 0.5, 1.0], [0.1, 0.2, 0.3]]), scored("b", [[1.0, 0.5, 0.0], [0.1, 0.2, 0.3]])
    overview, groups = stage.compare_rewards(made, a, b, Params())
    prompts = pl.DataFrame([("p0", "train", "coat", [], ""), ("p1", "train", "hat", [], "")], schema=PROMPTS.schema, orient="row")
    data = stage.page_data(overview, groups, made, prompts, a, b, 1)
    assert [(example["prompt_id"], example["kendall"]) for example in data["examples"]] == [("p0", pytest.approx(-1.0))]
    page = stage.page(data)
    assert page == stage.page(data)
    assert "−1.000" in page
    assert "http" not in page.replace("http-equiv", "")


def test_the_loop_and_a_rescored_folder_are_read_and_the_tables_written(tmp_path: Path) -> None:
    layout = write_project(tmp_path)
    rescoring.rescore(layout, PARAMS, 1, {"score_coalitions.metric": "recall@1"}, "one")
    overview, groups, folder = stage.execute(layout, PARAMS, 1, "loop", "one")
    first, second, made, prompts = stage.read_pair(layout, 1, "loop", "one")
    stage.write_page(stage.page_data(overview, groups, made, prompts, first, second, 2), tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    parquet.read(folder / "comparison.parquet", REWARD_COMPARISON)
    assert parquet.read(folder / "comparison_groups.parquet", REWARD_COMPARISON_GROUPS).equals(groups)
    assert groups["prompt_id"].to_list() == ["p00", "p01", "p02"]
    assert groups["kendall"].null_count() >= 1  # p02's answers are all the same
    with pytest.raises(MissingInputError, match="ospo compare-rewards two: no such reward: expected loop, one"):
        stage.execute(layout, PARAMS, 1, "loop", "two")
    with pytest.raises(OspoError, match="compares a reward with itself"):
        stage.execute(layout, PARAMS, 1, "loop", "loop")


def test_a_share_next_to_nothing_has_no_sign_to_turn_and_a_degenerate_group_of_either_reward_has_no_shares() -> None:
    rewards = [[0.1, 0.9], [0.2, 0.8]]
    a = scored("a", rewards, [[[0.5, 0.1]] * 2, [[0.5, 0.1]] * 2])
    b = scored("b", rewards, [[[0.5, -1e-15]] * 2, [[-0.5, 0.1]] * 2])
    _, groups = stage.compare_rewards(rollouts(2, 2), a, b, Params())
    assert groups["shares_turned"].to_list() == [0.0, 0.5]
    is_second = pl.col("rollout_id").str.starts_with("001:p1")
    case = pl.when(is_second).then(pl.lit("degenerate-group")).otherwise(pl.lit("")).alias("special_case")
    for first, second in ((a, degenerate(b, case)), (degenerate(a, case), b)):
        _, groups = stage.compare_rewards(rollouts(2, 2), first, second, Params())
        assert groups["shares_turned"].to_list() == [0.0, None]


def degenerate(reward: Scored, case: pl.Expr) -> Scored:
    return Scored(reward.name, reward.rewards, reward.attributions.with_columns(case))
