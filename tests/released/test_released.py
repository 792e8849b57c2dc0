"""Preset `released`: the nine behaviours of the code released with the paper that are worth comparing against, one test each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from ospo_cli import presets
from ospo_cli.errors import CreditError, RetrievalError
from ospo_cli.maths.estimators import ESTIMATORS
from ospo_cli.maths.ranking import metric_rows, ndcg_rows, parse_metric
from ospo_cli.maths.redistribution import Settings, redistribute
from ospo_cli.own_code import rules as rule_file
from ospo_cli.params.whole import Params
from ospo_cli.released import rules as released_rules
from ospo_cli.rewards.judged_reward import JudgedReward
from ospo_cli.segmenters.chosen import chosen
from ospo_cli.stages import attribute as attribute_stage
from ospo_cli.stages import score_coalitions as score_stage
from ospo_cli.stages.segment import segment
from ospo_cli.tables.prepared import DOCUMENTS, POOLS, PROMPTS, QRELS
from ospo_cli.training.policy_loss import Tokens, clipped_loss, token_weights
from tests.games import three_segments
from tests.maths.flat_rows import credit, token_map
from tests.stages.test_attribute import VOCABULARY, tables
from tests.text.byte_level import pieces

RELEASED = presets.load("released")
PROPORTIONAL, RANK = released_rules.RULES
OWN_RULES = rule_file.load(RELEASED.attribute.rule_file)
TITLES = ["navy wool coat for men", "waterproof boots", "red cotton shirt", "red wool dress", "linen shirt for men", "leather belt"]
# Phrases of several words, and single ones between them; a group without differences; an answer that finds nothing relevant.
GROUPS = [
    [
        "<think>they want warm things for winter</think><answer>navy wool coat, waterproof, for men</answer>",
        "<think>a shirt</think><answer>red cotton shirt, belt, linen shirt</answer>",
        "<answer>leather belt, silver watch</answer>",
        "<think>hm</think><answer>for men, wool, red wool dress</answer>",
    ],
    ["<answer>red cotton shirt, for men</answer>", "<answer>red cotton shirt, for men</answer>"],
]


def changed(section: str, **settings: Any) -> Params:
    return dataclasses.replace(RELEASED, **{section: dataclasses.replace(getattr(RELEASED, section), **settings)})


def rollouts() -> pl.DataFrame:
    return tables(GROUPS, lambda completion, mask: 0.0).rollouts


@cache
def judged(params: Params | None = None) -> JudgedReward:
    ids = [f"d{index}" for index in range(len(TITLES))]
    documents = pl.DataFrame({"doc_id": ids, "title": TITLES, "category": [""] * len(ids)}, schema=DOCUMENTS.schema)
    prompts = pl.DataFrame([(name, "train", "coat", [], "coat") for name in ("p0", "p1")], schema=PROMPTS.schema, orient="row")
    qrels = pl.DataFrame([("p0", "d0", 1.0), ("p0", "d1", 1.0), ("p0", "d4", 1.0), ("p1", "d2", 1.0)], schema=QRELS.schema, orient="row")
    return JudgedReward((documents, prompts, qrels, pl.DataFrame(schema=POOLS.schema)), params or RELEASED)


class Counting:
    """A retriever that counts its calls and the queries of each, and may fail."""

    def __init__(self, real: Any, fails_at: int = 0) -> None:
        self.real, self.queries, self.fails_at = real, [], fails_at
        self.fingerprint = real.fingerprint

    def rank(self, queries: Sequence[str], pools: Sequence[Any], k: int) -> list[Any]:
        self.queries.append(list(queries))
        if len(self.queries) == self.fails_at:
            raise RetrievalError("retriever", "no answer", remedy="try again")
        return self.real.rank(queries, pools, k)


def scored(params: Params = RELEASED, retriever: Any = None) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return rollouts, segments, rewards and coalition values."""
    made = rollouts()
    reward = JudgedReward.__new__(JudgedReward)
    reward.__dict__.update(judged().__dict__)
    reward.metric = parse_metric(params.score_coalitions.metric)
    reward.retriever = retriever or reward.retriever
    segments, _ = segment(made, params.segment, chosen(params.segment, Path())[0])
    return made, segments, *score_stage.score_coalitions(made, segments, reward, params)[:2]


def attributed(params: Params = RELEASED) -> attribute_stage.Attribution:
    tables = attribute_stage.Scored(*scored(params))
    return attribute_stage.attribute(tables, pieces(VOCABULARY).pieces, params, own_rules=OWN_RULES)


def group_advantage(rewards: pl.DataFrame) -> np.ndarray:
    """R minus the group's mean, without the standard deviation: what the preset normalises by."""
    return rewards.select(pl.col("reward") - pl.col("reward").mean().over("prompt_id"))["reward"].to_numpy()


def shares_of(result: attribute_stage.Attribution, rollout_id: str) -> np.ndarray:
    return result.attributions.filter(rollout_id=rollout_id)["share"].to_numpy()


def min_max(share: np.ndarray) -> np.ndarray:
    return (share - share.min()) / (share.max() - share.min())


def test_1_credits_of_the_answers_own_tokens_stand_from_the_completions_first_token_on() -> None:
    made, segments, rewards, _ = scored()
    result = attributed()
    texts = [piece.decode() for piece in pieces(VOCABULARY).pieces(made["token_ids"][0].to_list())]
    starts = np.cumsum([0, *map(len, texts)])
    # The weight of every token where it belongs, then moved to the front by the tokens before the answer.
    spans = segments.filter(rollout_id="001:p0:00").select("start", "end").rows()
    weights = dict(zip(spans, min_max(shares_of(result, "001:p0:00")), strict=True))
    lead = [len(text) - len(text.lstrip()) if text.strip() else 0 for text in texts]
    placed = [
        next((weight for (start, end), weight in weights.items() if text and start <= at + blank < end), 0.0)
        for at, blank, text in zip(starts, lead, texts, strict=False)
    ]
    before = int(np.count_nonzero(starts[1:] <= made["answer_start"][0]))
    expected = group_advantage(rewards)[0] * np.array([*placed[before:], *[0.0] * before])
    found = result.token_advantages["advantages"][0].to_numpy()
    assert found == pytest.approx(expected, abs=1e-6)
    credited = "".join(text for text, value in zip(texts, found, strict=True) if value)
    assert credited
    assert credited in made["completion"][0][: made["answer_start"][0]]


def test_2_shapleys_weights_on_windows_then_scaled_to_one_within_the_row_so_that_the_worst_is_always_zero() -> None:
    masks, values = three_segments()
    share = ESTIMATORS[RELEASED.attribute.estimator].shares(masks, values).share
    assert share == pytest.approx([1 / 3, 1 / 3, 0.05])
    tokens = token_map([[0, 1, 2]] * 3)
    # Sign and scale are lost: all three rows weigh the same.
    shares = [*share, *(share * 1000), *(share - 5)]
    found = redistribute(PROPORTIONAL, tokens, credit([0.5, 0.5, -0.5], shares), Settings()).advantages
    assert found == pytest.approx([0.5, 0.5, 0.0, 0.5, 0.5, 0.0, -0.5, -0.5, 0.0])
    for rollout_id in ("001:p0:00", "001:p0:01", "001:p0:03"):
        weight = min_max(shares_of(attributed(), rollout_id))
        assert (weight.min(), weight.max()) == (0, 1)


def test_3_rows_without_reward_get_no_gradient_in_proportional_mode() -> None:
    _, _, rewards, _ = scored()
    result = attributed()
    assert rewards["reward"][2] == 0
    assert group_advantage(rewards)[2] < -0.1
    assert not any(result.token_advantages["advantages"][2])
    assert set(result.attributions.filter(rollout_id="001:p0:02")["special_case"]) == {"zero-reward"}
    assert result.metrics["special_cases"]["zero-reward"] == 1
    assert any(attributed(changed("attribute", rule="signed")).token_advantages["advantages"][2])


def test_4_rank_mode_is_the_wrong_way_round_the_best_weighs_nothing() -> None:
    found = redistribute(RANK, token_map([[0, 1, 2]]), credit([0.5], [0.1, 0.9, 0.4]), Settings()).advantages
    assert found == pytest.approx([0.5, 0.0, 0.25])
    result = attributed(changed("attribute", rule="released-rank"))
    share = shares_of(result, "001:p0:00")
    tokens = result.token_advantages["advantages"][0].to_numpy()
    proportional = attributed().token_advantages["advantages"][0].to_numpy()
    # Two phrases, the second the better one: what the one mode credits, the other does not.
    assert share[0] < share[1]
    assert tokens[0] == pytest.approx(group_advantage(scored()[2])[0], abs=1e-6)
    assert (proportional[0], tokens[np.flatnonzero(proportional)].tolist()) == (0, [0] * np.count_nonzero(proportional))


def test_5_a_single_word_belongs_to_no_phrase_and_this_takes_explicit_parameters() -> None:
    made, segments, rewards, values = scored()
    spans = segments.filter(rollout_id="001:p0:00").select("start", "end").rows()
    assert [made["completion"][0][start:end] for start, end in spans] == ["navy wool coat", "for men"]
    grand = values.filter(~pl.col("coalition").str.contains("0"), rollout_id="001:p0:00").row(0, named=True)
    assert grand["query"] == "navy wool coat for men"
    assert grand["coalition_value"] != rewards["reward"][0]
    assert attributed().metrics["grand_value_differs"] > 0
    assert segment(made, RELEASED.segment, chosen(RELEASED.segment, Path())[0])[1]["coverage"] < 1
    with pytest.raises(
        CreditError, match=r"segment.own_segmenter ospo_cli.released.segmenter:phrases: letters of the answer lie in no segment"
    ):
        scored(changed("segment", coverage="full"))
    with pytest.raises(CreditError, match="segments together are not worth what its answer is"):
        scored(changed("score_coalitions", grand_value="reward"))
    params = changed("score_coalitions", grand_value="reward")
    with pytest.raises(CreditError, match="value of the whole answer and weighted format part are not the reward"):
        attribute_stage.attribute(attribute_stage.Scored(*scored()), pieces(VOCABULARY).pieces, params, own_rules=OWN_RULES)
    with pytest.raises(
        CreditError, match=r"potential measures what the reward holds beyond all segments.*found score_coalitions.grand_value"
    ):
        attributed(changed("attribute", rule="potential"))


def test_6_the_empty_coalition_is_worth_zero_but_a_failure_is_an_error_here_and_never_a_reward_of_zero() -> None:
    _, _, _, values = scored()
    empty = values.filter(~pl.col("coalition").str.contains("1"))
    assert empty.height == 6
    assert empty["coalition_value"].to_list() == [0.0] * 6
    for call in (1, 7, 20):
        with pytest.raises(RetrievalError, match="no answer"):
            scored(retriever=Counting(judged().retriever, fails_at=call))


def test_7_one_call_of_the_retriever_per_coalition_equal_ones_and_degenerate_groups_included() -> None:
    counting = Counting(judged().retriever)
    made, _, rewards, values = scored(retriever=counting)
    assert [len(queries) for queries in counting.queries] == [1] * (made.height + values.height)
    assert values.filter(pl.col("rollout_id").str.contains(":p1:")).height == 2 * 4
    assert rewards["is_degenerate_group"].to_list() == [False] * 4 + [True] * 2
    assert len({tuple(queries) for queries in counting.queries}) < len(counting.queries)
    # Neither parameter changes a value.
    usual = Counting(judged().retriever)
    params = changed("score_coalitions", calls="batched", degenerate_groups="skip")
    _, _, same_rewards, fewer = scored(params, usual)
    assert same_rewards.equals(rewards)
    assert fewer.equals(values.filter(pl.col("rollout_id").str.contains(":p0:")))
    assert len(usual.queries) < 5


def test_8_the_trace_of_grpo_lambda_does_not_reach_the_loss() -> None:
    drawn = np.random.Generator(np.random.Philox(key=2)).normal(scale=0.1, size=(3, 6))
    logprobs, behavior, advantages = (torch.from_numpy(row) for row in drawn)
    weights = torch.from_numpy(token_weights([4, 2], RELEASED.update.aggregation, 10))
    tokens = Tokens(logprobs, behavior, advantages, weights, [4, 2])
    preset, plain, asked_for = (
        clipped_loss(tokens, dataclasses.replace(RELEASED.update, trace=trace)).loss.item() for trace in (RELEASED.update.trace, 0.0, 0.9)
    )
    assert preset == plain != asked_for


def test_9_the_cut_off_of_ndcg_is_the_number_of_products_that_the_query_retrieved() -> None:
    assert RELEASED.score_coalitions.metric == "ndcg@retrieved"
    reward = judged()
    found = {query: reward.measures(["p0"], [query], ["ndcg@retrieved", "ndcg@pool", "ndcg@10"]) for query in ("navy", "men", "red shirt")}
    counts = [len(ranking.documents) for ranking in reward.rankings(["p0"] * 3, list(found), 0)]
    assert counts == [1, 2, 3]
    # One relevant product of three, alone, is a perfect ranking; so are two.
    assert [found[query]["ndcg@retrieved"][0] for query in ("navy", "men")] == [1, 1]
    assert found["navy"]["ndcg@10"][0] < 0.7
    for query, count in zip(found, counts, strict=True):
        documents = reward.rankings(["p0"], [query], 0)[0].documents
        gains = np.isin(documents, reward.judged("p0")[0]).astype(float)
        assert found[query]["ndcg@retrieved"][0] == pytest.approx(ndcg_rows(gains[None], np.ones(3), count)[0])
    nothing = metric_rows(parse_metric("ndcg@retrieved"), np.zeros((1, 3)), np.ones(2), np.array([0]))
    assert nothing.tolist() == [0.0]
