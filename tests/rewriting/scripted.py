"""A rewriter whose policy answers what a test says."""

import math

from ospo_cli.rewriting.gate import Gate, feature_names
from ospo_cli.rewriting.rewriter import Rewriter
from ospo_cli.rewriting.setup import Setup
from ospo_cli.sampling.sampler import SampledRow

SETUP = Setup("{query}\nbought: {history}", "replace", 12)


class ScriptedSampler:
    """Answers by the query in a row's name; the texts of a query are given in turn, the greedy one first."""

    def __init__(self, answers):
        self.answers, self.requests = answers, []

    def sample(self, request, greedy_rows=0):
        self.requests.append(request)
        return [[self._row(name) for name in names] for names in request.row_ids]

    def _row(self, name):
        query, index = name.removeprefix("rewrite:").partition("|")[0], int(name.rpartition(":")[2])
        texts = self.answers.get(query, ["<answer>wool coat</answer>"])
        text = texts[index % len(texts)]
        logprobs = [math.log(0.5)] * (1 + index % len(texts))
        return SampledRow(list(text.encode()), logprobs, logprobs, logprobs, "stop", text)


def scripted(policy, answers=None, setup=SETUP):
    """Return a rewriter over a tiny policy whose sampler is replaced."""
    rewriter = Rewriter(policy, setup)
    rewriter.sampler = ScriptedSampler(answers or {})
    return rewriter


def gate_of_words(policy, threshold, retriever=""):
    """Return a gate whose score is the query's number of words."""
    names = feature_names(retriever)
    weights = [1.0 if name == "query_words" else 0.0 for name in names] + [0.0] * (len(names) * (len(names) + 1) // 2)
    # A scale of 100, so that no query of the tests is farther out than the three deviations that count.
    return Gate(
        policy,
        retriever,
        [0.0] * len(names),
        [100.0] * len(names),
        [100 * weight for weight in weights],
        threshold,
        0.05,
        0.9,
        {"retriever": "bm25"},
    )
