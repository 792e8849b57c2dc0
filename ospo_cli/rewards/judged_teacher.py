"""A teacher made from judgments: per prompt, the title of a relevant document whose answer earns nearly as much as the best, or nothing."""

from __future__ import annotations

import re
import sys
from typing import Protocol

import polars as pl

from ospo_cli.errors import ParameterError
from ospo_cli.executors.progress import Progress
from ospo_cli.layout import Layout
from ospo_cli.maths import seeding
from ospo_cli.params.train import Train
from ospo_cli.params.warm_start import WarmStart
from ospo_cli.rewards.judged_reward import JudgedReward, Sections
from ospo_cli.rewards.judgments import Prepared
from ospo_cli.rewards.store.folder import Store
from ospo_cli.tables import placed
from ospo_cli.tables.prepared import DOCUMENTS, POOLS, QRELS, TEACHER_PAIRS
from ospo_cli.tables.spellings import fold

_AT_ONCE = 256  # titles between two lines of progress


class Reads(Sections, Protocol):
    """What a teacher reads of the parameters."""

    @property
    def train(self) -> Train: ...
    @property
    def warm_start(self) -> WarmStart: ...


def teacher_pairs(layout: Layout, params: Reads, prompts: pl.DataFrame) -> pl.DataFrame:
    """Return table teacher_pairs of the train prompts of a project, as many as the warm start can see."""
    documents = placed.read(DOCUMENTS, layout)
    qrels = placed.read(QRELS, layout)
    pools = placed.read(POOLS, layout)
    train = prompts.filter(pl.col("split") == "train").sort("prompt_id")
    known = qrels.join(train.select("prompt_id"), on="prompt_id", how="semi")
    # No more prompts than the training can see: scoring titles takes time.
    needed = min(train.height, params.warm_start.steps * params.warm_start.batch_size)
    order = seeding.generator(params.train.seed, "warm start prompts").permutation(train.height)[:needed]
    train = train[order.tolist()]
    reward = JudgedReward(Prepared(documents, prompts, qrels, pools), params, cache=layout.cache, store=Store(layout.store))
    answers = judged_answers(train, documents, known, reward, params.warm_start)
    reward.tally.report("warm-start")
    return answers


def judged_answers(
    prompts: pl.DataFrame, documents: pl.DataFrame, qrels: pl.DataFrame, reward: JudgedReward, settings: WarmStart
) -> pl.DataFrame:
    """Return teacher pairs that name a relevant document: its title, then the first entries of `warm_start.title_fields`.

    Which document helps most depends on the whole list of judgments and can hardly be learned from a query; so of the documents whose
    answer earns nearly as much as the best (within `warm_start.value_tolerance`) the one that is relevant to most of the train prompts is
    named, then the better, then the shorter answer, then the first in the alphabet. Prompts without a relevant document that has a
    title get no pair. Where no title earns more than the query as typed, by that same tolerance, the teacher leaves the query as it is:
    with an empty answer where answers are appended, else with the query.

    Args:
        prompts: rows of table prompts that get pairs.
        documents: table documents.
        qrels: judgments of train prompts alone: how often a document is relevant is counted over all of them.
        reward: composes an answer with the query, says which composition that is, and scores texts.
        settings: section warm_start.
    """
    answers = _answers(documents, settings)
    relevant = qrels.filter(pl.col("relevance") > 0)
    counts = dict(relevant.group_by("doc_id").len().iter_rows())
    popularity: dict[str, int] = {}
    for doc_id, count in counts.items():
        popularity[answers[doc_id]] = max(count, popularity.get(answers[doc_id], 0))
    asked = relevant.join(prompts.select("prompt_id"), on="prompt_id", how="semi").select("prompt_id", "doc_id")
    rows = sorted({(prompt_id, answers[doc_id]) for prompt_id, doc_id in asked.iter_rows() if answers[doc_id]})
    if not rows:
        raise ParameterError(
            "warm_start.teacher", "no train prompt has a relevant document with a title", found="judgments", expected="source, file or none"
        )
    candidates: dict[str, list[tuple[float, str]]] = {}
    for (prompt_id, answer), value in zip(rows, _values(rows, reward), strict=True):
        candidates.setdefault(prompt_id, []).append((value, answer))
    pairs, left = [], 0
    typed = _as_typed(prompts.filter(pl.col("prompt_id").is_in(list(candidates))), reward)
    for prompt_id, found in sorted(candidates.items()):
        most, (query, value_as_typed) = max(value for value, _ in found), typed[prompt_id]
        kept = [(-popularity[answer], -value, len(answer), answer) for value, answer in found if value >= most - settings.value_tolerance]
        answer = min(kept)[-1]
        if most <= value_as_typed + settings.value_tolerance:
            answer, left = "" if reward.composition == "append" else query, left + 1
        pairs.append((prompt_id, 0, f"<answer>{answer}</answer>"))
    if left:
        sys.stderr.write(f"warm-start: {left:,} of {len(pairs):,} queries are left as typed, since no title helps them\n")
    return pl.DataFrame(pairs, schema=TEACHER_PAIRS.schema, orient="row")


def _as_typed(prompts: pl.DataFrame, reward: JudgedReward) -> dict[str, tuple[str, float]]:
    """Return the query of each prompt as the policy sees it, without what would be a tag, and what it is worth as typed."""
    ids, queries = prompts["prompt_id"].to_list(), prompts["query"].to_list()
    values = reward.values(ids, queries).tolist()
    seen = [_as_seen(*row) for row in zip(queries, fold(queries), prompts["prompt"].to_list(), strict=True)]
    return {own: (whole_words(query, len(query)), value) for own, query, value in zip(ids, seen, values, strict=True)}


def _as_seen(query: str, folded: str, prompt: str) -> str:
    """Return the spelling that stands in the prompt: capitals that it does not hold cannot be copied."""
    return folded if query not in prompt and folded in prompt else query


def _values(rows: list[tuple[str, str]], reward: JudgedReward) -> list[float]:
    """Return the value of each (prompt, answer); how far it is is said from the start, since the first policy waits for it."""
    sys.stderr.write(f"warm-start: {len(rows):,} titles of relevant products are scored, to name to each query one that helps\n")
    progress, found = Progress("warm-start", len(rows), "titles scored"), []
    for start in range(0, len(rows), _AT_ONCE):
        part = rows[start : start + _AT_ONCE]
        texts = [reward.compose(prompt_id, answer) for prompt_id, answer in part]
        found += reward.values([prompt_id for prompt_id, _ in part], texts).tolist()
        progress.advance(len(part))
    progress.close()
    return found


def _answers(documents: pl.DataFrame, settings: WarmStart) -> dict[str, str]:
    names = settings.title_fields
    odd = [name for name in names if name in ("doc_id", "title") or names.count(name) > 1]
    if odd:
        raise ParameterError("warm_start.title_fields", "cannot follow the title", found=odd[0], expected="further text fields, each once")
    missing = [name for name in settings.title_fields if name not in documents.columns]
    if missing:
        raise ParameterError("warm_start.title_fields", "no such text field", found=missing[0], expected=", ".join(documents.columns[1:]))
    answers = {}
    for row in documents.select("doc_id", "title", *settings.title_fields).iter_rows():
        entries = [whole_words(_BRACKETS.sub(" ", entry.split(",")[0]), settings.title_characters) for entry in row[2:]]
        title = whole_words(row[1], settings.title_characters)
        answers[row[0]] = ", ".join(dict.fromkeys(entry for entry in (title, *entries) if entry)) if title else ""
    return answers


_BRACKETS = re.compile(r"\([^()]*\)")


def whole_words(text: str, limit: int) -> str:
    """Return the longest run of whole words from the start that has at most `limit` characters, white space made single.

    >>> whole_words("The Lord of  the Rings", 12)
    'The Lord of'
    """
    kept = ""
    for word in text.replace("<", " ").replace(">", " ").split():
        longer = f"{kept} {word}".strip()
        if len(longer) > limit:
            break
        kept = longer
    return kept
