"""A weighted sum of rewards is one game: credit is linear in the parts, in the estimators and through the stages."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ospo_cli.maths.coalitions import Players
from ospo_cli.maths.estimators import ESTIMATORS, needed_coalitions
from ospo_cli.params.whole import Params
from ospo_cli.rewards.judged_reward import JudgedReward
from ospo_cli.stages import attribute as attribute_stage
from ospo_cli.stages.score_coalitions import score_coalitions
from ospo_cli.tables.prepared import DOCUMENTS, POOLS, PROMPTS, QRELS
from tests.games import generator
from tests.params.deletion import by_deletion
from tests.stages.test_attribute import VOCABULARY, Tables, tables
from tests.text.byte_level import pieces

LINEAR = tuple(ESTIMATORS)
SAMPLING = tuple(name for name, estimator in ESTIMATORS.items() if estimator.sampling)
PARTS = ("retrieval", "length", "repetition")
ANSWERS = [
    "<answer>navy wool coat, warm wool coat, for men</answer>",
    "<answer>red cotton shirt, linen shirt, coat, coat</answer>",
    "<answer>wool dress, for women, red</answer>",
    "<answer>leather belt, coat for men</answer>",
]
TITLES = ["navy wool coat for men", "red cotton shirt", "red wool dress", "linen shirt for men", "leather belt", "warm coat"]


@pytest.mark.parametrize("name", LINEAR)
@settings(max_examples=15)
@given(n=st.integers(1, 6), weights=st.lists(st.floats(-3, 3), min_size=2, max_size=4), seed=st.integers(0, 1000))
def test_shares_of_the_weighted_game_are_the_weighted_sum_of_the_shares_of_its_parts(
    name: str, n: int, weights: list[float], seed: int
) -> None:
    unions = tuple(np.sort(generator(seed).integers(0, 3, n)).tolist())
    players = Players(n, unions)
    masks = needed_coalitions(ESTIMATORS[name], n, n, unions)
    parts = generator(seed).uniform(-1, 1, size=(len(weights), len(masks)))
    order = generator(seed).permutation(n)
    of_parts = [ESTIMATORS[name].shares(masks, part, order=order, players=players).share for part in parts]
    whole = ESTIMATORS[name].shares(masks, np.array(weights) @ parts, order=order, players=players).share
    assert whole == pytest.approx(np.array(weights) @ of_parts, abs=1e-9)


def weighted(**weights: float) -> Params:
    section = dataclasses.replace(Params().score_coalitions, length_limit=4, estimators=list(LINEAR), **weights)
    return dataclasses.replace(by_deletion(), score_coalitions=section)


ONE_PART = weighted(format_weight=0.0)
PARAMS = weighted(format_weight=0.2, retrieval_weight=1.5, length_weight=0.7, repetition_weight=0.3)


_known: dict[str, Tables] = {}


def scored(params: Params = PARAMS) -> Tables:
    """Real rewards and coalition values, of a real retriever."""
    if repr(params) in _known:
        return _known[repr(params)]
    made = tables([ANSWERS], lambda completion, mask: 0.0, finish="length")
    ids = [f"d{index}" for index in range(len(TITLES))]
    documents = pl.DataFrame({"doc_id": ids, "title": TITLES, "category": [""] * len(ids)}, schema=DOCUMENTS.schema)
    prompts = pl.DataFrame([("p0", "train", "coat", [], "coat")], schema=PROMPTS.schema, orient="row")
    qrels = pl.DataFrame([("p0", "d0", 1.0), ("p0", "d5", 1.0)], schema=QRELS.schema, orient="row")
    reward = JudgedReward((documents, prompts, qrels, pl.DataFrame(schema=POOLS.schema)), params)
    rewards, values, _ = score_coalitions(made.rollouts, made.segments, reward, params)
    _known[repr(params)] = dataclasses.replace(made, rewards=rewards, coalition_values=values)
    return _known[repr(params)]


def only(part: str, params: Params = PARAMS) -> Tables:
    """The same tables, with one part as the whole reward."""
    made = scored(params)
    return dataclasses.replace(
        made,
        rewards=made.rewards.with_columns(reward=pl.col(part)),
        coalition_values=made.coalition_values.with_columns(coalition_value=pl.col(part)),
    )


def shares(made: Tables, params: Params, estimator: str) -> np.ndarray:
    params = dataclasses.replace(params, attribute=dataclasses.replace(params.attribute, estimator=estimator, rule="proportional"))
    found = attribute_stage.attribute(attribute_stage.Scored(**vars(made)), pieces(VOCABULARY).pieces, params).attributions
    return found["share"].to_numpy()


@pytest.mark.parametrize("estimator", LINEAR)
def test_shares_of_a_weighted_reward_are_the_weighted_sum_of_the_shares_of_each_part(estimator: str) -> None:
    whole = shares(scored(), PARAMS, estimator)
    found = [shares(only(part), ONE_PART, estimator) for part in PARTS]
    assert np.abs(found[0]).max() > 0.05
    assert whole == pytest.approx(1.5 * found[0] + 0.7 * found[1] + 0.3 * found[2], abs=1e-12)


@pytest.mark.parametrize("estimator", SAMPLING)
def test_so_are_sampled_shares_since_all_parts_are_read_at_the_same_coalitions(estimator: str) -> None:
    params, one_part = (
        dataclasses.replace(known, score_coalitions=dataclasses.replace(known.score_coalitions, exact_coalitions=2, orders=4))
        for known in (PARAMS, ONE_PART)
    )
    whole = shares(scored(params), params, estimator)
    found = [shares(only(part, params), one_part, estimator) for part in PARTS]
    assert whole == pytest.approx(1.5 * found[0] + 0.7 * found[1] + 0.3 * found[2], abs=1e-12)


@pytest.mark.parametrize("part", PARTS)
def test_every_part_has_shares_of_its_own(part: str) -> None:
    assert np.abs(shares(only(part), ONE_PART, "myerson")).max() > 0.05


def test_parts_that_no_text_can_earn_are_in_no_share() -> None:
    made = scored()
    assert made.rewards["format"].to_list() == [-0.5] * len(ANSWERS)
    total = made.segments.with_columns(share=pl.Series(shares(made, PARAMS, "myerson"))).group_by("rollout_id").agg(pl.col("share").sum())
    expected = made.rewards["reward"] + 0.2 * 0.5
    assert total.sort("rollout_id")["share"].to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-12)
