"""Prompts that are the same question: equal sets of words, or nearly the same characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import partial

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.text.words import STANDARD, Reader, runs

BATCH = 20_000


def near_duplicates(
    queries: Sequence[str], histories: Sequence[Sequence[str]], similarity: float, folding: str = STANDARD
) -> NDArray[np.int64]:
    """Return pairs [n, 2] of positions (smaller first, sorted) that are near-duplicates of each other.

    Two prompts are near-duplicates when query and history hold the same set of words (case, accents and punctuation aside), or when
    neither has a history and the Jaccard index of their queries' character trigrams reaches `similarity`. Of prompts that hold the same
    words or are spelled alike a chain of pairs is returned, not all: connected components say all. Exact, not sampled: prefix filtering
    (Chaudhuri, Ganti, Kaushik, "A primitive operator for similarity joins in data cleaning", ICDE 2006) skips only pairs that cannot reach
    the similarity.
    """
    split = partial(runs, folding=folding)
    spelled = [_spelling(query, split) for query in queries]
    keys = [f"{_word_set(query, split)}\n{_word_set(' '.join(history), split)}" for query, history in zip(spelled, histories, strict=True)]
    chain: list[tuple[int, int]] = []
    last: dict[str, int] = {}
    first: dict[str, int] = {}  # of prompts without history, by spelling: equal spellings have equal trigrams
    for position, key in enumerate(keys):
        if key in last:
            chain.append((last[key], position))
        last[key] = position
        if not histories[position]:
            first.setdefault(spelled[position], position)
    plain = list(first.values())
    pairs = np.array(chain, dtype=np.int64).reshape(-1, 2)
    similar = np.array(plain, dtype=np.int64)[_similar([spelled[position] for position in plain], similarity)]
    pairs = np.sort(np.concatenate([pairs, similar.reshape(-1, 2)]), axis=1)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _spelling(text: str, split: Reader) -> str:
    """Return the words in order, one blank apart; for text without words (emoji, punctuation) its characters."""
    return " ".join(split(text)) or "".join(unicodedata.normalize("NFKC", text).split())


def _word_set(text: str, split: Reader) -> str:
    return " ".join(sorted(set(split(text)))) or text


def _trigrams(padded: str) -> list[str]:
    return sorted({padded[start : start + 3] for start in range(max(1, len(padded) - 2))})


def _similar(texts: Sequence[str], similarity: float) -> NDArray[np.int64]:
    """Return pairs [n, 2] of positions whose sets of character trigrams have a Jaccard index ≥ similarity."""
    none = np.empty((0, 2), dtype=np.int64)
    if len(texts) < 2:
        return none
    grams = [_trigrams(f" {text} ") for text in texts]
    rows = pl.DataFrame(
        {"text": pl.int_range(len(texts), eager=True), "gram": grams}, schema_overrides={"gram": pl.List(pl.String)}
    ).explode("gram")
    # Rare trigrams first: two sets that reach the similarity share one of their first n − ⌈t·n⌉ + 1.
    order = rows.group_by("gram").len().sort("len", "gram").with_row_index("rank").select("gram", pl.col("rank").cast(pl.Int64))
    rows = rows.join(order, on="gram").select("text", "rank").sort("text", "rank")
    rows = rows.with_columns(pl.len().over("text").cast(pl.Int64).alias("size"), pl.int_range(pl.len()).over("text").alias("place"))
    needed = (pl.col("size") * similarity - 1e-9).ceil().cast(pl.Int64)
    prefix = rows.filter(pl.col("place") < pl.col("size") - needed + 1).select("text", "rank", "size")
    sets = rows.group_by("text", maintain_order=True).agg("rank").select(pl.col("text"), pl.col("rank").alias("set"))
    found = []
    for start in range(0, len(texts), BATCH):
        left = prefix.filter(pl.col("text").is_between(start, start + BATCH - 1))
        pairs = (
            left.lazy()
            .join(prefix.lazy(), on="rank", suffix="_other")
            .filter(pl.col("text") < pl.col("text_other"))
            .filter(pl.min_horizontal("size", "size_other") >= pl.max_horizontal("size", "size_other") * similarity - 1e-9)
            .select("text", "text_other", "size", "size_other")
            .unique()
            .collect(engine="streaming")
            .join(sets, on="text")
            .join(sets.rename({"text": "text_other", "set": "set_other"}), on="text_other")
        )
        shared = pl.col("set").list.set_intersection("set_other").list.len().cast(pl.Int64)
        pairs = pairs.filter(shared >= similarity * (pl.col("size") + pl.col("size_other") - shared) - 1e-9)
        found.append(pairs.select("text", "text_other").to_numpy().astype(np.int64))
    return np.concatenate(found) if found else none
