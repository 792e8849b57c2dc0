"""The players: phrases, words, sentences or windows of an answer, as character spans. Rules only, nothing to download."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from itertools import pairwise

from ospo_cli.errors import CreditError
from ospo_cli.text.english import (
    BOUNDARY_WORDS,
    FUNCTION_WORDS,
    GLUED_PAIRS,
    LIMIT_WORDS,
    MEASURED_WORDS,
    UNITS,
)

LEVELS = ("phrase", "word", "sentence", "window")
LEAVING_WORDS_OUT = ("released-phrase",)
LONGEST_PHRASE = 4
FALLBACK_WORDS = 3

_SEPARATORS = re.escape(',;:!?()[]{}|."“”„«»‹›•·、，。；：！？…—–؛،؟।<>')
# A point, comma or colon between digits (15.6, 1,000, 16:9), a point between letters (node.js) and an inch mark stay inside a word.
_WORD = re.compile(rf"(?:[^\s{_SEPARATORS}]|(?<=\d)[.,:](?=\d)|(?<=[^\W_])\.(?=[^\W_])|(?<=\d)\"(?!\w))+")
_QUOTED = re.compile(r"(?<!\w)\"(?=\S)[^\"\n]*(?<=\S)\"(?!\w)|“[^“”\n]*”|„[^„“\n]*“|«[^«»\n]*»")
_SENTENCE_END = re.compile(r"[.!?。！？…؟।\n\r\u2028\u2029]")
_NUMBER = re.compile(r"[$€£¥₹]?\d+(?:[.,:/x×-]\d+)*[\"″′%+]?$")
_CROSS = ("x", "×", "by")


@dataclass(frozen=True)
class Span:
    """One segment: first character and character after the last, within the answer; block of the a-priori partition."""

    start: int
    end: int
    union_index: int


@dataclass(frozen=True)
class Segmentation:
    """The segments of an answer, and how many phrases no rule could cut, so that they were cut by number of words."""

    spans: list[Span]
    fallbacks: int


@dataclass(frozen=True)
class _Word:
    start: int
    end: int
    folded: str
    clause: int
    sentence: int
    is_quoted: bool


def segment(answer: str, level: str, window: int = 3) -> list[Span]:
    """Return the segments of an answer, in order; see `segmentation`."""
    return segmentation(answer, level, window).spans


def segmentation(answer: str, level: str, window: int = 3) -> Segmentation:
    """Cut an answer into disjoint ordered segments that hold every letter and digit of it (level released-phrase aside).

    Separators (punctuation and the white space between segments) belong to no segment; a sentence and a quotation keep the
    punctuation inside them. Levels, and the unions (a-priori partition) over them:

    - phrase: noun phrases with their attributes, measures (`15.6 inch`), limits (`under 50`), prepositional phrases (`for men`,
      `without hood`), quoted text; unions are sentences where the answer has several, else clauses. A run of more than 4 content
      words that no rule cuts is cut into pieces of at most 3 words: a fallback, counted.
    - word: `usb-c` and `15.6` are one word; unions are the phrases.
    - released-phrase: the phrases of several words. A single word belongs to none, as in the code released with the paper.
    - sentence, window (of at most `window` words, never across a separator): each its own union.

    Raises:
        CreditError: there is no such level, or the window is below 1.

    >>> answer = "navy wool coat, 15.6 inch laptop for men"
    >>> [answer[span.start : span.end] for span in segment(answer, "phrase")]
    ['navy wool coat', '15.6 inch', 'laptop', 'for men']
    """
    if level not in (*LEVELS, *LEAVING_WORDS_OUT):
        raise CreditError("segment.level", "unknown level", found=level, expected=", ".join((*LEVELS, *LEAVING_WORDS_OUT)))
    if window < 1:
        raise CreditError("segment.window", "is below 1", found=window, expected="≥ 1")
    words = _words(answer)
    if level == "sentence":
        blocks = _runs(words, [word.sentence for word in words])
        return Segmentation([Span(block[0].start, block[-1].end, index) for index, block in enumerate(blocks)], 0)
    clauses = _runs(words, [word.clause for word in words])
    if level == "window":
        pieces = [clause[at : at + window] for clause in clauses for at in range(0, len(clause), window)]
        return Segmentation([Span(piece[0].start, piece[-1].end, index) for index, piece in enumerate(pieces)], 0)
    phrases: list[list[_Word]] = []
    fallbacks = 0
    for clause in clauses:
        for phrase in [clause] if clause[0].is_quoted else _phrases(clause):
            cut = [phrase] if phrase[0].is_quoted else _cut_long(phrase)
            fallbacks += len(cut) > 1
            phrases.extend(cut)
    if level == "word":
        return Segmentation([Span(word.start, word.end, index) for index, phrase in enumerate(phrases) for word in phrase], fallbacks)
    if level == "released-phrase":
        phrases = [phrase for phrase in phrases if len(phrase) > 1]
    has_sentences = bool(words) and words[-1].sentence > 0
    unions = [phrase[0].sentence if has_sentences else phrase[0].clause for phrase in phrases]
    # Without its single words a clause may have no phrase: unions are numbered anew.
    number = {union: index for index, union in enumerate(dict.fromkeys(unions))}
    spans = [Span(phrase[0].start, phrase[-1].end, number[union]) for phrase, union in zip(phrases, unions, strict=True)]
    return Segmentation(spans, fallbacks)


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
            start, end = _trimmed(answer, *match.span())
            if start == end:
                continue
            if words and (first_in_piece or not is_quoted):
                gap = answer[words[-1].end : start]
                sentence += bool(_SENTENCE_END.search(gap))
                clause += is_quoted or words[-1].is_quoted or _separates(gap)
            words.append(_Word(start, end, answer[start:end].casefold(), clause, sentence, is_quoted))
            first_in_piece = False
    return words


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


def _phrases(clause: list[_Word]) -> list[list[_Word]]:
    phrases: list[list[_Word]] = []
    current: list[_Word] = []
    position = 0
    while position < len(clause):
        size = _measure(clause, position)
        word = clause[position]
        if size:
            if _has_content(current):
                phrases.append(current)
                current = []
            phrases.append([*current, *clause[position : position + size]])
            current = []
            position += size
            continue
        is_glued = bool(current) and (current[-1].folded, word.folded) in GLUED_PAIRS
        if word.folded in BOUNDARY_WORDS and not is_glued and _has_content(current):
            phrases.append(current)
            current = []
        current.append(word)
        position += 1
        if _NUMBER.match(word.folded) and any(before.folded in LIMIT_WORDS for before in current) and not _has_content(current[:-1]):
            phrases.append(current)
            current = []
    if current and (_has_content(current) or not phrases):
        phrases.append(current)
    elif current:
        phrases[-1] = [*phrases[-1], *current]
    return phrases


def _measure(clause: list[_Word], start: int) -> int:
    """Return the number of words of the measure that starts here (number, unit, what is measured), or 0."""
    if not _NUMBER.match(clause[start].folded):
        return 0
    position = start + 1
    while position + 1 < len(clause) and clause[position].folded in _CROSS and _NUMBER.match(clause[position + 1].folded):
        position += 2
    if position == len(clause):
        return 0
    unit = clause[position].folded
    # "in" is an inch after 15.6 or at the end of a clause, a preposition in "size 10 in black".
    is_unit = unit in UNITS or (unit == "in" and ("." in clause[position - 1].folded or position + 1 == len(clause)))
    if not is_unit:
        return 0
    position += 1
    if position < len(clause) and clause[position].folded in MEASURED_WORDS:
        position += 1
    return position - start


def _has_content(phrase: list[_Word]) -> bool:
    return any(word.folded not in FUNCTION_WORDS for word in phrase)


def _cut_long(phrase: list[_Word]) -> list[list[_Word]]:
    if sum(word.folded not in FUNCTION_WORDS for word in phrase) <= LONGEST_PHRASE:
        return [phrase]
    count = -(-len(phrase) // FALLBACK_WORDS)
    size, larger = divmod(len(phrase), count)
    cuts = [0]
    for index in range(count):
        cuts.append(cuts[-1] + size + (index < larger))
    return [phrase[left:right] for left, right in pairwise(cuts)]
