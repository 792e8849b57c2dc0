"""Whether a rewrite is used, and why not: the one place where that is decided."""

from __future__ import annotations

from dataclasses import dataclass, field

from ospo_cli.text.writing_systems import writing_systems

# Longer texts are no queries: the policy is not asked, and nothing is tokenised.
MOST_CHARACTERS = 4096

REWRITTEN = "rewritten"
EMPTY = "empty"
TOO_LONG = "too long"
REFUSED = "refused by the chat template"
MALFORMED = "malformed"
ANOTHER_SCRIPT = "another script"
SAME = "same as the query"
NOT_TRUSTED = "not trusted by the gate"


@dataclass(frozen=True)
class Alternative:
    """A rewrite and the probability that the policy gives to the completions that were sampled of it: at most its whole probability."""

    rewrite: str
    probability: float


@dataclass(frozen=True)
class Candidate:
    """What is known when a query has been answered; judgments never are.

    Attributes:
        query: in one line, as the policy was asked.
        rewrite: the greedy answer in one line; empty where there is none.
        problem: why there is none (`text.answers.PROBLEMS`), else empty.
        mean_logprob: mean natural log-probability of the greedy completion's tokens.
        probability: of the greedy completion.
        best: the likeliest distinct rewrites among greedy and sampled ones, where several were asked for.
    """

    query: str
    rewrite: str
    problem: str
    mean_logprob: float
    probability: float
    best: list[Alternative] = field(default_factory=list)


def refused(query: str) -> str:
    """Return why the policy is not asked at all (the prompt's length in tokens is looked at later); empty: it is asked."""
    if len(query) > MOST_CHARACTERS:
        return TOO_LONG
    return "" if any(map(str.isalnum, query)) else EMPTY


def decide(candidate: Candidate) -> str:
    """Return REWRITTEN where the rewrite is used, else why the raw query is.

    The user's language is kept as far as letters tell: a rewrite that has no writing system in common with the query is not used.
    """
    if candidate.problem:
        return f"{MALFORMED}: {candidate.problem}"
    if candidate.rewrite == candidate.query:
        return SAME
    asked, answered = writing_systems(candidate.query), writing_systems(candidate.rewrite)
    if asked and answered and not asked & answered:
        return ANOTHER_SCRIPT
    return REWRITTEN
