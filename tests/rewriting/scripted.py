"""A rewriter whose policy answers what a test says."""

import math

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
