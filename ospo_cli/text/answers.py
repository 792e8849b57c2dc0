"""Where the answer lies within a completion, and whether it is one."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

_OPEN_THINK = re.compile(r"<think>", re.IGNORECASE)
_CLOSE_THINK = re.compile(r"</think>", re.IGNORECASE)
_OPEN = re.compile(r"<answer>", re.IGNORECASE)
_CLOSE = re.compile(r"</answer>", re.IGNORECASE)
# <answer>, </think>, <b class="x">, <|im_end|>; not "a < b" and not "<3".
_TAG = re.compile(r"<\s*(?:[/|]\s*)?[a-z][^<>]*>", re.IGNORECASE)
_CUT_OFF_TAG = re.compile(r"<(?:/?(?:a|an|ans|answ|answe|answer|t|th|thi|thin|think)|\|[a-z_]*)\Z", re.IGNORECASE)

PROBLEMS = ("unclosed", "tags inside", "control text", "empty")


@dataclass(frozen=True)
class Answer:
    """Character span of the answer within the completion, white space at its ends left out.

    Attributes:
        start, end: the span; of no character where there is a problem.
        has_tags: whether it stands in a closed `<answer>` pair without a tag in it.
        problem: why the completion holds no answer, one of PROBLEMS; empty where it holds one.
    """

    start: int
    end: int
    has_tags: bool
    problem: str = ""


def find_answer(completion: str) -> Answer:
    """Return the span of the answer: inside the first closed `<answer>` pair outside think blocks, tags in any case.

    Without any such tag: what follows the last think block (what stands before it where nothing follows), up to a lone `</answer>`. A
    `<think>` that is never closed reaches to the `<answer>` behind it, or to the end.

    A malformed text is no answer, and its words are not looked at, whoever asks (training, evaluation, a search engine):

    unclosed: an `<answer>` that was never closed, as where a completion was cut off.
    tags inside: it holds a tag (of any kind, also a special token that is spelled out) or the beginning of one at its end.
    control text: it holds a control character other than white space, or U+FFFD (bytes that are no text).
    empty: it holds no letter and no digit.

    >>> find_answer("<think>a</think><answer> navy coat </answer>")
    Answer(start=25, end=34, has_tags=True, problem='')
    >>> find_answer("<answer>lamp<answer>oak</answer>").problem
    'tags inside'
    """
    blocks = _think_blocks(completion)
    position = 0
    while opened := _OPEN.search(completion, position):
        block = next(((start, end) for start, end in blocks if start <= opened.start() < end), None)
        if block:
            position = block[1]
            continue
        closed = _CLOSE.search(completion, opened.end())
        if closed:
            return _checked(completion, _stripped(completion, opened.end(), closed.start(), True))
        return Answer(opened.end(), opened.end(), False, "unclosed")
    return _checked(completion, _untagged(completion, blocks))


def _checked(completion: str, answer: Answer) -> Answer:
    text = completion[answer.start : answer.end]
    problem = ""
    if _TAG.search(text) or _CUT_OFF_TAG.search(text):
        problem = "tags inside"
    elif any(map(_is_control, text)):
        problem = "control text"
    elif not any(map(str.isalnum, text)):
        problem = "empty"
    return Answer(answer.start, answer.start, answer.has_tags and problem != "tags inside", problem) if problem else answer


def _is_control(letter: str) -> bool:
    return letter == "\ufffd" or (unicodedata.category(letter) in ("Cc", "Cs") and not letter.isspace())


def _think_blocks(completion: str) -> list[tuple[int, int]]:
    """Return the spans of the closed think blocks; by search, since a lazy pattern is quadratic in unclosed tags."""
    blocks: list[tuple[int, int]] = []
    position = 0
    while (opened := _OPEN_THINK.search(completion, position)) and (closed := _CLOSE_THINK.search(completion, opened.end())):
        blocks.append((opened.start(), closed.end()))
        position = closed.end()
    return blocks


def _untagged(completion: str, blocks: list[tuple[int, int]]) -> Answer:
    # A chat template may have opened the think block in the prompt: then the completion holds its end alone.
    lone = _CLOSE_THINK.search(completion, blocks[-1][1] if blocks else 0)
    start = lone.end() if lone else (blocks[-1][1] if blocks else 0)
    unclosed = _OPEN_THINK.search(completion, start)
    end = unclosed.start() if unclosed else len(completion)
    stray = _CLOSE.search(completion, start, end)
    answer = _stripped(completion, start, stray.start() if stray else end, False)
    if answer.start == answer.end and blocks and not lone:
        return _stripped(completion, 0, blocks[0][0], False)
    return answer


def _stripped(completion: str, start: int, end: int, has_tags: bool) -> Answer:
    inside = completion[start:end]
    left = start + len(inside) - len(inside.lstrip())
    right = left + len(inside.strip())
    return Answer(left, right, has_tags) if right > left else Answer(start, start, has_tags)
