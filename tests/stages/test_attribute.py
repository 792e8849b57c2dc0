"""Stage attribute: from the tables of one iteration to shares and token advantages."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ospo_cli.credit import segment_shares
from ospo_cli.errors import CreditError, PolicyError
from ospo_cli.layout import Layout
from ospo_cli.maths import coalitions
from ospo_cli.maths.coalitions import Budget, Players
from ospo_cli.maths.estimators import ESTIMATORS
from ospo_cli.maths.redistribution import RULES
from ospo_cli.maths.seeding import streams
from ospo_cli.params.score_coalitions import ScoreCoalitions
from ospo_cli.params.segment import Segment
from ospo_cli.params.whole import Params
from ospo_cli.stages import attribute as stage
from ospo_cli.stages.segment import segment
from ospo_cli.tables import parquet
from ospo_cli.tables.attribute import ATTRIBUTIONS, TOKEN_ADVANTAGES
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.tables.score_coalitions import COALITION_VALUES, REWARDS
from ospo_cli.tables.segment import SEGMENTS
from ospo_cli.text.answers import find_answer
from tests.games import THREE_SEGMENTS, generator
from tests.params.deletion import MYERSON, by_deletion
from tests.tables.sampled import sampled_frame, sampled_row
from tests.text.byte_level import END, pieces, tokenizer

VOCABULARY = 300


@dataclass(frozen=True)
class Tables:
    """The inputs of the stage."""

    rollouts: pl.DataFrame
    segments: pl.DataFrame
    rewards: pl.DataFrame
    coalition_values: pl.DataFrame

    def run(self, params: Params | None = None, **settings: Any) -> stage.Attribution:
        params = params or by_deletion()
        params = dataclasses.replace(params, attribute=dataclasses.replace(params.attribute, **settings))
        return stage.attribute(stage.Scored(**vars(self)), pieces(VOCABULARY).pieces, params)


def tables(
    groups: Sequence[Sequence[str]],
    value: Callable[[str, str], float],
    families: Sequence[str] = ("powerset",),
    scoring: ScoreCoalitions | None = None,
    finish: str = "stop",
) -> Tables:
    """Completions by rollout group; value(completion, coalition) of the segments' bit mask."""
    scoring = scoring or ScoreCoalitions()
    rows = [
        (f"001:p{group}:{index:02d}", f"p{group}", index, completion)
        for group, members in enumerate(groups)
        for index, completion in enumerate(members)
    ]
    end = [tokenizer(VOCABULARY).token_to_id(END)] * (finish == "stop")
    ids = [[*tokenizer(VOCABULARY).encode(row[3]).ids, *end] for row in rows]
    found = [find_answer(row[3]) for row in rows]
    rollouts = sampled_frame(
        *(sampled_row(name, prompt, text, own, finish_reason=finish) for (name, prompt, _, text), own in zip(rows, ids, strict=True))
    )
    segments, _ = segment(rollouts, Segment())
    counts = {row[0]: segments.filter(pl.col("rollout_id") == row[0]).height for row in rows}
    missing = [(not answer.has_tags) + (finish != "stop") for answer in found]
    reward = [value(row[3], "1" * counts[row[0]]) - 0.5 * scoring.format_weight * lacks for row, lacks in zip(rows, missing, strict=True)]
    rewards = pl.DataFrame(
        {
            "rollout_id": [row[0] for row in rows],
            "prompt_id": [row[1] for row in rows],
            "reward": reward,
            "retrieval": reward,
            "format": [-0.5 * lacks for lacks in missing],
            "length": [0.0] * len(rows),
            "repetition": [0.0] * len(rows),
        }
    ).with_columns(is_degenerate_group=(pl.col("reward").max() - pl.col("reward").min() < 1e-9).over("prompt_id"))
    flag = dict(rewards.select("rollout_id", "is_degenerate_group").iter_rows())
    scored = [
        (row[0], mask, value(row[3], mask))
        for row in rows
        for mask in coalitions.to_mask_strings(
            coalitions.union_of(
                *(
                    coalitions.family(name, Players(counts[row[0]]), Budget(**scoring.coalition_budget), streams(0, row[0]))
                    for name in families
                )
            )
        )
        if not flag[row[0]] and counts[row[0]]
    ]
    coalition_values = pl.DataFrame(
        {
            "rollout_id": [row[0] for row in scored],
            "coalition": [row[1] for row in scored],
            "query": [""] * len(scored),
            "coalition_value": [row[2] for row in scored],
            "retrieval": [row[2] for row in scored],
            "length": [0.0] * len(scored),
            "repetition": [0.0] * len(scored),
        },
        schema=COALITION_VALUES.schema,
    )
    return Tables(rollouts, segments, rewards.select(*REWARDS.schema), coalition_values)


GOLDEN = "<answer>navy, wool, coat</answer>"
OTHERS = ["<answer>red, dress</answer>", "<think>why</think><answer>15.6 inch laptop for men, café</answer>", "no tags 🔥"]


def worth(completion: str, mask: str) -> float:
    """The golden game for the golden completion; elsewhere each segment has a worth of its own, neighbours a little more."""
    present = [index for index, bit in enumerate(mask) if bit == "1"]
    numbers = generator(len(completion)).uniform(-0.1, 0.4, 300)
    bonus = 0.05 * sum(b - a == 1 for a, b in pairwise(present))
    return {True: THREE_SEGMENTS.get(mask, 0.0), False: float(numbers[present].sum()) + bonus}[completion == GOLDEN]


def usual(**changes: Any) -> Tables:
    return tables([[GOLDEN, *OTHERS], OTHERS, [GOLDEN, GOLDEN]], worth, **changes)


def row_of(frame: pl.DataFrame, rollout_id: str) -> list[Any]:
    return frame.filter(pl.col("rollout_id") == rollout_id).to_dicts()


# Known answers


@pytest.mark.parametrize(
    ("estimator", "share"),
    [
        ("myerson", [11 / 30, 17 / 30, 1 / 15]),
        ("contiguous-mean", [0.4, 0.5, 1 / 30]),
        ("alone", [0.2, 0.5, 0.1]),
        ("leave-one-out", [0.6, 1.0, 0.1]),
        ("uniform", [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_golden_shares_come_out_of_the_tables(estimator: str, share: list[float]) -> None:
    found = row_of(usual().run(estimator=estimator).attributions, "001:p0:00")
    assert [row["share"] for row in found] == pytest.approx(share)


def test_golden_token_advantages_of_a_proportional_row() -> None:
    made = usual()
    result = made.run(estimator="myerson", rule="proportional", normalize="none")
    advantage = made.rewards["reward"][0] - made.rewards["reward"][:4].mean()
    ids = made.rollouts["token_ids"][0].to_list()
    texts = [piece.decode() for piece in pieces(VOCABULARY).pieces(ids)]
    owner = []
    position = 0
    for text in texts:
        place = position + len(text) - len(text.lstrip())
        owner.append(
            next((index for index, (start, end) in enumerate([(8, 12), (14, 18), (20, 24)]) if start <= place < end and text), None)
        )
        position += len(text)
    length = [owner.count(index) for index in range(3)]
    share = [11 / 30, 17 / 30, 1 / 15]
    expected = [advantage if index is None else sum(length) * share[index] / length[index] * advantage for index in owner]
    assert result.token_advantages["advantages"][0].to_list() == pytest.approx(expected, rel=1e-6)
    assert [row["segment_advantage"] for row in row_of(result.attributions, "001:p0:00")] == pytest.approx(
        [sum(length) * part * advantage for part in share]
    )


def test_grpo_is_the_group_advantage_on_every_token() -> None:
    made = usual()
    reward = made.rewards["reward"][:4].to_numpy()
    found = made.run(rule="uniform").token_advantages["advantages"][:4].to_list()
    expected = (reward - reward.mean()) / (reward.std(ddof=1) + 1e-4)
    assert [set(row) for row in found] == [{np.float32(value)} for value in expected]


@pytest.mark.parametrize("normalize", ["std", "none"])
def test_potential_measures_the_first_token_as_grpo_does(normalize: str) -> None:
    made = usual(finish="length")
    first = [made.run(rule=rule, normalize=normalize).token_advantages["advantages"].list.first() for rule in ("potential", "uniform")]
    assert first[0].to_numpy() == pytest.approx(first[1].to_numpy(), abs=1e-6)


@pytest.mark.parametrize("trace", [1.0, 0.5, 0.0])
def test_potential_measures_the_end_by_what_no_text_can_earn_of_the_reward(trace: float) -> None:
    """Formats differ in the first group: the parts that no segment holds are a last step, centred by position as the others are."""
    made = usual()
    result = made.run(rule="potential", normalize="none", trace=trace)
    values = {row[:2]: row[2] for row in made.coalition_values.select("rollout_id", "coalition", "coalition_value").iter_rows()}
    members = [name for name in made.rollouts["rollout_id"] if ":p0:" in name]
    counts = {name: made.segments.filter(rollout_id=name).height for name in members}
    terminal = dict(made.rewards.select("rollout_id", 0.1 * pl.col("format")).iter_rows())
    assert len(set(terminal.values())) > 1
    ladders = {}
    for name in members:
        prefixes = [values.get((name, "1" * place + "0" * (counts[name] - place)), 0.0) for place in range(counts[name] + 1)]
        steps = [*np.diff(prefixes), terminal[name]]
        ladders[name] = [sum(trace**later * step for later, step in enumerate(steps[place:])) for place in range(len(steps))]
    for name, advantages in result.token_advantages.filter(pl.col("rollout_id").is_in(members)).iter_rows():
        at_end = [ladders[other][min(counts[name], counts[other])] for other in members]
        assert advantages[-1] == pytest.approx(terminal[name] - np.mean(at_end), abs=1e-6)
        assert advantages[0] == pytest.approx(ladders[name][0] - np.mean([ladders[other][0] for other in members]), abs=1e-6)


def test_the_bound_of_clipping_is_a_multiple_of_the_deviation_where_there_are_differences() -> None:
    made = usual()
    result = made.run(clip=0.5)
    counted = made.rewards.filter(~pl.col("is_degenerate_group"))
    assert counted.height < made.rewards.height
    over = counted.select(
        (pl.col("reward") - pl.col("reward").mean().over("prompt_id")) / (pl.col("reward").std().over("prompt_id") + 1e-4)
    )
    assert result.metrics["clip_at"] == pytest.approx(0.5 * over["reward"].to_numpy().std())


@pytest.mark.parametrize(("estimator", "families"), [("myerson", ("powerset",)), ("shapley", ("contiguous", "permutation"))])
def test_tables_do_not_depend_on_how_many_rows_are_in_memory_at_once(
    estimator: str, families: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    scoring = ScoreCoalitions(exact_coalitions=2, orders=4)
    params = dataclasses.replace(by_deletion(), score_coalitions=scoring)
    made = usual(families=families, scoring=scoring)
    whole = made.run(params, estimator=estimator)
    monkeypatch.setattr(segment_shares, "TABLE_CELLS", 1)
    rows = made.run(params, estimator=estimator)
    assert whole.interactions.height > 3
    assert rows.interactions.equals(whole.interactions)
    assert rows.attributions.equals(whole.attributions)


# Properties of every combination


@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_every_estimator_works_with_every_rule(estimator: str, rule: str) -> None:
    made = usual()
    result = made.run(estimator=estimator, rule=rule)
    assert result.token_advantages["advantages"].list.len().to_list() == made.rollouts["token_ids"].list.len().to_list()
    assert result.attributions.select("rollout_id", "segment_index").equals(made.segments.select("rollout_id", "segment_index"))
    parquet.check(result.attributions, ATTRIBUTIONS, where="attributions")
    parquet.check(result.token_advantages, TOKEN_ADVANTAGES, where="token advantages")


@pytest.mark.parametrize("rule", [name for name, rule in RULES.items() if rule.keeps_sum])
@pytest.mark.parametrize("outside", ["sequence", "zero"])
@pytest.mark.parametrize("credit_unit", ["divide", "copy"])
def test_written_token_advantages_add_up_to_tokens_times_group_advantage(rule: str, outside: str, credit_unit: str) -> None:
    made = usual()
    kept = made.run(rule=rule, outside=outside, credit_unit=credit_unit)
    total = kept.token_advantages["advantages"].list.sum().to_numpy()
    expected = made.run(rule="uniform").token_advantages["advantages"].list.sum().to_numpy()
    assert total == pytest.approx(expected, abs=1e-4)
    assert kept.metrics["sum_error_max"] < 1e-9


@pytest.mark.parametrize("rule", ["group-additive", "potential"])
def test_neither_the_order_of_rows_nor_other_rollout_groups_matter(rule: str) -> None:
    made = usual()
    shuffled = Tables(*(getattr(made, field.name).sample(fraction=1, shuffle=True, seed=1) for field in dataclasses.fields(made)))
    assert shuffled.run(rule=rule).token_advantages.equals(made.run(rule=rule).token_advantages)
    alone = Tables(*(getattr(made, field.name).filter(pl.col("rollout_id").str.contains(":p0:")) for field in dataclasses.fields(made)))
    assert alone.run(rule=rule).attributions.equals(made.run(rule=rule).attributions.filter(pl.col("rollout_id").str.contains(":p0:")))


def test_random_shares_belong_to_the_rollout_and_the_seed() -> None:
    made = usual()
    first, again = (made.run(estimator="random").attributions for _ in range(2))
    other = made.run(dataclasses.replace(by_deletion(), train=dataclasses.replace(Params().train, seed=5)), estimator="random").attributions
    assert first.equals(again)
    assert not first.equals(other)
    assert sorted(first["share"][:3]) == pytest.approx(sorted([11 / 30, 17 / 30, 1 / 15]))


# Special cases


def test_degenerate_groups_have_zero_advantages_and_a_named_case() -> None:
    result = usual().run()
    rows = row_of(result.attributions, "001:p2:00")
    assert [(row["share"], row["special_case"], row["segment_advantage"]) for row in rows] == [(0.0, "degenerate-group", 0.0)] * 3
    assert not any(result.token_advantages["advantages"][-1].to_list())
    assert result.metrics["degenerate_groups"] == 1
    assert result.metrics["special_cases"] == {"degenerate-group": 2}


def test_equal_rewards_are_a_degenerate_group_and_need_no_coalitions_even_where_no_flag_says_so() -> None:
    made = usual()
    unflagged = dataclasses.replace(made, rewards=made.rewards.with_columns(is_degenerate_group=pl.lit(False)))
    assert made.rewards["is_degenerate_group"].any()
    assert unflagged.run().token_advantages.equals(made.run().token_advantages)
    assert unflagged.run().metrics == made.run().metrics


def test_an_empty_answer_needs_no_coalitions_and_gets_its_group_advantage() -> None:
    made = tables([["<answer></answer>", GOLDEN, "<answer>... !</answer>"]], lambda completion, mask: THREE_SEGMENTS.get(mask, 0.0))
    result = made.run(rule="proportional", outside="zero")
    assert set(result.token_advantages["advantages"][0].to_list()) == {result.token_advantages["advantages"][0][0]}
    assert result.token_advantages["advantages"][0][0] < 0
    assert result.metrics["special_cases"] == {"empty-answer": 2}


def test_two_hundred_segments_work() -> None:
    answer = "<answer>" + ", ".join(f"word{index}" for index in range(200)) + "</answer>"
    scoring = ScoreCoalitions(contiguous_width=4)
    made = tables([[answer, GOLDEN]], lambda completion, mask: 0.001 * mask.count("1"), families=["contiguous", "prefix"], scoring=scoring)
    result = made.run(dataclasses.replace(by_deletion(), score_coalitions=scoring), rule="potential")
    assert result.attributions["share"].to_numpy() == pytest.approx(0.001)
    assert result.metrics["segments_per_answer"] == 101.5


def test_a_completion_that_was_cut_off_keeps_its_format_part_out_of_the_shares() -> None:
    made = usual(finish="length")
    shares = [row["share"] for row in row_of(made.run(estimator="myerson", rule="potential").attributions, "001:p0:00")]
    assert shares == pytest.approx([11 / 30, 17 / 30, 1 / 15])


def test_sampled_windows_are_named_and_carry_standard_errors() -> None:
    scoring = ScoreCoalitions(contiguous_cap=5)
    made = usual(families=["contiguous"], scoring=scoring)
    result = made.run(dataclasses.replace(by_deletion(), score_coalitions=scoring), estimator="contiguous-mean")
    cases = set(result.attributions["special_case"].to_list())
    assert cases & {"sampled-windows", "no-contribution"}
    assert result.attributions["standard_error"].drop_nulls().len() > 0
    assert made.run(dataclasses.replace(by_deletion(), score_coalitions=scoring), estimator="myerson").metrics["efficiency_gap_max"] < 1e-9


def test_clipping_is_counted_and_bounds_every_advantage() -> None:
    result = usual().run(rule="proportional", clip=1.0)
    largest = max(abs(value) for row in result.token_advantages["advantages"].to_list() for value in row)
    assert largest <= np.float32(result.metrics["clip_at"])
    assert result.metrics["clipped_share"] > 0
    assert result.metrics["clip_at"] == pytest.approx(result.metrics["advantage_std"])


def test_the_gap_of_an_estimator_that_is_not_efficient_is_reported() -> None:
    assert usual().run(estimator="myerson").metrics["efficiency_gap_max"] < 1e-12
    assert usual().run(estimator="leave-one-out").metrics["efficiency_gap_max"] > 0.5


# Refusals


@pytest.mark.parametrize(
    ("estimator", "rule", "removed", "message"),
    [
        (
            "myerson",
            "uniform",
            ["010", "001", "011"],
            r"rollout 001:p0:00: coalitions that estimator myerson needs were not evaluated: found no value of 010 and 2 more, "
            r"expected score_coalitions.estimators: \[myerson\]; set that in params.yaml and run `ospo score-coalitions --iter 1`",
        ),
        ("leave-one-out", "uniform", ["101"], r"no value of 101, expected score_coalitions.estimators: \[leave-one-out\]"),
        (
            "uniform",
            "potential",
            ["100"],
            r"rule potential needs were not evaluated: found no value of 100, expected score_coalitions.families: \[prefix\]",
        ),
        ("uniform", "uniform", ["000", "111"], r"no value of 000 and 1 more"),
    ],
)
def test_missing_coalitions_name_the_rollout_what_is_missing_and_the_remedy(
    estimator: str, rule: str, removed: list[str], message: str
) -> None:
    made = usual()
    left = made.coalition_values.filter(~((pl.col("rollout_id") == "001:p0:00") & pl.col("coalition").is_in(removed)))
    with pytest.raises(CreditError, match=message):
        dataclasses.replace(made, coalition_values=left).run(estimator=estimator, rule=rule)


def test_a_family_that_nothing_reads_may_be_absent() -> None:
    assert usual(families=["contiguous"]).run(estimator="myerson", rule="signed").attributions.height > 0


def test_a_reward_that_is_not_the_grand_coalition_and_the_format_part_is_refused() -> None:
    made = usual()
    with pytest.raises(CreditError, match=r"rollout 001:p0:03: value of the whole answer and weighted format part are not the reward"):
        made.run(by_deletion(format_weight=0.3))


def test_ids_that_do_not_spell_the_completion_are_refused_by_name() -> None:
    made = usual()
    other = made.rollouts.with_columns(completion=pl.col("completion").str.replace("dress", "skirt"))
    with pytest.raises(CreditError, match=r"rollout 001:p0:01, character 13: the sampled token ids do not spell the completion"):
        dataclasses.replace(made, rollouts=other).run()


def test_ids_outside_the_vocabulary_are_refused() -> None:
    made = usual()
    other = made.rollouts.with_columns(token_ids=pl.concat_list(pl.lit(999_999, dtype=pl.Int32)))
    with pytest.raises(CreditError, match=r"rollout 001:p0:00, .*token id outside the vocabulary"):
        dataclasses.replace(made, rollouts=other).run()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("rewards", lambda frame: frame.head(-1), "holds other rollouts than rollouts.parquet"),
        ("segments", lambda frame: frame.filter(pl.col("segment_index") != 1), "segment_index does not run from 0 without gaps"),
        ("segments", lambda frame: frame.with_columns(rollout_id=pl.lit("001:nobody:00")).head(1), "001:nobody:00: no such rollout"),
        ("segments", lambda frame: frame.with_columns(end=pl.lit(99, dtype=pl.Int32)), "segments, rollout 001:p0:00: segments must be"),
        ("rewards", lambda frame: frame.with_columns(is_degenerate_group=pl.lit(True)), "is_degenerate_group is true, but"),
        ("rewards", lambda frame: frame.with_columns(reward=pl.lit(float("inf"))), "is not a finite number"),
    ],
)
def test_tables_that_do_not_belong_together_are_refused(name: str, change: Callable[[pl.DataFrame], pl.DataFrame], message: str) -> None:
    made = usual()
    with pytest.raises(CreditError, match=message):
        dataclasses.replace(made, **{name: change(getattr(made, name))}).run()


# Files


def write_inputs(layout: Layout, made: Tables) -> None:
    for name, table in {"rollouts": ROLLOUTS, "segments": SEGMENTS, "rewards": REWARDS, "coalition_values": COALITION_VALUES}.items():
        parquet.write(getattr(made, name), layout.iteration(1, f"{name}.parquet"), table)
    layout.policy(0).mkdir(parents=True)
    tokenizer(VOCABULARY).save(str(layout.policy(0) / "tokenizer.json"))


def test_execute_reads_and_writes_the_tables_of_its_iteration(tmp_path: Path) -> None:
    layout, made = Layout(tmp_path), usual()
    write_inputs(layout, made)
    written = []
    for _ in range(2):
        metrics = stage.execute(layout, dataclasses.replace(Params(), attribute=dataclasses.replace(MYERSON, rule="signed")), 1)
        written.append([layout.iteration(1, f"{name}.parquet").read_bytes() for name in ("attributions", "token_advantages")])
    assert written[0] == written[1]
    assert parquet.read(layout.iteration(1, "attributions.parquet"), ATTRIBUTIONS).equals(made.run(rule="signed").attributions)
    assert json.loads(layout.iteration(1, "attribute_metrics.json").read_text()) == metrics


def test_a_policy_without_a_tokenizer_is_an_error_and_nothing_is_written(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    write_inputs(layout, usual())
    (layout.policy(0) / "tokenizer.json").unlink()
    with pytest.raises(PolicyError, match="no such file"):
        stage.execute(layout, by_deletion(), 1)
    assert not layout.iteration(1, "attributions.parquet").exists()
