"""Columns of foreign files as the project's own types: ids, text, numbers; a value that does not fit is named with its row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import polars as pl

from ospo_cli.errors import ParameterError, SourceError, shorten

_INVISIBLE = "".join(map(chr, (0xAD, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A), 0xFEFF)))
_TRUTHS = ("yes", "no", "on", "off", "y", "n")  # YAML reads these as truth values
_YES = "put labels such as yes and no in quotes in prepare_data.gains, where YAML reads them as true and false"
_GRADE = "mend the row, or give its label a gain in prepare_data.gains"


def ids(frame: pl.DataFrame, column: str, where: object, unique: bool = False) -> pl.Series:
    """Return a column of identities as text, surrounding blanks and invisible marks (of byte order, direction, width zero) removed.

    Raises:
        SourceError: a null or blank identity, a type that is no identity, or one that occurs twice where `unique`.
    """
    series = frame[column]
    if not (series.dtype == pl.String or series.dtype.is_integer() or series.dtype in (pl.Categorical, pl.Enum, pl.Null)):
        raise SourceError(
            f"{where}: column {column}", "wrong type", found=series.dtype, expected="text or whole numbers", remedy="store ids as text"
        )
    series = series.cast(pl.String).to_frame().select(stripped(pl.first())).to_series()
    empty = (series.is_null() | (series == "")).fill_null(True)
    if empty.any():
        raise SourceError(
            f"{where}: row {first(empty)}, column {column}",
            "no id",
            found=f"{int(empty.sum())} rows without one",
            expected="an id in every row",
        )
    if unique:
        doubled = series.is_duplicated()
        if doubled.any():
            value = series.filter(doubled)[0]
            rows = (series == value).arg_true().head(2).to_list()
            raise SourceError(
                f"{where}: column {column}",
                "duplicate id",
                found=f"{value} in rows {rows[0] + 1} and {rows[1] + 1}",
                expected="each id once",
                remedy="keep one of the rows",
            )
    return series


def stripped(text: pl.Expr) -> pl.Expr:
    """Text without what surrounds it unseen: blanks, and marks of byte order, direction or width zero."""
    return text.str.strip_chars().str.strip_chars(_INVISIBLE).str.strip_chars()


def text(series: pl.Series, where: object) -> pl.Series:
    """Return a column as text without nulls: lists joined by ", ", structs as JSON, numbers, dates, truth values as polars writes them."""
    dtype = series.dtype
    try:
        if dtype in (pl.Binary, pl.Object):
            raise ValueError(dtype)
        if isinstance(dtype, pl.List | pl.Array):
            series = (
                series.cast(pl.List(pl.String)).list.join(", ", ignore_nulls=True) if _is_flat(dtype.inner) else _encoded(series, where)
            )
        elif isinstance(dtype, pl.Struct):
            series = series.struct.json_encode()
        if dtype.is_float():
            series = series.fill_nan(None)  # how pandas writes a missing number
        return series.cast(pl.String).fill_null("")
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError):  # durations, maps, bytes in structs, years beyond 9999
        raise SourceError(
            f"{where}: column {series.name}",
            "wrong type",
            found=dtype,
            expected="text, numbers, dates, lists or structs of these",
            remedy="store it as text or leave it out",
        ) from None


def required_text(frame: pl.DataFrame, column: str, where: object) -> pl.Series:
    """Return a column that must be text (or null, which becomes empty)."""
    if frame[column].dtype not in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        raise SourceError(f"{where}: column {column}", "wrong type", found=frame[column].dtype, expected="text")
    return text(frame[column], where)


def gains(frame: pl.DataFrame, column: str, where: object, labels: dict[str, float]) -> pl.Series:
    """Return judgments as gains: a label that `labels` knows becomes its gain, every other value must be a number ≥ 0.

    A label that is a number stands for that number however the file writes it (3, 3.0), and true and false for truth values.

    Raises:
        SourceError: a value that is neither, null, NaN, infinite or negative; names the row.
        ParameterError: a gain is no number ≥ 0, or two labels are one.
    """
    _check_labels(labels)
    series = frame[column]
    if not (series.dtype.is_numeric() or series.dtype in (pl.String, pl.Categorical, pl.Enum, pl.Boolean, pl.Null)):
        raise SourceError(f"{where}: column {column}", "wrong type", found=series.dtype, expected="numbers ≥ 0 or labels")
    if series.dtype.is_numeric() and not labels:
        numbers = series.cast(pl.Float64)
    else:
        written = _as_labels(series)
        numbers = written.cast(pl.Float64, strict=False)
        if labels:
            known = written.replace_strict(
                [_canonical(label) for label in labels], list(labels.values()), default=None, return_dtype=pl.Float64
            )
            numbers = known.zip_with(known.is_not_null(), numbers)
    bad = (numbers.is_null() | ~numbers.is_finite() | (numbers < 0)).fill_null(True)
    if bad.any():
        row = first(bad)
        expected = "a number ≥ 0" + (f" or one of {', '.join(labels)}" if labels else "")
        raise SourceError(
            f"{where}: row {row}, column {column}",
            "is no grade",
            found="nothing" if series[row - 1] is None or series[row - 1] == "" else series[row - 1],
            expected=expected,
            remedy=_YES if {"True", "False"} & labels.keys() and str(series[row - 1]).lower() in _TRUTHS else _GRADE,
        )
    return numbers


def _check_labels(labels: Mapping[str, float]) -> None:
    seen: dict[str, str] = {}
    for label, gain in labels.items():
        if not 0 <= gain < math.inf:
            raise ParameterError("prepare_data.gains", f"the gain of label {label} is none", found=gain, expected="a number ≥ 0")
        other = seen.setdefault(_canonical(label), label)
        if other != label:
            raise ParameterError("prepare_data.gains", "two of its labels are the same one", found=f"{other} and {label}", expected="one")


def check_gains(frames: Sequence[tuple[pl.DataFrame, object]], column: str, given: Mapping[str, float]) -> list[str]:
    """Return notes that say to how many judgments each label of prepare_data.gains applied.

    Args:
        frames: (rows, file) of all files of judgments.
        column: of the labels.
        given: prepare_data.gains.

    Raises:
        SourceError: there are judgments and labels, and none of these occurs.
    """
    if not given:
        return []
    written = pl.concat([_as_labels(frame[column]) for frame, _ in frames])
    found = dict(written.value_counts().iter_rows())
    counts = {label: found.get(_canonical(label), 0) for label in given}
    if written.len() and not any(counts.values()):
        raise SourceError(
            f"prepare_data.gains, {frames[0][1]}: column {column}", "no judgment has one of these labels", found=", ".join(given),
            expected=f"labels that are there, such as {', '.join(sorted(str(label) for label in found if label is not None)[:5])}",
        )  # fmt: skip
    return [f"prepare_data.gains: label {label} stands for {given[label]:g} in {count} judgments" for label, count in counts.items()]


def _as_labels(series: pl.Series) -> pl.Series:
    """Return labels as text: numbers as short as they can be written, truth values (True, false in text files) as 1 and 0."""
    written = series.cast(pl.Int8 if series.dtype == pl.Boolean else series.dtype).cast(pl.String).str.strip_chars()
    written = written.str.replace("^(?i:true)$", "1").str.replace("^(?i:false)$", "0")
    numbers = written.cast(pl.Float64, strict=False)
    is_whole = (numbers.is_finite() & (numbers == numbers.floor()) & (numbers.abs() < 1e15)).fill_null(False)
    whole = numbers.zip_with(is_whole, pl.Series([None], dtype=pl.Float64).new_from_index(0, len(numbers))).cast(pl.Int64).cast(pl.String)
    return whole.zip_with(is_whole, written)


def _canonical(label: str) -> str:
    """Return a label as `_as_labels` writes it.

    >>> [_canonical(label) for label in ("3.0", "true", "Exact", "0.5")]
    ['3', '1', 'Exact', '0.5']
    """
    return str(_as_labels(pl.Series([label]))[0])


def judgments(
    frame: pl.DataFrame, names: tuple[str, str, str], path: object, labels: dict[str, float]
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return the rows of a file as qrels with each pair once; equal rows are counted, rows that disagree are an error.

    Args:
        frame: the rows.
        names: columns of the query's id, the product's id and the grade.
        path: the file.
        labels: of grades, as in `gains`.
    """
    query, product, grade = names
    columns = {"prompt_id": ids(frame, query, path), "doc_id": ids(frame, product, path), "relevance": gains(frame, grade, path, labels)}
    frame = pl.DataFrame(columns)
    distinct = frame.unique(maintain_order=True)
    clash = distinct.filter(pl.struct("prompt_id", "doc_id").is_duplicated())
    if clash.height:
        prompt, document, _ = clash.row(0)
        values = clash.filter((pl.col("prompt_id") == prompt) & (pl.col("doc_id") == document))["relevance"].to_list()
        raise SourceError(
            path,
            "two judgments of one pair disagree",
            found=f"query {prompt}, product {document}: {values[0]:g} and {values[1]:g}",
            expected="one grade",
            remedy="keep one row",
        )
    return distinct, {"equal judgments merged": frame.height - distinct.height}


def other_spelling(missing: pl.Series, there: pl.Series) -> str:
    """Return a remedy where ids that are missing are there in another spelling: leading zeros, 1.0 for 1, case, combining accents, marks
    without width; empty where none is."""
    plain = (
        pl.col("id").str.normalize("NFKC").str.to_lowercase().str.replace_all(r"\p{Cf}", "").str.strip_chars_start("0")
        .str.replace(r"\.0+$", "")
    )  # fmt: skip
    left, right = (pl.DataFrame({"id": ids}).unique().select("id", plain=plain) for ids in (missing, there))
    both = left.join(right, on="plain").sort("id")
    if not both.height:
        return ""
    ours, theirs = map(shorten, both.select("id", "id_right").row(0))
    return f"{ours} is there as {theirs}: write the ids alike in both files, as text; "


def first(mask: pl.Series) -> int:
    """Return the first true row, counted from 1 (a header does not count)."""
    return int(mask.arg_true()[0]) + 1


def _is_flat(dtype: object) -> bool:
    return not isinstance(dtype, pl.List | pl.Array | pl.Struct) and dtype not in (pl.Binary, pl.Object)


def _encoded(series: pl.Series, where: object) -> pl.Series:
    if pl.Binary in (series.dtype, getattr(series.dtype, "inner", None)):
        raise SourceError(
            f"{where}: column {series.name}", "wrong type", found=series.dtype, expected="text", remedy="store it as text or leave it out"
        )
    return (
        pl.DataFrame({"value": series})
        .select(pl.struct("value").struct.json_encode().str.strip_prefix('{"value":').str.strip_suffix("}"))
        .to_series()
        .rename(series.name)
    )
