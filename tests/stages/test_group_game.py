"""score-coalitions and attribute on the group game: what is evaluated, what is read, what is refused."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import numpy as np
import polars as pl
import pytest

from ospo_cli.errors import CreditError, ParameterError
from ospo_cli.layout import Layout
from ospo_cli.maths.group_game import GROUP_GAMES
from ospo_cli.params import whole
from ospo_cli.params.whole import Params
from ospo_cli.rewards.answers import TextScorer, score_answers
from ospo_cli.rewards.judged_reward import JudgedReward
from ospo_cli.rewards.spliced_values import numbered_segments
from ospo_cli.stages import attribute, score_coalitions
from ospo_cli.tables import parquet
from ospo_cli.tables.prepared import DOCUMENTS, POOLS, PROMPTS, QRELS
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.tables.score_coalitions import RECOMBINED, REWARDS
from ospo_cli.tables.segment import SEGMENTS
from tests.params.deletion import MYERSON, by_deletion
from tests.stages.small_catalogue import frames, prepared, rollout, sampled_rows
from tests.stages.test_score_then_attribute import VOCABULARY, with_ids
from tests.tables.sampled import sampled_frame, sampled_row
from tests.text.byte_level import pieces


def changed(scoring: dict[str, Any] | None = None, **settings: Any) -> Params:
    params = Params()
    scoring = {"estimators": list(GROUP_GAMES), "families": []} | (scoring or {})
    settings = {"estimator": "splice", "rule": "none"} | settings
    return dataclasses.replace(
        params,
        score_coalitions=dataclasses.replace(params.score_coalitions, **scoring),
        attribute=dataclasses.replace(params.attribute, **settings),
    )


def scored(params: Params, rows: list[Any] | None = None, pooled: bool = False) -> attribute.Scored:
    rollouts, segments = frames(*(rows or sampled_rows()))
    rollouts, reward = with_ids(rollouts), JudgedReward(prepared(pooled), params)
    scorer = TextScorer(reward, params.score_coalitions)
    rewards, values, _ = score_coalitions.score_coalitions(rollouts, segments, reward, params, scorer)
    spliced = score_coalitions.score_spliced(rollouts, segments, rewards, scorer)
    return attribute.Scored(rollouts, segments, rewards, values, spliced)


def credited(params: Params, tables: attribute.Scored) -> attribute.Attribution:
    return attribute.attribute(tables, pieces(VOCABULARY).pieces, params)


def advantages(result: attribute.Attribution) -> dict[str, list[float]]:
    return dict(result.token_advantages.iter_rows())


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("alignment", ["batch", "group", "group-first", "index"])
@pytest.mark.parametrize(
    "scoring", [{}, {"composition": "append", "length_weight": 0.3, "length_limit": 4, "further_metrics": {"recall@5": 0.5}}]
)
def test_each_spliced_text_is_worth_what_it_is_worth_alone(pooled: bool, alignment: str, scoring: dict[str, Any]) -> None:
    params = changed(scoring | {"alignment": alignment})
    found = scored(params, pooled=pooled)
    reward = JudgedReward(prepared(pooled), params)
    table = found.spliced_values.join(found.rollouts.select("rollout_id", "prompt_id"), on="rollout_id")
    assert table["retrieval"].to_list() == reward.values(table["prompt_id"].to_list(), table["query"].to_list()).tolist()
    settings = params.score_coalitions
    weighted = table["retrieval"] + settings.length_weight * table["length"] + settings.repetition_weight * table["repetition"]
    for name, weight in settings.further_metrics.items():
        weighted += weight * table[name]
    assert table["spliced_value"].to_numpy() == pytest.approx(weighted.to_numpy(), abs=1e-12)


@pytest.mark.parametrize("scoring", [{}, {"calls": "one-by-one"}, {"composition": "append"}])
def test_segments_and_texts_give_the_same_values_bit_for_bit(monkeypatch, scoring: dict[str, Any]) -> None:
    # Repeated segments, words that are not ASCII, and a word cut in two: by itself each half is in the catalogue, the whole is not.
    cut = (
        sampled_row("001:p2:00", "p2", "warmbelt, coat"),
        [("001:p2:00", at, 0, *span) for at, span in enumerate([(0, 4), (4, 8), (10, 14)])],
    )
    odd = [
        rollout("p0", 0, ["red", "red", "wool coat"]),
        rollout("p0", 1, ["crème", "red"]),
        rollout("p1", 0, ["coat", "belt", "coat"]),
        cut,
    ]
    rows = [*odd, *(row for row in sampled_rows() if row[0].rollout_id not in {each[0].rollout_id for each in odd})]
    params = changed({"alignment": "index", "repetition_weight": 0.0} | scoring)
    quick = scored(params, rows).spliced_values
    assert quick.filter(rollout_id="001:p2:00")["query"].str.contains("warmbelt").any()
    monkeypatch.setattr("ospo_cli.rewards.spliced_values.takes_parts", lambda reward, settings: False)
    assert scored(params, rows).spliced_values.equals(quick)


@pytest.mark.parametrize(
    ("alignment", "text"),
    [("batch", "Belt coat"), ("group", "Belt coat"), ("group-first", "Belt coat"), ("index", "Belt blue, belt, coat")],
)
def test_what_the_other_answer_says_after_a_point_is_told_by_the_alignment(alignment: str, text: str) -> None:
    # Segments of equal words are equal however they are written.
    rows = [rollout("p0", 0, ["Belt"]), rollout("p0", 1, ["red", "blue", "belt", "coat"])]
    params = changed({"alignment": alignment, "degenerate_groups": "evaluate"})
    found = scored(params, rows).spliced_values.filter(game="splice", rollout_id="001:p0:00", place=1)
    assert found["query"].to_list() == [text]


@pytest.mark.parametrize(("alignment", "text"), [("batch", "red blue"), ("group", "red coat"), ("group-first", "red blue")])
def test_an_order_that_the_group_does_not_have_is_that_of_the_batch_where_the_alignment_asks_it(alignment: str, text: str) -> None:
    rows = [
        rollout("p0", 0, ["red"]),
        rollout("p0", 1, ["blue", "coat"]),
        rollout("p1", 0, ["red", "blue"]),
        rollout("p1", 1, ["coat", "red"]),
    ]
    params = changed({"alignment": alignment, "degenerate_groups": "evaluate"})
    found = scored(params, rows).spliced_values.filter(game="splice", rollout_id="001:p0:00", place=1)
    assert found["query"].to_list() == [text]


@pytest.mark.parametrize(("alignment", "text"), [("batch", "red blue coat"), ("group", "red coat"), ("group-first", "red coat")])
def test_an_order_of_the_group_goes_before_that_of_the_batch_only_where_the_alignment_says_so(alignment: str, text: str) -> None:
    rows = [
        rollout("p0", 0, ["red"]),
        rollout("p0", 1, ["blue", "red", "coat"]),
        rollout("p1", 0, ["red", "blue"]),
        rollout("p1", 1, ["red", "blue", "coat"]),
    ]
    params = changed({"alignment": alignment, "degenerate_groups": "evaluate"})
    found = scored(params, rows).spliced_values.filter(game="splice", rollout_id="001:p0:00", place=1)
    assert found["query"].to_list() == [text]


def test_segments_of_equal_words_have_one_number_and_those_without_a_word_by_their_text() -> None:
    numbered = numbered_segments(
        *frames(rollout("p0", 0, ["!!", "??", "!!", "Red", "red."])), lambda text: re.findall(r"\w+", text.lower())
    )
    first, second, again, *red = numbered["said"].to_list()
    assert first == again != second
    assert red[0] == red[1] not in (first, second)


@pytest.mark.parametrize(("degenerate", "groups"), [("skip", {"p0"}), ("evaluate", {"p0", "p1"})])
def test_groups_of_equal_rewards_are_evaluated_only_where_that_is_asked(degenerate: str, groups: set[str]) -> None:
    rows = [row for row in sampled_rows() if row[0].prompt_id == "p0"] + [rollout("p1", index, ["wool", "coat"]) for index in range(3)]
    params = changed({"degenerate_groups": degenerate})
    tables = scored(params, rows)
    assert set(tables.spliced_values["rollout_id"].str.split(":").list.get(1)) == groups
    assert set(advantages(credited(params, tables))["001:p1:00"]) == {0.0}


def test_the_first_place_is_the_other_answer_and_the_last_the_own_one_where_the_other_says_nothing_more() -> None:
    found = scored(changed({"alignment": "index"}))
    reward = dict(found.rewards.with_columns(v=pl.col("reward") - 0.1 * pl.col("format")).select("rollout_id", "v").iter_rows())
    length = dict(found.segments.group_by("rollout_id").len().iter_rows())
    splices = found.spliced_values.filter(game="splice")
    for own, place, other, value in splices.select("rollout_id", "place", "other_rollout_id", "spliced_value").iter_rows():
        whose = [other] * (place == 0) + [own] * (place == length[own] >= length[other])
        assert [value] * len(whose) == pytest.approx([reward[each] for each in whose])
    assert set(splices["place"]) == set(range(6))


def test_tokens_get_the_returns_of_their_places() -> None:
    params = changed(normalize="none", splice_trace=0.5)
    tables = scored(params)
    result = credited(params, tables)
    assert result.metrics["splice_trace"] == 0.5
    means = tables.spliced_values.filter(game="splice").group_by("rollout_id", "place").agg(pl.col("spliced_value").mean())
    reward = dict(tables.rewards.select("rollout_id", "reward").iter_rows())
    form = dict(tables.rewards.select("rollout_id", 0.1 * pl.col("format")).iter_rows())
    spans = {own: group.sort("segment_index") for (own,), group in tables.segments.group_by("rollout_id")}
    for rollout_id, own in means.sort("place").group_by("rollout_id", maintain_order=True):
        name = rollout_id[0]
        others = [each for each in reward if each != name and each.split(":")[1] == name.split(":")[1]]
        values = np.array([*(own["spliced_value"] + np.mean([form[each] for each in others])), reward[name]])
        steps = np.diff(values)
        assert steps.sum() == pytest.approx(reward[name] - np.mean([reward[each] for each in others]))
        returns = [sum(0.5**later * step for later, step in enumerate(steps[at:])) for at in range(len(steps))]
        assert result.attributions.filter(rollout_id=name)["credit"].to_list() == pytest.approx(steps[:-1])
        found, row = advantages(result)[name], tables.rollouts.row(by_predicate=pl.col("rollout_id") == name, named=True)
        # A token's place is that of the first segment that ends behind the token's first character.
        starts = np.cumsum([0, *(len(piece) for piece in pieces(VOCABULARY).pieces(row["token_ids"])[:-1])])
        expected = [returns[int((spans[name]["end"] <= start).sum())] for start in starts]
        assert found == pytest.approx(expected, abs=1e-6)


def test_swap_gives_each_segment_the_answer_less_itself_with_the_others_segment() -> None:
    params = changed(estimator="swap", normalize="none")
    tables = scored(params)
    result = credited(params, tables)
    means = tables.spliced_values.filter(game="swap").group_by("rollout_id", "place").agg(pl.col("spliced_value").mean())
    own = tables.rewards.select("rollout_id", v=pl.col("reward") - 0.1 * pl.col("format"))
    expected = means.join(own, on="rollout_id").select(
        "rollout_id", pl.col("place").alias("segment_index"), gain=pl.col("v") - pl.col("spliced_value")
    )
    assert "splice_trace" not in result.metrics
    compared = result.attributions.join(expected, on=["rollout_id", "segment_index"])
    assert compared.height > 20
    assert compared["credit"].to_numpy() == pytest.approx(compared["gain"].to_numpy(), abs=1e-12)


@pytest.mark.parametrize("game", list(GROUP_GAMES))
def test_beside_a_group_game_shares_are_those_of_the_deletion_estimator_and_train_nothing(game: str) -> None:
    rows = [*sampled_rows()[:-1], rollout("p5", 3, [])]
    params = changed({"estimators": [game, "myerson", "alone"]}, estimator=game)
    result, tables = credited(params, scored(params, rows)), scored(params, rows)
    deletion = credited(dataclasses.replace(params, attribute=MYERSON), tables)
    columns = ["rollout_id", "segment_index", "share", "n_contributions", "standard_error"]
    assert result.attributions.select(columns).equals(deletion.attributions.select(columns))
    assert result.interactions.equals(deletion.interactions)
    assert deletion.attributions["credit"].null_count() == deletion.attributions.height
    alone = changed({"estimators": [game]}, estimator=game)
    without = credited(alone, scored(alone, rows))
    assert without.token_advantages.equals(result.token_advantages)
    assert without.attributions["share"].null_count() == without.attributions.height
    assert set(without.attributions["n_contributions"]) == {0}
    assert without.attributions["credit"].equals(result.attributions["credit"])


def test_shares_for_people_that_were_not_evaluated_are_an_error_and_not_zero() -> None:
    tables = scored(changed())
    with pytest.raises(CreditError, match=r"estimator myerson needs.*score_coalitions\.estimators: \[myerson\]"):
        credited(changed({"estimators": ["splice", "myerson"]}), tables)


def test_under_swap_too_stopping_is_worth_what_the_answer_has_over_itself_going_on_as_the_others_do() -> None:
    params = changed(estimator="swap", normalize="none")
    tables = scored(params)
    length = tables.segments.group_by("rollout_id").agg(place=pl.len().cast(pl.Int32))
    rewards = tables.rewards.select("rollout_id", "reward", form=0.1 * pl.col("format"))
    goes_on = tables.spliced_values.filter(game="swap").join(length, on=["rollout_id", "place"])
    goes_on = goes_on.join(rewards.select(pl.col("rollout_id").alias("other_rollout_id"), "form"), on="other_rollout_id")
    expected = goes_on.group_by("rollout_id").agg(on=(pl.col("spliced_value") + pl.col("form")).mean()).join(rewards, on="rollout_id")
    found = advantages(credited(params, tables))
    ended = dict(tables.rollouts.filter(finish_reason="stop").select("rollout_id", "finish_reason").iter_rows())
    for rollout_id, on, reward in expected.filter(pl.col("rollout_id").is_in(list(ended))).select("rollout_id", "on", "reward").iter_rows():
        assert found[rollout_id][-1] == pytest.approx(reward - on, abs=1e-6)


def test_under_stopping_tokens_have_grpos_advantage_until_the_last_segment_and_splices_behind_it() -> None:
    params = changed(estimator="stopping", normalize="none")
    tables = scored(params)
    found, spliced = (advantages(credited(changed(estimator=game, normalize="none"), tables)) for game in ("stopping", "splice"))
    behind = dict(tables.segments.group_by("rollout_id").agg(pl.col("end").max()).iter_rows())
    for rollout_id, reward, others in tables.rewards.select(
        "rollout_id", "reward", others=(pl.col("reward").sum().over("prompt_id") - pl.col("reward")) / (pl.len().over("prompt_id") - 1)
    ).iter_rows():
        ids = tables.rollouts.row(by_predicate=pl.col("rollout_id") == rollout_id, named=True)["token_ids"]
        starts = np.cumsum([0, *(len(piece) for piece in pieces(VOCABULARY).pieces(ids)[:-1])])
        is_behind = starts >= behind[rollout_id]
        assert np.array(found[rollout_id])[~is_behind] == pytest.approx(reward - others, abs=1e-6)
        assert np.array(found[rollout_id])[is_behind] == pytest.approx(np.array(spliced[rollout_id])[is_behind], abs=1e-6)
        assert (is_behind.sum() > 0) == (starts[-1] >= behind[rollout_id])


@pytest.mark.parametrize("game", list(GROUP_GAMES))
def test_the_order_of_rollouts_changes_nothing(game: str) -> None:
    params, rows = changed(estimator=game), sampled_rows()
    turned = [rows[index] for index in np.random.default_rng(3).permutation(len(rows))]
    first, second = (credited(params, scored(params, each)) for each in (rows, turned))
    assert first.token_advantages.equals(second.token_advantages)
    assert first.attributions.equals(second.attributions)


@pytest.mark.parametrize("size", [1, 2, 64])
@pytest.mark.parametrize("alignment", ["batch", "group", "group-first"])
def test_shards_of_any_size_give_equal_bytes(tmp_path, monkeypatch, size: int, alignment: str) -> None:
    outputs = []
    params = changed({"alignment": alignment})
    for name, groups in (("whole", 512), ("cut", size)):
        layout = project(tmp_path / name)
        monkeypatch.setattr(score_coalitions, "GROUPS_PER_QUICK_SHARD", groups)
        metrics = score_coalitions.execute(layout, params, 1)
        outputs.append(layout.iteration(1, "spliced_values.parquet").read_bytes())
    assert outputs[0] == outputs[1]
    assert metrics["spliced"] > metrics["distinct_spliced"] > 0


def test_finished_shards_are_used_again_until_another_group_says_something_else(tmp_path, monkeypatch) -> None:
    params, layout = changed({"alignment": "batch"}), project(tmp_path)
    monkeypatch.setattr(score_coalitions, "GROUPS_PER_QUICK_SHARD", 1)
    score_coalitions.execute(layout, params, 1)
    assert score_coalitions.execute(layout, params, 1)["reused_values"] > 0
    rows = [*sampled_rows()[:-1], rollout("p5", 3, ["rain", "belt", "coat"])]
    rollouts, segments = frames(*rows)
    parquet.write(with_ids(rollouts), layout.iteration(1, "rollouts.parquet"), ROLLOUTS)
    parquet.write(segments, layout.iteration(1, "segments.parquet"), SEGMENTS)
    again = score_coalitions.execute(layout, params, 1)
    assert again["reused_values"] == 0
    for alignment in ("group", "group-first"):
        assert score_coalitions.execute(layout, changed({"alignment": alignment}), 1)["reused_values"] == 0


def project(folder) -> Layout:
    layout = Layout(folder)
    for table, frame in zip((DOCUMENTS, PROMPTS, QRELS, POOLS), prepared(), strict=True):
        parquet.write(frame, layout.prepared(f"{table.name}.parquet"), table)
    rollouts, segments = frames(*sampled_rows())
    parquet.write(with_ids(rollouts), layout.iteration(1, "rollouts.parquet"), ROLLOUTS)
    parquet.write(segments, layout.iteration(1, "segments.parquet"), SEGMENTS)
    return layout


def test_without_a_group_game_the_table_has_no_row(tmp_path) -> None:
    layout = project(tmp_path)
    metrics = score_coalitions.execute(layout, by_deletion(), 1)
    assert metrics["spliced"] == pl.read_parquet(layout.iteration(1, "spliced_values.parquet")).height == 0
    assert json.loads(layout.iteration(1, "score_metrics.json").read_text())["distinct_spliced"] == 0


# Recombined answers.


def recombining(**scoring: Any) -> Params:
    return changed({"recombine": 8, "estimators": ["uniform"]} | scoring, estimator="uniform", rule="uniform", targets="recombined")


@pytest.mark.parametrize(
    "scoring",
    [
        {},
        {"composition": "append", "length_weight": 0.3, "length_limit": 2, "estimators": ["splice"], "further_metrics": {"recall@5": 0.5}},
    ],
)
def test_a_made_answer_earns_what_the_table_says_and_every_text_of_its_search_is_counted(tmp_path, monkeypatch, scoring) -> None:
    layout, params, asked = project(tmp_path), recombining(**scoring), set[tuple[str, str]]()
    parts = TextScorer.parts

    def noted(own: TextScorer, prompt_ids: list[str], queries: list[str], *others: Any) -> Any:
        asked.update(zip(prompt_ids, queries, strict=True))
        return parts(own, prompt_ids, queries, *others)

    monkeypatch.setattr(TextScorer, "parts", noted)
    metrics = score_coalitions.execute(layout, params, 1)
    made = parquet.read(layout.iteration(1, "recombined.parquet"), RECOMBINED)
    assert made.height == metrics["recombined"] > 0
    assert metrics["distinct_values"] == len(asked)
    assert 0 < metrics["searched"] < len(asked)
    rewards = parquet.read(layout.iteration(1, "rewards.parquet"), REWARDS)
    alone = sampled_frame(*made.select("rollout_id", "prompt_id", "completion").iter_rows())
    alone = score_answers(alone, JudgedReward(prepared(), params), params.score_coalitions)
    assert alone.sort("rollout_id")["reward"].to_list() == pytest.approx(made.sort("rollout_id")["recombined_value"].to_list(), abs=1e-12)
    best = dict(rewards.group_by("prompt_id").agg(pl.col("reward").max()).iter_rows())
    assert all(value > best[prompt] for prompt, value in made.select("prompt_id", "recombined_value").iter_rows())


@pytest.mark.parametrize("size", [1, 2])
def test_searches_in_shards_of_any_size_give_equal_bytes_and_counts_and_are_not_done_again(tmp_path, monkeypatch, size: int) -> None:
    params, outputs, counts = recombining(), [], []
    for name, groups in (("whole", 64), ("cut", size)):
        layout = project(tmp_path / name)
        monkeypatch.setattr(score_coalitions, "GROUPS_PER_SHARD", groups)
        metrics = score_coalitions.execute(layout, params, 1)
        outputs.append(layout.iteration(1, "recombined.parquet").read_bytes())
        counts.append([metrics[name] for name in ("asked_values", "distinct_values", "searched", "reused_values")])
    assert outputs[0] == outputs[1]
    assert counts[0] == counts[1]
    again = score_coalitions.execute(layout, params, 1)
    assert again["distinct_values"] == metrics["distinct_values"]
    assert again["reused_values"] == again["asked_values"]
    assert not layout.iteration(1, "searched.parquet").exists()


def test_a_text_that_another_prompts_answer_is_counts_where_it_was_searched() -> None:
    params = recombining(degenerate_groups="evaluate", recombine=1)
    rows = [
        rollout("p0", 0, ["red", "coat"]),
        rollout("p0", 1, ["blue"]),
        rollout("p1", 0, ["red", "blue"]),
        rollout("p1", 1, ["red", "coat"]),
    ]
    tables = scored(params, rows)
    scorer = TextScorer(JudgedReward(prepared(), params), params.score_coalitions)
    of_p0 = pl.col("rollout_id").str.contains(":p0:")
    frames_of = (tables.rollouts, tables.segments, tables.rewards)
    alone = score_coalitions.recombine(*(frame.filter(of_p0) for frame in frames_of), scorer)[1]
    together = score_coalitions.recombine(*frames_of, scorer)[1]
    assert together.filter(prompt_id="p0").equals(alone)
    assert alone.height == 1


@pytest.mark.parametrize(("degenerate", "searched"), [("skip", {"p0"}), ("evaluate", {"p0", "p1"})])
def test_groups_of_equal_rewards_are_searched_only_where_that_is_asked(degenerate: str, searched: set[str]) -> None:
    rows = [row for row in sampled_rows() if row[0].prompt_id == "p0"] + [rollout("p1", index, ["wool", "coat"]) for index in range(3)]
    params = recombining(degenerate_groups=degenerate)
    tables = scored(params, rows)
    scorer = TextScorer(JudgedReward(prepared(), params), params.score_coalitions)
    made, counted = score_coalitions.recombine(tables.rollouts, tables.segments, tables.rewards, scorer)
    assert set(counted["prompt_id"]) == searched
    assert set(made["prompt_id"]) <= searched


# Special cases.


def test_a_rollout_group_of_one_answer_and_one_of_equal_rewards_get_nothing_and_are_named() -> None:
    rows = [rollout("p0", 0, ["red", "coat"]), *(rollout("p1", index, ["wool"]) for index in range(3)), *sampled_rows()[8:]]
    params = changed()
    result = credited(params, scored(params, rows))
    assert result.metrics["special_cases"]["single-rollout"] == 1
    assert result.metrics["special_cases"]["degenerate-group"] >= 3
    assert set(advantages(result)["001:p0:00"]) == {0.0}
    assert set(advantages(result)["001:p1:01"]) == {0.0}


def test_an_answer_without_segments_gets_what_stopping_at_once_is_worth_on_every_token() -> None:
    rows = [rollout("p0", 0, []), *sampled_rows()[1:]]
    params = changed(normalize="none")
    tables = scored(params, rows)
    result = credited(params, tables)
    rewards = dict(tables.rewards.filter(prompt_id="p0").select("rollout_id", "reward").iter_rows())
    own = rewards.pop("001:p0:00")
    assert result.metrics["special_cases"]["empty-answer"] == 1
    assert set(advantages(result)["001:p0:00"]) == {np.float32(own - np.mean(list(rewards.values())))}


@pytest.mark.parametrize("game", ["splice", "swap", "stopping"])
def test_an_answer_that_has_words_and_no_segment_is_refused_and_not_credited_as_an_empty_one(game: str) -> None:
    params = changed(estimator=game)
    tables = scored(params)
    cut = dataclasses.replace(tables, segments=tables.segments.filter(pl.col("rollout_id") != "001:p0:00"))
    with pytest.raises(
        CreditError, match=r"table segments, rollout 001:p0:00: an answer that has words has no segment.*`ospo segment --iter 1`"
    ):
        credited(params, cut)


def test_rollout_groups_of_unequal_size_are_each_compared_with_their_own() -> None:
    params = changed()
    result = credited(params, scored(params, sampled_rows()[:-2]))
    assert result.metrics["efficiency_gap_max"] < 1e-12


def missing_place(tables: attribute.Scored) -> pl.DataFrame:
    return tables.spliced_values.filter(~((pl.col("rollout_id") == "001:p1:01") & (pl.col("place") == 1)))


def missing_member(tables: attribute.Scored) -> pl.DataFrame:
    return tables.spliced_values.filter(pl.col("other_rollout_id") != "001:p1:01")


def nothing(tables: attribute.Scored) -> pl.DataFrame:
    return tables.spliced_values.clear()


@pytest.mark.parametrize("game", ["splice", "swap"])
@pytest.mark.parametrize("cut", [missing_place, missing_member, nothing])
def test_texts_that_were_not_evaluated_are_named_with_their_remedy(cut: Any, game: str) -> None:
    params = changed(estimator=game)
    tables = scored(params)
    what = rf"rollout 001:p\d:\d\d: texts that estimator {game} needs were not evaluated: found \d values at place \d, expected 3, one for each"
    short = dataclasses.replace(tables, spliced_values=cut(tables))
    with pytest.raises(CreditError, match=rf"{what}.*; run `ospo score-coalitions --iter 1` again$"):
        credited(params, short)
    unasked = changed({"estimators": ["uniform"]}, estimator=game)
    with pytest.raises(CreditError, match=rf"{what}.*; add {game} to score_coalitions\.estimators in params\.yaml, and run `ospo"):
        credited(unasked, short)


@pytest.mark.parametrize("game", list(GROUP_GAMES))
def test_values_of_another_reward_are_refused(game: str) -> None:
    params = changed(estimator=game)
    tables, others = scored(params), scored(changed({"metric": "ndcg@2"}))
    with pytest.raises(CreditError, match=r"values of another reward: found .*; run `ospo score-coalitions --iter 1` with the present"):
        credited(params, dataclasses.replace(tables, spliced_values=others.spliced_values))


def altered(tables: attribute.Scored, game: str, is_answer: bool) -> attribute.Scored:
    """The values of a game's texts behind the first place a little higher: of those that are answers of the group, or of the others."""
    prompts = tables.rollouts.select("rollout_id", "prompt_id")
    whole = tables.coalition_values.filter(~pl.col("coalition").str.contains("0")).join(prompts, on="rollout_id")
    own = tables.spliced_values.filter(pl.col("game") == game, pl.col("place") > 0).join(prompts, on="rollout_id")
    known = own.join(whole, on=["prompt_id", "query"], how="semi")
    chosen = known if is_answer else own.join(known, on=tables.spliced_values.columns[:4], how="anti")
    assert chosen.height > 5
    higher = chosen.select(*tables.spliced_values.columns[:4], more=pl.lit(1e-3))
    values = tables.spliced_values.join(higher, on=tables.spliced_values.columns[:4], how="left", maintain_order="left")
    values = values.with_columns(pl.col("spliced_value") + pl.col("more").fill_null(0.0)).drop("more")
    return dataclasses.replace(tables, spliced_values=values)


@pytest.mark.parametrize("game", list(GROUP_GAMES))
def test_a_spliced_text_that_is_an_answer_of_the_group_is_worth_what_that_answer_is(game: str) -> None:
    params = changed({"format_weight": 0.5}, estimator=game)
    tables = scored(params)
    assert credited(params, tables).metrics["efficiency_gap_max"] < 1e-12
    with pytest.raises(CreditError, match=rf"place \d with 001:p\d:\d\d: a text of estimator {game} that is an answer of the group"):
        credited(params, altered(tables, game, True))


def test_an_answer_that_two_prompts_have_is_worth_under_each_what_that_prompt_says() -> None:
    rows = [
        rollout(prompt, index, words) for prompt in ("p0", "p1", "p2") for index, words in enumerate((["red", "coat"], ["wool", "belt"]))
    ]
    params = changed({"degenerate_groups": "evaluate"}, estimator="swap")
    tables = scored(params, rows)
    assert tables.rewards["retrieval"].n_unique() > 2
    assert credited(params, tables).metrics["efficiency_gap_max"] < 1e-12


@pytest.mark.parametrize("game", ["swap", "stopping"])
def test_swap_and_stopping_keep_no_sum_whatever_other_texts_are_worth(game: str) -> None:
    params = changed({"format_weight": 0.5}, estimator=game)
    tables = scored(params)
    found, other = (credited(params, each) for each in (tables, altered(tables, game, False)))
    assert other.metrics["efficiency_gap_max"] < 1e-12
    assert not other.token_advantages.equals(found.token_advantages)


@pytest.mark.parametrize("column", ["rollout_id", "other_rollout_id"])
def test_values_of_another_iteration_are_refused(column: str) -> None:
    tables = scored(changed())
    renamed = tables.spliced_values.with_columns(pl.col(column).str.replace("001:", "002:"))
    with pytest.raises(CreditError, match=r"spliced_values.*002:p"):
        credited(changed(), dataclasses.replace(tables, spliced_values=renamed))


def longer(tables: attribute.Scored) -> pl.DataFrame:
    return tables.spliced_values.with_columns(place=pl.col("place") + 1)


def another_groups_answer(tables: attribute.Scored) -> pl.DataFrame:
    return tables.spliced_values.with_columns(pl.col("other_rollout_id").str.replace(":p1:", ":p2:"))


def itself(tables: attribute.Scored) -> pl.DataFrame:
    return tables.spliced_values.with_columns(other_rollout_id=pl.col("rollout_id")).unique(["rollout_id", "game", "place"])


@pytest.mark.parametrize("change", [longer, another_groups_answer, itself])
def test_places_and_answers_that_a_rollout_group_does_not_have_are_refused(change: Any) -> None:
    tables = scored(changed())
    with pytest.raises(CreditError, match="holds a place or another answer that the rollout group does not have"):
        credited(changed(), dataclasses.replace(tables, spliced_values=change(tables)))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"estimator": "splice"}, r"attribute\.rule: estimator splice gives token advantages itself: found group-additive, expected none"),
        ({"rule": "none"}, r"attribute\.rule: estimator myerson gives shares, which a rule turns into advantages: found none"),
        ({"estimator": "swap", "rule": "none", "outside": "zero"}, r"attribute\.outside: estimator swap credits all tokens: found zero"),
        ({"estimator": "splice", "rule": "none", "splice_trace": 1.5}, r"attribute\.splice_trace: out of range: found 1\.5, expected 0 to 1"),
        ({"estimator": "splice", "rule": "none", "splice_trace": -0.1}, r"attribute\.splice_trace: out of range"),
        ({"estimator": "splice", "rule": "none", "baseline": "batch"}, r"attribute\.baseline"),
    ],
)  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], problem: str) -> None:
    content = whole.to_mapping(by_deletion())
    content["attribute"] |= settings
    with pytest.raises(ParameterError, match=problem):
        whole.from_mapping(content)


def test_a_rule_beside_a_group_game_is_refused_by_the_stage_too() -> None:
    with pytest.raises(CreditError, match="gives token advantages itself: found signed, expected none"):
        credited(changed(rule="signed"), scored(changed()))
