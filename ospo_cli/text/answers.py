"""Where the answer lies within a completion."""

from __future__ import annotations

import re
from dataclasses import dataclass

_OPEN_THINK = re.compile(r"<think>", re.IGNORECASE)
_CLOSE_THINK = re.compile(r"</think>", re.IGNORECASE)
_OPEN = re.compile(r"<answer>", re.IGNORECASE)
_CLOSE = re.compile(r"</answer>", re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """Character span of the answer within the completion, white space at its ends left out."""

    start: int
    end: int
    has_tags: bool


def find_answer(completion: str) -> Answer:
    """Return the span of the answer: inside the first closed `<answer>` pair outside think blocks, tags in any case.

    Without such a pair: what follows the last think block (what stands before it where nothing follows), without the text up to an
    `<answer>` that was never closed (a completion that was cut off) and from a lone `</answer>` on. A `<think>` that is never closed
    reaches to the `<answer>` behind it, or to the end.

    >>> find_answer("<think>a</think><answer> navy coat </answer>")
    Answer(start=25, end=34, has_tags=True)
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
            return _stripped(completion, opened.end(), closed.start(), True)
        return _stripped(completion, opened.end(), len(completion), False)
    return _untagged(completion, blocks)


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
