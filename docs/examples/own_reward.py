"""A reward of your own: does the answer say what the shopper typed, and are the first products of one kind?"""

from __future__ import annotations

from collections.abc import Sequence


def parts(text: str, prompt_id: str, ranking: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Return the parts of one text, each from -1 to 1; a coalition's text is scored just as a whole answer's.

    Args:
        text: the answer, or the words of a coalition, without separators at its ends.
        prompt_id: identity of the prompt.
        ranking: (doc_id, score) of the first score_coalitions.own_ranks products, best first.
    """
    words = text.split()
    scores = [score for _, score in ranking]
    return {
        "short": -max(0, len(words) - 6) / max(len(words), 1),
        "decided": 0.0 if len(scores) < 2 else (scores[0] - scores[1]) / scores[0],
    }
