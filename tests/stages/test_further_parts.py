"""Parts of the reward besides the metric: further metrics and a user's own, in the tables and in the credit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ospo_cli.errors import CreditError, ParameterError
from ospo_cli.layout import Layout
from ospo_cli.own_code import rewards as own_reward
from ospo_cli.params.score_coalitions import ScoreCoalitions
from ospo_cli.params.whole import Params
from ospo_cli.rewards.further_parts import FurtherParts
from ospo_cli.rewards.judged_reward import JudgedReward
from ospo_cli.stages import score_coalitions as stage
from ospo_cli.tables import parquet
from ospo_cli.tables.prepared import DOCUMENTS, POOLS, PROMPTS, QRELS
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.tables.score_coalitions import COALITION_VALUES, REWARDS
from ospo_cli.tables.segment import SEGMENTS
from tests.stages import test_weighted_rewards
from tests.stages.small_catalogue import frames, prepared, rollout, sampled_rows
from tests.stages.test_weighted_rewards import ONE_PART, shares

OWN = (
    "def parts(text, prompt_id, ranking):\n"
    "    return {'vowels': sum(letter in 'aeiou' for letter in text) / 100, 'found': len(ranking) / 10 * len(text) / 50}\n"
)
WEIGHTS: dict[str, Any] = {"further_metrics": {"mrr": 0.5, "R@2": 0.25}, "own_weights": {"found": 0.4, "vowels": 2.0}}
NAMES = ["mrr", "recall@2", "own.found", "own.vowels"]


def changed(**settings: Any) -> Params:
    section = dataclasses.replace(ScoreCoalitions(), own_reward="mine.py:parts", own_ranks=3, **settings)
    return dataclasses.replace(Params(), score_coalitions=section)


def rewarded(folder: Path, values: Params, text: str = OWN) -> JudgedReward:
    (folder / "mine.py").write_text(text, encoding="utf-8")
    own = own_reward.load("mine.py:parts", list(values.score_coalitions.own_weights), folder)
    return JudgedReward(prepared(), values, own_reward=own)


def scored(folder: Path, values: Params, rows: list[Any], text: str = OWN) -> tuple[pl.DataFrame, pl.DataFrame]:
    rewards, coalition_values, _ = stage.score_coalitions(*frames(*rows), rewarded(folder, values, text), values)
    return rewards, coalition_values


@pytest.mark.parametrize("composition", ["replace", "append"])
@pytest.mark.parametrize("empty_value", ["zero", "query"])
def test_a_reward_is_the_weighted_sum_of_its_columns(tmp_path: Path, composition: str, empty_value: str) -> None:
    values = changed(composition=composition, empty_value=empty_value, length_weight=0.3, length_limit=4, **WEIGHTS)
    rewards, found = scored(tmp_path, values, sampled_rows())
    assert rewards.columns == [*REWARDS.schema, *NAMES]
    assert found.columns == [*COALITION_VALUES.schema, *NAMES]
    further = {"mrr": 0.5, "recall@2": 0.25, "own.found": 0.4, "own.vowels": 2.0}
    for table, column, weights in (
        (rewards, "reward", {"retrieval": 1.0, "length": 0.3, "repetition": 0.02, "format": 0.1, **further}),
        (found, "coalition_value", {"retrieval": 1.0, "length": 0.3, "repetition": 0.02, **further}),
    ):
        total = sum(weight * table[name].to_numpy() for name, weight in weights.items())
        assert table[column].to_numpy() == pytest.approx(total, abs=1e-12)
        assert all(table[name].abs().max() > 0 for name in further)


def test_every_further_part_of_a_coalition_is_what_its_text_has_alone(tmp_path: Path) -> None:
    values = changed(**WEIGHTS)
    _, found = scored(tmp_path, values, sampled_rows())
    reward = rewarded(tmp_path, values)
    prompt_of = found["rollout_id"].str.split(":").list.get(1).to_list()
    alone = [reward.measures([prompt_id], [query], ["mrr", "recall@2"]) for prompt_id, query in zip(prompt_of, found["query"], strict=True)]
    assert found["mrr"].to_list() == [each["mrr"][0] for each in alone]
    assert found["recall@2"].to_list() == [each["recall@2"][0] for each in alone]
    assert found["own.vowels"].to_list() == [sum(letter in "aeiou" for letter in query) / 100 for query in found["query"]]


def test_a_user_s_function_is_shown_the_text_the_prompt_and_the_ranking(tmp_path: Path) -> None:
    text = (
        "def parts(text, prompt_id, ranking):\n"
        "    assert prompt_id == 'p1' and text == 'red, coat', (prompt_id, text)\n"
        "    assert [score for _, score in ranking] == sorted((score for _, score in ranking), reverse=True)\n"
        "    return {'a': int(ranking[0][0][1:]) / 100}\n"
    )
    values = changed(own_weights={"a": 1.0})
    further = FurtherParts(rewarded(tmp_path, values, text), values.score_coalitions)
    found = further.measure(["p1"], ["red, coat."], ["red, coat."])["own.a"]
    first = further.reward.rankings(["p1"], ["red, coat."], 1)[0].documents[0]
    assert found.tolist() == [int(further.reward.doc_ids[first][1:]) / 100]


def test_a_query_without_words_earns_nothing_and_the_function_is_not_asked(tmp_path: Path) -> None:
    values = changed(own_weights={"a": 1.0})
    further = FurtherParts(
        rewarded(tmp_path, values, "def parts(text, prompt_id, ranking):\n    raise ValueError\n"), values.score_coalitions
    )
    assert further.measure(["p1", "p1"], ["", " ?!"], ["", " ?!"])["own.a"].tolist() == [0.0, 0.0]


def test_separators_at_an_answer_s_ends_do_not_make_its_segments_worth_less_than_it(tmp_path: Path) -> None:
    values = changed(own_weights={"a": 1.0})
    row, spans = rollout("p1", 0, ["red coat", "blue"])
    row = dataclasses.replace(row, completion=row.completion.replace("</answer>", " ,.</answer>"))
    other = rollout("p1", 1, ["belt"])
    rewards, found = scored(
        tmp_path, values, [(row, spans), other], "def parts(text, prompt_id, ranking):\n    return {'a': len(text) / 50}\n"
    )
    grand = found.filter(~pl.col("coalition").str.contains("0"), pl.col("rollout_id") == row.rollout_id)["own.a"]
    assert grand.to_list() == rewards.filter(pl.col("rollout_id") == row.rollout_id)["own.a"].to_list() == [len("red coat, blue") / 50]


def test_a_function_that_draws_lots_is_refused(tmp_path: Path) -> None:
    text = "import itertools\ncount = itertools.count()\ndef parts(text, prompt_id, ranking):\n    return {'a': next(count) / 1000}\n"
    with pytest.raises(CreditError, match="gives another value for the same text"):
        scored(tmp_path, changed(own_weights={"a": 1.0}), sampled_rows(), text)


@pytest.mark.parametrize("names", [{"ndcg@10": 1.0}, {"nDCG@10": 1.0}, {"mrr": 1.0, "RR": 1.0}])
def test_a_metric_is_not_counted_twice(names: dict[str, float]) -> None:
    values = dataclasses.replace(Params(), score_coalitions=ScoreCoalitions(further_metrics=names))
    with pytest.raises(ParameterError, match="names a metric twice, or the metric itself"):
        FurtherParts(JudgedReward(prepared(), values), values.score_coalitions)


@pytest.mark.parametrize("estimator", test_weighted_rewards.LINEAR)
def test_credit_is_linear_in_further_parts_too(tmp_path: Path, estimator: str) -> None:
    made = test_weighted_rewards.scored()
    section = dataclasses.replace(test_weighted_rewards.PARAMS.score_coalitions, own_reward="mine.py:parts", own_ranks=3, **WEIGHTS)
    values = dataclasses.replace(test_weighted_rewards.PARAMS, score_coalitions=section)
    titles = test_weighted_rewards.TITLES
    ids = [f"d{index}" for index in range(len(titles))]
    documents = pl.DataFrame({"doc_id": ids, "title": titles, "category": [""] * len(ids)}, schema=DOCUMENTS.schema)
    prompts = pl.DataFrame([("p0", "train", "coat", [], "coat")], schema=PROMPTS.schema, orient="row")
    qrels = pl.DataFrame([("p0", "d0", 1.0), ("p0", "d5", 1.0)], schema=QRELS.schema, orient="row")
    (tmp_path / "mine.py").write_text(OWN, encoding="utf-8")
    own = own_reward.load("mine.py:parts", list(section.own_weights), tmp_path)
    reward = JudgedReward((documents, prompts, qrels, pl.DataFrame(schema=POOLS.schema)), values, own_reward=own)
    rewards, coalition_values, _ = stage.score_coalitions(made.rollouts, made.segments, reward, values)
    made = dataclasses.replace(made, rewards=rewards, coalition_values=coalition_values)

    def only(part: str) -> np.ndarray:
        part_rewards = rewards.with_columns(reward=pl.col(part))
        part_values = coalition_values.with_columns(coalition_value=pl.col(part))
        return shares(dataclasses.replace(made, rewards=part_rewards, coalition_values=part_values), ONE_PART, estimator)

    weights = {"retrieval": 1.5, "length": 0.7, "repetition": 0.3, "mrr": 0.5, "recall@2": 0.25, "own.found": 0.4, "own.vowels": 2.0}
    expected = sum(weight * only(part) for part, weight in weights.items())
    assert shares(made, values, estimator) == pytest.approx(expected, abs=1e-12)
    assert np.abs(only("own.vowels")).max() > 0.01


def test_a_changed_function_scores_again_and_an_equal_one_does_not(tmp_path: Path) -> None:
    layout, values = Layout(tmp_path), changed(**WEIGHTS)
    for table, frame in zip((DOCUMENTS, PROMPTS, QRELS, POOLS), prepared(), strict=True):
        parquet.write(frame, layout.prepared(f"{table.name}.parquet"), table)
    rollouts, segments = frames(*sampled_rows())
    parquet.write(rollouts, layout.iteration(1, "rollouts.parquet"), ROLLOUTS)
    parquet.write(segments, layout.iteration(1, "segments.parquet"), SEGMENTS)
    computed = []
    for text in (OWN, OWN, OWN.replace("/ 100", "/ 200")):
        (tmp_path / "mine.py").write_text(text, encoding="utf-8")
        computed.append(stage.execute(layout, values, 1)["computed_values"])
    assert computed[0] > 0
    assert computed[1] == 0
    assert computed[2] > 0
    table = parquet.read(layout.iteration(1, "rewards.parquet"), REWARDS)
    assert table.columns == [*REWARDS.schema, *NAMES]
