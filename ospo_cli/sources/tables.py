"""A team's own catalogue, queries and judgments: uniform tables, or a catalogue with TREC judgments."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ospo_cli.errors import ParameterError, SourceError
from ospo_cli.params.prepare_data import PrepareData
from ospo_cli.sources import columns, files, judgment_lines
from ospo_cli.sources.base import SourceData
from ospo_cli.sources.opened import kind, open_text, read_bytes, stem

SPLITS = ("train", "dev", "test")
TREC = (".qrels", ".txt", ".tsv")
# The names that each file has; of a file that is not here (a click log) any.
OF_FILE = {
    "products": ("product_id", "title", "category"),
    "queries": ("query_id", "query", "split", "history"),
    "judgments": ("query_id", "product_id", "grade", "query"),
    "teacher_pairs": ("query_id", "completion"),
    "pools": ("query_id", "product_id"),
}
NAMES = tuple(dict.fromkeys(name for names in OF_FILE.values() for name in names))
_LIST_AS_TEXT = r"""^\s*\[\s*(?:['"{].*['"}])?\s*,?\s*\]\s*$"""
REMEDY = (
    "needed are products (product_id, title, any text columns), queries (query_id, query) and judgments (query_id, product_id, grade); "
    "docs/own-data.md has examples"
)


def read(params: PrepareData, seed: int, root: Path) -> SourceData:
    """Read products, queries and judgments (Parquet, CSV, TSV or JSON lines), or products, queries and TREC qrels.

    Raises:
        SourceError: a file is missing or cannot be read, a column is missing or of the wrong type, an id is missing or twice there,
            a grade is no number ≥ 0, a judgment names a query that is not in queries.
    """
    del seed  # nothing here is drawn
    unknown = [name for name in params.columns if name not in NAMES]
    if unknown:
        raise ParameterError("prepare_data.columns", "unknown column of the layout", found=unknown[0], expected=", ".join(NAMES))
    place = files.folder(root, params.path, REMEDY)
    judgments = _judgments_path(place)
    paths = [files.require(place, "products", remedy=REMEDY), _queries_path(place, judgments, params), judgments]
    documents = read_documents(paths[0], params)
    prompts = _prompts(paths[1], params)
    judged, counts, notes = _judgments(paths[2], params)
    _check_queries(judged, prompts, paths[2], paths[1])
    pairs = pools = None
    if path := files.find(place, "teacher_pairs"):
        pairs = _pairs(path, params)
        _check_queries(pairs, prompts, path, paths[1])
        paths.append(path)
    if path := files.find(place, "pools"):
        pools = _pools(path, params)
        _check_queries(pools, prompts, path, paths[1])
        paths.append(path)
    notes = read_as(params, paths) + notes
    card = {"licence": licence_of(place), "inputs": files.hashes(paths, place), "counts": counts, "notes": notes}
    return SourceData(documents, prompts, judged, pairs, pools, card)


def _judgments_path(place: Path) -> Path:
    tables = files.find(place, "judgments")
    trec = files.find(place, "qrels", TREC)
    if tables and trec:
        raise SourceError(
            place, "two files of judgments", found=f"{tables.name}, {trec.name}", expected="one", remedy="take one of them away"
        )
    found = tables or trec
    if found is None:
        present = ", ".join(sorted(entry.name for entry in place.iterdir()))
        expected = " or ".join([f"judgments{suffix}" for suffix in files.SUFFIXES] + [f"qrels{suffix}" for suffix in TREC])
        raise SourceError(place, "judgments are missing", found=present, expected=expected, remedy=REMEDY)
    return found


def _queries_path(place: Path, judgments: Path, params: PrepareData) -> Path:
    """Return the file of the queries: judgments that hold them (Quepid's export) where there is no other."""
    if (found := files.find(place, "queries")) is not None:
        return found
    holds_them = stem(judgments).lower() == "judgments" and params.columns.get("query", "query") in files.names(judgments, params.quoting)
    return judgments if holds_them else files.require(place, "queries", remedy=REMEDY)


def _renamed(path: Path, params: PrepareData, needed: list[str]) -> pl.DataFrame:
    """Return a file's rows under the layout's names; `params.columns` says what the file calls them."""
    present = files.names(path, params.quoting) if params.columns else []
    # One file may have a name of the user's and another the layout's own.
    own = [name if name in present and params.columns.get(name) not in present else params.columns.get(name, name) for name in needed]
    frame = files.read(
        path, own, remedy="rename it, or say in prepare_data.columns what it is called: {title: your_name}", quoting=params.quoting
    )
    # What the user named goes before a column of the layout's own name; one column may stand for two (a query that is its own id).
    wanted = _meant(path, params)
    named = {ours: frame[theirs] for ours, theirs in wanted.items() if theirs in frame.columns}
    kept = [name for name in frame.columns if name not in named and name not in set(wanted.values())]
    ordered = {name: frame[name] for name in kept} | named
    return pl.DataFrame([series.alias(name) for name, series in ordered.items()]) if named else frame


def _meant(path: Path, params: PrepareData) -> dict[str, str]:
    """Return the part of `prepare_data.columns` that a file can mean: a product's column is no query because queries have one so named."""
    of_file = OF_FILE.get(stem(path).lower(), tuple(params.columns))
    return {ours: theirs for ours, theirs in params.columns.items() if ours in of_file}


def read_as(params: PrepareData, paths: list[Path]) -> list[str]:
    """Return notes that say where each name of prepare_data.columns was read, and how many values were \\N in each file.

    Raises:
        SourceError: a name is in no file, so that it would have no effect.
    """
    tables = [path for path in paths if stem(path).lower() != "qrels" and params.columns]
    present = {path.name: files.names(path, params.quoting) for path in tables}
    meant = {path.name: _meant(path, params) for path in tables}
    for ours, theirs in params.columns.items():
        if not any(theirs in names and ours in meant[name] for name, names in present.items()):
            found = "; ".join(f"{name}: {', '.join(names)}" for name, names in present.items())
            raise SourceError(
                f"prepare_data.columns: {ours}", f"no file that may have it has a column {theirs}", found=found, expected=theirs
            )
    read = {ours: [name for name in present if theirs in present[name] and ours in meant[name]] for ours, theirs in params.columns.items()}
    return [
        f"prepare_data.columns: {ours} is read from {theirs} of {', '.join(read[ours])}" for ours, theirs in params.columns.items()
    ] + _empty_values(paths)


def _empty_values(paths: list[Path]) -> list[str]:
    # Notes that say how many values of each file were \\N.
    found = {path.name: files.empty_values(path) for path in paths}
    return [f"{name}: {count:,} values \\N were read as empty" for name, count in found.items() if count]


def read_documents(path: Path, params: PrepareData) -> pl.DataFrame:
    """Return a catalogue: doc_id, title, category and every further column as text."""
    frame = _renamed(path, params, ["product_id", "title"])
    if not frame.height:
        raise SourceError(path, "the catalogue is empty", found="0 products", expected="at least one")
    if "doc_id" in frame.columns:
        raise SourceError(
            f"{path}: column doc_id",
            "has a reserved name",
            expected="the id in product_id",
            remedy="rename it, or set prepare_data.columns",
        )
    titles = columns.required_text(frame, "title", path)
    category = (
        columns.text(frame["category"], path) if "category" in frame.columns else pl.repeat("", frame.height, dtype=pl.String, eager=True)
    )
    rest = [columns.text(frame[name], path).alias(name) for name in frame.columns if name not in ("product_id", "title", "category")]
    key = columns.ids(frame, "product_id", path, unique=True).alias("doc_id")
    return pl.DataFrame([key, titles.alias("title"), category.alias("category"), *rest])


def _prompts(path: Path, params: PrepareData) -> pl.DataFrame:
    if kind(path) == ".tsv" and _has_no_header(path, params):
        frame = _two_columns(path)
    else:
        frame = _renamed(path, params, ["query_id", "query"])
    if stem(path).lower() == "judgments":  # a query in each of its judgments
        frame = frame.unique(["query_id", "query"], keep="first", maintain_order=True)
    if not frame.height:
        raise SourceError(path, "no queries", found="0 rows", expected="at least one")
    key = columns.ids(frame, "query_id", path, unique=True)
    return pl.DataFrame(
        [key.alias("prompt_id"), _split(frame, path), columns.required_text(frame, "query", path).alias("query"), _history(frame, path)]
    )


def _split(frame: pl.DataFrame, path: Path) -> pl.Series:
    if "split" not in frame.columns:
        return pl.Series("split", [None] * frame.height, dtype=pl.String)
    split = columns.required_text(frame, "split", path).str.strip_chars().replace("", None)
    wrong = (split.is_not_null() & ~split.is_in(SPLITS)).fill_null(False)
    if wrong.any():
        row = columns.first(wrong)
        raise SourceError(f"{path}: row {row}, column split", "unknown split", found=split[row - 1], expected="train, dev, test or nothing")
    return split.alias("split")


def _history(frame: pl.DataFrame, path: Path) -> pl.Series:
    if "history" not in frame.columns:
        return pl.Series("history", [[]] * frame.height, dtype=pl.List(pl.String))
    history = frame["history"]
    if history.dtype in (pl.String, pl.Null):
        texts = history.cast(pl.String).fill_null("")
        if (listed := texts.str.contains(_LIST_AS_TEXT)).any():
            raise SourceError(
                f"{path}: row {columns.first(listed)}, column history", "is a list written as text", found=texts.filter(listed)[0],
                expected="titles with | between them, or lists of texts (Parquet, JSON lines)",
            )  # fmt: skip
        history = texts.str.split("|")
    if history.dtype not in (pl.List(pl.String), pl.List(pl.Null)):
        raise SourceError(
            f"{path}: column history", "wrong type", found=history.dtype, expected="list of texts, or text with | between the titles"
        )
    stripped = pl.element().str.strip_chars()
    return (
        history.cast(pl.List(pl.String))
        .list.eval(stripped.filter(stripped.is_not_null() & (stripped != "")))
        .fill_null([])
        .alias("history")
    )


def _judgments(path: Path, params: PrepareData) -> tuple[pl.DataFrame, dict[str, int], list[str]]:
    names = ("query_id", "product_id", "grade")
    # TREC writes -1 or -2 for "junk"; it is refused here like any negative grade, since what it means differs between collections
    frame = judgment_lines.read(path) if stem(path).lower() == "qrels" else _renamed(path, params, list(names))
    judged, counts = columns.judgments(frame, names, path, params.gains)
    return judged, counts, columns.check_gains([(frame, path)], "grade", params.gains)


def _pairs(path: Path, params: PrepareData) -> pl.DataFrame:
    frame = _renamed(path, params, ["query_id", "completion"])
    pairs = pl.DataFrame(
        [columns.ids(frame, "query_id", path).alias("prompt_id"), columns.required_text(frame, "completion", path).alias("completion")]
    )
    empty = pairs["completion"].str.strip_chars() == ""
    if empty.any():
        raise SourceError(
            f"{path}: row {columns.first(empty)}, column completion", "is empty", expected="the full completion with its tags"
        )
    return pairs.with_columns(pl.int_range(pl.len()).over("prompt_id").cast(pl.Int32).alias("pair_index")).select(
        "prompt_id", "pair_index", "completion"
    )


def _pools(path: Path, params: PrepareData) -> pl.DataFrame:
    frame = _renamed(path, params, ["query_id", "product_id"])
    return pl.DataFrame(
        [columns.ids(frame, "query_id", path).alias("prompt_id"), columns.ids(frame, "product_id", path).alias("doc_id")]
    ).unique(maintain_order=True)


def _check_queries(frame: pl.DataFrame, prompts: pl.DataFrame, path: Path, queries: Path) -> None:
    unknown = frame.join(prompts, on="prompt_id", how="anti")
    if unknown.height:
        raise SourceError(
            path,
            "unknown query",
            found=f"{unknown['prompt_id'][0]} ({unknown['prompt_id'].n_unique()} such queries)",
            expected=f"ids of {queries.name}",
            remedy=columns.other_spelling(unknown["prompt_id"], prompts["prompt_id"]) + "add the query or take the rows away",
        )


def _has_no_header(path: Path, params: PrepareData) -> bool:
    with open_text(path, errors="replace") as stream:
        cells = stream.readline().rstrip("\r\n").split("\t")
    return len(cells) == 2 and params.columns.get("query_id", "query_id") not in cells and cells[0].lower() not in judgment_lines.HEADERS


def _two_columns(path: Path) -> pl.DataFrame:
    """Read TREC topics as `qid<TAB>query`; no quoting, no header."""
    try:
        lines = read_bytes(path).decode("utf-8-sig").split("\n")
    except (UnicodeDecodeError, OSError) as error:
        raise files.unreadable(path, error) from None
    frame = pl.DataFrame({"cells": [line.rstrip("\r") for line in lines]}, schema={"cells": pl.String}).with_row_index("number", 1)
    frame = frame.filter(pl.col("cells").str.strip_chars() != "").with_columns(pl.col("cells").str.split("\t"))
    wrong = frame.filter(pl.col("cells").list.len() != 2)
    if wrong.height:
        raise SourceError(
            f"{path}: line {wrong['number'][0]}",
            "wrong number of fields",
            found=len(wrong["cells"][0]),
            expected="2: query id, a tab, the query",
        )
    return frame.select(pl.col("cells").list.get(0).alias("query_id"), pl.col("cells").list.get(1).alias("query"))


def licence_of(place: Path) -> str:
    """Return where the folder states its licence, or that it does not."""
    for name in ("LICENCE", "LICENSE", "LICENSE.txt", "SOURCE.md"):
        if (place / name).is_file():
            return f"see {name} beside the data"
    return "not stated: the data's owner decides"
