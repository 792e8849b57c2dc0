"""Train the policy on token advantages, targets or preference pairs; it knows nothing of segments, retrieval or rewards."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.errors import CreditError, PolicyError, TableError
from ospo_cli.executors.local import content_key
from ospo_cli.executors.progress import Progress
from ospo_cli.layout import Layout
from ospo_cli.params.rollout import Rollout
from ospo_cli.params.whole import Params
from ospo_cli.tables import files, parquet
from ospo_cli.tables.attribute import PREFERENCE_PAIRS, TARGETS, TOKEN_ADVANTAGES
from ospo_cli.tables.declare import Table
from ospo_cli.tables.prepared import PROMPTS
from ospo_cli.tables.rollout import read_rollouts
from ospo_cli.text.token_classes import CLASSES, token_classes
from ospo_cli.text.tokens_to_spans import token_spans

if TYPE_CHECKING:
    from ospo_cli.policies.folder import LoadedPolicy
    from ospo_cli.training.gradient_step import Rows
    from ospo_cli.training.training_state import Checkpoint, Training


def execute(layout: Layout, params: Params, iteration: int) -> dict[str, Any]:
    """Read rollouts, what is learned from them, and policy k-1; write policy k and the metrics of its training."""
    from ospo_cli.policies import folder as folders
    from ospo_cli.policies.opening import load_policy, save_policy
    from ospo_cli.policies.starting_point import adapted
    from ospo_cli.training import gradient_step, update_sizes
    from ospo_cli.training.memory_plan import check_memory
    from ospo_cli.training.training_state import Checkpoint, Training

    settings, seed = params.update, params.train.seed
    predecessor = layout.policy(iteration - 1)
    made_by = f"ospo update --iter {iteration - 1}" if iteration > 1 else "ospo warm-start"
    began = time.monotonic()

    @functools.cache
    def behavior() -> LoadedPolicy:
        return load_policy(predecessor, params.policy.threads, trainable=True, made_by=made_by, project=layout.root)

    rollouts, advantages, pairs = learned_from(layout, params, iteration, behavior)
    sampled = to_rows(rollouts, advantages, params.rollout, iteration)
    if pairs is not None:
        sampled = dataclasses.replace(sampled, pairs=numbered(pairs, rollouts))
    if settings.objective == "sft":  # of the raw policy, whatever it was sampled at
        sampled = dataclasses.replace(sampled, temperature=1.0)
    rows = gradient_step.chosen(sampled, settings, seed, iteration)
    if settings.examples_file or (settings.objective == "sft" and params.rollout.temperature != 1.0):
        found = gradient_step.logprobs_of(behavior(), rows, settings.tokens_per_micro_batch, settings.precision)
        rows = dataclasses.replace(rows, behavior_logprobs=found)
    rows, reference_hash, reference_kl = _with_reference(layout, rows, params, iteration)
    policy = behavior()
    watched = token_class_sizes(rollouts, advantages, policy.pieces.pieces, iteration)
    policy = adapted(policy, layout.root, params.policy, seed)
    loading_seconds = time.monotonic() - began
    training = Training(policy.model, settings.learning_rate, settings.weight_decay, settings.max_gradient_norm)
    planned_bytes = check_memory(policy, rows.groups, settings)
    rows = gradient_step.penalised(gradient_step.corrected(rows, policy, settings), settings)
    start = update_sizes.copied(training.weights)
    carried = training.load_moments(predecessor / folders.OPTIMIZER)
    if iteration > 1 and not carried:
        sys.stderr.write(f"update {iteration}: no optimiser moments beside {predecessor.name}: AdamW starts anew\n")
    moments_hash = folders.file_hash(predecessor / folders.OPTIMIZER) if carried else ""
    key = content_key(
        "update 3",
        policy.content_hash,
        reference_hash,
        moments_hash,
        _hash(rollouts),
        _hash(advantages),
        "" if pairs is None else _hash(pairs),
        dataclasses.asdict(settings),
        dataclasses.asdict(params.policy),
        params.train.iterations if settings.schedule != "constant" else 0,
        seed,
        iteration,
    )
    checkpoint = Checkpoint(layout.cache / "update" / key, float(os.environ.get("OSPO_CHECKPOINT_SECONDS", "60")))
    began = time.monotonic()
    metrics = update(policy, rows, training, checkpoint, params, iteration)
    seconds = time.monotonic() - began
    sizes = update_sizes.update_sizes(start, training.weights)
    metrics |= {
        "iteration": iteration,
        "rollouts": len(sampled.lengths),
        "groups": len(sampled.groups),
        "groups_alive": sum(sampled.is_alive(group) for group in sampled.groups),
        "groups_in_steps": len(rows.groups),
        "moments_carried": carried,
        "loading_seconds": loading_seconds,
        "training_seconds": seconds,
        "tokens_per_second": metrics["tokens"] / seconds,
        "planned_bytes": planned_bytes,
        "peak_bytes": _peak_bytes(policy),
        **{f"advantage_rms_{name}": value for name, value in watched.items()},
        **{f"moved_{kind}_{name}": value for kind, found in sizes.items() for name, value in found.items()},
        "moved_relative": max((found["relative"] for found in sizes.values()), default=0.0),
    }
    if reference_kl is not None:
        metrics["reference_kl"] = reference_kl
    steps = metrics.pop("steps")
    with files.replacing_folder(layout.policy(iteration)) as temporary:
        save_policy(policy, temporary)
        training.save_moments(temporary / folders.OPTIMIZER)
    files.write_json(layout.iteration(iteration, "update_steps.json"), steps)
    files.write_json(layout.iteration(iteration, "update_metrics.json"), metrics)
    checkpoint.remove()
    sys.stderr.write(summary(metrics) + "\n")
    return metrics


def learned_from(
    layout: Layout, params: Params, iteration: int, behavior: Callable[[], LoadedPolicy]
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame | None]:
    """Return rollouts, a number per sampled token (objective policy-gradient: its advantage; else 1 where it is learned from), and pairs.

    Args:
        layout: the project.
        params: section update says what is read, and whether a user's own file stands for the iteration's tables.
        iteration: from 1.
        behavior: loads the policy, whose tokenizer spells a file's completions.

    Raises:
        TableError: no target or pair is there, or one names a rollout that is not.
    """
    settings = params.update
    objective = settings.objective
    made_by = f"ospo attribute --iter {iteration}"

    def read(table: Table) -> pl.DataFrame:
        return parquet.read(layout.iteration(iteration, f"{table.name}.parquet"), table, made_by=made_by)

    rollouts = read_rollouts(layout.iteration(iteration, "rollouts.parquet"), iteration)
    if objective == "policy-gradient":
        return rollouts, read(TOKEN_ADVANTAGES), None
    learned = TARGETS if objective == "sft" else PREFERENCE_PAIRS
    if settings.examples_file:
        from ospo_cli.training import own_examples

        prompts = parquet.read(layout.prepared("prompts.parquet"), PROMPTS, made_by="ospo prepare-data")
        examples = own_examples.read_examples(layout.root / settings.examples_file, objective, prompts)
        rollouts, table = own_examples.as_rollouts(examples, objective, prompts, behavior())
    else:
        table = read(learned)
    if table.height == 0:
        raise TableError(
            learned.name,
            "holds no rows: there is nothing to learn from",
            expected="at least one",
            remedy="see attribute.targets_above, attribute.pairs_margin, and `ospo inspect rewards`",
        )
    columns = ("rollout_id",) if objective == "sft" else ("chosen_rollout_id", "rejected_rollout_id")
    used = set().union(*(table[column] for column in columns))
    absent = sorted(used - set(rollouts["rollout_id"]))
    if absent:
        raise TableError(learned.name, "names rollouts that are not there", found=absent[0], remedy=f"run `{made_by}` again")
    marks = [[float(rollout_id in used)] * len(ids) for rollout_id, ids in rollouts.select("rollout_id", "token_ids").iter_rows()]
    advantages = pl.DataFrame({"rollout_id": rollouts["rollout_id"], "advantages": marks}, schema=TOKEN_ADVANTAGES.schema)
    return rollouts, advantages, table if objective == "dpo" else None


def numbered(pairs: pl.DataFrame, rollouts: pl.DataFrame) -> NDArray[np.int64]:
    """Return [pairs, 2] the numbers of chosen and rejected rollouts in the order of `to_rows`."""
    ordered = rollouts.sort("prompt_id", "sample_index")
    numbers = dict(zip(ordered["rollout_id"], range(ordered.height), strict=True))
    prompt_of = dict(rollouts.select("rollout_id", "prompt_id").iter_rows())
    found = []
    for chosen, rejected in pairs.select("chosen_rollout_id", "rejected_rollout_id").iter_rows():
        if prompt_of[chosen] != prompt_of[rejected]:
            raise TableError(
                "preference_pairs", "compares two prompts", found=f"{chosen} and {rejected}", expected="completions of one prompt"
            )
        found.append((numbers[chosen], numbers[rejected]))
    return np.array(found, dtype=np.int64)


def summary(metrics: dict[str, Any]) -> str:
    """Return one line of what to watch."""
    reference = f", KL to the warm start {metrics['reference_kl']:.4f}" if metrics["reference_kl"] is not None else ""
    preferred = f", {metrics['preference_accuracy']:.0%} of pairs in order" if "preference_accuracy" in metrics else ""
    return (
        f"update {metrics['iteration']}: loss {metrics['loss']:+.4f}{preferred}, entropy {metrics['entropy']:.2f}, "
        f"KL to the sampler {metrics['behavior_kl']:.4f}{reference}, last ratios {metrics['last_ratio_01']:.2f} to "
        f"{metrics['last_ratio_99']:.2f}, clipped {metrics['clipped_fraction']:.1%} (+ {metrics['clipped_fraction_positive']:.1%}, "
        f"- {metrics['clipped_fraction_negative']:.1%}), effective sample {metrics['last_effective_share']:.0%}, "
        f"gradient {metrics['gradient_norm']:.3g}, weights moved by {metrics['moved_relative']:.2%}, "
        f"filling {metrics['filling_share']:.0%}, {metrics['tokens_per_second']:.0f} tokens/s"
    )


def update(policy: LoadedPolicy, rows: Rows, training: Training, checkpoint: Checkpoint, params: Params, iteration: int) -> dict[str, Any]:
    """Train the policy in place on an iteration's rows; return the metrics: means over steps, and the steps one by one."""
    from ospo_cli.training import gradient_step

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
        iterations=params.train.iterations if params.update.schedule != "constant" else iteration,
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
    summed = ("loss", "policy_loss", "kl_loss", "entropy_loss")
    preferences = tuple(name for name in ("preference_margin", "preference_accuracy") if name in steps[0])
    scales = tuple(name for name in ("loss_scale",) if name in steps[0])
    listed = (*names, *preferences, *summed, *scales, "gradient_norm", "learning_rate", "groups_used", "effective_share")
    return {
        **{name: float(np.mean([step[name] for step in steps])) for name in (*summed, "gradient_norm")},
        **{name: mean(name) for name in (*names, *preferences)},
        "reference_kl": mean("reference_kl") if rows.reference_logprobs is not None else None,
        **{name: max(step[name] for step in steps) for name in ("logprob_mismatch", "logprob_mismatch_mean")},
        "correction_effective_share": 1.0 if rows.corrections is None else gradient_step.effective_share(rows.corrections),
        "last_ratio_01": steps[-1].get("ratio_01", 1.0),
        "last_ratio_50": steps[-1].get("ratio_50", 1.0),
        "last_ratio_99": steps[-1].get("ratio_99", 1.0),
        "ratio_max": max(step.get("ratio_max", 1.0) for step in steps),
        "last_clipped_fraction": steps[-1]["clipped_fraction"],
        "last_effective_share": steps[-1]["effective_share"],
        "optimizer_steps": len(steps),
        "tokens": tokens,
        "completion_token_share": tokens / places if places else 0.0,
        "filling_share": sum(step["filling"] for step in steps) / places if places else 0.0,
        "trained_weights": sum(weight.numel() for weight in training.weights.values()),
        "steps": {
            **{name: [step[name] for step in steps] for name in listed},
            **{name: [step.get(name, 1.0) for step in steps] for name in ("ratio_01", "ratio_50", "ratio_99", "ratio_max")},
        },
    }


def _with_reference(layout: Layout, rows: Rows, params: Params, iteration: int) -> tuple[Rows, str, float | None]:
    """Return the rows with log-probabilities under policy 000 where the loss needs them, its hash, and the divergence from it otherwise.

    Where it does not, the divergence of the sampling policy is measured on a few rollout groups; in iteration 1 that is policy 000 itself.
    """
    from ospo_cli.policies.opening import load_policy
    from ospo_cli.training.gradient_step import logprobs_of
    from ospo_cli.training.policy_loss import k3

    settings = params.update
    is_needed = settings.kl_weight > 0 or (settings.objective == "dpo" and settings.dpo_reference == "warm-start")
    is_measured = settings.reference_groups > 0 and iteration > 1
    if not is_needed and not is_measured:
        return rows, "", None
    reference = load_policy(layout.policy(0), params.policy.threads, made_by="ospo warm-start", project=layout.root)
    if is_needed:
        found = logprobs_of(reference, rows, settings.tokens_per_micro_batch, settings.precision)
        return dataclasses.replace(rows, reference_logprobs=found), reference.content_hash, None
    some = dataclasses.replace(rows, groups=rows.groups[: settings.reference_groups])
    places = some.tokens_of(some.groups)
    if not len(places):
        return rows, "", None
    import torch

    found = logprobs_of(reference, some, settings.tokens_per_micro_batch, settings.precision)[places]
    return rows, "", float(k3(torch.from_numpy(rows.behavior_logprobs[places]), torch.from_numpy(found)).mean())


def token_class_sizes(
    rollouts: pl.DataFrame, advantages: pl.DataFrame, pieces: Callable[[Sequence[int]], list[bytes]], iteration: int
) -> dict[str, float]:
    """Return the root mean square of the advantages of each class of tokens (answer, think, tags); 0 where there are none.

    Raises:
        PolicyError: token ids do not spell their completions under this tokenizer.
    """
    squares, counts = np.zeros(len(CLASSES)), np.zeros(len(CLASSES))
    columns = ("rollout_id", "token_ids", "completion", "answer_start", "answer_end", "advantages")
    for name, ids, completion, start, end, values in rollouts.join(advantages, on="rollout_id").select(columns).iter_rows():
        try:
            spans = token_spans(pieces(ids), completion)
        except (CreditError, PolicyError) as error:
            raise PolicyError(
                f"rollout {name}",
                "its token ids do not spell its completion under the policy's tokenizer",
                found=error.line(),
                expected="rollouts of this policy",
                remedy=f"run `ospo rollout --iter {iteration}` again",
            ) from None
        kinds = token_classes(spans, completion, start, end)
        squares += np.bincount(kinds, weights=np.square(np.asarray(values, dtype=np.float64)), minlength=len(CLASSES))
        counts += np.bincount(kinds, minlength=len(CLASSES))
    return {name: float(np.sqrt(square / count)) if count else 0.0 for name, square, count in zip(CLASSES, squares, counts, strict=True)}


def _peak_bytes(policy: LoadedPolicy) -> int:
    """Return the most memory that this process held so far (on a GPU: that its tensors held there)."""
    if policy.device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(policy.device))
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def to_rows(rollouts: pl.DataFrame, advantages: pl.DataFrame, settings: Rollout, iteration: int) -> Rows:
    """Return rollouts and their advantages as arrays, groups in the order of prompt ids.

    Raises:
        TableError: rows or lengths of the two tables do not match, or an advantage is not finite.
    """
    from ospo_cli.training.gradient_step import Rows
    from ospo_cli.training.token_batches import Group

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
