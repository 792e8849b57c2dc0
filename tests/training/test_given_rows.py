"""Rows beside an iteration's rollouts: recombined answers, and the imitation term beside the policy gradient."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from ospo_cli.params.update import Update
from ospo_cli.tables.score_coalitions import RECOMBINED
from ospo_cli.training.given_rows import with_made, with_targets
from ospo_cli.training.objectives.policy_gradient import PolicyGradient
from ospo_cli.training.policy_loss import Tokens, clipped_loss, token_weights
from ospo_cli.training.rows import Rows
from ospo_cli.training.token_batches import Group
from tests.tables.sampled import sampled_frame


def test_targets_are_rows_of_their_own_behind_the_rollouts() -> None:
    rollouts = sampled_frame(
        ("p0:0", "p0", "x", [1, 2]), ("p0:1", "p0", "y", [3]), ("p1:0", "p1", "z", [4, 5, 6]), ("made", "p1", "w", [7])
    )
    advantages = pl.DataFrame(
        {"rollout_id": ["p0:0", "p0:1", "p1:0"], "advantages": [[0.5, 0.5], [-0.5], [0.0] * 3]},
        schema_overrides={"advantages": pl.List(pl.Float32)},
    )
    rows, marked = with_targets(rollouts, advantages, pl.DataFrame({"rollout_id": ["p0:1", "made"]}), 0.25)
    assert rows["rollout_id"].to_list() == ["p0:0", "p0:1", "p1:0", "target:p0:1", "target:made"]
    assert rows.filter(rollout_id="target:p0:1").row(0)[4:6] == rollouts.filter(rollout_id="p0:1").row(0)[4:6]
    assert rows.group_by("prompt_id").agg(pl.col("sample_index").n_unique() == pl.len())["sample_index"].all()
    assert dict(marked.iter_rows())["target:made"] == [0.25]
    assert dict(marked.iter_rows())["p0:0"] == [0.5, 0.5]


def test_a_made_answer_is_a_row_that_ended_by_itself_behind_its_prompts_rollouts() -> None:
    rollouts = sampled_frame(("p0:0", "p0", "x", [1, 2]), ("p0:1", "p0", "y", [3]), ("p1:0", "p1", "z", [4]))
    names = ["p0:0/recombined", "p1:0/recombined"]
    made = pl.DataFrame([(name, name[:2], name[:4], "yx", 1.0, 0.5, 1) for name in names], schema=RECOMBINED.schema, orient="row")
    tokenizer = SimpleNamespace(encode=lambda text, **options: [ord(letter) for letter in text])
    policy = SimpleNamespace(tokenizer=tokenizer, end_token_id=9, context_length=4)
    found = with_made(rollouts, made, names[:1], lambda: policy)  # type: ignore[arg-type,return-value]
    row = found.row(by_predicate=pl.col("rollout_id") == names[0], named=True)
    assert found["rollout_id"].to_list() == ["p0:0", "p0:1", "p1:0", names[0]]
    assert (row["token_ids"], row["finish_reason"], row["sample_index"]) == ([ord("y"), ord("x"), 9], "stop", 2)
    assert row["prompt_token_ids"] == rollouts["prompt_token_ids"][0].to_list()
    assert with_made(rollouts, made, ["p0:0"], lambda: policy).equals(rollouts)  # type: ignore[arg-type,return-value]


def rows_with_target() -> tuple[Rows, Group]:
    group = Group([1], [[2, 3], [4], [5, 6, 7]], 0)
    zeros = np.zeros(6, dtype=np.float32)
    lengths = np.array([2, 1, 3])
    return Rows([group], lengths, np.array([0, 2, 3]), zeros, zeros + 1, None, 1.0, 8, is_given=np.array([False, False, True])), group


@pytest.mark.parametrize("aggregation", ["seq_mean", "token_mean", "constant"])
def test_rollouts_weigh_what_they_weigh_without_targets(aggregation: str) -> None:
    rows, group = rows_with_target()
    weights, _ = PolicyGradient(dataclasses.replace(Update(), aggregation=aggregation)).weights(
        rows, [group], lambda some: rows.behavior_logprobs
    )
    assert weights[:3].tolist() == token_weights([2, 1], aggregation, 8).tolist()
    assert weights[3:].tolist() == token_weights([3], aggregation, 8).tolist()


def test_the_loss_is_the_clipped_one_of_the_rollouts_and_the_likelihood_of_the_targets() -> None:
    generator = torch.Generator().manual_seed(0)
    logprobs = torch.randn(6, generator=generator, dtype=torch.float64).requires_grad_()
    old, advantages, weights = (torch.randn(6, generator=generator, dtype=torch.float64) for _ in range(3))
    settings = dataclasses.replace(Update(), kl_weight=0.3, entropy_bonus=0.2)
    is_imitated = torch.tensor([False, True, False, False, True, True])
    reference, entropies = old - 0.1, old.abs()
    every = Tokens(logprobs, old, advantages, weights, [6], reference, entropies, None, is_imitated)
    found = clipped_loss(every, settings)
    own = ~is_imitated
    alone = Tokens(logprobs[own], old[own], advantages[own], weights[own], [3], reference[own], entropies[own])
    wanted = clipped_loss(alone, settings).loss - (weights * advantages * logprobs)[is_imitated].sum()
    assert float(found.loss) == pytest.approx(float(wanted), abs=1e-12)
    assert float(sum(found.parts.values())) == pytest.approx(float(found.loss), abs=1e-12)
    ours, theirs = (torch.autograd.grad(loss, logprobs, retain_graph=True)[0] for loss in (found.loss, wanted))
    assert torch.allclose(ours, theirs, atol=1e-12)
    plain = PolicyGradient(settings)
    without = Tokens(logprobs.detach()[own], old[own], advantages[own], weights[own], [3])
    assert plain.gain(Tokens(logprobs.detach(), old, advantages, weights, [6], is_imitated=is_imitated)) == pytest.approx(
        plain.gain(without)
    )
