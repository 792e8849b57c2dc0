"""The two stages together: what an estimator needs is evaluated, and what was evaluated is read as it was drawn."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import polars as pl
import pytest

from ospo_cli.errors import CreditError
from ospo_cli.maths import coalitions
from ospo_cli.maths.estimators import ESTIMATORS
from ospo_cli.params.whole import Params
from ospo_cli.rewards.judged_reward import JudgedReward
from ospo_cli.stages import attribute, score_coalitions
from tests.oracles import owen_by_orders, shapley_by_orders
from tests.stages.small_catalogue import frames, prepared, rollout, sampled_rows
from tests.text.byte_level import END, pieces, tokenizer

VOCABULARY = 300
SAMPLED = {"exact_coalitions": 2, "orders": 4}
SAMPLING = ["shapley", "owen", "banzhaf"]


def with_ids(rollouts: pl.DataFrame) -> pl.DataFrame:
    end = tokenizer(VOCABULARY).token_to_id(END)
    ids = [
        tokenizer(VOCABULARY).encode(text).ids + [end] * (finish == "stop")
        for text, finish in rollouts.select("completion", "finish_reason").iter_rows()
    ]
    return rollouts.with_columns(
        token_ids=pl.Series(ids, dtype=pl.List(pl.Int32)), behavior_logprobs=pl.Series([[-1.0] * len(own) for own in ids], dtype=pl.List(pl.Float32))
    )  # fmt: skip


def changed(estimators: list[str], scoring: dict[str, Any] | None = None, **settings: Any) -> Params:
    params = Params()
    scoring = {"estimators": estimators} | (scoring or {})
    return dataclasses.replace(
        params,
        score_coalitions=dataclasses.replace(params.score_coalitions, **scoring),
        attribute=dataclasses.replace(params.attribute, rule="signed", estimator=estimators[0], **settings),
    )


def scored(params: Params, rows: list | None = None) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    rollouts, segments = frames(*(rows or sampled_rows()))
    # The first two segments of each answer are a union, each other one its own.
    segments = segments.with_columns(union_index=(pl.col("segment_index") - 1).clip(0).cast(pl.Int32))
    rollouts = with_ids(rollouts)
    rewards, values, _ = score_coalitions.score_coalitions(rollouts, segments, JudgedReward(prepared(), params), params)
    return rollouts, segments, rewards, values


def credited(params: Params, tables: tuple[pl.DataFrame, ...]) -> attribute.Attribution:
    return attribute.attribute(attribute.Scored(*tables), pieces(VOCABULARY).pieces, params)


@pytest.mark.parametrize("name", list(ESTIMATORS))
@pytest.mark.parametrize(
    "scoring", [{}, SAMPLED, SAMPLED | {"budget": "adaptive", "further_coalitions": 12}], ids=["exact", "sampled", "adaptive"]
)
def test_what_an_estimator_needs_is_evaluated(name: str, scoring: dict[str, Any]) -> None:
    params = changed([name], scoring | {"families": []})
    result = credited(params, scored(params))
    assert result.metrics["special_cases"].keys() <= {
        "degenerate-group", "single-segment", "no-positive-share", "no-blame", "sampled-orders", "sampled-subsets",
        "sampled-orders+no-blame", "sampled-orders+no-positive-share", "sampled-subsets+no-blame", "sampled-subsets+no-positive-share",
    }  # fmt: skip
    assert ("sampled-orders" in result.metrics["special_cases"]) == (bool(scoring) and name in ("shapley", "owen"))
    assert result.metrics["efficiency_gap_max"] < 1e-9 or not ESTIMATORS[name].is_efficient


@pytest.mark.parametrize("scoring", [{}, SAMPLED, SAMPLED | {"budget": "adaptive"}], ids=["exact", "sampled", "adaptive"])
def test_one_scored_table_serves_all_the_named_estimators_as_well_as_a_table_of_each_own(scoring: dict[str, Any]) -> None:
    together = scored(changed(list(ESTIMATORS), scoring))
    for name in ESTIMATORS:
        alone = scored(changed([name], scoring))
        shared = credited(changed([name], scoring), together)
        assert shared.attributions.equals(credited(changed([name], scoring), alone).attributions)


def test_exact_shares_are_those_of_the_slow_oracles() -> None:
    params = changed(["owen", "shapley"])
    tables = scored(params)
    values: dict[str, dict[frozenset[int], float]] = {}
    for rollout_id, mask, value in tables[3].select("rollout_id", "coalition", "coalition_value").iter_rows():
        values.setdefault(rollout_id, {})[frozenset(index for index, bit in enumerate(mask) if bit == "1")] = value
    unions = {key[0]: tuple(part["union_index"]) for key, part in tables[1].group_by("rollout_id", maintain_order=True)}
    shares = {
        name: {key[0]: part["share"].to_list() for key, part in credited(changed([name]), tables).attributions.group_by("rollout_id", maintain_order=True)}
        for name in ("owen", "shapley")
    }  # fmt: skip
    for rollout_id, game in values.items():
        n = len(unions[rollout_id])
        assert shares["owen"][rollout_id] == pytest.approx(owen_by_orders(n, game.__getitem__, unions[rollout_id]), abs=1e-9)
        assert shares["shapley"][rollout_id] == pytest.approx(shapley_by_orders(n, game.__getitem__), abs=1e-9)


@pytest.mark.parametrize("name", SAMPLING)
def test_sampled_shares_carry_standard_errors_and_exact_ones_none(name: str) -> None:
    exact = credited(changed([name]), scored(changed([name]))).attributions
    assert exact["standard_error"].null_count() == exact.height
    params = changed([name], SAMPLED)
    drawn = credited(params, scored(params)).attributions.filter(pl.col("special_case").str.contains("sampled"))
    assert drawn.height > 20
    assert drawn["standard_error"].null_count() == 0
    assert (drawn["n_contributions"] >= 4).all()


def test_an_adaptive_budget_looks_at_doubtful_segments_more_often_and_stays_within_it() -> None:
    fixed, adaptive = changed(["shapley"], SAMPLED), changed(["shapley"], SAMPLED | {"budget": "adaptive", "further_coalitions": 10})
    before, after = scored(fixed), scored(adaptive)
    rows = after[3].height - before[3].height
    sampled_rollouts = after[3].filter(pl.col("coalition").str.len_chars() > 1)["rollout_id"].n_unique()
    assert 0 < rows <= 10 * sampled_rollouts
    assert credited(adaptive, after).attributions["n_contributions"].max() > 4


@pytest.mark.parametrize("name", SAMPLING)
@pytest.mark.parametrize("budget", ["fixed", "adaptive"])
def test_a_sampled_coalition_that_is_missing_is_named(name: str, budget: str) -> None:
    params = changed([name], SAMPLED | {"budget": budget})
    tables = scored(params)
    # An inner coalition that only a draw leads to.
    victim = tables[3].filter(pl.col("coalition").str.contains("10+1"))["rollout_id"][0]
    left = tables[3].filter((pl.col("rollout_id") != victim) | ~pl.col("coalition").str.contains("10+1"))
    with pytest.raises(
        CreditError, match=rf"rollout {victim}: coalitions that estimator {name}.* needs were not evaluated.*estimators: \[{name}\]"
    ):
        credited(params, (*tables[:3], left))


@pytest.mark.parametrize("budget", ["fixed", "adaptive"])
def test_which_groups_are_scored_together_changes_no_value(budget: str) -> None:
    params = changed(["shapley", "owen"], SAMPLED | {"budget": budget})
    rows = sampled_rows()
    together = scored(params, rows)[3]
    apart = pl.concat([scored(params, rows[:8])[3], scored(params, rows[8:])[3]])
    assert together.sort("rollout_id", "coalition").equals(apart.sort("rollout_id", "coalition"))


def test_answers_of_sixty_four_and_two_hundred_segments_are_credited() -> None:
    words = [f"word{index}" for index in range(200)]
    rows = [rollout("p0", 0, ["red", *words[:63]]), rollout("p0", 1, ["coat", *words[:199]]), rollout("p0", 2, ["wool"])]
    params = changed(["shapley", "myerson", "owen", "banzhaf"], {"contiguous_width": 4, "orders": 4})
    tables = scored(params, rows)
    for name in ("shapley", "myerson", "owen", "banzhaf"):
        result = credited(dataclasses.replace(params, attribute=dataclasses.replace(params.attribute, estimator=name)), tables)
        assert result.attributions.height == 64 + 200 + 1
        assert np.isfinite(result.attributions["share"].to_numpy()).all()


def test_interactions_are_what_windows_earn_beyond_their_parts() -> None:
    params = changed(["myerson"])
    tables = scored(params)
    found = credited(params, tables).interactions
    value = {(rollout_id, mask): v for rollout_id, mask, v in tables[3].select("rollout_id", "coalition", "coalition_value").iter_rows()}
    sizes = dict(tables[1].group_by("rollout_id").len().iter_rows())

    def u(rollout_id: str, first: int, last: int) -> float:
        n = sizes[rollout_id]
        mask = "".join("1" if first <= index <= last else "0" for index in range(n))
        return value[rollout_id, mask] - value[rollout_id, "0" * n]

    assert found.height > 10
    for rollout_id, a, b, dividend in found.iter_rows():
        inner = u(rollout_id, a + 1, b - 1) if b - a > 1 else 0.0
        assert dividend == pytest.approx(u(rollout_id, a, b) - u(rollout_id, a + 1, b) - u(rollout_id, a, b - 1) + inner, abs=1e-12)
    # None is left out: with the segments alone they make up the whole gain.
    for rollout_id in found["rollout_id"].unique():
        n = sizes[rollout_id]
        alone = sum(u(rollout_id, index, index) for index in range(n))
        assert alone + found.filter(rollout_id=rollout_id)["dividend"].sum() == pytest.approx(u(rollout_id, 0, n - 1), abs=1e-6)


@pytest.mark.parametrize("estimator", ["leave-one-out", "shapley"])
def test_interactions_of_windows_that_were_not_evaluated_are_left_out(estimator: str) -> None:
    params = changed([estimator], SAMPLED | {"families": []})
    tables = scored(params)
    evaluated = set(tables[3].select("rollout_id", "coalition").iter_rows())
    sizes = dict(tables[1].group_by("rollout_id").len().iter_rows())
    for rollout_id, a, b, _ in credited(params, tables).interactions.iter_rows():
        mask = np.zeros(sizes[rollout_id], dtype=bool)
        mask[a : b + 1] = True
        assert (rollout_id, coalitions.to_mask_string(mask)) in evaluated
