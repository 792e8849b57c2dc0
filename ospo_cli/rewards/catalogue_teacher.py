"""A teacher made from the catalogue: phrases of the products' texts, each with the title words that its products share.

A description says `badehose` where the title says `swim shorts`. A policy from nothing learns such words from thousands of phrases beside
the few train queries, whose answers are the words that their relevant titles share, where these do not harm.
"""

from __future__ import annotations

import sys
from typing import Protocol

import numpy as np
import polars as pl

from ospo_cli.layout import Layout
from ospo_cli.maths import seeding
from ospo_cli.params.prepare_data import PrepareData
from ospo_cli.rewards.judged_reward import JudgedReward
from ospo_cli.rewards.judged_teacher import Reads as JudgedReads
from ospo_cli.rewards.judgments import read_prepared
from ospo_cli.rewards.store.folder import Store
from ospo_cli.tables import spellings
from ospo_cli.tables.prepared import PROMPTS, TEACHER_PAIRS
from ospo_cli.tables.title_words import title_texts
from ospo_cli.text.prompt_template import user_message
from ospo_cli.text.shared_words import Texts
from ospo_cli.text.words import words

PHRASES = 6000  # pairs of the catalogue
REPEATS = 6  # of each train query's pair: their words are those that people type
LONGEST = 2  # words of a phrase
FEWEST, LARGEST_SHARE = 3, 0.08  # products that have a phrase; of the catalogue
MOST_PRODUCTS = 20_000  # that are read, drawn by seed
TELLING, CONTEXT = 0.75, 0.5  # share of phrases that have an answer, and of those beside which a word of a train query stands
MARK = "catalogue phrase "  # of the prompt_id; no prompt of a source has it


class Reads(JudgedReads, Protocol):
    """What a teacher reads of the parameters."""

    @property
    def prepare_data(self) -> PrepareData: ...


def pairs_and_prompts(layout: Layout, params: Reads, prompts: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return table teacher_pairs of phrases and train queries, and the prompts with those of the phrases below them."""
    tables = read_prepared(layout)
    reward = JudgedReward(tables, params, cache=layout.cache, store=Store(layout.store))
    fields = [field.partition("^")[0] for field in params.retrieval.fields] or [
        name for name in tables.documents.columns if name != "doc_id"
    ]
    titles = title_texts(tables.documents)
    draw = seeding.generator(params.train.seed, "catalogue phrases")
    found = phrases(tables.documents.select(fields), titles, draw)
    train = prompts.filter(pl.col("split") == "train").sort("prompt_id")
    asked = drawn(found, _beside(found, train["query"].to_list()), draw)
    template, folds = params.prepare_data.prompt_template, params.prepare_data.folds_spellings
    none: list[str] = []
    rows = [(f"{MARK}{place}", "train", query, none, user_message(template, query, [])) for place, (query, _) in enumerate(asked)]
    taught = [(f"{MARK}{place}", 0, _answer(query, answer, reward.composition)) for place, (query, answer) in enumerate(asked)]
    own = query_answers(train, tables.qrels, tables.documents, titles, reward)
    spelt = dict(prompts.select("prompt_id", "query").iter_rows())
    if folds:
        spelt = dict(zip(spelt, spellings.fold(list(spelt.values())), strict=True))
    for prompt_id, answer in own.items():
        taught += [(prompt_id, place, _answer(spelt[prompt_id], answer, reward.composition)) for place in range(REPEATS)]
    telling, helped = sum(bool(shared) for shared in found.values()), sum(bool(answer) for answer in own.values())
    sys.stderr.write(
        f"warm-start: {telling:,} phrases of the catalogue have words that their titles share; {helped:,} of {len(own):,} train queries "
        "have such words, which do no harm; the others are left as typed\n"
    )
    reward.tally.report("warm-start")
    pairs = pl.DataFrame(taught, schema=TEACHER_PAIRS.schema, orient="row")
    return pairs, pl.concat([prompts, pl.DataFrame(rows, schema=PROMPTS.schema, orient="row")])


def phrases(texts: pl.DataFrame, titles: Texts, draw: np.random.Generator) -> dict[str, list[str]]:
    """Return phrase -> the title words that its products share and it does not have, in the order of titles; none where nothing is shared.

    Args:
        texts: a column per field, a row per product, in the order of `titles`.
        titles: of all products.
        draw: of the products that are read.
    """
    read = np.sort(draw.permutation(texts.height)[:MOST_PRODUCTS])
    having: dict[str, list[int]] = {}
    for row, fields in zip(read.tolist(), texts[read.tolist()].iter_rows(), strict=True):
        own = dict.fromkeys(phrase for field in fields for phrase in _phrases(words(field or "")))
        for phrase in own:
            having.setdefault(phrase, []).append(row)
    most = max(FEWEST, LARGEST_SHARE * len(read))
    kept = {phrase: rows for phrase, rows in having.items() if FEWEST <= len(rows) <= most}
    shared = {phrase: titles.shared(rows, [1.0] * len(rows)) for phrase, rows in sorted(kept.items())}
    return {phrase: [word for word in found if word not in phrase.split()] for phrase, found in shared.items()}


def _phrases(own: list[str]) -> list[str]:
    return [" ".join(own[start : start + size]) for size in range(1, LONGEST + 1) for start in range(len(own) - size + 1)]


def _beside(found: dict[str, list[str]], queries: list[str]) -> list[str]:
    """Return what may stand beside a phrase: words of train queries that say nothing of titles, each as often as it is typed."""
    return [word for query in queries for word in words(query) if not found.get(word)]


def drawn(found: dict[str, list[str]], beside: list[str], draw: np.random.Generator) -> list[tuple[str, list[str]]]:
    """Return PHRASES queries with their answers: a phrase alone or beside another word.

    Args:
        found: phrase -> answer, empty where it says nothing.
        beside: the words, each as likely.
        draw: of all.
    """
    telling, silent = [phrase for phrase in found if found[phrase]], [phrase for phrase in found if not found[phrase]]
    pairs = []
    for _ in range(PHRASES if telling else 0):
        is_telling = not silent or draw.random() < TELLING
        phrase = str(draw.choice(telling)) if is_telling else str(draw.choice(silent))
        query = phrase
        if beside and draw.random() < CONTEXT:
            other = str(draw.choice(beside))
            query = f"{other} {phrase}" if draw.random() < 0.5 else f"{phrase} {other}"
        pairs.append((query, [word for word in found[phrase] if word not in query.split()]))
    return pairs


def query_answers(
    train: pl.DataFrame, qrels: pl.DataFrame, documents: pl.DataFrame, titles: Texts, reward: JudgedReward
) -> dict[str, list[str]]:
    """Return for each train prompt the words that its relevant titles share and it does not have; none where they lower its value."""
    row_of = {doc_id: row for row, doc_id in enumerate(documents["doc_id"].to_list())}
    found: dict[str, list[str]] = {}
    queries = dict(train.select("prompt_id", "query").iter_rows())
    judged = qrels.join(train.select("prompt_id"), on="prompt_id", how="semi").sort("prompt_id", "doc_id")
    for (prompt_id,), own in judged.group_by("prompt_id", maintain_order=True):
        shared = titles.shared([row_of[doc_id] for doc_id in own["doc_id"]], own["relevance"].to_list())
        has = words(queries[prompt_id])
        found[prompt_id] = [word for word in shared if word not in has]
    ids = list(found)
    typed = reward.values(ids, [queries[own] for own in ids])
    composed = reward.values(ids, [f"{queries[own]} {' '.join(found[own])}" for own in ids])
    return {own: found[own] if after >= before else [] for own, before, after in zip(ids, typed, composed, strict=True)}


def _answer(query: str, added: list[str], composition: str) -> str:
    """Return the completion: the words alone where they are appended to the query, else behind it."""
    text = " ".join(added) if composition == "append" else " ".join([*query.replace("<", " ").replace(">", " ").split(), *added])
    return f"<answer>{text}</answer>"
