"""Files that carry credit to other trainers: JSON lines, Parquet, padded tensors (safetensors) named as TRL or verl do, Tinker's Datum."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.errors import OspoError, TableError
from ospo_cli.tables import files, parquet
from ospo_cli.tables.exchange import CREDIT

Tensors = dict[str, NDArray[Any]]
# The key of the header in Parquet's and safetensors' own metadata. One key alone: safetensors writes several in no fixed order.
HEADER_KEY = "ospo"


def write(rows: pl.DataFrame, header: dict[str, Any], path: Path, target: str) -> None:
    """Write table credit for a target of `TARGETS`, whole or not at all; equal rows and headers give equal bytes."""
    TARGETS[target][1](rows, header, path)


def suffix(target: str) -> str:
    """Return how names of files for this target end; raise with the list of targets where there is no such one."""
    if target not in TARGETS:
        raise OspoError(f"--to {target}", "no such target", expected=", ".join(TARGETS))
    return TARGETS[target][0]


def trl_tensors(rows: pl.DataFrame) -> Tensors:
    """Return what TRL's GRPO loss is computed from; prompts filled up on the left, completions on the right, with id 0 and mask 0."""
    prompt_ids, prompt_mask = _padded(rows["prompt_token_ids"], np.int64, left=True)
    completion_ids, completion_mask = _padded(rows["completion_token_ids"], np.int64)
    return {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": completion_ids,
        "completion_mask": completion_mask,
        "advantages": _padded(rows["advantages"], np.float32)[0],
        "old_per_token_logps": _padded(rows["old_logprobs"], np.float32)[0],
        "group_ids": rows["group_id"].to_numpy().astype(np.int64),
        "rewards": rows["reward"].to_numpy().astype(np.float32),
    }


def verl_tensors(rows: pl.DataFrame) -> Tensors:
    """Return the tensors of verl's DataProto for an update of the actor; the reward stands at each completion's last token."""
    of_trl = trl_tensors(rows)
    response_mask = of_trl["completion_mask"]
    attention_mask = np.concatenate([of_trl["prompt_mask"], response_mask], axis=1)
    scores = np.zeros(response_mask.shape, dtype=np.float32)
    lengths = response_mask.sum(axis=1)
    filled = np.flatnonzero(lengths)
    scores[filled, lengths[filled] - 1] = of_trl["rewards"][filled]
    return {
        "prompts": of_trl["prompt_ids"],
        "responses": of_trl["completion_ids"],
        "input_ids": np.concatenate([of_trl["prompt_ids"], of_trl["completion_ids"]], axis=1),
        "attention_mask": attention_mask,
        "position_ids": np.maximum(np.cumsum(attention_mask, axis=1) - 1, 0),
        "response_mask": response_mask,
        "old_log_probs": of_trl["old_per_token_logps"],
        "rollout_log_probs": of_trl["old_per_token_logps"].copy(),
        "advantages": of_trl["advantages"],
        "returns": of_trl["advantages"].copy(),
        "token_level_scores": scores,
        "token_level_rewards": scores.copy(),
    }


def tinker_datum(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of table credit as a Datum of the Tinker API: position i of model_input predicts target i; 0 on the prompt's targets."""
    ids, behind = row["prompt_token_ids"] + row["completion_token_ids"], len(row["completion_token_ids"])
    before = len(ids) - 1 - behind
    columns = {
        "target_tokens": ("int64", ids[1:]),
        "logprobs": ("float32", [0.0] * before + row["old_logprobs"]),
        "advantages": ("float32", [0.0] * before + row["advantages"]),
        "mask": ("float32", [0.0] * before + [1.0] * behind),
    }
    return {
        "model_input": {"chunks": [{"tokens": ids[:-1], "type": "encoded_text"}]},
        "loss_fn_inputs": {name: {"data": data, "dtype": dtype, "shape": [len(data)]} for name, (dtype, data) in columns.items()},
    }


def _padded(lists: pl.Series, dtype: type, left: bool = False) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return [rows, longest] values filled up with 0, and their mask; at least one column wide."""
    lengths = lists.list.len().to_numpy().astype(np.int64)
    width = max(1, int(lengths.max(initial=0)))
    place = np.arange(width)
    mask = place >= width - lengths[:, None] if left else place < lengths[:, None]
    values: NDArray[Any] = np.zeros(mask.shape, dtype=dtype)
    values[mask] = lists.explode(empty_as_null=False).to_numpy()
    return values, mask.astype(np.int64)


def _write_json_lines(rows: pl.DataFrame, header: dict[str, Any], path: Path) -> None:
    _write_lines(header, rows.iter_rows(named=True), path)


def _write_datums(rows: pl.DataFrame, header: dict[str, Any], path: Path) -> None:
    _write_lines(header | {"rows": _identities(rows)}, map(tinker_datum, rows.iter_rows(named=True)), path)


def _write_lines(header: dict[str, Any], records: Iterable[dict[str, Any]], path: Path) -> None:
    with files.replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as stream:
        stream.write(_json(header) + "\n")
        stream.writelines(_json(record) + "\n" for record in records)


def _write_parquet(rows: pl.DataFrame, header: dict[str, Any], path: Path) -> None:
    parquet.write(rows, path, CREDIT, metadata={HEADER_KEY: _json(header)})


def _write_tensors(layout: Callable[[pl.DataFrame], Tensors]) -> Callable[[pl.DataFrame, dict[str, Any], Path], None]:
    def write_file(rows: pl.DataFrame, header: dict[str, Any], path: Path) -> None:
        from safetensors.numpy import save

        described = _json(header | {"rows": _identities(rows)})
        with files.replacing(path) as temporary:
            tensors = {name: np.ascontiguousarray(values) for name, values in layout(rows).items()}
            temporary.write_bytes(save(tensors, metadata={HEADER_KEY: described}))

    return write_file


def _identities(rows: pl.DataFrame) -> dict[str, list[str]]:
    """Return whose the rows of a trainer's file are; raise where one has no prompt, which a trainer needs."""
    empty = rows.filter(pl.col("prompt_token_ids").list.len() == 0)
    if empty.height:
        raise TableError(
            f"rollout {empty['rollout_id'][0]}",
            "has no prompt token ids, which a trainer needs",
            found="none",
            expected="the ids that the policy was given",
            remedy="give column prompt_token_ids in the file of rollouts, or export to jsonl or parquet",
        )
    return {name: rows[name].to_list() for name in ("rollout_id", "prompt_id", "completion")}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


TARGETS: dict[str, tuple[str, Callable[[pl.DataFrame, dict[str, Any], Path], None]]] = {
    "jsonl": ("jsonl", _write_json_lines),
    "parquet": ("parquet", _write_parquet),
    "trl": ("trl.safetensors", _write_tensors(trl_tensors)),
    "verl": ("verl.safetensors", _write_tensors(verl_tensors)),
    "tinker": ("tinker.jsonl", _write_datums),
}
