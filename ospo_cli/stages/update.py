"""Train the policy on what update.objective reads; it knows nothing of segments, retrieval or rewards."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl

from ospo_cli import __version__
from ospo_cli.executors import peers
from ospo_cli.executors.progress import Progress
from ospo_cli.executors.shard_folder import content_key
from ospo_cli.executors.usage import peak_bytes
from ospo_cli.layout import Layout
from ospo_cli.params.policy import Policy
from ospo_cli.params.rollout import Rollout
from ospo_cli.params.train import Train
from ospo_cli.params.update import Update
from ospo_cli.tables import files, placed
from ospo_cli.tables.attribute import TARGETS
from ospo_cli.tables.prepared import PROMPTS
from ospo_cli.tables.rollout import read_rollouts
from ospo_cli.tables.score_coalitions import RECOMBINED

if TYPE_CHECKING:
    from ospo_cli.policies.folder import LoadedPolicy
    from ospo_cli.training.objectives.base import Objective
    from ospo_cli.training.rows import Rows
    from ospo_cli.training.training_state import Training


class Reads(Protocol):
    """The sections that the stage reads."""

    @property
    def train(self) -> Train: ...
    @property
    def policy(self) -> Policy: ...
    @property
    def rollout(self) -> Rollout: ...
    @property
    def update(self) -> Update: ...


@dataclass(frozen=True)
class Learned:
    """What an update learns from.

    Attributes:
        rollouts: table rollouts.
        table: the objective's.
        advantages: table token_advantages; where the objective's names rollouts, 1 on the tokens of those, else 0.
        given: rollout ids of rows among them that nobody sampled: recombined answers, targets of an imitation.
        is_sampled: whether the rollouts are the iteration's; else a user's own file.
    """

    rollouts: pl.DataFrame
    table: pl.DataFrame
    advantages: pl.DataFrame
    given: frozenset[str] = frozenset()
    is_sampled: bool = True

    @property
    def hashes(self) -> list[str]:
        """SHA-256 of each table."""
        frames = (self.rollouts, self.table, self.advantages)
        return [hashlib.sha256(frame.write_ipc(None, compression="uncompressed").getvalue()).hexdigest() for frame in frames]


def execute(layout: Layout, params: Reads, iteration: int) -> dict[str, Any]:
    """Read rollouts, what is learned from them, and policy k-1; write policy k and the metrics of its training."""
    from ospo_cli.policies.folder import OPTIMIZER, content_hash, file_hash
    from ospo_cli.policies.opening import keeping, open_policy
    from ospo_cli.policies.starting_point import adapted
    from ospo_cli.training import optimiser_steps, taken_move, update_metrics, update_sizes
    from ospo_cli.training.cut_weights import cut
    from ospo_cli.training.objectives import objective_of
    from ospo_cli.training.training_state import Checkpoint, Run, Training

    settings, seed, began = params.update, params.train.seed, time.monotonic()
    objective, predecessor = objective_of(settings), layout.policy(iteration - 1)
    learned = read(layout, objective, iteration)
    loaded = open_policy(predecessor, params.policy.threads, trainable=True, made_by=made_by(iteration), project=layout.root)
    policy = cut(adapted(loaded, layout.root, params.policy, seed), settings.precision)
    rows, metrics = build(layout, params, iteration, objective, learned, policy)
    training = Training(policy.model, settings.weight_decay, settings.max_gradient_norm)
    start = update_sizes.copied(training.weights)
    carried = training.load_moments(predecessor / OPTIMIZER)
    if iteration > 1 and not carried:
        sys.stderr.write(f"update {iteration}: no optimiser moments beside {predecessor.name}: AdamW starts anew\n")
    iterations = params.train.iterations if settings.schedule != "constant" else 1
    run = Run(seed, iteration, iterations, policy.is_adapter and params.policy.lora_dropout > 0)
    given = [policy.content_hash, file_hash(predecessor / OPTIMIZER) if carried else "", *learned.hashes]
    given += [content_hash(layout.policy(0))] if objective.needs_reference else []
    sections = [dataclasses.asdict(section) for section in (settings, params.policy, run)]
    key = content_key("update 5", given, sections)
    peers.check_alike("inputs", f"{__version__} {key}")
    checkpoint = Checkpoint(layout.cache / "update" / key)
    loading_seconds, began = time.monotonic() - began, time.monotonic()
    progress = Progress(f"update {iteration}", len(optimiser_steps.step_plan(len(rows.groups), settings, seed, iteration)), "steps")
    taken = optimiser_steps.train(policy, rows, training, checkpoint, settings, run, partial(progress.advance, 1))
    progress.close()
    seconds = time.monotonic() - began
    metrics = update_metrics.over_steps(taken, rows, settings.epochs) | metrics
    sizes = update_sizes.update_sizes(start, training.weights)
    _write_policy(layout.policy(iteration), policy, training)
    with keeping(policy, layout.policy(iteration)):  # the block moves the weights
        metrics |= taken_move.after_the_steps(policy, rows, settings, (start, training.weights))
    metrics |= {
        "moments_carried": carried,
        "loading_seconds": loading_seconds,
        "training_seconds": seconds,
        "tokens_per_second": metrics["tokens"] / seconds,
        "trained_weights": sum(weight.numel() for weight in training.weights.values()),
        "peak_bytes": _peak_bytes(policy),
        "processes": peers.count(),
        **{f"moved_{kind}_{name}": value for kind, found in sizes.items() for name, value in found.items()},
        "moved_relative": max((found["relative"] for found in sizes.values()), default=0.0),
    }
    if peers.is_first():
        files.write_json(layout.iteration(iteration, "update_steps.json"), update_metrics.curves(taken))
        files.write_json(layout.iteration(iteration, "update_metrics.json"), metrics)
    checkpoint.remove()
    sys.stderr.write(summary(metrics) + "\n")
    if not metrics["tokens"]:
        sys.stderr.write(
            f"update {iteration}: no token is learned from ({_why_nothing(metrics)}): policy {iteration:03d} is its predecessor\n"
        )
    return metrics


def _write_policy(target: Path, policy: LoadedPolicy, training: Training) -> None:
    from ospo_cli.policies.folder import OPTIMIZER
    from ospo_cli.policies.opening import save_policy

    with files.replacing_folder(target) if peers.is_first() else contextlib.nullcontext(target) as temporary:
        save_policy(policy, temporary)
        training.save_moments(temporary / OPTIMIZER)


def _why_nothing(metrics: dict[str, Any]) -> str:
    if metrics["rollouts"] == metrics["groups"]:
        return "every rollout group has one rollout, which has nothing to be compared with"
    return f"{metrics['groups_alive']} of {metrics['groups']} rollout groups have an advantage"


def made_by(iteration: int) -> str:
    """Return the command that makes the policy which an iteration starts from."""
    return f"ospo update --iter {iteration - 1}" if iteration > 1 else "ospo warm-start"


def read(layout: Layout, objective: Objective, iteration: int) -> Learned:
    """Return the iteration's rollouts and the objective's table, or those of a user's own file.

    Raises:
        TableError: no target or pair is there, or one names a rollout that is not.
    """
    from ospo_cli.policies.opening import read_policy
    from ospo_cli.training import given_rows, own_examples

    own_file, weight = objective.settings.examples_file, objective.settings.imitation_weight
    sampled = rollouts = read_rollouts(layout, iteration)
    tokenizer = partial(read_policy, layout.policy(iteration - 1), made_by(iteration), layout.root)
    if own_file:
        prompts = placed.read(PROMPTS, layout)
        examples = own_examples.read_examples(layout.root / own_file, objective, prompts)
        rollouts, table = own_examples.as_rollouts(examples, objective, prompts, tokenizer())
        return Learned(rollouts, table, objective.advantages(rollouts, table, objective.table.command(iteration)), frozenset(), False)
    table = placed.read(objective.table, layout, iteration)
    targets = placed.read(TARGETS, layout, iteration) if weight else TARGETS.empty()
    named = {name for column in objective.named for name in table[column]} | set(targets["rollout_id"])
    if named - set(rollouts["rollout_id"]):
        rollouts = given_rows.with_made(rollouts, placed.read(RECOMBINED, layout, iteration), named, tokenizer)
    advantages = objective.advantages(rollouts, table, objective.table.command(iteration))
    if weight:
        rollouts, advantages = given_rows.with_targets(rollouts, advantages, targets, weight)
    return Learned(rollouts, table, advantages, frozenset(rollouts["rollout_id"]) - frozenset(sampled["rollout_id"]))


def build(
    layout: Layout, params: Reads, iteration: int, objective: Objective, learned: Learned, policy: LoadedPolicy
) -> tuple[Rows, dict[str, Any]]:
    """Return the rows of the steps, and what was counted and measured meanwhile.

    `reference_kl` is the sampling policy's divergence from policy 000 on a few rollout groups where the loss has no penalty that tells it;
    in iteration 1 the two are one.

    Raises:
        TableError: the tables do not fit each other.
        PolicyError: token ids do not spell their completions, or the update needs more memory than is free.
    """
    from ospo_cli.training import row_building
    from ospo_cli.training.memory_plan import check_memory
    from ospo_cli.training.reference import reference_for
    from ospo_cli.training.rows import chosen
    from ospo_cli.training.update_metrics import token_class_sizes

    settings = params.update
    pairs = objective.pairs(learned.rollouts, learned.table)
    temperature = objective.temperature(params.rollout.temperature)
    sampled = row_building.to_rows(learned.rollouts, learned.advantages, params.rollout, iteration, pairs, temperature, learned.given)
    groups = chosen(sampled, settings, params.train.seed, iteration)
    of_rollouts = ~pl.col("rollout_id").is_in(list(learned.given))
    own_rows = (learned.rollouts.filter(of_rollouts), learned.advantages.filter(of_rollouts))
    watched = token_class_sizes(*own_rows, policy.pieces.pieces, iteration)
    metrics: dict[str, Any] = {
        "iteration": iteration,
        "rollouts": len(sampled.lengths),
        "groups": len(sampled.groups),
        "groups_alive": sum(sampled.is_alive(group) for group in sampled.groups),
        "groups_in_steps": len(groups),
        "planned_bytes": check_memory(policy, groups, settings),
        **{f"advantage_rms_{name}": value for name, value in watched.items()},
    }
    reference, is_measured = None, settings.reference_groups > 0 and iteration > 1
    if objective.needs_reference or is_measured:
        reference = reference_for(policy, layout.policy(0), params.policy.threads, layout.root, settings.precision)
    is_sampler = learned.is_sampled and temperature == params.rollout.temperature
    rows = row_building.prepared(sampled, groups, policy, reference if objective.needs_reference else None, settings, is_sampler)
    if reference is not None and not objective.needs_reference:
        metrics |= row_building.divergence(rows, reference, settings)
    return rows, metrics


def summary(metrics: dict[str, Any]) -> str:
    """Return one line of what to watch."""
    reference = f", KL to the warm start {metrics['reference_kl']:.4f}" if metrics["reference_kl"] is not None else ""
    clip = metrics["after_clipped_fraction"]
    at_clip = f", {clip:.0%} at the clip at the end" if clip is not None else ""
    silent = f", {metrics['silent_steps']} of {metrics['optimizer_steps']} steps without an advantage" if metrics["silent_steps"] else ""
    preferred = f", {metrics['preference_accuracy']:.0%} of pairs in order" if "preference_accuracy" in metrics else ""
    return (
        f"update {metrics['iteration']}: loss {metrics['loss']:+.4f}{preferred}, entropy {metrics['entropy']:.2f}, "
        f"KL to the sampler {metrics['behavior_kl']:.4f}{reference}, last ratios {metrics['last_ratio_01']:.2f} to "
        f"{metrics['last_ratio_99']:.2f}, clipped {metrics['clipped_fraction']:.1%} (+ {metrics['clipped_fraction_positive']:.1%}, "
        f"- {metrics['clipped_fraction_negative']:.1%}){at_clip}{_taken(metrics)}{silent}, "
        f"effective sample {metrics['last_effective_share']:.0%}, gradient {metrics['gradient_norm']:.3g}, "
        f"weights moved by {metrics['moved_relative']:.2%}, padding {metrics['filling_share']:.0%} of the tokens, "
        f"{metrics['tokens_per_second']:.0f} tokens/s"
    )


def _taken(metrics: dict[str, Any]) -> str:
    share, factor = metrics["taken_share"], metrics["line_factor"]
    if share is None:
        return ""
    half, double = metrics["line_half"], metrics["line_double"]
    further = ""
    if factor == 0:
        further = " (none of it were better)"
    elif factor == 0.5:
        further = f" (half of the way {half:.0%})"
    elif factor == 2:
        further = f" (twice as far {double:.0%})"
    return f", {share:.0%} of the most that this batch could gain{further}"


def _peak_bytes(policy: LoadedPolicy) -> int:
    """Return the most memory that this process held so far (on a GPU: that its tensors held there)."""
    if policy.device.type != "cuda":
        return peak_bytes()
    import torch

    return int(torch.cuda.max_memory_allocated(policy.device))
