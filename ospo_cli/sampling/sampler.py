"""What a sampler is: prompts in, completions with log-probabilities out, whichever engine draws them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ospo_cli.errors import PolicyError
from ospo_cli.params.rollout import Rollout
from ospo_cli.policies.folder import LoadedPolicy
from ospo_cli.sampling.next_token import Sampling


@dataclass(frozen=True)
class SampledRow:
    """One completion: ids with the end token where it was sampled; log-probabilities as in next_token.Drawn, one per id."""

    token_ids: list[int]
    logprobs: list[float]
    sampled_logprobs: list[float]
    policy_logprobs: list[float]
    finish_reason: str
    text: str


@dataclass(frozen=True)
class Request:
    """Completions to draw.

    Attributes:
        prompts: token ids of each prompt.
        row_ids: names of the completions of each prompt (a rollout group); with the seed they key the draws.
        max_new_tokens: cap, end token included.
        sampling: temperature and cuts.
        seed: of the draws.
        batch_size: completions decoded at once, where this process decodes them.
    """

    prompts: Sequence[Sequence[int]]
    row_ids: Sequence[Sequence[str]]
    max_new_tokens: int
    sampling: Sampling
    seed: int
    batch_size: int

    @classmethod
    def of(cls, settings: Rollout, seed: int, prompts: Sequence[Sequence[int]], row_ids: Sequence[Sequence[str]]) -> Request:
        """Return the request under section rollout."""
        return cls(prompts, row_ids, settings.max_new_tokens, Sampling.of(settings), seed, settings.batch_size)

    @property
    def rows(self) -> list[tuple[str, Sequence[int]]]:
        """Name and prompt of every completion, prompt by prompt."""
        return [(name, prompt) for prompt, names in zip(self.prompts, self.row_ids, strict=True) for name in names]

    def grouped(self, rows: Iterable[SampledRow]) -> list[list[SampledRow]]:
        """Return the completions of `rows` by prompt."""
        made = iter(rows)
        return [[next(made) for _ in names] for names in self.row_ids]


class CompletionSampler:
    """Draws rollout groups. `policy` may be without weights (opening.read_policy) where another process or a server holds them."""

    needs_weights: ClassVar[bool] = False
    policy: LoadedPolicy

    @classmethod
    def opened(cls, policy: LoadedPolicy, settings: Rollout, threads: int, longest_prompt: int) -> CompletionSampler:
        """Return the sampler of section rollout for prompts of at most so many tokens."""
        raise NotImplementedError

    @classmethod
    def check(cls, sampling: Sampling, policy: LoadedPolicy) -> None:
        """Raise ParameterError where every log-probability that a rollout holds cannot be given; this one can give all."""

    @classmethod
    def identity(cls, settings: Rollout) -> list[object]:
        """Return what a finished shard depends on besides policy, prompts and sampling: who drew it."""
        return []

    def sample(self, request: Request) -> list[list[SampledRow]]:
        """Return for each prompt one completion per row id, whose seed comes from (seed, row id)."""
        raise NotImplementedError

    def close(self) -> None:
        """End what was started; nothing by itself."""


def too_long(policy: LoadedPolicy, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[int]:
    """Return the indices of prompts that do not fit the policy's context together with the new tokens (or are empty)."""
    room = policy.context_length - max_new_tokens
    return [index for index, prompt in enumerate(prompts) if not 0 < len(prompt) <= room]


def checked_ids(policy: LoadedPolicy, name: str, ids: Any, max_new_tokens: int, finish_reason: object, who: str) -> list[int]:
    """Return a foreign engine's token ids; raise PolicyError, naming the rollout, where they are no completion of this policy.

    Args:
        policy: end tokens and vocabulary.
        name: rollout.
        ids: what was answered.
        max_new_tokens: cap.
        finish_reason: stop or length.
        who: engine, for the error.
    """

    def refuse(problem: str, found: object, expected: str, remedy: str | None = None) -> PolicyError:
        return PolicyError(f"{who}, rollout {name}", problem, found=found, expected=expected, remedy=remedy)

    if not isinstance(ids, list) or not all(isinstance(token, int) and not isinstance(token, bool) for token in ids):
        raise refuse("the answer holds no token ids", type(ids).__name__, "a list of integers")
    known, ends = policy.pieces.spelled_ids, policy.end_token_ids
    odd = [token for token in ids if token not in known]
    if odd:
        expected = f"0 to {max(known)}" + (", without those that spell nothing" if len(known) <= max(known) else "")
        raise refuse("token id outside the policy's vocabulary", odd[0], expected, "let the engine hold this very policy")
    if finish_reason not in ("stop", "length"):
        raise refuse("the completion was broken off", f"finish reason {finish_reason}", "stop or length")
    if not 0 < len(ids) <= max_new_tokens:
        raise refuse("number of token ids", len(ids), f"1 to {max_new_tokens}, end token included")
    behind = [position for position, token in enumerate(ids[:-1]) if token in ends]
    if behind:
        place = f"{ids[behind[0]]} at position {behind[0]}"
        raise refuse("the completion goes on behind its end token", place, "the end token last")
    if (ids[-1] in ends) != (finish_reason == "stop"):
        raise refuse(
            "token ids do not fit the finish reason",
            f"{finish_reason}, last token {ids[-1]}",
            f"end token {' or '.join(map(str, ends))} last where the reason is stop, and only there",
            "an engine that leaves the end token out, or stops at another one, cannot be used: that token's log-probability is trained on",
        )
    if finish_reason == "length" and len(ids) < max_new_tokens:
        raise refuse("the completion was cut off early", f"{len(ids)} tokens", f"{max_new_tokens}", "raise the engine's context length")
    return ids


def checked_logprobs(name: str, values: Any, count: int, who: str) -> list[float]:
    """Return a foreign engine's log-probabilities; raise PolicyError, naming the rollout, unless `count` finite ones, at most 0."""
    where = f"{who}, rollout {name}"
    if not isinstance(values, list) or len(values) != count:
        found = len(values) if isinstance(values, list) else "none"
        raise PolicyError(where, "log-probabilities of the sampled tokens", found=found, expected=f"{count}, one per token id")
    for position, value in enumerate(values):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        # vLLM's server writes -9999 in place of minus infinity (tables.rollout.NO_LOGPROB, which evaluate would depend on).
        if not is_number or not math.isfinite(value) or not -9999.0 < value <= 1e-3:
            raise PolicyError(
                where,
                f"log-probability of the sampled token at position {position}",
                found="none" if value is None else value,
                expected="a finite number, at most 0",
                remedy="a policy that gives NaN has to be trained again with a lower learning rate",
            )
    return [min(float(value), 0.0) for value in values]
