"""Rows of an update: from tables, then with every log-probability that its loss asks for."""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import replace

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from ospo_cli.errors import TableError
from ospo_cli.params.rollout import Rollout
from ospo_cli.params.update import Update
from ospo_cli.policies.folder import LoadedPolicy
from ospo_cli.training.forward import logprobs_of
from ospo_cli.training.policy_loss import k3, kl_terms, sampler_weights
from ospo_cli.training.rows import Rows
from ospo_cli.training.token_batches import Group


def to_rows(
    rollouts: pl.DataFrame,
    advantages: pl.DataFrame,
    settings: Rollout,
    iteration: int,
    pairs: NDArray[np.int64] | None = None,
    temperature: float | None = None,
    given: Collection[str] = (),
) -> Rows:
    """Return rollouts and their advantages as arrays, groups in the order of prompt ids.

    Args:
        rollouts: table rollouts.
        advantages: table token_advantages.
        settings: section rollout: temperature and cap.
        iteration: from 1, for remedies.
        pairs: [pairs, 2] of `Objective.pairs`.
        temperature: at which likelihoods are taken; None: that of the sampling.
        given: rollout ids of rows that nobody sampled.

    Raises:
        TableError: rows or lengths of the two tables do not match, or a number is not finite.
    """
    _check_ids(rollouts, advantages, iteration)
    joined = rollouts.join(advantages, on="rollout_id", how="inner").sort("prompt_id", "sample_index")
    _check_lengths(joined, iteration)
    flat = {}
    for column, command in (("advantages", "attribute"), ("behavior_logprobs", "rollout")):
        flat[column] = joined[column].explode(empty_as_null=False).to_numpy().astype(np.float32)
        finite = joined[column].list.eval(pl.element().is_finite()).list.all()
        if not finite.all():
            raise TableError(
                f"rollout {joined['rollout_id'][int((~finite).arg_true()[0])]}",
                f"{column} that are not finite",
                found="NaN or infinite",
                expected="finite numbers",
                remedy=f"run `ospo {command} --iter {iteration}` again",
            )
    groups, first = [], 0
    for (prompt,), part in joined.group_by(["prompt_id"], maintain_order=True):
        ids = part["prompt_token_ids"]
        if ids.n_unique() != 1:
            raise TableError(
                f"prompt {prompt}",
                "its rollouts were given different prompts",
                expected="one prompt per rollout group",
                remedy=f"run `ospo rollout --iter {iteration}` again",
            )
        groups.append(Group(ids[0].to_list(), part["token_ids"].to_list(), first))
        first += part.height
    lengths = joined["token_ids"].list.len().to_numpy().astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    temperature = settings.temperature if temperature is None else temperature
    logprobs, own = flat["behavior_logprobs"], flat["advantages"]
    is_given = joined["rollout_id"].is_in(list(given)).to_numpy() if given else None
    return Rows(
        groups, lengths, starts, logprobs, own, None, temperature, settings.max_new_tokens, pairs=pairs, is_given=is_given
    )  # fmt: skip


def _check_ids(rollouts: pl.DataFrame, advantages: pl.DataFrame, iteration: int) -> None:
    here, there = set(rollouts["rollout_id"]), set(advantages["rollout_id"])
    if here != there:
        raise TableError(
            "token_advantages",
            "rows are not those of the rollouts",
            found=f"{min(here ^ there)} in one table only",
            expected=f"the {len(here)} rollouts of iteration {iteration}",
            remedy=f"run `ospo attribute --iter {iteration}` again",
        )
    if not here:
        remedy = f"run `ospo rollout --iter {iteration}` again"
        raise TableError("rollouts", "holds no rows", expected="at least one rollout", remedy=remedy)


def _check_lengths(joined: pl.DataFrame, iteration: int) -> None:
    count = pl.col("token_ids").list.len()
    wrong = joined.filter((count != pl.col("advantages").list.len()) | (count != pl.col("behavior_logprobs").list.len()))
    if wrong.height:
        row = wrong.row(0, named=True)
        raise TableError(
            f"rollout {row['rollout_id']}",
            "token ids, log-probabilities and advantages differ in number",
            found=f"{len(row['token_ids'])}, {len(row['behavior_logprobs'])} and {len(row['advantages'])}",
            expected="one per sampled token",
            remedy=f"run `ospo attribute --iter {iteration}` again",
        )


def prepared(
    sampled: Rows,
    groups: list[Group],
    policy: LoadedPolicy,
    reference: LoadedPolicy | None,
    settings: Update,
    is_sampler: bool = True,
) -> Rows:
    """Return the rows as the steps take them.

    Args:
        sampled: of `to_rows`.
        groups: those of them that take part.
        policy: that training starts from.
        reference: policy 000 where the loss depends on it.
        settings: section update. `sampler_correction` adds ratios to the policy and weights for what the sampler differs from it;
            `kl_in: reward` takes the penalty off the advantages, and the loss then needs no reference.
        is_sampler: whether the rows hold the policy's own log-probabilities at their temperature; else they are computed.
    """
    of = functools.partial(
        logprobs_of, rows=sampled, token_budget=settings.tokens_per_micro_batch, precision=settings.precision, groups=groups
    )
    behavior = sampled.behavior_logprobs if is_sampler else of(policy)
    if is_sampler and sampled.is_given is not None:
        is_given = sampled.is_given[sampled.owner]
        behavior = np.where(is_given, of(policy, groups=sampled.trimmed(groups, is_given)), behavior)
    of_reference = None if reference is None else of(reference)
    old = corrections = None
    if settings.sampler_correction != "none":
        old = of(policy)
        corrections = sampler_weights(old - behavior, sampled.lengths.tolist(), settings.sampler_correction, settings.sampler_bound)
    advantages = sampled.advantages
    if of_reference is not None and settings.kl_weight > 0 and settings.kl_in == "reward":
        penalties = centred_penalties(sampled, groups, (behavior if old is None else old), of_reference, settings.kl)
        advantages = advantages - (settings.kl_weight * penalties)[sampled.owner].astype(np.float32)
        of_reference = None
    return replace(
        sampled, groups=groups, behavior_logprobs=behavior, advantages=advantages, reference_logprobs=of_reference, old_logprobs=old,
        corrections=corrections,
    )  # fmt: skip


def centred_penalties(
    rows: Rows, groups: list[Group], old: NDArray[np.float32], reference: NDArray[np.float32], kl: str
) -> NDArray[np.float64]:
    """Return [rows] each completion's sum of KL terms, centred over its rollout group; k1 gives the divergence's gradient."""
    terms = kl_terms(torch.from_numpy(old), torch.from_numpy(reference), kl).numpy().astype(np.float64)
    sums = np.bincount(rows.owner, weights=terms, minlength=len(rows.lengths))
    penalties = np.zeros(len(rows.lengths))
    for group in groups:
        of_group = slice(group.first, group.first + len(group.completions))
        penalties[of_group] = sums[of_group] - sums[of_group].mean()
    return penalties


def divergence(rows: Rows, reference: LoadedPolicy, settings: Update) -> dict[str, float]:
    """Return `reference_kl`, the sampling policy's divergence from it, on `reference_groups` groups; nothing without tokens."""
    groups = rows.groups[: settings.reference_groups]
    places = rows.tokens_of(groups)
    if not len(places):
        return {}
    found = logprobs_of(reference, rows, settings.tokens_per_micro_batch, settings.precision, groups)[places]
    return {"reference_kl": float(k3(torch.from_numpy(rows.behavior_logprobs[places]), torch.from_numpy(found)).mean())}
