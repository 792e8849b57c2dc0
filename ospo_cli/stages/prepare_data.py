"""From a data set to documents, prompts, judgments, pools, teacher pairs and a card that says where they come from."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from dataclasses import dataclass
from typing import Any, Protocol

import polars as pl

from ospo_cli.errors import FileError, SourceError, TableError, shorten
from ospo_cli.layout import Layout
from ospo_cli.params.prepare_data import PrepareData
from ospo_cli.params.retrieval import Retrieval
from ospo_cli.params.train import Train
from ospo_cli.sources import columns, opening
from ospo_cli.sources.base import SourceData
from ospo_cli.sources.pools import sampled_pools
from ospo_cli.sources.query_text import query_text
from ospo_cli.sources.splits import assign_splits
from ospo_cli.tables import files, parquet, spellings
from ospo_cli.tables.prepared import DOCUMENTS, POOLS, PROMPTS, QRELS, TEACHER_PAIRS
from ospo_cli.text.prompt_template import check_template, user_message
from ospo_cli.text.words import STANDARD

# Discounted sums of many such gains, and their ratios, are far from overflowing.
LARGEST_GRADE = 1e12
NOTHING = ("nan", "NaN", "None", "NULL", "null", "<NA>", "NaT", "undefined")


class Reads(Protocol):
    """The parameters that this stage reads."""

    @property
    def train(self) -> Train: ...
    @property
    def prepare_data(self) -> PrepareData: ...
    @property
    def retrieval(self) -> Retrieval: ...


@dataclass(frozen=True)
class Prepared:
    """The prepared tables and their card."""

    documents: pl.DataFrame
    prompts: pl.DataFrame
    qrels: pl.DataFrame
    pools: pl.DataFrame
    teacher_pairs: pl.DataFrame
    card: dict[str, Any]


def execute(layout: Layout, params: Reads) -> dict[str, Any]:
    """Read the source; write the five tables and card.json, all of them or (where the data is at fault) none."""
    settings = params.prepare_data
    check_template(settings.prompt_template)
    data = opening.read(settings, params.train.seed, layout.root)
    prepared = prepare(data, settings, params.train.seed, params.retrieval.folding)
    tables = {
        "documents": (prepared.documents, DOCUMENTS),
        "prompts": (prepared.prompts, PROMPTS),
        "qrels": (prepared.qrels, QRELS),
        "pools": (prepared.pools, POOLS),
        "teacher_pairs": (prepared.teacher_pairs, TEACHER_PAIRS),
    }
    for name, (frame, table) in tables.items():
        parquet.check(frame, table, where=f"source {settings.source}, {name}")
    with contextlib.ExitStack() as stack:  # all files take their places at the end, or none does
        for name, (frame, table) in tables.items():
            path = layout.prepared(f"{name}.parquet")
            try:
                parquet.write(frame, stack.enter_context(files.replacing(path)), table)
            except (FileError, TableError) as error:
                raise type(error)(path, error.problem, found=error.found, expected=error.expected, remedy=error.remedy) from None
        card = files.as_json(prepared.card, ensure_ascii=False)
        stack.enter_context(files.replacing(layout.prepared("card.json"))).write_text(card, encoding="utf-8")
    sys.stderr.write(_in_words(prepared.card))
    return dict(prepared.card["counts"])


def prepare(data: SourceData, params: PrepareData, seed: int, folding: str = STANDARD) -> Prepared:
    """Return checked, split and pooled tables of a source's data.

    Raises:
        SourceError: no documents, a relevant document that is not in the catalogue or not in the source's own pool, or no prompt left.
    """
    documents = data.documents.sort("doc_id")
    if not documents.height:
        raise SourceError(f"source {params.source}", "the catalogue is empty", found="0 documents", expected="at least one")
    _check_contents(documents, data.qrels, f"source {params.source}")
    qrels, unknown = _known_judgments(data.qrels, documents, params.source)
    prompts, unusable = _judged_prompts(data.prompts, qrels, params, data.card.get("counts", {}))
    prompts, splits = assign_splits(prompts, params, seed, folding)
    prompts = prompts.with_columns(pl.Series("prompt", _messages(prompts, params), dtype=pl.String))
    qrels = qrels.join(prompts, on="prompt_id", how="semi").sort("prompt_id", "doc_id")
    pools, filled = _pools(data, documents, prompts, qrels, params, seed)
    pairs, foreign = _train_pairs(data.teacher_pairs, prompts)
    sizes = prompts["split"].value_counts()
    counts = {
        "documents": documents.height,
        "prompts": prompts.height,
        "judgments": qrels.height,
        "pool rows": pools.height,
        "teacher pairs": pairs.height,
    }
    counts |= {f"{split} prompts": int(sizes.filter(pl.col("split") == split)["count"].sum()) for split in ("train", "dev", "test")}
    card = {
        "source": params.source,
        "seed": seed,
        "options": dataclasses.asdict(params),
        "licence": "",
        "inputs": {},
        "notes": [],
        **data.card,
        "counts": counts,
        "dropped": {
            **data.card.get("counts", {}),
            "judgments of unknown products (grade 0)": unknown,
            **unusable,
            **splits["dropped"],
            **foreign,
        },
        "cut by seed": splits["cut by seed"],
        "leak check": splits["leak check"],
        "pools": filled,
        **query_text(documents, prompts, qrels, pools, folding).card(),
    }
    card["warnings"] += _words_for_nothing(documents, prompts) + _numbers(documents)
    bare = int((documents["title"].str.strip_chars() == "").sum())
    if 0 < bare < documents.height / 2:  # some collections have no titles at all
        card["warnings"].append(f"{bare:,} of {documents.height:,} products have no title")
    return Prepared(documents, prompts.select(list(PROMPTS.schema)), qrels, pools, pairs, card)


def _words_for_nothing(documents: pl.DataFrame, prompts: pl.DataFrame) -> list[str]:
    # What pandas, Python and data bases write where nothing is meant, once it has become text.
    frames = (documents, prompts.select("prompt_id", "query"))
    texts = {name: frame[name] for frame in frames for name, dtype in frame.schema.items() if dtype == pl.String}
    counts = {name: int(series.str.strip_chars().is_in(NOTHING).sum()) for name, series in texts.items()}
    said = ", ".join(f"{count:,} of {name}" for name, count in counts.items() if count)
    line = f"values that read {', '.join(NOTHING[:4])} or the like are text: {said}; leave a field empty where nothing is meant"
    return [line] if said else []


def _numbers(documents: pl.DataFrame) -> list[str]:
    # Prices, stocks, popularity: as words they match numbers that a query holds for another reason.
    found = []
    for name in documents.columns:
        if name not in ("doc_id", "title", "category"):
            values = documents[name].str.strip_chars()
            values = values.filter(values != "")
            if values.len() and values.str.contains(r"^[-+]?[$€£]?\s?\d[\d.,]*\s?[$€£%]?$").all():
                found.append(name)
    subject = f"{', '.join(found)} is a number: {'they are' if len(found) > 1 else 'it is'} searched as text"
    return [f"every value of {subject}, unless retrieval.fields names others (numbers are no words that people search)"] if found else []


def _check_contents(documents: pl.DataFrame, qrels: pl.DataFrame, where: str) -> None:
    texts = [name for name, dtype in documents.schema.items() if dtype == pl.String and name not in ("doc_id", "category")]
    if not any(documents[name].str.contains(r"[\p{L}\p{N}]").any() for name in texts):
        raise SourceError(
            where, "no product has a text", found=f"{documents.height:,} documents without a letter or digit",
            expected="a title or another text", remedy="check which columns hold the products' texts",
        )  # fmt: skip
    large = qrels.filter(pl.col("relevance") > LARGEST_GRADE)
    if large.height:
        prompt, document, grade = large.select("prompt_id", "doc_id", "relevance").row(0)
        raise SourceError(
            f"{where}, judgments of query {prompt}", f"a grade is too large for sums of gains, that of product {document}",
            found=grade, expected=f"at most {LARGEST_GRADE:g}", remedy="mend the grade, or give labels gains (prepare_data.gains)",
        )  # fmt: skip


def _in_words(card: dict[str, Any]) -> str:
    # What a person should see before hours of training: what is there, what was left out, which split is empty.
    counts = card["counts"]
    splits = [(name, counts[f"{name} prompts"]) for name in ("train", "dev", "test")]
    lines = [f"{counts['documents']:,} documents; prompts: " + ", ".join(f"{count:,} {name}" for name, count in splits)]
    dropped = [f"{count:,} {reason}" for reason, count in card["dropped"].items() if isinstance(count, int) and count]
    if dropped:
        lines.append(f"left out: {'; '.join(dropped)}")
    lines += [note for note in card["notes"] if note.startswith("prepare_data.")]  # what the user's own names were applied to
    lines += card["warnings"]
    empty = [name for name, count in splits if not count]
    if empty:
        lines.append(f"no prompt in split {' and '.join(empty)}: nothing can be trained on or evaluated there (card.json says why)")
    return "".join(f"prepare-data: {shorten(line, 1000)}\n" for line in lines)


def _messages(prompts: pl.DataFrame, params: PrepareData) -> list[str]:
    queries = prompts["query"].to_list()
    if params.folds_spellings:
        queries = spellings.fold(queries)
    histories = prompts["history"].to_list()
    return [user_message(params.prompt_template, query, history) for query, history in zip(queries, histories, strict=True)]


def _known_judgments(qrels: pl.DataFrame, documents: pl.DataFrame, source: str) -> tuple[pl.DataFrame, int]:
    strangers = qrels.join(documents.select("doc_id"), on="doc_id", how="anti")
    missing = strangers.filter(pl.col("relevance") > 0).sort("prompt_id", "doc_id")
    if missing.height:
        prompt, document = missing.select("prompt_id", "doc_id").row(0)
        remedy = columns.other_spelling(missing["doc_id"], documents["doc_id"]) + "add the product or take the judgments away"
        raise SourceError(
            f"source {source}, judgments of query {prompt}",
            "a relevant product is not in the catalogue",
            found=f"product {document} ({missing.height} such judgments)",
            expected="a product of the catalogue",
            remedy=remedy,
        )
    return qrels.join(documents.select("doc_id"), on="doc_id", how="semi"), strangers.height


def _judged_prompts(
    prompts: pl.DataFrame, qrels: pl.DataFrame, params: PrepareData, left_out: dict[str, int]
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return the prompts with a query in one line and something relevant; count the others by reason.

    `left_out` are the judgments that the source left out, by reason.
    """
    prompts = prompts.with_columns(_one_line(pl.col("query")), pl.col("history").list.eval(_one_line(pl.element())))
    asked = prompts.filter(pl.col("query").str.contains(r"[^\s\p{Cf}]"))  # zero-width characters alone are no query
    judged = asked.join(qrels, on="prompt_id", how="semi")
    relevant = asked.join(qrels.filter(pl.col("relevance") > 0), on="prompt_id", how="semi")
    fitting = relevant
    if params.relevant_minimum > 1 or params.relevant_maximum:
        best = qrels.filter(pl.col("relevance") == qrels["relevance"].max()).group_by("prompt_id").len()
        fits = (pl.col("len") >= params.relevant_minimum) & ((pl.col("len") <= params.relevant_maximum) | (params.relevant_maximum == 0))
        fitting = relevant.join(best.filter(fits), on="prompt_id", how="semi")
    counts = {
        "prompts with an empty query": prompts.height - asked.height,
        "prompts without judgments": asked.height - judged.height,
        "prompts without a relevant product": judged.height - relevant.height,
        "prompts with too few or too many relevant products": relevant.height - fitting.height,
    }
    if not fitting.height:
        found = ", ".join(f"{count} {reason}" for reason, count in (counts | left_out).items() if count)
        if not asked.height:
            remedy = "check the queries"
        elif fitting.height < relevant.height:
            remedy = "change prepare_data.relevant_minimum or relevant_maximum"
        elif judged.height:
            remedy = "every grade is 0: check the grades, or give their labels gains (prepare_data.gains)"
        elif not qrels.height and not any(left_out.values()):
            remedy = "there is no judgment at all: check the file of judgments"
        elif not qrels.height:
            remedy = "every judgment was left out for the reason that is named"
        else:
            remedy = "check that query ids agree between the files"
        raise SourceError(
            f"source {params.source}",
            "no prompt is left",
            found=found,
            expected="queries with a relevant product",
            remedy=remedy,
        )
    return fitting, counts


def _one_line(text: pl.Expr) -> pl.Expr:
    """Text with each run of blanks, line ends and control characters as one blank; other characters (emoji, right-to-left marks) stay."""
    return text.str.replace_all(r"[\s\p{Cc}\x{2028}\x{2029}]+", " ").str.strip_chars()


def _pools(
    data: SourceData, documents: pl.DataFrame, prompts: pl.DataFrame, qrels: pl.DataFrame, params: PrepareData, seed: int
) -> tuple[pl.DataFrame, dict[str, Any]]:
    if params.pool == "catalogue":
        inside = 0 if data.excluded is None else data.excluded.join(prompts, on="prompt_id", how="semi").height
        return POOLS.empty(), {"made by": "whole catalogue", "prompts whose own text is a document that cannot be left out": inside}
    if data.pools is None:
        pools, counts = sampled_pools(documents, qrels, params, seed, data.excluded)
        return pools.sort("prompt_id", "doc_id"), {"made by": "sampling", **counts}
    pools = data.pools.join(prompts, on="prompt_id", how="semi").sort("prompt_id", "doc_id")
    where = f"source {params.source}, pools"
    unknown = pools.join(documents.select("doc_id"), on="doc_id", how="anti")
    if unknown.height:
        prompt, document = unknown.row(0)
        raise SourceError(
            f"{where} of query {prompt}",
            "a candidate is not in the catalogue",
            found=f"product {document}",
            expected="a product of the catalogue",
        )
    missing = qrels.filter(pl.col("relevance") > 0).join(pools, on=("prompt_id", "doc_id"), how="anti")
    if missing.height:
        prompt, document = missing.select("prompt_id", "doc_id").row(0)
        raise SourceError(
            f"{where} of query {prompt}",
            "a relevant product is missing from the pool",
            found=f"product {document} ({missing.height} such)",
            expected="every relevant product",
            remedy="add it to the pool, or leave the pools to prepare-data",
        )
    return pools, {"made by": "source"}


def _train_pairs(pairs: pl.DataFrame | None, prompts: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return the teacher pairs of train prompts; others must not teach."""
    if pairs is None:
        return TEACHER_PAIRS.empty(), {}
    kept = pairs.join(prompts.filter(pl.col("split") == "train"), on="prompt_id", how="semi").sort("prompt_id", "pair_index")
    return kept, {"teacher pairs outside train": pairs.height - kept.height}
