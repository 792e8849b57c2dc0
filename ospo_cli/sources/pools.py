"""Candidates of each prompt: what was judged, the closest in text, the same category, and random ones."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.maths.seeding import generator
from ospo_cli.params.prepare_data import PrepareData
from ospo_cli.text.scripts import EAST_ASIAN, SOUTH_EAST_ASIAN
from ospo_cli.text.words import words as words_of

SEED_WORDS = 8  # rarest words of an anchor's title that look for related documents
COMMON = 20_000  # a word in more titles than this relates nothing (and would cost time in catalogues of millions)
BATCH = 64
_WITHOUT_BLANKS = f"[{EAST_ASIAN}{SOUTH_EAST_ASIAN}]"
_NONE = np.empty(0, dtype=np.int64)


def sampled_pools(
    documents: pl.DataFrame, qrels: pl.DataFrame, params: PrepareData, seed: int, excluded: pl.DataFrame | None = None
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return prompt_id, doc_id of each prompt's pool, and counts of the prompts whose negatives had to be filled up at random.

    Each pool holds every judged document of its prompt (relevant or not), then distinct further documents: `pool_related` closest in title
    to the prompt's anchor (one of its most relevant documents, drawn by seed), `pool_same_category` of the anchor's category, `pool_random`
    of all. Where related or same-category documents run out, random ones fill their places as far as the catalogue reaches.

    Args:
        documents: sorted by doc_id.
        qrels: judgments of known documents; each prompt has a positive one.
        excluded: prompt_id, doc_id of pairs that no pool may hold; never judged.
    """
    index = pl.DataFrame({"doc_id": documents["doc_id"], "row": pl.int_range(documents.height, eager=True, dtype=pl.Int64)})
    judged = qrels.join(index, on="doc_id").sort("prompt_id", "row")
    best = judged.filter(pl.col("relevance") == pl.col("relevance").max().over("prompt_id"))
    grouped = (
        judged.group_by("prompt_id", maintain_order=True)
        .agg("row")
        .join(best.group_by("prompt_id").agg(pl.col("row").sort().alias("best")), on="prompt_id", maintain_order="left")
    )
    ids = grouped["prompt_id"].to_list()
    generators = [generator(seed, f"pool|{name}") for name in ids]
    anchors = np.array(
        [rows[rng.integers(len(rows))] for rows, rng in zip(grouped["best"].to_list(), generators, strict=True)], dtype=np.int64
    )
    barred = _barred(excluded, index)
    taken = [np.array([*rows, *barred.get(name, _NONE)], dtype=np.int64) for name, rows in zip(ids, grouped["row"].to_list(), strict=True)]
    taken, related_found = _with_related(taken, anchors, documents, params.pool_related)
    members = _members(documents["category"])
    category_of = documents["category"].to_list()
    short_of_category = 0
    for position, rng in enumerate(generators):
        missing = params.pool_related - related_found[position]
        same = members.get(category_of[anchors[position]], _NONE)
        chosen = _draw(same, params.pool_same_category, taken[position], rng)
        short_of_category += len(chosen) < params.pool_same_category
        count = params.pool_random + params.pool_same_category - len(chosen) + missing
        taken[position] = np.concatenate([taken[position], chosen])
        taken[position] = np.concatenate([taken[position], _draw(documents.height, count, taken[position], rng)])
    taken = [np.setdiff1d(rows, barred.get(name, _NONE)) for name, rows in zip(ids, taken, strict=True)]
    names = pl.Series("prompt_id", ids, dtype=pl.String).gather(np.repeat(np.arange(len(ids)), [len(rows) for rows in taken]))
    pools = pl.DataFrame([names, documents["doc_id"].gather(np.concatenate(taken))])
    counts = {
        "prompts filled up for want of related documents": int((related_found < params.pool_related).sum()),
        "prompts filled up for want of documents of the same category": int(short_of_category),
    }
    return pools, counts


def _barred(excluded: pl.DataFrame | None, index: pl.DataFrame) -> dict[str, NDArray[np.int64]]:
    if excluded is None:
        return {}
    grouped = excluded.join(index, on="doc_id").group_by("prompt_id").agg("row")
    return {name: rows.to_numpy() for name, rows in zip(grouped["prompt_id"], grouped["row"], strict=True)}


def _members(category: pl.Series) -> dict[str, NDArray[np.int64]]:
    """Return the rows of each category; documents without one have nothing in common."""
    frame = pl.DataFrame({"category": category, "row": pl.int_range(category.len(), eager=True, dtype=pl.Int64)}).filter(
        pl.col("category") != ""
    )
    grouped = frame.group_by("category").agg(pl.col("row").sort())
    return {name: rows.to_numpy() for name, rows in zip(grouped["category"], grouped["row"], strict=True)}


def _draw(population: NDArray[np.int64] | int, count: int, taken: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return up to `count` distinct rows that are not taken, drawn without replacement; an int stands for all rows below it."""
    size = population if isinstance(population, int) else len(population)
    # As many more as could be taken already: the draw stays small in a catalogue of millions.
    drawn = rng.choice(size, size=min(size, count + len(taken)), replace=False, shuffle=True) if size and count else _NONE
    rows = drawn if isinstance(population, int) else population[drawn]
    return rows[~np.isin(rows, taken)][:count].astype(np.int64)


def _with_related(
    taken: list[NDArray[np.int64]], anchors: NDArray[np.int64], documents: pl.DataFrame, count: int
) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
    """Return the rows taken with up to `count` related ones each, and how many were found."""
    found = np.zeros(len(taken), dtype=np.int64)
    if not count:
        return taken, found
    weights, titles = _title_weights(documents["title"])
    result = []
    for start in range(0, len(anchors), BATCH):
        scores = (weights[anchors[start : start + BATCH]] @ titles).tocsr()
        for offset in range(scores.shape[0]):
            rows, values = (
                scores.indices[scores.indptr[offset] : scores.indptr[offset + 1]],
                scores.data[scores.indptr[offset] : scores.indptr[offset + 1]],
            )
            mine = taken[start + offset]
            wanted = count + len(mine)
            if len(values) > wanted:
                is_candidate = values >= np.partition(values, len(values) - wanted)[len(values) - wanted]
                rows, values = rows[is_candidate], values[is_candidate]
            rows = rows[np.lexsort((rows, -values))].astype(np.int64)
            rows = rows[~np.isin(rows, mine)][:count]
            found[start + offset] = len(rows)
            result.append(np.concatenate([mine, rows]))
    return result, found


def _title_weights(titles: pl.Series):  # type: ignore[no-untyped-def]
    """Return two sparse arrays: idf of each title's rarest words [documents, words], length-normalised idf of all [words, documents]."""
    from scipy.sparse import csr_array

    count = titles.len()
    found = titles.str.to_lowercase().str.extract_all(r"[\p{L}\p{N}][\p{L}\p{N}\p{M}]*")
    words = pl.DataFrame({"row": pl.int_range(count, eager=True, dtype=pl.Int64), "word": found}).explode("word").drop_nulls().unique()
    # A run of letters without blanks is no word: its pairs are.
    runs = words.filter(pl.col("word").str.contains(_WITHOUT_BLANKS))["word"].unique().to_list()
    if runs:
        cut = pl.DataFrame({"word": runs, "parts": [words_of(run) for run in runs]})
        parts = pl.coalesce("parts", pl.concat_list("word"))
        words = words.join(cut, on="word", how="left").select("row", parts.alias("word")).explode("word").unique()
    frequency = words.group_by("word").len("frequency").filter(pl.col("frequency") <= COMMON).sort("word").with_row_index("code")
    frequency = frequency.with_columns((1 + count / pl.col("frequency").cast(pl.Float64)).log().alias("idf"))
    coded = words.join(frequency, on="word").sort("row", "code")
    norm = pl.col("idf").pow(2).sum().over("row").sqrt()
    coded = coded.with_columns((pl.col("idf") / norm).alias("weight"))
    shape = (frequency.height, count)
    titles_of_word = csr_array((coded["weight"].to_numpy(), (coded["code"].to_numpy(), coded["row"].to_numpy())), shape=shape)
    rare = coded.filter(pl.struct(-pl.col("idf"), "code").rank("ordinal").over("row") <= SEED_WORDS)
    words_of_title = csr_array((rare["idf"].to_numpy(), (rare["row"].to_numpy(), rare["code"].to_numpy())), shape=shape[::-1])
    return words_of_title, titles_of_word
