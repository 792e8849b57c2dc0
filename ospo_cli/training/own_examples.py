"""A user's own targets or preferences in place of an iteration's rollouts: text of a file as rows of token ids."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ospo_cli.errors import TableError
from ospo_cli.policies.folder import LoadedPolicy
from ospo_cli.tables import parquet
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.tables.rollout_rows import RolloutRow, rollouts_frame
from ospo_cli.training.encoded_texts import EncodedTexts
from ospo_cli.training.objectives.base import Objective


def read_examples(path: Path, objective: Objective, prompts: pl.DataFrame) -> pl.DataFrame:
    """Return the file's rows, checked.

    Args:
        path: Parquet of prompt_id and `objective.file_columns`.
        objective: one that a file may be for.
        prompts: table prompts; held-out prompts would leak into training.

    Raises:
        TableError: the file cannot be read, lacks a column, is empty, holds nulls, names prompts that are not train prompts, or prefers a
            completion to itself.
    """
    columns, name_of = ("prompt_id", *objective.file_columns), objective.settings.objective
    if not path.is_file():
        raise TableError(path, "no such file", expected=f"update.examples_file: a Parquet file of {', '.join(columns)}")
    rows = parquet.read_undeclared(path, ", ".join(columns))
    for name in columns:
        if name not in rows.columns or rows.schema[name] != pl.String:
            found = f"{name}: {rows.schema[name]}" if name in rows.columns else f"columns {', '.join(rows.columns)}"
            raise TableError(path, f"needs a column {name} of type String (objective {name_of})", found=found, expected=", ".join(columns))
        if rows[name].null_count():
            row = int(rows[name].is_null().arg_true()[0]) + 1
            raise TableError(f"{path}: row {row}", f"column {name} holds nulls", found=rows[name].null_count(), expected="none")
        if (rows[name].str.strip_chars() == "").any():
            raise TableError(path, f"column {name}: is empty", found=f"row {int((rows[name].str.strip_chars() == '').arg_true()[0]) + 1}")
    if rows.height == 0:
        raise TableError(path, "holds no rows", expected="at least one")
    known = rows.join(prompts.select("prompt_id", "split"), on="prompt_id", how="left", maintain_order="left")
    odd = known.filter(pl.col("split").is_null() | (pl.col("split") != "train"))
    if odd.height:
        found = f"{odd['prompt_id'][0]} ({odd['split'][0] or 'no such prompt'})"
        raise TableError(path, "trains on prompts that are not train prompts", found=found, expected="prompt_id of train prompts")
    if len(columns) > 2 and (same := rows.filter(pl.col(columns[1]) == pl.col(columns[2]))).height:
        raise TableError(path, "prefers a completion to itself", found=f"prompt {same['prompt_id'][0]}", expected="two completions")
    return rows.select(columns)


def as_rollouts(rows: pl.DataFrame, objective: Objective, prompts: pl.DataFrame, policy: LoadedPolicy) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return tables as an iteration has them: rollouts (log-probabilities 0: nobody sampled them), and the objective's.

    Raises:
        PolicyError: a completion does not fit the policy's context, or spells one of its special tokens.
    """
    texts = EncodedTexts(policy, dict(prompts.select("prompt_id", "prompt").iter_rows()), refuses_control=True)
    rollouts: dict[tuple[str, str], RolloutRow] = {}
    counts: dict[str, int] = {}

    def name_of(number: int, prompt_id: str, completion: str) -> str:
        if (prompt_id, completion) not in rollouts:
            index = counts[prompt_id] = counts.get(prompt_id, -1) + 1
            prompt, ids = texts.ids(prompt_id, completion, f"update.examples_file: row {number}, prompt {prompt_id}")
            name = f"file:{prompt_id}:{index}"
            rollouts[prompt_id, completion] = RolloutRow(name, prompt_id, index, prompt, completion, ids, [0.0] * len(ids), "stop")
        return rollouts[prompt_id, completion].rollout_id

    named = [
        (prompt_id, *(name_of(number, prompt_id, text) for text in completions))
        for number, (prompt_id, *completions) in enumerate(rows.iter_rows(), 1)
    ]
    made = objective.table_of(pl.DataFrame(named, schema=["prompt_id", *objective.named], orient="row"))
    table = objective.table
    made = made.select(*table.schema).cast(table.schema).unique(table.key).sort(table.key)  # type: ignore[arg-type]
    return rollouts_frame(rollouts.values()).sort(ROLLOUTS.key), made
