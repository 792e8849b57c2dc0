"""Give the loop its first policy: supervised training on a teacher's answers, or a plain copy."""

from __future__ import annotations

import contextlib
import dataclasses
import pkgutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import polars as pl

from ospo_cli import __version__
from ospo_cli.errors import ParameterError, TableError
from ospo_cli.executors import peers
from ospo_cli.executors.progress import Progress
from ospo_cli.executors.shard_folder import content_key
from ospo_cli.layout import Layout
from ospo_cli.params.policy import Policy
from ospo_cli.params.train import Train
from ospo_cli.params.warm_start import WarmStart
from ospo_cli.tables import files, parquet, placed
from ospo_cli.tables.prepared import DOCUMENTS, PROMPTS, TEACHER_PAIRS

if TYPE_CHECKING:
    from ospo_cli.policies.folder import LoadedPolicy

# What is loaded only where warm_start.teacher or look_every asks for it: then the first policy depends on the reward, and the graph knows.
LOADED = {
    "judgments": "ospo_cli.rewards.judged_teacher:teacher_pairs",
    "catalogue": "ospo_cli.rewards.catalogue_teacher:pairs_and_prompts",
    "looks": "ospo_cli.training.dev_looks:looker",
}
Look = Callable[["LoadedPolicy"], dict[str, float]]


class Reads(Protocol):
    """The sections that the stage reads; for a teacher of judgments those of the reward too."""

    @property
    def train(self) -> Train: ...
    @property
    def policy(self) -> Policy: ...
    @property
    def warm_start(self) -> WarmStart: ...


def execute(layout: Layout, params: Reads) -> dict[str, Any]:
    """Read prompts and teacher pairs; write policy 000 with its metrics. A run that was cut off resumes from its last checkpoint."""
    from ospo_cli.policies.opening import load_policy, save_policy
    from ospo_cli.policies.starting_point import write_starting_point
    from ospo_cli.training.cut_weights import cut

    settings = params.warm_start
    prompts = placed.read(PROMPTS, layout)
    pairs, asked = _pairs_and_prompts(layout, params, prompts)
    target = layout.policy(0)
    metrics: dict[str, Any] = {"teacher": settings.teacher, "pairs": pairs.height, "steps": planned_steps(pairs.height, settings)}
    is_first = peers.is_first()
    with files.replacing_folder(target) if is_first else contextlib.nullcontext(target) as own:
        if is_first:
            write_starting_point(own, layout.root, params.policy, params.train.seed, lambda: tokenizer_texts(layout, asked, pairs))
        temporary = Path(peers.told_by_first(str(own)))
        if metrics["steps"]:
            policy = cut(load_policy(temporary, params.policy.threads, trainable=True, project=layout.root))
            look, looked_at = _looker(layout, params, prompts) if settings.look_every else (None, "")
            metrics |= warm_start(policy, asked, pairs, params, layout.cache / "warm_start", look, looked_at)
            save_policy(policy, temporary)
        if is_first:
            # No durations in this file: it lies in the policy folder, and equal input is to give equal bytes there.
            files.write_json(temporary / "warm_start_metrics.json", metrics, ensure_ascii=False)
    return metrics


def _pairs_and_prompts(layout: Layout, params: Reads, prompts: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the pairs, and the prompts that they are of: a catalogue's phrases are no prompts of the data set."""
    if params.warm_start.teacher != "catalogue" or params.warm_start.steps == 0:
        return teacher_pairs(layout, params, prompts), prompts
    made: tuple[pl.DataFrame, pl.DataFrame] = pkgutil.resolve_name(LOADED["catalogue"])(layout, params, prompts)
    return made


def _looker(layout: Layout, params: Reads, prompts: pl.DataFrame) -> tuple[Look, str]:
    if peers.count() > 1:
        raise ParameterError("warm_start.look_every", "is of one process", found=f"{peers.count()} processes", expected="0")
    made: tuple[Look, str] = pkgutil.resolve_name(LOADED["looks"])(layout, params, prompts)
    return made


def warm_start(
    policy: LoadedPolicy,
    prompts: pl.DataFrame,
    pairs: pl.DataFrame,
    params: Reads,
    cache: Path,
    look: Look | None = None,
    looked_at: str = "",
) -> dict[str, Any]:
    """Train the policy in place on (prompt, completion) pairs; return counts and the curves of the training.

    Args:
        policy: loaded trainable.
        prompts: table prompts.
        pairs: table teacher_pairs.
        params: sections warm_start and policy, and the seed.
        cache: folder of the checkpoint.
        look: measures the policy every `look_every` steps and at the end, None where it is not asked for.
        looked_at: hash of what its numbers depend on, so that a cut-off run goes on with none of another reward.

    Raises:
        PolicyError: a pair does not fit the context.
    """
    from ospo_cli.training import supervised
    from ospo_cli.training.encoded_texts import EncodedTexts
    from ospo_cli.training.training_state import Checkpoint, Run, Training

    settings = dataclasses.replace(params.warm_start, steps=planned_steps(pairs.height, params.warm_start))
    messages = dict(prompts.select("prompt_id", "prompt").iter_rows())
    texts = EncodedTexts(policy, messages, refuses_control=params.warm_start.teacher == "file")
    rows = pairs.sort("prompt_id", "pair_index").select("prompt_id", "pair_index", "completion").iter_rows()
    examples = [texts.ids(prompt_id, text, f"teacher pair {index} of prompt {prompt_id}") for prompt_id, index, text in rows]
    run = Run(params.train.seed, 0, dropout=policy.is_adapter and params.policy.lora_dropout > 0)
    sections = [dataclasses.asdict(section) for section in (params.warm_start, run)]
    key = content_key("warm start 3", policy.content_hash, examples, sections, params.policy.threads, *([looked_at] if look else []))
    peers.check_alike("inputs", f"{__version__} {key}")
    checkpoint = Checkpoint(cache / key)
    training = Training(policy.model, settings.weight_decay, settings.max_gradient_norm)
    progress = Progress("warm-start", settings.steps, "steps")
    curves, looks = supervised.train(policy, examples, training, checkpoint, settings, run, partial(progress.advance, 1), look)
    progress.close()
    checkpoint.remove()
    steps = len(curves["loss"])
    if steps < settings.steps:
        sys.stderr.write(
            f"warm-start: stopped after {steps} of {settings.steps} steps: {settings.patience} looks without a better best of 8\n"
        )
    tail = curves["loss"][-max(1, len(curves["loss"]) // 10) :]
    return {
        "prompts": pairs["prompt_id"].n_unique(),
        "trained_weights": sum(weight.numel() for weight in training.weights.values()),
        "mean_prompt_tokens": float(np.mean([len(prompt) for prompt, _ in examples])),
        "mean_completion_tokens": float(np.mean([len(ids) for _, ids in examples])),
        "steps": steps,
        "epochs": steps * min(settings.batch_size, len(examples)) / len(examples),
        "first_loss": curves["loss"][0],
        "last_loss": float(np.mean(tail)),
        "curves": curves,
    } | ({"looks": looks} if look else {})


def planned_steps(pairs: int, settings: WarmStart) -> int:
    """Return the optimiser steps: `steps`, or fewer where `max_epochs` passes over the pairs are done earlier (one at least)."""
    if pairs == 0 or settings.max_epochs == 0:
        return settings.steps if pairs else 0
    return min(settings.steps, max(1, round(settings.max_epochs * pairs / min(settings.batch_size, pairs))))


def teacher_pairs(layout: Layout, params: Reads, prompts: pl.DataFrame) -> pl.DataFrame:
    """Return the pairs that are trained on: table teacher_pairs, a file's, or those made from judgments; none where there is no teacher."""
    settings = params.warm_start
    if settings.teacher == "none" or settings.steps == 0:
        return TEACHER_PAIRS.empty()
    if settings.teacher == "judgments":
        made: pl.DataFrame = pkgutil.resolve_name(LOADED["judgments"])(layout, params, prompts)
        return made
    path = layout.prepared("teacher_pairs.parquet")
    if settings.teacher == "source":
        pairs = parquet.read(path, TEACHER_PAIRS, made_by=TEACHER_PAIRS.command())
    else:
        path = layout.root / settings.pairs_file
        pairs = _read_pairs_file(path, settings.pairs_file)
    if pairs.height == 0:
        raise TableError(
            path,
            "holds no teacher pairs",
            found=f"warm_start.teacher: {settings.teacher}",
            expected="at least one pair",
            remedy="set warm_start.teacher to judgments, file or none",
        )
    known = pairs.join(prompts.select("prompt_id", "split"), on="prompt_id", how="left")
    unknown = known.filter(pl.col("split").is_null())
    if unknown.height:
        raise TableError(path, "pairs of prompts that do not exist", found=unknown["prompt_id"][0], expected="prompt_id of table prompts")
    held_out = known.filter(pl.col("split") != "train")
    if held_out.height:
        raise TableError(
            path,
            "pairs of held-out prompts would leak into training",
            found=f"{held_out['prompt_id'][0]} ({held_out['split'][0]})",
            expected="train prompts",
        )
    return pairs


def _read_pairs_file(path: Path, name: str) -> pl.DataFrame:
    if not name:
        raise ParameterError("warm_start.pairs_file", "is empty", expected="a Parquet file of prompt_id and completion (teacher: file)")
    if not path.is_file():
        raise ParameterError("warm_start.pairs_file", "no such file", found=path, expected="a Parquet file of prompt_id and completion")
    pairs = parquet.read_undeclared(path, "prompt_id and completion")
    if "pair_index" not in pairs.columns and "prompt_id" in pairs.columns:
        pairs = pairs.with_columns(pl.int_range(pl.len(), dtype=pl.Int32).over("prompt_id").alias("pair_index"))
    pairs = parquet.check(pairs.drop("__index_level_0__", strict=False), TEACHER_PAIRS, where=path)  # a column that pandas leaves behind
    empty = pairs.filter(pl.col("completion").str.strip_chars() == "")
    if empty.height:
        found = f"{empty.height} such, the first of prompt {empty['prompt_id'][0]}"
        raise TableError(path, "column completion: is empty", found=found, expected="the full completion with its tags")
    return pairs


def tokenizer_texts(layout: Layout, prompts: pl.DataFrame, pairs: pl.DataFrame) -> list[str]:
    """Return the texts that a new small model's tokenizer is trained on: prompts, the pairs' answers and all titles."""
    documents = placed.read(DOCUMENTS, layout)
    train = prompts.filter(pl.col("split") == "train").sort("prompt_id")
    completions = pairs.sort("prompt_id", "pair_index")["completion"].to_list()
    for tag in ("<think>", "</think>", "<answer>", "</answer>"):  # one token each already: their letters teach no merges
        completions = [text.replace(tag, " ") for text in completions]
    return [*train["prompt"].to_list(), *completions, *documents.sort("doc_id")["title"].to_list()]
