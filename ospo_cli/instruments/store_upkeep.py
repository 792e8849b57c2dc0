"""Upkeep of the store of values: what is there, whether it holds, what may go, and the values as a table."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

import numpy as np
import polars as pl

from ospo_cli.errors import OspoError, StoreError, shorten
from ospo_cli.layout import Layout
from ospo_cli.maths import seeding
from ospo_cli.params.evaluate import Evaluate
from ospo_cli.params.retrieval import Retrieval
from ospo_cli.params.score_coalitions import ScoreCoalitions
from ospo_cli.params.store import Store as StoreSettings
from ospo_cli.params.train import Train
from ospo_cli.report.terminal import Terminal
from ospo_cli.rewards.judged_reward import JudgedReward, Sections
from ospo_cli.rewards.judgments import read_prepared
from ospo_cli.rewards.store.book import Book
from ospo_cli.rewards.store.folder import Store, Summary, superfluous
from ospo_cli.tables import files, parquet
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.tables.score_coalitions import COALITION_VALUES, SPLICED_VALUES
from ospo_cli.tables.store import STORED_VALUES

# Two ways to the same metric agree far better than this; an engine that answers otherwise now does not.
TOLERANCE = 1e-9
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class Reads(Sections, Protocol):
    """What upkeep reads of the parameters."""

    @property
    def train(self) -> Train: ...
    @property
    def evaluate(self) -> Evaluate: ...


class _Sections(NamedTuple):
    """Those of a reward."""

    score_coalitions: ScoreCoalitions
    retrieval: Retrieval
    store: StoreSettings


def stats(layout: Layout, stream: TextIO | None = None) -> list[Summary]:
    """Print every book: what its values are, how many, how large, when it was last used.

    Raises:
        StoreError: a book cannot be used; those that can are printed first.
    """
    output, store = Terminal(stream), Store(layout.store)
    books, rows, entries = store.summaries(), [], 0
    for book in books:
        count = "?" if book.problem else Book.at(store.root / book.fingerprint).count()
        entries += 0 if book.problem else int(count)
        each = f"{book.size / int(count):.1f}" if count not in ("?", 0) else ""
        rows.append([book.fingerprint[:8], *_named(book), f"{count:,}" if count != "?" else "?", _bytes(book.size), each, _ago(book)])
    header = ["book", "retriever", "metrics", "documents", "entries", "size", "bytes/entry", "last used"]
    if rows:
        output.grid(header, rows, numbers=["documents", "entries", "size", "bytes/entry"])
    output.line(f"{store.root}: {_counted(len(books), 'book')}, {entries:,} entries, {_bytes(sum(book.size for book in books))}")
    for book in books:
        if book.problem is not None:
            raise book.problem
    return books


def verify(layout: Layout, params: Reads | None = None, recompute: int = 0, stream: TextIO | None = None) -> int:
    """Check SQLite's own structure and every entry's checksum; compute some values again; return how many entries were checked.

    Raises:
        StoreError: something does not hold; the others are checked first.
    """
    output, store, problems, total = Terminal(stream), Store(layout.store), [], 0
    for folder in store.folders():
        try:
            count = Book.at(folder).verify()
            total += count
            output.line(f"{folder.name[:8]}: {count:,} entries, all sound")
        except StoreError as error:
            problems.append(error)
            output.line(f"{folder.name[:8]}: {error.problem}: {shorten(error.found)}")
    output.line(f"{store.root}: {total:,} entries checked, {_counted(len(problems), 'book')} damaged")
    if problems:
        raise problems[0]
    if recompute and params is not None:
        checked, named = recomputed(layout, params, recompute)
        output.line(
            f"{checked:,} of the {named:,} kept values that this project's tables name computed again, all equal"
            if named
            else "nothing computed again: the store holds no value of this project's reward that its tables name"
        )
    return total


def recomputed(layout: Layout, params: Reads, count: int) -> tuple[int, int]:
    """Compute `count` values again, drawn by seed; return how many were, and how many could have been.

    A book holds hashes of texts, not texts: the ones that can be computed again are those of this project's tables.

    Raises:
        StoreError: a value differs from the one in the store.
    """
    reward = _reward(layout, params, str(params.score_coalitions.retriever))
    if reward.store is None or not reward.store.has_book(reward.about([reward.metric.name])):
        return 0, 0
    pairs = pl.concat(list(_scored_pairs(layout)) or [pl.DataFrame(schema={"prompt_id": pl.String, "query": pl.String})]).unique()
    pairs = pairs.sort("prompt_id", "query")
    prompt_ids, queries = pairs["prompt_id"].to_list(), pairs["query"].to_list()
    is_found, kept = reward.remembered(prompt_ids, queries)
    places = np.flatnonzero(is_found)
    drawn = np.sort(seeding.generator(params.train.seed, "store verify").permutation(len(places))[:count])
    chosen = places[drawn].tolist()
    fresh = reward.computed([prompt_ids[place] for place in chosen], [queries[place] for place in chosen])
    differences = np.abs(fresh - kept[chosen])
    if len(chosen) and differences.max() > TOLERANCE:
        worst = int(differences.argmax())
        place = chosen[worst]
        raise StoreError(
            layout.store,
            f"the kept value of prompt {prompt_ids[place]}, text {shorten(queries[place], 80)} is not what the retriever gives now",
            found=float(kept[place]),
            expected=float(fresh[worst]),
            remedy="has the engine changed? `ospo store gc --others` or delete the store",
        )
    return len(chosen), len(places)


def gc(
    layout: Layout,
    params: Reads | None,
    *,
    days: float | None = None,
    others: bool = False,
    most_bytes: str = "",
    dry_run: bool = False,
    stream: TextIO | None = None,
) -> list[Summary]:
    """Delete the books that are not wanted any more; return them.

    Args:
        layout: paths of the project.
        params: all parameters; needed for `others`.
        days: books that were not used for more than so many days go.
        others: books of other retrievers or catalogues than this project's (score_coalitions.retriever, evaluate.retrievers) go.
        most_bytes: the longest unused go until the store has at most so many bytes, such as 500M.
        dry_run: delete nothing.
        stream: where to print; stdout unless given.
    """
    if days is None and not others and not most_bytes:
        raise OspoError("ospo store gc", "nothing tells what may go", expected="--days D, --others or --bytes N")
    output, store, now = Terminal(stream), Store(layout.store), time.time()
    kept = None
    if others:
        assert params is not None
        names = dict.fromkeys([params.score_coalitions.retriever, *params.evaluate.retrievers])
        kept = {_reward(layout, params, name).retriever.fingerprint for name in names}
    books = store.summaries()
    gone = superfluous(books, now, days=days, kept_retrievers=kept, most_bytes=_parsed(most_bytes) if most_bytes else None)
    if not dry_run:
        store.drop([book.fingerprint for book in gone], now)
    for book in gone:
        output.line(f"{book.fingerprint[:8]}: {' '.join(_named(book)[:2])}, {_bytes(book.size)}, last used {_ago(book)}")
    verb = "would go" if dry_run else "deleted"
    output.line(f"{store.root}: {len(gone)} of {_counted(len(books), 'book')} {verb}, {_bytes(sum(book.size for book in gone))}")
    return gone


def export(layout: Layout, out: Path, book: str = "") -> tuple[int, int]:
    """Write all values, or those of the books whose name starts with `book`, as Parquet or (by the ending .jsonl) JSON lines.

    Returns:
        The numbers of values, one per metric of an entry, and of entries.
    """
    rows, entries = 0, 0

    def parts() -> Iterator[pl.DataFrame]:
        nonlocal rows, entries
        for folder in folders:
            written = 0
            for part in _frames(folder):
                written += part.height
                yield part
            rows, entries = rows + written, entries + written // len(Book.at(folder).about["parts"])

    store = Store(layout.store)
    folders = [folder for folder in store.folders() if folder.name.startswith(book)]
    if not folders:
        raise OspoError(
            store.root, "no such book", found=book or "no books", expected=", ".join(f.name[:8] for f in store.folders()) or None
        )
    if out.suffix not in (".parquet", ".jsonl"):
        raise OspoError(out, "unknown ending", found=out.suffix, expected=".parquet or .jsonl")
    if out.suffix == ".parquet":
        parquet.write(pl.concat([STORED_VALUES.empty(), *parts()]), out, STORED_VALUES)
        return rows, entries
    with files.replacing(out) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as stream:
        for part in parts():
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in part.iter_rows(named=True))
    return rows, entries


def _frames(folder: Path) -> Iterator[pl.DataFrame]:
    book = Book.at(folder)
    about = {"book": folder.name, "retriever": str(book.about.get("retriever")), "documents": int(book.about.get("documents", 0))}
    for keys, found in book.entries():
        names = [key.tobytes().hex() for key in keys]
        products = pl.Series([[place for place in row if place >= 0] for row in found.products.tolist()], dtype=pl.List(pl.Int32))
        for column, part in enumerate(book.about["parts"]):
            constant = {name: pl.lit(value) for name, value in about.items()}
            yield (
                pl.DataFrame({"key": names, "part": part, "value": found.parts[:, column], "products": products})
                .with_columns(**constant)
                .cast({"documents": pl.Int32})
                .select(*STORED_VALUES.schema)
            )


def _reward(layout: Layout, params: Sections, retriever: str) -> JudgedReward:
    always = _Sections(params.score_coalitions, params.retrieval, dataclasses.replace(params.store, values="always"))
    return JudgedReward(read_prepared(layout), always, retriever=retriever, cache=layout.cache, store=Store(layout.store))


def _scored_pairs(layout: Layout) -> Iterator[pl.DataFrame]:
    for path in sorted(layout.iteration(0, "x").parent.parent.glob("*/coalition_values.parquet")):
        rollouts = parquet.read(path.parent / "rollouts.parquet", ROLLOUTS).select("rollout_id", "prompt_id")
        for table in (COALITION_VALUES, SPLICED_VALUES):
            if (own := path.with_name(f"{table.name}.parquet")).is_file():
                yield parquet.read(own, table).select("rollout_id", "query").join(rollouts, on="rollout_id").select("prompt_id", "query")


def _named(book: Summary) -> list[str]:
    if book.problem:
        return ["cannot be used", "", ""]
    about = book.about
    metrics = ", ".join(map(str, about["parts"])) + (f" + {about['ranks']} products" if about.get("ranks") else "")
    documents: Any = about.get("documents", "?")
    return [shorten(about.get("retriever", "?"), 40), shorten(metrics, 80), f"{documents:,}" if isinstance(documents, int) else "?"]


def _bytes(size: int) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024  # type: ignore[assignment]
    return f"{size:.1f} TiB"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _ago(book: Summary) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(book.last_used))


def _parsed(size: str) -> int:
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)([KMGT]?)i?B?", size.strip(), re.IGNORECASE)
    if found is None:
        raise OspoError("--bytes", "not a number of bytes", found=size, expected="such as 2G, 500M or 100000")
    return int(float(found[1]) * _UNITS[found[2].upper()])
