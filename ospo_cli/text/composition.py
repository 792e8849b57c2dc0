"""What a search engine is given: a text of the policy's composed with the raw query, or the raw query where there is no answer."""

from __future__ import annotations

from dataclasses import dataclass

from ospo_cli.text.answers import find_answer


def compose(raw_query: str, text: str, composition: str) -> str:
    """Return what the retriever is given: the text (replace), or raw query, one space, text (append; the raw query alone for no text).

    >>> compose("shoe", "red leather", "append")
    'shoe red leather'
    """
    if composition == "replace":
        return text
    return f"{raw_query} {text}" if text else raw_query


@dataclass(frozen=True)
class Served:
    """What a user's search engine is given for a completion.

    Attributes:
        query: the composed query; the raw query where the completion holds no answer.
        answer: the answer's text; empty where there is none.
        problem: why there is none (`text.answers.PROBLEMS`); empty where there is one.
    """

    query: str
    answer: str
    problem: str


def served(raw_query: str, completion: str, composition: str) -> Served:
    """Return what a user gets for a completion. In training the same malformed text is worth what no text is: it earns nothing.

    >>> served("shoe", "<answer>red <answer>boot</answer>", "append")
    Served(query='shoe', answer='', problem='tags inside')
    """
    found = find_answer(completion)
    if found.problem:
        return Served(raw_query, "", found.problem)
    answer = completion[found.start : found.end]
    return Served(compose(raw_query, answer, composition), answer, "")
