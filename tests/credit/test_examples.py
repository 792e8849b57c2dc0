"""Which completions are imitated, and which are preferred to which."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ospo_cli.credit.examples import asks_for_made, check_made, preference_pairs, targets
from ospo_cli.errors import CreditError
from ospo_cli.params.attribute import Attribute
from ospo_cli.tables.attribute import PREFERENCE_PAIRS, TARGETS
from ospo_cli.tables.score_coalitions import RECOMBINED
from tests.tables.sampled import sampled_frame


def tables(groups, same=()):
    """Return rollouts and rewards: a list of rewards per prompt; rollouts named in `same` have equal tokens."""
    rows, rewards = [], []
    for prompt, values in enumerate(groups):
        for sample, reward in enumerate(values):
            name = f"p{prompt}:{sample}"
            ids = [1, 1] if name in same else [prompt, sample]
            rows.append((name, f"p{prompt}", "x", ids))
            rewards.append((name, float(reward)))
    return (
        sampled_frame(*rows),
        pl.DataFrame(rewards, schema={"rollout_id": pl.String, "reward": pl.Float64}, orient="row").join(
            pl.DataFrame([(row[0], row[1]) for row in rows], schema=["rollout_id", "prompt_id"], orient="row"), on="rollout_id"
        ),
    )


def names(table, column="rollout_id"):
    return table[column].to_list()


GROUPS = [[0.2, 0.9, 0.9, 0.0], [0.5, 0.5], [0.0, 0.0], [0.1, 0.3, 0.2]]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["p0:1", "p1:0", "p3:1"]),
        ({"targets_above": None}, ["p0:1", "p1:0", "p2:0", "p3:1"]),
        ({"targets_above": 0.5}, ["p0:1"]),
        ({"targets": "above-mean"}, ["p0:1", "p0:2", "p3:1"]),
        ({"targets": "all"}, ["p0:0", "p0:1", "p0:2", "p1:0", "p1:1", "p3:0", "p3:1", "p3:2"]),
    ],
)
def test_targets_are_those_of_the_rule(settings, expected):
    found = targets(*tables(GROUPS), Attribute(**settings))
    assert names(found) == expected
    assert found.schema == TARGETS.schema


def test_pairs_are_the_best_with_the_worst_or_all_whose_rewards_differ():
    found = preference_pairs(*tables(GROUPS), Attribute())
    assert list(zip(names(found, "chosen_rollout_id"), names(found, "rejected_rollout_id"), strict=True)) == [
        ("p0:1", "p0:3"),
        ("p3:1", "p3:0"),
    ]
    assert found["margin"].to_list() == pytest.approx([0.9, 0.2])
    assert found.schema == PREFERENCE_PAIRS.schema
    every = preference_pairs(*tables(GROUPS), Attribute(pairs="all"))
    assert every.height == 5 + 0 + 0 + 3
    wide = preference_pairs(*tables(GROUPS), Attribute(pairs="all", pairs_margin=0.15))
    assert sorted(set(names(wide, "prompt_id"))) == ["p0", "p3"]
    assert wide["margin"].min() > 0.15


def test_equal_completions_stand_once():
    same = ("p0:1", "p0:2")
    assert names(targets(*tables(GROUPS, same), Attribute(targets="all")))[:2] == ["p0:0", "p0:1"]
    assert preference_pairs(*tables(GROUPS, same), Attribute(pairs="all")).height == 3 + 3


@given(st.lists(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=5), min_size=1, max_size=4), st.integers(0, 99))
def test_the_order_of_the_rows_changes_nothing_and_every_pair_is_of_one_prompt(groups, seed):
    rollouts, rewards = tables(groups)
    mixed = rollouts.sample(fraction=1.0, shuffle=True, seed=seed), rewards.sample(fraction=1.0, shuffle=True, seed=seed + 1)
    for choose in (targets, preference_pairs):
        for rule in (Attribute(), Attribute(targets="above-mean", pairs="all")):
            assert choose(rollouts, rewards, rule).equals(choose(*mixed, rule))
    pairs = preference_pairs(rollouts, rewards, Attribute(pairs="all"))
    reward = dict(rewards.select("rollout_id", "reward").iter_rows())
    for chosen, rejected, prompt, margin in pairs.iter_rows():
        assert chosen.split(":")[0] == rejected.split(":")[0] == prompt
        assert margin == pytest.approx(reward[chosen] - reward[rejected])
        assert margin > 0
    differing = sum(int(np.sum(np.subtract.outer(np.array(group), np.array(group)) > 0)) for group in groups)
    assert pairs.height == differing


def made_of(*rows):
    return pl.DataFrame(
        [(f"{start}/recombined", prompt, start, "x", value, 0.0, 1) for start, prompt, value in rows],
        schema=RECOMBINED.schema,
        orient="row",
    )


def test_a_made_answer_is_the_target_where_there_is_one_and_else_the_best():
    made = made_of(("p0:1", "p0", 0.95))
    found = targets(*tables(GROUPS), Attribute(targets="recombined"), made)
    assert found.select("rollout_id", "reward").rows() == [("p0:1/recombined", 0.95), ("p1:0", 0.5), ("p3:1", 0.3)]
    assert names(targets(*tables(GROUPS), Attribute(), made)) == ["p0:1", "p1:0", "p3:1"]
    pairs = preference_pairs(*tables(GROUPS), Attribute(pairs="recombined-worst"), made)
    assert pairs.select("chosen_rollout_id", "rejected_rollout_id").rows() == [("p0:1/recombined", "p0:3"), ("p3:1", "p3:0")]
    assert pairs["margin"].to_list() == pytest.approx([0.95, 0.2])
    assert "p0:1/recombined" not in names(preference_pairs(*tables(GROUPS), Attribute(), made), "chosen_rollout_id")


def test_made_answers_that_are_missing_or_of_other_rollouts_are_refused():
    assert not asks_for_made(Attribute(), 0, 1)
    assert asks_for_made(Attribute(pairs="recombined-worst"), 8, 1)
    for asking in (Attribute(targets="recombined"), Attribute(pairs="recombined-worst")):
        with pytest.raises(CreditError, match=r"no recombined answers were made.*score-coalitions --iter 3"):
            asks_for_made(asking, 0, 3)
    rewards = tables(GROUPS)[1].with_columns(format=0.0)
    check_made(rewards, made_of(("p0:1", "p0", 0.95)).with_columns(best_value=0.9), 0.1, 1)
    for start, prompt in (("p9:0", "p9"), ("p0:1", "p1")):
        with pytest.raises(CreditError, match="other rollouts"):
            check_made(rewards, made_of((start, prompt, 0.9)), 0.1, 1)


def test_answers_that_were_made_under_another_reward_are_refused():
    made = made_of(("p3:1", "p3", 0.5), ("p0:1", "p0", 1.2)).with_columns(best_value=pl.Series([0.3, 1.0]))
    rewards = tables(GROUPS)[1]
    check_made(rewards.with_columns(reward=pl.col("reward") - 0.1, format=-1.0).filter(prompt_id="p3"), made[:1], 0.1, 1)
    with pytest.raises(
        CreditError, match=r"recombined, p0:1/recombined: best_value .*another reward: found 1, expected 0\.9; run `ospo score-"
    ):
        check_made(rewards.with_columns(format=0.0), made, 0.1, 1)
