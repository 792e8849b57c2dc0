"""Which tokens of a completion are answer, which tags, and which stand outside (the thinking)."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

CLASSES = ("answer", "think", "tags")
_TAG = re.compile(r"</?(?:think|answer)>", re.IGNORECASE)


def token_classes(spans: NDArray[np.int32], completion: str, answer_start: int, answer_end: int) -> NDArray[np.int64]:
    """Return [tokens] index into CLASSES: answer where a token holds a character of it, tags where one of a tag or none at all, else think.

    Args:
        spans: [tokens, 2] from `tokens_to_spans.token_spans`.
        completion: the text.
        answer_start, answer_end: character span of the answer.

    >>> token_classes(np.array([[0, 8], [8, 12], [12, 21], [21, 21]], dtype=np.int32), "<answer>coat</answer>", 8, 12).tolist()
    [2, 0, 2, 2]
    """
    starts, ends = spans[:, 0], spans[:, 1]
    found = np.full(len(spans), CLASSES.index("think"))
    is_tag = starts == ends  # an end token spells nothing
    for tag in _TAG.finditer(completion):
        is_tag |= (starts < tag.end()) & (ends > tag.start())
    found[is_tag] = CLASSES.index("tags")
    found[(starts < answer_end) & (ends > answer_start)] = CLASSES.index("answer")
    return found
