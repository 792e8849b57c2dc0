"""A checker in a retriever's place: documents are requirements that a person can read, and a text retrieves those that it meets.

requirement = clause { ";" clause }                    at least one say or not; each clause once
clause      = "say" choice { "," choice }              each of these is named; they count together or not at all
            | "not" phrase { "," phrase }              none of these is named
            | "within" N "words"                       of the text its first N words are read, and no others
choice      = phrase { " or " phrase }                 one of them is enough
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import RetrievalError
from ospo_cli.params.retrieval import Retrieval
from ospo_cli.retrievers.base import Catalogue, Ranking, candidates, rank_by_pool
from ospo_cli.text.words import Reader, reader, reading

_WITHIN = re.compile(r"([1-9][0-9]{0,5}) words?")
_EXPECTED = "such as: say tent, pegs or ropes; not candle; within 12 words"


@dataclass(frozen=True)
class Requirement:
    """What a text has to name (one of each choice) and to leave out, among its first `within` words (0: all of them).

    A phrase is its words, joined by single blanks.
    """

    say: tuple[tuple[str, ...], ...]
    leave_out: tuple[str, ...]
    within: int


class Checker:
    """Retrieves the requirements that a text meets, all with score 1; a text without a word meets none.

    A phrase is named where its words stand in the text one after the other. The first line of a document is its requirement (the title,
    unless retrieval.fields names another field); further lines are for people.
    """

    name = "checker"
    kept_from = 1 << 62  # checking takes less time than looking up

    def __init__(self, catalogue: Catalogue, settings: Retrieval, cache: Path | None) -> None:
        del cache  # nothing to keep
        self.words = reader(settings.folding)
        self.fingerprint = catalogue.fingerprint("checker-1", reading(settings.folding))
        named = zip(catalogue.doc_ids, catalogue.texts, strict=True)
        self.requirements = [parse(text.partition("\n")[0], doc_id, self.words) for doc_id, text in named]

    def rank(self, queries: Sequence[str], pools: Sequence[NDArray[np.int64] | None], k: int) -> list[Ranking]:
        """Return the first k requirements of each pool that its text meets, by id; k = 0 is all."""
        return rank_by_pool(queries, pools, lambda texts, pool: self.rank_queries(texts, pool, k))

    def rank_queries(self, queries: Sequence[str], pool: NDArray[np.int64] | None, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return documents int64[queries, ranks] (−1 where nothing more is retrieved) and scores float64[queries, ranks] (0 there)."""
        chosen = candidates(pool, len(self.requirements))
        met = self._met([self.words(query) for query in queries], [self.requirements[index] for index in chosen.tolist()])
        width = min(k or len(chosen), len(chosen))
        order = np.argsort(~met, axis=1, kind="stable")[:, :width]  # those that are met first, by id
        is_met = np.take_along_axis(met, order, axis=1)
        return np.where(is_met, chosen[order], -1), is_met.astype(np.float64)

    def tell(self, documents: NDArray[np.int64]) -> str:
        """Return a text that names what these requirements ask for, each choice's first phrase once: the oracle's."""
        asked = (choice[0] for index in documents.tolist() for choice in self.requirements[index].say)
        return ", ".join(dict.fromkeys(asked))

    def _met(self, texts: Sequence[list[str]], requirements: Sequence[Requirement]) -> NDArray[np.bool_]:
        # bool[texts, requirements]. Each phrase is looked for once per text and number of words read.
        place: dict[tuple[int, str], int] = {}
        for requirement in requirements:
            for phrase in _phrases(requirement):
                place.setdefault((requirement.within, phrase), len(place))
        limits = sorted({within for within, _ in place})
        asked = [[phrase for own, phrase in place if own == within] for within in limits]
        said = np.zeros((len(texts), len(place)), dtype=bool)
        columns = [place[within, phrase] for within, phrases in zip(limits, asked, strict=True) for phrase in phrases]
        for row, words in enumerate(texts):
            read = [f" {' '.join(words[: within or None])} " for within in limits]
            said[row, columns] = [f" {phrase} " in text for text, phrases in zip(read, asked, strict=True) for phrase in phrases]
        met = np.zeros((len(texts), len(requirements)), dtype=bool)
        has_words = np.fromiter(map(bool, texts), dtype=bool, count=len(texts))
        for column, requirement in enumerate(requirements):
            one, within = has_words.copy(), requirement.within
            for choice in requirement.say:
                one &= said[:, [place[within, phrase] for phrase in choice]].any(axis=1)
            one &= ~said[:, [place[within, phrase] for phrase in requirement.leave_out]].any(axis=1)
            met[:, column] = one
        return met


def parse(text: str, doc_id: str, split: Reader) -> Requirement:
    """Return the requirement that a line states.

    Raises:
        RetrievalError: the line is none, or contradicts itself.
    """

    def wrong(what: str, found: str) -> RetrievalError:
        return RetrievalError(f"requirement {doc_id}", what, found=found, expected=_EXPECTED, remedy="mend the document's title")

    def phrases(listed: str, mark: str) -> tuple[str, ...]:
        found = tuple(" ".join(split(phrase)) for phrase in listed.split(mark))
        if not all(found):
            raise wrong("names nothing between two marks", text)
        return found

    clauses: dict[str, str] = {}
    for clause in text.split(";"):
        kind, _, rest = clause.strip().partition(" ")
        if kind not in ("say", "not", "within") or kind in clauses or not rest.strip():
            raise wrong("is no requirement", text or "an empty line")
        clauses[kind] = rest.strip()
    if not clauses.keys() & {"say", "not"}:
        raise wrong("asks for nothing", text)
    limit = _WITHIN.fullmatch(clauses.get("within", "1 word"))
    if limit is None:
        raise wrong("has a limit that is no number of words", clauses["within"])
    say = tuple(phrases(choice, " or ") for choice in clauses["say"].split(",")) if "say" in clauses else ()
    leave_out = phrases(clauses["not"], ",") if "not" in clauses else ()
    within = int(limit[1]) if "within" in clauses else 0
    both = next((phrase for choice in say if set(choice) <= set(leave_out) for phrase in choice), None)
    if both is not None:
        raise wrong("can never be met: it asks for what it forbids", both)
    return Requirement(say, leave_out, within)


def _phrases(requirement: Requirement) -> Iterator[str]:
    for choice in requirement.say:
        yield from choice
    yield from requirement.leave_out
