"""What an answer's coalitions take is known before any is made, and too many are refused with what would do."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ospo_cli.errors import CreditError
from ospo_cli.maths import coalitions
from ospo_cli.maths.coalitions import FAMILIES, Budget, Players, family, is_drawn, most_coalitions
from ospo_cli.maths.estimators import ESTIMATORS, evaluated_coalitions
from ospo_cli.maths.group_game import ESTIMATOR_NAMES, GROUP_GAMES
from ospo_cli.params.score_coalitions import ScoreCoalitions
from ospo_cli.params.whole import Params
from ospo_cli.rewards import coalition_sizes
from ospo_cli.rewards.coalition_sizes import MOST_CELLS, cells, check_group, largest_answer, spliced_cells
from ospo_cli.stages import score_coalitions as stage
from tests.credit.test_group_game import spliced
from tests.params.deletion import by_deletion
from tests.stages.small_catalogue import GROUPS, frames, rollout
from tests.stages.test_score_coalitions import outputs, project

BUDGETS = st.builds(
    Budget,
    width=st.integers(1, 12),
    cap=st.sampled_from([0, 2, 7, 30]),
    exact=st.sampled_from([2, 64, 256]),
    orders=st.sampled_from([4, 6, 16]),
)


@st.composite
def players(draw):
    sizes = draw(st.lists(st.integers(1, 4), max_size=5))
    unions = tuple(number for number, size in enumerate(sizes) for _ in range(size))
    return Players(len(unions), unions)


def draw(_):
    return np.random.default_rng(3)


@settings(max_examples=60)
@given(st.sampled_from(sorted(FAMILIES)), players(), BUDGETS)
def test_no_family_has_more_coalitions_than_is_said_beforehand(name, own, budget):
    if name == "powerset" and own.n > coalitions.LARGEST_POWERSET:
        own = Players(coalitions.LARGEST_POWERSET)
    assert len(family(name, own, budget, draw)) <= most_coalitions(name, own, budget)


@settings(max_examples=60)
@given(st.sampled_from(["contiguous", "prefix", "leave-one-out", "two-level"]), players(), BUDGETS)
def test_a_family_that_draws_nothing_has_as_many_as_is_said_but_for_doubled_ones(name, own, budget):
    said = most_coalitions(name, own, budget)
    found = len(family(name, own, budget, draw))
    assert is_drawn(name, own, budget) or said - 2 <= found <= said or own.n < 3


@settings(max_examples=60)
@given(st.sampled_from(sorted(ESTIMATORS)), players(), BUDGETS)
def test_no_answer_has_more_cells_than_is_said_beforehand(name, own, budget):
    scoring = dataclasses.replace(ScoreCoalitions(), estimators=[name], families=["prefix"])
    made = evaluated_coalitions([name], ["prefix"], own, budget, draw)
    assert made.size <= cells(own, scoring, budget)


@pytest.mark.parametrize("name", sorted(GROUP_GAMES))
@pytest.mark.parametrize("lengths", [(3, 1, 2), (4, 0, 0, 1), (2,), (0, 0), (5, 5), (1, 1, 1, 1, 1, 1, 1, 1, 1, 1)])
def test_a_groups_spliced_texts_have_no_more_segments_than_is_said_beforehand(name, lengths):
    answers = [tuple("abcdefghijklmnop"[own : own + length]) for own, length in enumerate(lengths)]
    texts = spliced(answers, len, name, "index")["query"].to_list()
    assert sum(len(text.split()) for text in texts) <= spliced_cells(lengths, ScoreCoalitions(estimators=[name]))
    assert spliced_cells(lengths, ScoreCoalitions(estimators=["myerson"])) == 0


def test_more_pairs_of_segments_in_a_batch_than_are_held_are_refused(monkeypatch):
    rollouts, segments = frames(rollout("p0", 0, ["coat"] * 5), rollout("p0", 1, ["red", "coat"]))
    monkeypatch.setattr(stage, "MOST_CELLS", 11)
    assert stage._batch(rollouts, segments, ScoreCoalitions(), str.split) is not None
    monkeypatch.setattr(stage, "MOST_CELLS", 10)
    with pytest.raises(CreditError, match=r"found 11 pairs, expected at most 10; set score_coalitions\.alignment: group"):
        stage._batch(rollouts, segments, ScoreCoalitions(), str.split)
    assert stage._batch(rollouts, segments, ScoreCoalitions(alignment="group"), str.split) is not None


@pytest.mark.parametrize("name", sorted(ESTIMATOR_NAMES))
@pytest.mark.parametrize("group_size", [2, 8, 64])
def test_the_largest_answer_is_the_largest_that_is_not_refused(name, group_size):
    scoring = dataclasses.replace(ScoreCoalitions(), estimators=[name])
    budget = Budget(**scoring.coalition_budget)
    most = largest_answer(group_size, scoring, budget)

    def group(n):
        return [(f"001:p:{k:02d}", Players(n), cells(Players(n), scoring, budget)) for k in range(group_size)]

    assert check_group(group(most), group_size, scoring, budget) <= MOST_CELLS
    with pytest.raises(CreditError, match=rf"rollout 001:p:\d+: more segments .*set segment\.max_segments: {most} "):
        check_group(group(most + 1), group_size, scoring, budget)


def test_ten_thousand_segments_are_refused_before_a_coalition_is_made(monkeypatch):
    rollouts, segments = frames(rollout("p0", 0, ["coat"] * 10_000), rollout("p0", 1, ["red"]))
    monkeypatch.setattr(coalitions, "family", lambda *_: pytest.fail("a family was made"))
    with pytest.raises(CreditError) as refused:
        stage._sizes(rollouts, segments, by_deletion().score_coalitions)
    line = refused.value.line()
    assert line.startswith("rollout 001:p0:00: ")
    assert "found 10,000 segments, 3,395,1" in line
    assert "segment.max_segments: " in line


def test_groups_are_scored_together_as_long_as_their_cells_fit(monkeypatch):
    monkeypatch.setattr(stage, "CELLS_PER_SHARD", 10)
    sizes = {"a": 4, "b": 6, "c": 1, "d": 50, "e": 0, "f": 0, "g": 0}
    assert list(stage._together(sizes, 2)) == [["a", "b"], ["c"], ["d"], ["e", "f"], ["g"]]
    assert list(stage._together({}, 2)) == []


def test_the_cut_into_shards_changes_no_value(tmp_path, monkeypatch):
    one, many = project(tmp_path / "one"), project(tmp_path / "many")
    stage.execute(one, Params(), 1)
    monkeypatch.setattr(stage, "CELLS_PER_SHARD", 1)
    stage.execute(many, Params(), 1)
    assert outputs(one) == outputs(many)
    shards = [len(list((layout.cache / "score_coalitions").rglob("rewards.parquet"))) for layout in (one, many)]
    assert shards == [1, GROUPS]


def test_the_bound_is_what_the_manual_says():
    assert pytest.approx(2.7e9, rel=0.01) == coalition_sizes.MOST_CELLS * coalition_sizes.BYTES_PER_CELL
