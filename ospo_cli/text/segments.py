"""The players: phrases, words, sentences or windows of an answer, as character spans. Rules only, nothing to download.

The grammar of phrases (docs/segments.md has it with examples; first rule that fits, left to right, no phrase crosses a separator):

    answer        = clause { separator clause }             separator: , ; : ! ? . | brackets, line breaks; not inside 15.6, 1,000, node.js
    clause        = quotation | { phrase }
    quotation     = '"' text '"'                            one phrase, its separators included
    phrase        = measure | limit | prepositional | noun
    measure       = { function } ( number { ("x" | "by") number } unit [ measured ] | number { ("x" | "by") number }+ | number unit-letters
                    | money | range | decimal | year | numbered ( number | letter ) )
    limit         = { function } limit-word { function } number
    prepositional = boundary { function } noun              for men, without hood, not leather, and belt
    noun          = { function } { attribute } head | brand { word } model { suffix }

A phrase that has a content word ends before a measure and before a boundary word (preposition, conjunction, negation, article, pronoun);
behind a model (a number, or letters with digits, that follows a content word) and its suffixes (`pro max`); behind an audience that
`for` governs (`for women`); before an audience or a pair such as `limited edition` that closes the clause or stands before a boundary.
What is left beyond 4 content words is cut into even pieces of at most 3 words: a fallback, counted.

The grammar and its words are English. In a clause that holds a word of another script than Latin each word is a phrase, counted; words of
scripts without blanks are `units`.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from ospo_cli.errors import CreditError
from ospo_cli.text.english import (
    AUDIENCE,
    BOUNDARY_WORDS,
    ENDING_AUDIENCE,
    FUNCTION_WORDS,
    GLUED_PAIRS,
    GLUED_UNITS,
    LIMIT_WORDS,
    MEASURED_WORDS,
    MODEL_SUFFIXES,
    NUMBERED_WORDS,
    TRAILING_PAIRS,
    UNITS,
)
from ospo_cli.text.levels import LEVELS_WITH_PHRASES, UNIONS
from ospo_cli.text.units import is_foreign, unit_spans
from ospo_cli.text.words import fold

LONGEST_PHRASE = 4
FALLBACK_WORDS = 3

_SEPARATORS = re.escape(',;:!?()[]{}|."“”„«»‹›•·、，。；：！？…—–؛،؟।<>')
# A point, comma or colon between digits (15.6, 1,000, 16:9), a point between letters (node.js) and an inch mark stay inside a word.
_WORD = re.compile(rf"(?:[^\s{_SEPARATORS}]|(?<=\d)[.,:](?=\d)|(?<=[^\W_])\.(?=[^\W_])|(?<=\d)\"(?!\w))+")
_QUOTED = re.compile(r"(?<!\w)\"(?=\S)[^\"\n]*(?<=\S)\"(?!\w)|“[^“”\n]*”|„[^„“\n]*“|«[^«»\n]*»")
_SENTENCE_END = re.compile(r"[.!?。！？…؟।\n\r\u2028\u2029]")
_NUMBER = re.compile(r"[$€£¥₹]?\d+(?:[.,:/x×-]\d+)*[\"″′%+]?$")
_CROSS = ("x", "×", "by")
_GLUED_MEASURE = re.compile(r"\d+(?:[.,]\d+)?([a-z]+)$")
_SIZE = re.compile(r"\d+(?:\.\d+)?(?:[x×]\d+(?:\.\d+)?)+[\"″′]?$")
_MONEY = re.compile(r"[$€£¥₹]\d+(?:[.,]\d+)*$")
_RANGE = re.compile(r"\d+-\d+$")
_DECIMAL = re.compile(r"\d+\.\d+$|\d+(?:\.\d+)?[\"″]$")
_YEAR = re.compile(r"(?:19\d\d|20[0-2]\d)$")
_PERCENT = re.compile(r"\d+(?:\.\d+)?%$")
# Letters with digits, but not 3d, 4k, 1080p, 2nd or 90s, which are attributes.
_ATTRIBUTE_NUMBER = re.compile(r"\d+(?:[a-z]|st|nd|rd|th)$")


@dataclass(frozen=True)
class Span:
    """One segment: first character and character after the last, within the answer; block of the a-priori partition."""

    start: int
    end: int
    union_index: int


@dataclass(frozen=True)
class Segmentation:
    """The segments of an answer.

    Attributes:
        spans: in order.
        fallbacks: phrases that no rule could cut, so that they were cut by number of words.
        unread: clauses in another script than Latin, which the grammar cannot read, so that each word is a phrase.
    """

    spans: list[Span]
    fallbacks: int
    unread: int = 0


@dataclass(frozen=True)
class _Word:
    start: int
    end: int
    folded: str
    clause: int
    sentence: int
    is_quoted: bool


def segment(answer: str, level: str, window: int = 3, unions: str = "auto") -> list[Span]:
    """Return the segments of an answer, in order; see `segmentation`."""
    return segmentation(answer, level, window, unions).spans


def segmentation(
    answer: str, level: str, window: int = 3, unions: str = "auto", chunks: Sequence[tuple[int, int]] | None = None
) -> Segmentation:
    """Cut an answer into disjoint ordered segments that hold every letter and digit of it; time grows linearly with its length.

    Separators (punctuation and the white space between segments) belong to no segment; a sentence and a quotation keep the
    punctuation inside them.

    Args:
        answer: any text.
        level: phrase (see the grammar above), word (`usb-c` and `15.6` are one; of scripts without blanks `units`), sentence (to the
            next of `.!?` or line break), or window (of at most `window` words, never across a separator).
        window: words, ≥ 1.
        unions: the a-priori partition over the segments: sentence, clause, phrase (over words), none (each segment its own), or auto:
            phrases over words; sentences over phrases where the answer has several, else clauses; none over sentences and windows.
            Unions are runs of neighbouring segments, numbered from 0 in order: they never cross.
        chunks: noun chunks of another chunker, ordered and disjoint, in place of the phrase rules; see `_chunked`.

    Raises:
        CreditError: there is no such level, the window is below 1, or the unions do not hold whole segments of the level.

    >>> answer = "navy wool coat, 15.6 inch laptop for men"
    >>> [answer[span.start : span.end] for span in segment(answer, "phrase")]
    ['navy wool coat', '15.6 inch', 'laptop', 'for men']
    """
    if level not in UNIONS:
        raise CreditError("segment.level", "unknown level", found=level, expected=", ".join(UNIONS))
    if window < 1:
        raise CreditError("segment.window", "is below 1", found=window, expected="≥ 1")
    if unions not in UNIONS[level]:
        raise CreditError("segment.unions", f"no unions of level {level}", found=unions, expected=", ".join(UNIONS[level]))
    words = _words(answer)
    fallbacks = unread = 0
    phrases: list[list[_Word]] = []
    if level in LEVELS_WITH_PHRASES:
        phrases, fallbacks, unread = _all_phrases(words, chunks)
    if level == "phrase":
        blocks = phrases
    elif level == "word":
        blocks = [[word] for word in words]
    elif level == "sentence":
        blocks = _runs(words, [word.sentence for word in words])
    else:
        clauses = _runs(words, [word.clause for word in words])
        blocks = [clause[at : at + window] for clause in clauses for at in range(0, len(clause), window)]
    spans = [(block[0].start, block[-1].end) for block in blocks]
    unions = {"word": "phrase", "sentence": "none", "window": "none"}.get(level, unions) if unions == "auto" else unions
    if unions == "phrase":
        return Segmentation(_labelled(spans, [index for index, phrase in enumerate(phrases) for _ in phrase]), fallbacks, unread)
    return Segmentation(_with_unions(spans, [block[0] for block in blocks], words, unions), fallbacks, unread)


def given_segments(answer: str, spans: Sequence[tuple[int, int]], unions: str = "auto") -> list[Span]:
    """Return segments that something else found, with their unions as of level phrase: by the first word that each holds.

    Args:
        answer: any text.
        spans: first character and character after the last of each segment; disjoint and ordered.
        unions: auto, sentence, clause or none, as for `segmentation`.

    >>> given_segments("navy wool coat, for men", [(0, 9), (10, 14), (16, 23)])
    [Span(start=0, end=9, union_index=0), Span(start=10, end=14, union_index=0), Span(start=16, end=23, union_index=1)]
    """
    words = _words(answer)
    ends = [word.end for word in words]
    firsts = [words[min(bisect_right(ends, start), len(words) - 1)] for start, _ in spans] if words else []
    return _with_unions(spans, firsts, words, unions if words else "none")


def _with_unions(spans: Sequence[tuple[int, int]], firsts: list[_Word], words: list[_Word], unions: str) -> list[Span]:
    """Return the spans in the sentences or clauses of their first words, or each in its own union."""
    if unions == "auto":
        unions = "sentence" if words and words[-1].sentence > 0 else "clause"
    if unions == "none":
        return _labelled(spans, range(len(spans)))
    return _labelled(spans, [word.sentence if unions == "sentence" else word.clause for word in firsts])


def _labelled(spans: Sequence[tuple[int, int]], labels: Sequence[int]) -> list[Span]:
    number = accumulate(int(label != before) for before, label in pairwise([*labels[:1], *labels]))
    return [Span(start, end, union) for (start, end), union in zip(spans, number, strict=True)]


def word_coverage(answer: str, spans: list[Span]) -> tuple[int, int]:
    """Return how many letters and digits of the answer lie within segments, and how many there are."""
    covered = sum(character.isalnum() for span in spans for character in answer[span.start : span.end])
    return covered, sum(character.isalnum() for character in answer)


def _words(answer: str) -> list[_Word]:
    quoted = [match.span() for match in _QUOTED.finditer(answer)]
    borders = [0, *(border for span in quoted for border in span), len(answer)]
    words: list[_Word] = []
    clause = sentence = 0
    for piece in range(len(borders) - 1):
        is_quoted = piece % 2 == 1
        left, right = borders[piece] + is_quoted, borders[piece + 1] - is_quoted
        first_in_piece = True
        for match in _WORD.finditer(answer, left, right):
            for start, end in (_trimmed(answer, *unit) for unit in unit_spans(answer, *match.span())):
                if start == end:
                    continue
                if words and (first_in_piece or not is_quoted):
                    gap = answer[words[-1].end : start]
                    sentence += bool(_SENTENCE_END.search(gap))
                    clause += is_quoted or words[-1].is_quoted or _separates(gap)
                words.append(_Word(start, end, _folded(answer[start:end]), clause, sentence, is_quoted))
                first_in_piece = False
    return words


def _folded(word: str) -> str:
    # As words of an index are folded; the fraction slash of ½ is a slash, and a double prime of two primes is one again.
    return word.lower() if word.isascii() else fold(word).replace("\u2044", "/").replace("′′", "″")


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the span without dashes, quotes and invisible characters at its ends; an empty one where nothing else is in it."""
    if text[start].isalnum() and text[end - 1].isalnum():
        return start, end
    while start < end and _is_edge(text[start]):
        start += 1
    while end > start and _is_edge(text[end - 1]):
        end -= 1
    if not any(unicodedata.category(character)[0] in "LNS" for character in text[start:end]):
        return start, start
    return start, end


def _is_edge(character: str) -> bool:
    return character in "-‐‑‒―'’‘`*_/\\~^=" or unicodedata.category(character)[0] in "CZ"


def _separates(gap: str) -> bool:
    """Tell whether the text between two words holds more than blanks and invisible characters."""
    if gap in (" ", ""):
        return False
    return any(character in "\n\r\u2028\u2029" or unicodedata.category(character)[0] not in "CZ" for character in gap)


def _runs(words: list[_Word], labels: list[int]) -> list[list[_Word]]:
    runs: list[list[_Word]] = []
    for index, word in enumerate(words):
        if index == 0 or labels[index] != labels[index - 1]:
            runs.append([])
        runs[-1].append(word)
    return runs


def _all_phrases(words: list[_Word], chunks: Sequence[tuple[int, int]] | None) -> tuple[list[list[_Word]], int, int]:
    phrases: list[list[_Word]] = []
    fallbacks = unread = 0
    for clause in _runs(words, [word.clause for word in words]):
        if clause[0].is_quoted:
            phrases.append(clause)
            continue
        if chunks is None and any(is_foreign(word.folded) for word in clause):
            phrases += [[word] for word in clause]
            unread += 1
            continue
        for phrase in _phrases(clause) if chunks is None else _chunked(clause, chunks):
            cut = _cut_long(phrase)
            fallbacks += len(cut) > 1
            phrases.extend(cut)
    return phrases, fallbacks, unread


def _chunked(clause: list[_Word], chunks: Sequence[tuple[int, int]]) -> list[list[_Word]]:
    """Return a partition of the clause: words that begin within one chunk are a phrase, so is each run of words in none.

    Function words directly before a chunk (`for`, `without`) go with it, as they do in the rules.
    """
    starts = [start for start, _ in chunks]
    owners: list[int] = []
    for word in clause:
        at = bisect_right(starts, word.start) - 1
        owners.append(at if at >= 0 and word.start < chunks[at][1] else -1)
    for place in range(len(clause) - 2, -1, -1):
        if owners[place] < 0 and owners[place + 1] >= 0 and clause[place].folded in FUNCTION_WORDS:
            owners[place] = owners[place + 1]
    return _runs(clause, owners)


class _Phrases:
    """The phrases found so far, and the one that is being read; flags in place of looking back keep the time linear."""

    def __init__(self) -> None:
        self.done: list[list[_Word]] = []
        self.current: list[_Word] = []
        self.content = 0
        self.has_limit = False

    def add(self, words: list[_Word]) -> None:
        self.current += words
        self.content += sum(word.folded not in FUNCTION_WORDS for word in words)
        self.has_limit = self.has_limit or any(word.folded in LIMIT_WORDS for word in words)

    def end(self) -> None:
        if self.content:
            self.done.append(self.current)
            self.current, self.content, self.has_limit = [], 0, False

    def finished(self) -> list[list[_Word]]:
        self.end()
        if self.current and self.done:
            self.done[-1] = [*self.done[-1], *self.current]
        elif self.current:
            self.done.append(self.current)
        return self.done


def _phrases(clause: list[_Word]) -> list[list[_Word]]:
    found = _Phrases()
    position = 0
    while position < len(clause):
        word = clause[position]
        before = found.current[-1].folded if found.current else ""
        size = _measure(clause, position)
        if size:
            found.end()
            found.add(clause[position : position + size])
            found.end()
            position += size
            continue
        starts_phrase = word.folded in BOUNDARY_WORDS and (before, word.folded) not in GLUED_PAIRS
        if starts_phrase or _PERCENT.match(word.folded) or _closes_clause(clause, position):
            found.end()
        found.add([word])
        position += 1
        is_number = bool(_NUMBER.match(word.folded))
        if is_number and found.has_limit and found.content == 1:
            found.end()
        elif before and before not in FUNCTION_WORDS and _is_model(word.folded):
            while position < len(clause) and clause[position].folded in MODEL_SUFFIXES:
                found.add([clause[position]])
                position += 1
            found.end()
        elif word.folded in ENDING_AUDIENCE and found.current[0].folded == "for" and found.content == 1:
            found.end()
    return found.finished()


def _closes_clause(clause: list[_Word], position: int) -> bool:
    """Tell whether an audience or a trailing pair starts here, with nothing behind it that it could be an attribute of."""
    size = _closing_size(clause, position)
    if not size:
        return False
    position += size
    if position == len(clause) or clause[position].folded in BOUNDARY_WORDS:
        return True
    return bool(_closing_size(clause, position) or _measure(clause, position) or _PERCENT.match(clause[position].folded))


def _closing_size(clause: list[_Word], position: int) -> int:
    if clause[position].folded in AUDIENCE:
        return 1
    is_pair = position + 1 < len(clause) and (clause[position].folded, clause[position + 1].folded) in TRAILING_PAIRS
    return 2 if is_pair else 0


def _is_model(folded: str) -> bool:
    """Tell whether a word that follows a content word is the number or name of a model: 9, v30, tn-2110."""
    if _ATTRIBUTE_NUMBER.match(folded) or _PERCENT.match(folded):
        return False
    return folded[0].isalnum() and any(letter.isdigit() for letter in folded)


def _measure(clause: list[_Word], start: int) -> int:
    """Return the number of words of the measure that starts here (number, unit, what is measured), or 0."""
    word = clause[start].folded
    if word in NUMBERED_WORDS and start + 1 < len(clause):
        following = clause[start + 1].folded
        return 2 if _NUMBER.match(following) or (word in ("size", "letter") and len(following) == 1) else 0
    glued = _GLUED_MEASURE.match(word)
    if (glued and glued[1] in GLUED_UNITS) or _SIZE.match(word):
        return _with_measured(clause, start + 1, start)
    if not _NUMBER.match(word):
        return 0
    position = start + 1
    while position + 1 < len(clause) and clause[position].folded in _CROSS and _NUMBER.match(clause[position + 1].folded):
        position += 2
    if position < len(clause):
        unit = clause[position].folded
        # "in" is an inch after 15.6 or at the end of a clause, a preposition in "size 10 in black".
        if unit in UNITS or (unit == "in" and ("." in clause[position - 1].folded or position + 1 == len(clause))):
            return _with_measured(clause, position + 1, start)
    if position > start + 1:
        return position - start
    # At the start a year is part of a name, as in `2012 movie`.
    if (start > 0 and _YEAR.match(word)) or _MONEY.match(word) or _RANGE.match(word) or _DECIMAL.match(word):
        return _with_measured(clause, position, start)
    return 0


def _with_measured(clause: list[_Word], position: int, start: int) -> int:
    if position < len(clause) and (
        clause[position].folded in MEASURED_WORDS or (clause[position].folded in UNITS and _SIZE.match(clause[start].folded))
    ):
        position += 1
    return position - start


def _cut_long(phrase: list[_Word]) -> list[list[_Word]]:
    # A measure of many numbers (2 x 4 x 6 inch) is one thing.
    if sum(not (word.folded in FUNCTION_WORDS or word.folded in _CROSS or _NUMBER.match(word.folded)) for word in phrase) <= LONGEST_PHRASE:
        return [phrase]
    count = -(-len(phrase) // FALLBACK_WORDS)
    size, larger = divmod(len(phrase), count)
    cuts = [0]
    for index in range(count):
        cuts.append(cuts[-1] + size + (index < larger))
    return [phrase[left:right] for left, right in pairwise(cuts)]
