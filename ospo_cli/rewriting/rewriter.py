"""Queries in, rewrites out: the policy's greedy answer for each, further samples where asked, and the decision."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ospo_cli.errors import PolicyError
from ospo_cli.policies.folder import render_prompt
from ospo_cli.policies.opening import load_policy
from ospo_cli.rewriting import decision
from ospo_cli.rewriting import gate as gates
from ospo_cli.rewriting.decision import Alternative, Candidate
from ospo_cli.rewriting.gate import Gate, Values
from ospo_cli.rewriting.search_signs import search_features
from ospo_cli.rewriting.setup import Setup
from ospo_cli.sampling.causal_lm import Sampler
from ospo_cli.sampling.next_token import Sampling
from ospo_cli.sampling.sampler import Request, SampledRow, too_long
from ospo_cli.text.composition import compose, served
from ospo_cli.text.prompt_template import one_line, user_message

if TYPE_CHECKING:
    from ospo_cli.policies.folder import LoadedPolicy
    from ospo_cli.retrievers.base import Retriever
    from ospo_cli.rewriting.chosen import Chosen

# Changes when equal queries may get other rewrites from an equal policy.
VERSION = "rewrite 4"
QUERIES_AT_ONCE = 64


@dataclass(frozen=True)
class Asked:
    """A query with the titles of what its user bought before."""

    query: str
    history: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rewrite:
    """What became of a query.

    Attributes:
        query: as it was asked.
        rewrite: the policy's answer in one line, used or not; empty where there is none.
        engine_query: what the search engine is given: the composed query, or the raw query; either in one line (`one_line`).
        why: `decision.REWRITTEN`, or why the raw query is used.
        mean_logprob: mean natural log-probability of the greedy completion's tokens; None where the policy was not asked.
        probability: of the greedy completion; None likewise.
        best: the likeliest distinct rewrites, where several were asked for.
        milliseconds: of the batch, divided by its queries.
    """

    query: str
    rewrite: str
    engine_query: str
    why: str
    mean_logprob: float | None = None
    probability: float | None = None
    best: list[Alternative] = field(default_factory=list)
    milliseconds: float = 0.0

    @property
    def is_used(self) -> bool:
        """Whether the search engine is given the rewrite."""
        return self.why == decision.REWRITTEN


def raw(asked: Asked, why: str) -> Rewrite:
    """Return the raw query, in one line, for a reason."""
    return Rewrite(asked.query, "", one_line(asked.query), why)


class Rewriter:
    """A policy, asked for rewrites. What a query gets depends on (policy, setup, query, history) and on nothing else in the batch.

    engine: whose result lists the gate looks at; None where it looks at none.
    """

    def __init__(self, policy: LoadedPolicy, setup: Setup, gate: Gate | None = None, engine: Retriever | None = None) -> None:
        self.policy, self.setup, self.gate, self.engine = policy, setup, gate, engine
        self.sampler = Sampler(policy)

    @classmethod
    def opened(cls, chosen: Chosen, with_gate: bool = True) -> Rewriter:
        """Return the rewriter of a policy that `chosen.choose` gave, with its gate where it has one.

        Raises:
            PolicyError: the policy cannot be opened, or the gate is another policy's.
            OspoError: the gate looks at result lists, and there is no project with a catalogue.
        """
        root = chosen.project.root if chosen.project else None
        policy = load_policy(chosen.folder, chosen.setup.threads, made_by=chosen.made_by, project=root)
        gate = gates.read(chosen.gate_path, policy.content_hash) if with_gate and not chosen.ungated else None
        return cls(policy, chosen.setup, gate, chosen.engine(gate.retriever, chosen.gate_path) if gate and gate.retriever else None)

    @property
    def identity(self) -> list[object]:
        """Return what rewrites depend on besides query and history."""
        setup = self.setup
        gate = self.gate.identity if self.gate else None
        return [VERSION, self.policy.content_hash, setup.card, setup.threads, gate, self.engine.fingerprint if self.engine else ""]

    def rewrite(self, asked: Sequence[Asked], best: int = 1) -> list[Rewrite]:
        """Return what becomes of each query; best > 1 samples further completions for the likeliest `best` rewrites.

        The gate, where there is one, is asked last.

        Raises:
            PolicyError: the model gives NaN.
        """
        began = time.monotonic()
        queries = [one_line(one.query) if len(one.query) <= decision.MOST_CHARACTERS else one.query for one in asked]
        prompted = self.setup.spelt(queries)
        found: list[Rewrite | None] = [None] * len(asked)
        places: list[int] = []
        prompts: list[list[int]] = []
        for place, (one, query) in enumerate(zip(asked, prompted, strict=True)):
            why = decision.refused(queries[place]) or self._unfit(query, one.history, prompts)
            if why:
                found[place] = raw(one, why)
            else:
                places.append(place)
        groups = self._sampled(prompts, [(prompted[place], asked[place].history) for place in places], best)
        for place, group in zip(places, groups, strict=True):
            found[place] = self._read(asked[place], (queries[place], prompted[place]), group, best)
        trusted = self._gated([one for one in found if one is not None])
        each = (time.monotonic() - began) * 1000 / max(1, len(asked))
        return [replace(one, milliseconds=each) for one in trusted]

    def rewrite_all(self, asked: Sequence[Asked]) -> list[Rewrite]:
        """Return what becomes of each query, so many together as a batch holds."""
        parts = [asked[start : start + QUERIES_AT_ONCE] for start in range(0, len(asked), QUERIES_AT_ONCE)]
        return [one for part in parts for one in self.rewrite(part)]

    def _gated(self, found: list[Rewrite]) -> list[Rewrite]:
        """Give back the raw query in the place of rewrites that the gate does not trust."""
        used = [one for one in found if one.is_used]
        if self.gate is None or not used:
            return found
        trusted = iter(self.gate.passes(known_features(used, self.engine)))
        return [
            one if not one.is_used or next(trusted) else replace(one, engine_query=one_line(one.query), why=decision.NOT_TRUSTED)
            for one in found
        ]

    def _unfit(self, query: str, history: Sequence[str], prompts: list[list[int]]) -> str:
        """Add the prompt's token ids to `prompts`, or return why the policy cannot be asked."""
        if sum(map(len, history)) > 16 * decision.MOST_CHARACTERS:
            return decision.TOO_LONG
        try:  # one query's fault: the trial of the folder has seen the template render others
            ids = render_prompt(self.policy, user_message(self.setup.template, query, [one_line(title) for title in history]))
        except PolicyError:
            return decision.REFUSED
        if too_long(self.policy, [ids], self.setup.max_new_tokens):
            return decision.TOO_LONG
        prompts.append(ids)
        return ""

    def _sampled(self, prompts: list[list[int]], named: list[tuple[str, tuple[str, ...]]], best: int) -> list[list[SampledRow]]:
        # The likeliest completion, and where several rewrites are asked for draws from the policy itself: temperature 1, nothing cut.
        count = 1 + (samples_for(best) if best > 1 else 0)
        names = [[f"rewrite:{query}|{history!r}:{index}" for index in range(count)] for query, history in named]
        setup = self.setup
        request = Request(prompts, names, setup.max_new_tokens, Sampling(), setup.seed, max(setup.batch_size, count))
        return self.sampler.sample(request, greedy_rows=1)

    def _read(self, asked: Asked, spellings: tuple[str, str], group: list[SampledRow], best: int) -> Rewrite:
        query, prompted = spellings  # the engine is given the one, the policy was asked for the other
        read = partial(served, query, composition=self.setup.composition)
        greedy = read(group[0].text)
        rewrite = one_line(greedy.answer)
        logprob = sum(group[0].policy_logprobs)
        candidate = Candidate(
            prompted, rewrite, greedy.problem, logprob / len(group[0].policy_logprobs), math.exp(logprob),
            likeliest([(one_line(read(row.text).answer), row) for row in group], best) if best > 1 else [],
        )  # fmt: skip
        why = decision.decide(candidate)
        given = compose(query, rewrite, self.setup.composition) if why == decision.REWRITTEN else query
        return Rewrite(asked.query, rewrite, given, why, candidate.mean_logprob, candidate.probability, candidate.best)


def known_features(found: Sequence[Rewrite], engine: Retriever | None) -> Values:
    """Return what a gate looks at of rewrites that are used but for it, float64[n, features]; without an engine the policy's part alone."""
    own = [gates.policy_features(one.query, one.rewrite, one.mean_logprob or 0.0, one.probability or 0.0) for one in found]
    features = np.array(own).reshape(-1, len(gates.POLICY_FEATURES))
    if engine is None:
        return features
    if not found:
        return np.zeros((0, len(gates.feature_names(engine.name))))
    return np.concatenate([features, search_features(engine, [one.query for one in found], [one.engine_query for one in found])], axis=1)


def samples_for(best: int) -> int:
    """Return how many completions are sampled for so many rewrites: most are drawn more than once."""
    return max(16, 4 * best)


def likeliest(answers: Sequence[tuple[str, SampledRow]], best: int) -> list[Alternative]:
    """Return the likeliest distinct rewrites, those of equal probability in their own order; malformed answers ("") are left out.

    A rewrite's probability is the sum over the distinct completions that gave it: what was not drawn is not counted.
    """
    seen: dict[str, dict[tuple[int, ...], float]] = {}
    for rewrite, row in answers:
        if rewrite:
            seen.setdefault(rewrite, {})[tuple(row.token_ids)] = math.exp(sum(row.policy_logprobs))
    ranked = sorted(((min(1.0, sum(of.values())), rewrite) for rewrite, of in seen.items()), key=lambda pair: (-pair[0], pair[1]))
    return [Alternative(rewrite, probability) for probability, rewrite in ranked[:best]]
