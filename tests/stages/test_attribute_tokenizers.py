"""Stage attribute over every kind of tokenizer: credit on the sampled tokens, and ids of another tokenizer refused by name."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest

from ospo_cli.errors import OspoError
from ospo_cli.maths import coalitions
from ospo_cli.params.segment import Segment
from ospo_cli.params.whole import Params
from ospo_cli.stages import attribute as stage
from ospo_cli.stages.segment import segment
from ospo_cli.tables.score_coalitions import COALITION_VALUES, REWARDS
from tests.games import generator
from tests.tables.sampled import sampled_frame
from tests.text.every_tokenizer import END, KINDS, pieces, tokenizer

TEXTS = [
    "<think>navy, wool</think><answer>navy, wool, coat for men</answer>",
    "<answer>red  café, 🔥 שלום, red  café</answer>",
]
PARAMS = dataclasses.replace(
    Params(), attribute=dataclasses.replace(Params().attribute, estimator="alone", rule="proportional", outside="zero", normalize="std")
)


def tables(kind: str) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Rollouts, segments, rewards and coalition values of two completions in an additive game of positive worths."""
    made = tokenizer(kind)
    ids = [[*made.encode(text, add_special_tokens=False).ids, *filter(None, [made.token_to_id(END)])] for text in TEXTS]
    completions = [pieces(kind).text(row) for row in ids]
    names = ["001:p:00", "001:p:01"]
    rollouts = sampled_frame(*((name, "p", text, own) for name, text, own in zip(names, completions, ids, strict=True)))
    segments, _ = segment(rollouts, Segment())
    worths = [generator(row).uniform(0.1, 0.3, segments.filter(pl.col("rollout_id") == name).height) for row, name in enumerate(names)]
    scored = [
        (name, mask, "", float(worth[[bit == "1" for bit in mask]].sum()), 0.0, 0.0, 0.0)
        for name, worth in zip(names, worths, strict=True)
        for mask in coalitions.to_mask_strings(coalitions.contiguous(len(worth), 32, 0, generator(7)))
    ]
    rewards = [(name, "p", float(worth.sum()), 0.0, 0.0, 0.0, 0.0, False) for name, worth in zip(names, worths, strict=True)]
    return (
        rollouts,
        segments,
        pl.DataFrame(rewards, schema=REWARDS.schema, orient="row"),
        pl.DataFrame(scored, schema=COALITION_VALUES.schema, orient="row"),
    )


def letters(text: str) -> str:
    return "".join(filter(str.isalnum, text))


@pytest.mark.parametrize("kind", KINDS)
def test_all_of_the_advantage_lies_on_tokens_of_the_answer_in_every_kind(kind: str) -> None:
    rollouts, *others = tables(kind)
    result = stage.attribute(stage.Scored(rollouts, *others), pieces(kind).pieces, PARAMS)
    reward = others[1]["reward"].to_numpy()
    group_advantage = (reward - reward.mean()) / (reward.std(ddof=1) + 1e-4)
    joined = rollouts.join(result.token_advantages, on="rollout_id", maintain_order="left")
    for row, expected in zip(joined.iter_rows(named=True), group_advantage, strict=True):
        advantages = np.array(row["advantages"])
        credited = [piece for piece, value in zip(pieces(kind).pieces(row["token_ids"]), advantages, strict=True) if value]
        # Where words outside the vocabulary are spelled <unk>, the answer is malformed: its advantage lies on all tokens.
        answer = row["completion"][row["answer_start"] : row["answer_end"]] or row["completion"]
        assert letters(b"".join(credited).decode()) == letters(answer)
        assert advantages.sum() == pytest.approx(len(advantages) * expected, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_shifted_by_one_name_the_rollout_and_the_character(kind: str) -> None:
    rollouts, *others = tables(kind)
    second = pl.col("rollout_id") == "001:p:01"
    shifted = rollouts.with_columns(
        token_ids=pl.when(second).then(pl.col("token_ids").list.slice(1)).otherwise(pl.col("token_ids")),
        behavior_logprobs=pl.when(second).then(pl.col("behavior_logprobs").list.slice(1)).otherwise(pl.col("behavior_logprobs")),
    )
    with pytest.raises(OspoError, match=r"rollout 001:p:01, character \d+: the sampled token ids do not spell the completion"):
        stage.attribute(stage.Scored(shifted, *others), pieces(kind).pieces, PARAMS)


def test_the_pieces_of_another_tokenizer_are_refused() -> None:
    rollouts, *others = tables("unigram")
    with pytest.raises(OspoError, match=r"001:p:00|outside the vocabulary"):
        stage.attribute(stage.Scored(rollouts, *others), pieces("characters").pieces, PARAMS)
