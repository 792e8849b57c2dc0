"""A server that speaks OpenAI's /completions (`vllm serve`, llama.cpp, …) as a sampler, where it returns ids and log-probabilities."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ospo_cli.errors import ParameterError, PolicyError, shorten
from ospo_cli.executors.http_client import Again, HttpClient
from ospo_cli.params.rollout import Rollout, Server
from ospo_cli.policies.folder import LoadedPolicy
from ospo_cli.sampling.next_token import Sampling
from ospo_cli.sampling.sampler import CompletionSampler, Request, SampledRow, checked_ids, checked_logprobs
from ospo_cli.sampling.vllm_engine import request_seed

_WHO = "sampler openai"


class ServerSampler(CompletionSampler):
    """Draws each completion by a request of its own, with a seed from (seed, row id); prompts go and completions come as token ids.

    Which weights the server holds cannot be asked: it has to be given the very policy, and the update's first forward pass
    (update.max_logprob_mismatch) finds out. The protocol does not say whether log-probabilities are taken before or after temperature
    and cuts, so that only temperature 1 without cuts is drawn, where both are the same.

    Args:
        policy: opening.read_policy of the folder that the server holds.
        settings: section rollout.server.

    Raises:
        ParameterError: the URL is none, or the environment variable with the key is not set.
    """

    def __init__(self, policy: LoadedPolicy, settings: Server) -> None:
        self.policy, self.settings = policy, settings
        self.client = HttpClient(settings, "Authorization", "rollout.server", PolicyError)

    @classmethod
    def opened(cls, policy: LoadedPolicy, settings: Rollout, threads: int, longest_prompt: int) -> ServerSampler:
        """Return the sampler of rollout.server."""
        return cls(policy, settings.server)

    @classmethod
    def check(cls, sampling: Sampling, policy: LoadedPolicy) -> None:
        """Raise ParameterError where it would be unknown what the server's log-probabilities are of."""
        if sampling.cuts or sampling.temperature != 1.0:
            raise ParameterError(
                "rollout.sampler",
                "openai: the protocol leaves open whether log-probabilities are taken before or after temperature and cuts",
                found=f"temperature {sampling.temperature:g}, top_k {sampling.top_k}, top_p {sampling.top_p:g}",
                expected="temperature 1, top_k 0, top_p 1",
                remedy="change them, or take rollout.sampler: vllm or transformers",
            )

    @classmethod
    def identity(cls, settings: Rollout) -> list[object]:
        """Return the server's address and its name of the model."""
        return ["openai", settings.server.url, settings.server.model]

    def sample(self, request: Request) -> list[list[SampledRow]]:
        """Return for each prompt one completion per row id; batch_size is left to the server.

        Raises:
            ParameterError: temperature or cuts, whose log-probabilities the protocol leaves open.
            PolicyError: the server fails, or its answer is no completion with ids and log-probabilities.
        """
        self.check(request.sampling, self.policy)
        names = [name for name, _ in request.rows]
        requests = [
            ("/completions", json.dumps(self._request(prompt, request.max_new_tokens, request_seed(request.seed, name))).encode())
            for name, prompt in request.rows
        ]

        def read(number: int, content: bytes) -> SampledRow:
            return self._row(names[number], content, request.max_new_tokens)

        return request.grouped(self.client.send("POST", "application/json", requests, read, names) if requests else [])

    def _request(self, prompt: Sequence[int], max_new_tokens: int, seed: int) -> dict[str, Any]:
        return {
            "model": self.settings.model,
            "prompt": list(prompt),
            "max_tokens": max_new_tokens,
            **{"n": 1, "stream": False, "seed": seed, "temperature": 1.0, "top_p": 1.0, "logprobs": 1},
            # Beyond the protocol; each server reads those that it knows: what would change the distribution is off,
            "top_k": -1,
            **{"min_p": 0.0, "repetition_penalty": 1.0, "repeat_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0},
            # the policy's end tokens alone end a completion and come with it, and ids are returned.
            **{"ignore_eos": True, "stop_token_ids": self.policy.end_token_ids, "skip_special_tokens": False},
            **{"return_token_ids": True, "add_special_tokens": False},
        }

    def _row(self, name: str, content: bytes, max_new_tokens: int) -> SampledRow:
        try:
            answer = json.loads(content)
        except ValueError:
            raise Again("an answer that is no JSON") from None
        choices = answer.get("choices") if isinstance(answer, dict) else None
        where = f"{_WHO}, rollout {name}"
        if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
            found = len(choices) if isinstance(choices, list) else self.client.clean(shorten(content[:200].decode("utf-8", "replace")))
            raise PolicyError(where, "number of choices in the answer", found=found, expected="1")
        ids, logprobs = _returned(choices[0])
        if ids is None or logprobs is None:
            missing = "token ids" if ids is None else "log-probabilities of the sampled tokens"
            raise PolicyError(
                where,
                f"the server returns no {missing}, so that it cannot be used as a sampler",
                found=", ".join(sorted(shorten(key, 30) for key in choices[0])) or "nothing",
                expected="token_ids and logprobs.token_logprobs (vLLM), or logprobs.content with id and logprob (llama.cpp)",
                remedy="take a server that returns both, or rollout.sampler: vllm or transformers",
            )
        checked = checked_ids(self.policy, name, ids, max_new_tokens, choices[0].get("finish_reason"), _WHO)
        values = checked_logprobs(name, logprobs, len(checked), _WHO)
        return SampledRow(checked, values, values, values, str(choices[0]["finish_reason"]), self.policy.pieces.text(checked))


def _returned(choice: dict[str, Any]) -> tuple[Any, Any]:
    """Return (ids, log-probabilities) of a choice as vLLM or llama.cpp write them; None for what is not there."""
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, dict):
        return choice.get("token_ids"), None
    ids, values = choice.get("token_ids"), logprobs.get("token_logprobs")
    tokens, content = logprobs.get("tokens"), logprobs.get("content")
    if ids is None and isinstance(tokens, list) and tokens and all(_named_id(token) is not None for token in tokens):
        ids = [_named_id(token) for token in tokens]
    if isinstance(content, list) and content and all(isinstance(place, dict) for place in content):
        if ids is None and all("id" in place for place in content):
            ids = [place["id"] for place in content]
        if values is None:
            values = [place.get("logprob") for place in content]
    return ids, values


def _named_id(token: object) -> int | None:
    """Return 7 for `token_id:7`, vLLM's way where the server runs with --return-tokens-as-token-ids."""
    number = str(token).removeprefix("token_id:")
    return int(number) if number != token and number.isdecimal() else None
