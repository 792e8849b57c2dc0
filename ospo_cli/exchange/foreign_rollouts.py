"""Rollouts that another trainer saved: read, checked row by row, and brought into the form of table rollouts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from ospo_cli.errors import MissingInputError, OspoError, TableError
from ospo_cli.exchange.credit_format import FORMAT, VERSION
from ospo_cli.tables import parquet
from ospo_cli.tables.exchange import FOREIGN_ROLLOUTS
from ospo_cli.tables.rollout import NO_LOGPROB
from ospo_cli.tables.rollout_rows import RolloutRow, rollouts_frame

Pieces = Callable[[Sequence[int]], list[bytes]]

_REQUIRED = tuple(column.name for column in FOREIGN_ROLLOUTS.columns if not column.nullable)
_OPTIONAL = tuple(column.name for column in FOREIGN_ROLLOUTS.columns if column.nullable)
# Rounding of a log-softmax in half precision may leave this much above 0 on a certain token.
_ROUNDING = 1e-6
_LARGEST_ID = 2**31 - 1
TOKENIZER = "name its tokenizer: --tokenizer"


def read(path: Path) -> pl.DataFrame:
    """Return the declared columns that a file has (Parquet, or JSON lines by .jsonl, .ndjson or .json), in the order of the file.

    A first JSON line with a `format` field is a header of this project's own export; its version is checked.

    Raises:
        MissingInputError: there is no such file.
        TableError: it cannot be read, a column is missing or of the wrong type, or there is no row.
    """
    if path.suffix.lower() in (".jsonl", ".ndjson", ".json"):
        frame = _read_json_lines(path)
    elif path.suffix.lower() in (".parquet", ".pq"):
        frame = _typed(path, parquet.read_undeclared(path, "rollouts of another trainer"))
    else:
        raise TableError(path, "unknown kind of file", found=path.suffix or "no ending", expected=".parquet or .jsonl")
    if not frame.height:
        raise TableError(path, "holds no rollout", expected="at least one row")
    return frame


def to_rollouts(
    frame: pl.DataFrame, prompt_ids: Sequence[str], pieces: Pieces, where: object, end_ids: Collection[int] = ()
) -> pl.DataFrame:
    """Return table rollouts of a checked file.

    Args:
        frame: as `read` returns it.
        prompt_ids: of table prompts.
        pieces: token ids -> bytes of each (b"" for special tokens), under the tokenizer of the policy that sampled.
        where: the file, named in errors.
        end_ids: tokens that end an answer, as far as the tokenizer's folder tells; others are seen by the rollouts that end in them.

    Raises:
        TableError: an unknown prompt, an identity that occurs twice, numbers that differ, a log-probability that is none, padding among
            the ids, or ids that do not spell the text.
    """
    known, prompts, ends = set(prompt_ids), dict[str, list[int]](), set(end_ids)
    next_index: dict[str, int] = {}
    first_row: dict[tuple[str, object], int] = {}
    rows = []
    for number, row in enumerate(frame.iter_rows(named=True), 1):
        place = f"{where}, row {number}" + (f", rollout {row['rollout_id']}" if row.get("rollout_id") is not None else "")
        prompt_id, sample_index, rollout_id = row["prompt_id"], row.get("sample_index"), row.get("rollout_id")
        if prompt_id not in known:
            raise TableError(
                place,
                "unknown prompt_id",
                found=prompt_id,
                expected=f"one of the {len(known)} in table prompts",
                remedy="name each rollout's prompt as `ospo prepare-data` does (data/prepared/prompts.parquet)",
            )
        if sample_index is None:
            sample_index = next_index.get(prompt_id, 0)
            next_index[prompt_id] = sample_index + 1
        if rollout_id is None:
            rollout_id = f"foreign:{prompt_id}:{sample_index:02d}"
        for what, key in (("prompt_id and sample_index", (prompt_id, sample_index)), ("rollout_id", rollout_id)):
            earlier = first_row.setdefault((what, key), number)
            if earlier != number:
                shown = key if isinstance(key, str) else f"{key[0]} and {key[1]}"
                raise TableError(place, f"{what} occurs twice", found=f"{shown}, in row {earlier} too", expected="each once")
        ids, completion, logprobs = row["completion_token_ids"], row["completion"], row["old_logprobs"]
        _check_numbers(place, ids, logprobs)
        ends_special = _check_spelling(place, ids, completion, pieces)
        finish_reason = row.get("finish_reason") or ("stop" if ends_special else "length")
        if finish_reason not in ("stop", "length"):
            raise TableError(place, "unknown finish_reason", found=finish_reason, expected="stop or length")
        ends |= {ids[-1]} if ends_special and finish_reason == "stop" else set()
        prompt = row.get("prompt_token_ids") or []
        _check_prompt(place, prompt, pieces, prompts.setdefault(prompt_id, prompt) if prompt else prompt)
        rows.append(RolloutRow(rollout_id, prompt_id, sample_index, prompt, completion, ids, logprobs, finish_reason))
    _check_ends(rows, where, ends, end_ids)
    return rollouts_frame(rows).sort("rollout_id")


def _check_prompt(place: str, ids: list[int], pieces: Pieces, of_group: list[int]) -> None:
    try:
        found = pieces(ids)
    except OspoError as error:
        raise TableError(
            f"{place}, prompt_token_ids", error.problem, found=error.found, expected=error.expected, remedy=TOKENIZER
        ) from None
    for verb, pair in (("begins with", slice(0, 2)), ("ends in", slice(-2, None))):
        if len(ids) > 1 and ids[pair][0] == ids[pair][1] and not any(found[pair]):
            raise TableError(
                place,
                f"{verb} several equal special tokens: padding among prompt_token_ids",
                found=f"id {ids[pair][0]} twice",
                expected="the prompt's ids alone, without what fills a batch up",
            )
    if ids != of_group:
        raise TableError(
            place, "prompt_token_ids differ from those of its rollout group's first row: padding, or another prompt",
            found=f"{len(ids)} ids", expected=f"those {len(of_group)}",
        )  # fmt: skip


def _check_ends(rows: list[RolloutRow], where: object, ends: Collection[int], end_ids: Collection[int]) -> None:
    """Raise where an end token, or a special one that ends other rollouts, stands in the middle of one: what follows was not the answer."""
    for number, row in enumerate(rows, 1):
        behind = [position for position, token_id in enumerate(row.token_ids[:-1]) if token_id in ends]
        if behind:
            raise TableError(
                f"{where}, row {number}, token {behind[0]}",
                "goes on behind an end token",
                found=f"id {row.token_ids[behind[0]]}, which ends {'answers' if row.token_ids[behind[0]] in end_ids else 'other rollouts'}",
                expected="the end token last",
            )


def _check_numbers(place: str, ids: list[int], logprobs: list[float]) -> None:
    if len(ids) != len(logprobs):
        raise TableError(
            place, "token ids and log-probabilities differ in number", found=f"{len(ids)} and {len(logprobs)}", expected="one per token"
        )
    for position, value in enumerate(logprobs):
        if value is None or not math.isfinite(value) or not NO_LOGPROB < value <= _ROUNDING:
            raise TableError(
                f"{place}, token {position}",
                "old_logprobs is no log-probability",
                found="null" if value is None else value,
                expected="a finite number, at most 0",
            )


def _check_spelling(place: str, ids: list[int], completion: str, pieces: Pieces) -> bool:
    """Tell whether the last id is a special token; raise where the ids are not those of the text."""
    try:
        found = pieces(ids)
    except OspoError as error:
        raise TableError(place, error.problem, found=error.found, expected=error.expected, remedy=TOKENIZER) from None
    if len(found) > 1 and not found[-1] and not found[-2]:
        raise TableError(
            place,
            "ends in several special tokens: padding among completion_token_ids",
            found=f"ids {ids[-2]} and {ids[-1]}",
            expected="the sampled ids alone, one end token at most",
        )
    text = b"".join(found).decode("utf-8", errors="replace")
    if text != completion:
        same = next((index for index, (a, b) in enumerate(zip(text, completion, strict=False)) if a != b), min(len(text), len(completion)))
        raise TableError(
            f"{place}, character {same}",
            "completion_token_ids do not spell the completion",
            found=repr(text[max(same - 20, 0) : same + 20]),
            expected=repr(completion[max(same - 20, 0) : same + 20]),
            remedy="name the sampling policy's tokenizer (--tokenizer), and save the text without special tokens and without clean-up",
        )
    return bool(found) and not found[-1]


def _read_json_lines(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise MissingInputError(path, "no such file", expected="rollouts of another trainer")
    records: list[dict[str, Any]] = []
    columns: set[str] = set()
    try:
        with open(path, encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                place = f"{path}, line {number}"
                record = _json_object(place, line)
                if not records and not columns and "format" in record:
                    _check_header(place, record)
                    continue
                _check_columns(place, record)
                columns |= {name for name in _OPTIONAL if name in record}
                records.append({name: _json_value(place, name, record[name]) for name in (*_REQUIRED, *_OPTIONAL) if name in record})
    except UnicodeDecodeError as error:
        raise TableError(path, "is no UTF-8 text", found=error.reason, expected="JSON lines") from None
    names = [*_REQUIRED, *(name for name in _OPTIONAL if name in columns)]
    return pl.DataFrame(
        {name: [record.get(name) for record in records] for name in names},
        schema={name: FOREIGN_ROLLOUTS.schema[name] if name != "old_logprobs" else pl.List(pl.Float64) for name in names},
    )


def _json_object(place: str, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TableError(place, "cannot be read as JSON", found=error, expected="one object per line") from None
    if not isinstance(record, dict):
        raise TableError(place, "is no JSON object", found=type(record).__name__, expected="one object per line")
    return record


def _check_header(place: str, record: dict[str, Any]) -> None:
    if record["format"] != FORMAT or record.get("version") != VERSION:
        raise TableError(
            place, "unknown format or version", found=f"{record['format']} {record.get('version')}", expected=f"{FORMAT} {VERSION}"
        )


def _check_columns(place: object, columns: Any) -> None:
    missing = [name for name in _REQUIRED if name not in columns]
    if missing:
        raise TableError(
            place, f"column {missing[0]} is missing", found=", ".join(map(str, columns)) or "no columns", expected=", ".join(_REQUIRED)
        )


def _json_value(place: str, name: str, value: Any) -> Any:
    dtype = FOREIGN_ROLLOUTS.schema[name]
    if value is None and name in _OPTIONAL:
        return None

    def is_id(item: Any) -> bool:
        return type(item) is int and 0 <= item <= _LARGEST_ID

    def is_number(item: Any) -> bool:
        return type(item) is float or (type(item) is int and abs(item) <= _LARGEST_ID)

    if dtype == pl.String:
        fits, expected = isinstance(value, str), "text"
    elif dtype == pl.Int32:
        fits, expected = is_id(value), "a whole number, 0 or more"
    elif dtype == pl.List(pl.Int32):
        fits, expected = isinstance(value, list) and all(map(is_id, value)), "a list of whole numbers, 0 or more"
    else:
        fits = isinstance(value, list) and all(item is None or is_number(item) for item in value)
        expected = "a list of numbers"
    if not fits:
        raise TableError(f"{place}, {name}", "is of the wrong type", found=json.dumps(value)[:80], expected=expected)
    if dtype == pl.String:
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise TableError(f"{place}, {name}", "holds a lone surrogate, which is no character", found=repr(value)[:80]) from None
    return value


def _typed(path: Path, frame: pl.DataFrame) -> pl.DataFrame:
    """Return the declared columns of a Parquet file in their declared types; widths of numbers may differ, kinds may not."""
    _check_columns(path, frame.columns)
    found = []
    for name in [*_REQUIRED, *(name for name in _OPTIONAL if name in frame.columns)]:
        series, dtype = frame[name], FOREIGN_ROLLOUTS.schema[name]
        if name == "old_logprobs":
            dtype = pl.List(pl.Float64)  # float32 would turn a large number into an infinite one before it is looked at
        if not _same_kind(series.dtype, dtype):
            raise TableError(path, f"column {name} has the wrong type", found=series.dtype, expected=FOREIGN_ROLLOUTS.schema[name])
        try:
            series = series.cast(dtype, strict=True)
        except pl.exceptions.PolarsError:
            raise TableError(
                path, f"column {name} holds numbers out of range", found=series.dtype, expected=f"0 to {_LARGEST_ID}"
            ) from None
        nulls = series.is_null()
        if name in _REQUIRED and nulls.any():
            row = int(nulls.arg_true()[0]) + 1
            raise TableError(f"{path}, row {row}", f"column {name} is null", expected=FOREIGN_ROLLOUTS.schema[name])
        if dtype == pl.List(pl.Int32):
            bad = series.list.eval(pl.element().is_null() | (pl.element() < 0)).list.any().fill_null(False)
        else:
            bad = series < 0 if dtype == pl.Int32 else pl.repeat(False, frame.height, eager=True)
        if bad.fill_null(False).any():
            row = int(bad.arg_true()[0]) + 1
            raise TableError(f"{path}, row {row}", f"column {name} holds a null or negative number", expected="whole numbers, 0 or more")
        found.append(series)
    return pl.DataFrame(found)


def _same_kind(found: pl.DataType, declared: pl.DataType | type[pl.DataType]) -> bool:
    if isinstance(declared, pl.List):
        return isinstance(found, (pl.List, pl.Array)) and _same_kind(found.inner, declared.inner)  # type: ignore[arg-type]
    if declared == pl.String:
        return found == pl.String or isinstance(found, (pl.Categorical, pl.Enum))
    return found.is_integer() if declared == pl.Int32 else found.is_numeric()
