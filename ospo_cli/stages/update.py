"""Train the policy on token advantages alone; it knows nothing of segments, retrieval or rewards."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from ospo_cli import params as parameters
from ospo_cli import parquet, schemas
from ospo_cli.errors import TableError
from ospo_cli.executors.local import content_key
from ospo_cli.executors.progress import Progress
from ospo_cli.layout import Layout

if TYPE_CHECKING:
    from ospo_cli.policies.folder import LoadedPolicy
    from ospo_cli.policies.gradient_step import Rows
    from ospo_cli.policies.training_state import Checkpoint, Training


def execute(layout: Layout, params: parameters.Params, iteration: int) -> dict[str, Any]:
    """Read rollouts, token advantages and policy k-1; write policy k and the metrics of its training."""
    from ospo_cli.policies import folder as folders
    from ospo_cli.policies.gradient_step import logprobs_of
    from ospo_cli.policies.starting_point import adapted
    from ospo_cli.policies.training_state import Checkpoint, Training

    rollouts = parquet.read(layout.iteration(iteration, "rollouts.parquet"), schemas.ROLLOUTS, made_by=f"ospo rollout --iter {iteration}")
    advantages = parquet.read(
        layout.iteration(iteration, "token_advantages.parquet"), schemas.TOKEN_ADVANTAGES, made_by=f"ospo attribute --iter {iteration}"
    )
    rows = to_rows(rollouts, advantages, params.rollout, iteration)
    predecessor = layout.policy(iteration - 1)
    made_by = f"ospo update --iter {iteration - 1}" if iteration > 1 else "ospo warm-start"
    began = time.monotonic()
    reference_hash = ""
    if params.update.kl_weight > 0:
        import dataclasses

        reference = folders.load_policy(layout.policy(0), params.policy.threads, made_by="ospo warm-start", project=layout.root)
        rows = dataclasses.replace(rows, reference_logprobs=logprobs_of(reference, rows, params.update.tokens_per_micro_batch))
        reference_hash = reference.content_hash
        del reference
    policy = folders.load_policy(predecessor, params.policy.threads, trainable=True, made_by=made_by, project=layout.root)
    policy = adapted(policy, layout.root, params.policy, params.train.seed)
    loading_seconds = time.monotonic() - began
    settings = params.update
    training = Training(policy.model, settings.learning_rate, settings.weight_decay, settings.max_gradient_norm)
    carried = training.load_moments(predecessor / folders.OPTIMIZER)
    moments_hash = folders.file_hash(predecessor / folders.OPTIMIZER) if carried else ""
    sections = parameters.to_mapping(params)
    key = content_key(
        "update 1",
        policy.content_hash,
        reference_hash,
        moments_hash,
        _hash(rollouts),
        _hash(advantages),
        sections["update"],
        sections["policy"],
        params.train.seed,
        iteration,
    )
    checkpoint = Checkpoint(layout.cache / "update" / key, float(os.environ.get("OSPO_CHECKPOINT_SECONDS", "60")))
    began = time.monotonic()
    metrics = update(policy, rows, training, checkpoint, params, iteration)
    seconds = time.monotonic() - began
    metrics |= {
        "iteration": iteration,
        "moments_carried": carried,
        "loading_seconds": loading_seconds,
        "training_seconds": seconds,
        "tokens_per_second": metrics["tokens"] / seconds,
    }
    steps = metrics.pop("steps")
    with folders.replacing_folder(layout.policy(iteration)) as temporary:
        folders.save_policy(policy, temporary)
        training.save_moments(temporary / folders.OPTIMIZER)
    with parquet.replacing(layout.iteration(iteration, "update_steps.json")) as temporary:
        temporary.write_text(json.dumps(steps, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    with parquet.replacing(layout.iteration(iteration, "update_metrics.json")) as temporary:
        temporary.write_text(json.dumps(metrics, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    checkpoint.remove()
    return metrics


def update(
    policy: LoadedPolicy, rows: Rows, training: Training, checkpoint: Checkpoint, params: parameters.Params, iteration: int
) -> dict[str, Any]:
    """Train the policy in place on an iteration's rows; return the metrics: means over steps, and the steps one by one."""
    from ospo_cli.policies import gradient_step

    plan = gradient_step.step_plan(len(rows.groups), params.update, params.train.seed, iteration)
    progress = Progress(f"update {iteration}", len(plan), "steps")
    steps = gradient_step.train(
        policy,
        rows,
        training,
        checkpoint,
        params.update,
        seed=params.train.seed,
        iteration=iteration,
        dropout=policy.is_adapter and params.policy.lora_dropout > 0,
        progress=lambda note, reused: progress.advance(1, note, reused),
    )
    progress.close()
    tokens = int(sum(step["tokens"] for step in steps))
    weights = np.array([step["tokens"] for step in steps], dtype=np.float64)

    def mean(name: str) -> float:
        return float(np.average([step[name] for step in steps], weights=weights)) if tokens else 0.0

    places = sum(step["tokens_with_prompts"] for step in steps)
    names = ("clipped_fraction", "clipped_fraction_positive", "clipped_fraction_negative", "behavior_kl", "reference_kl", "entropy")
    return {
        "loss": float(np.mean([step["loss"] for step in steps])),
        **{name: mean(name) for name in names},
        "gradient_norm": float(np.mean([step["gradient_norm"] for step in steps])),
        "logprob_mismatch": steps[0]["logprob_mismatch"],
        "last_ratio_01": steps[-1].get("ratio_01", 1.0),
        "last_ratio_99": steps[-1].get("ratio_99", 1.0),
        "optimizer_steps": len(steps),
        "rollouts": len(rows.lengths),
        "groups": len(rows.groups),
        "groups_alive": sum(rows.is_alive(group) for group in rows.groups),
        "tokens": tokens,
        "completion_token_share": tokens / places if places else 0.0,
        "trained_weights": sum(weight.numel() for weight in training.weights.values()),
        "steps": {
            **{name: [step[name] for step in steps] for name in (*names, "loss", "gradient_norm", "groups_used")},
            **{name: [step.get(name, 1.0) for step in steps] for name in ("ratio_01", "ratio_50", "ratio_99")},
        },
    }


def to_rows(rollouts: pl.DataFrame, advantages: pl.DataFrame, settings: parameters.Rollout, iteration: int) -> Rows:
    """Return rollouts and their advantages as arrays, groups in the order of prompt ids.

    Raises:
        TableError: rows or lengths of the two tables do not match, or an advantage is not finite.
    """
    from ospo_cli.policies.gradient_step import Rows
    from ospo_cli.policies.token_batches import Group

    remedy = f"run `ospo attribute --iter {iteration}` again"
    here, there = set(rollouts["rollout_id"]), set(advantages["rollout_id"])
    if here != there:
        odd = sorted(here ^ there)[0]
        raise TableError(
            "token_advantages",
            "rows are not those of the rollouts",
            found=f"{odd} in one table only",
            expected=f"the {len(here)} rollouts of iteration {iteration}",
            remedy=remedy,
        )
    if not here:
        raise TableError(
            "rollouts", "holds no rows", expected="at least one rollout", remedy=f"run `ospo rollout --iter {iteration}` again"
        )
    joined = rollouts.join(advantages, on="rollout_id", how="inner").sort("prompt_id", "sample_index")
    wrong = joined.filter(
        (pl.col("token_ids").list.len() != pl.col("advantages").list.len())
        | (pl.col("token_ids").list.len() != pl.col("behavior_logprobs").list.len())
    )
    if wrong.height:
        row = wrong.row(0, named=True)
        raise TableError(
            f"rollout {row['rollout_id']}",
            "token ids, log-probabilities and advantages differ in number",
            found=f"{len(row['token_ids'])}, {len(row['behavior_logprobs'])} and {len(row['advantages'])}",
            expected="one per sampled token",
            remedy=remedy,
        )
    flat = {}
    for column, command in (("advantages", "attribute"), ("behavior_logprobs", "rollout")):
        flat[column] = joined[column].explode(empty_as_null=False).to_numpy().astype(np.float32)
        finite = joined[column].list.eval(pl.element().is_finite()).list.all()
        if not finite.all():
            bad = joined["rollout_id"][int((~finite).arg_true()[0])]
            raise TableError(
                f"rollout {bad}",
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
    return Rows(groups, lengths, starts, flat["behavior_logprobs"], flat["advantages"], None, settings.temperature, settings.max_new_tokens)


def _hash(frame: pl.DataFrame) -> str:
    import hashlib

    return hashlib.sha256(frame.write_ipc(None, compression="uncompressed").getvalue()).hexdigest()
