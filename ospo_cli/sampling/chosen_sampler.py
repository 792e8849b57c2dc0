"""The sampler that the parameters name, opened for as long as it is needed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ospo_cli.params.rollout import Rollout
from ospo_cli.params.whole import Params
from ospo_cli.policies.folder import LoadedPolicy
from ospo_cli.policies.opening import load_policy, read_policy
from ospo_cli.sampling.next_token import Sampling
from ospo_cli.sampling.sampler import CompletionSampler


def load_for(folder: Path, params: Params, made_by: str) -> LoadedPolicy:
    """Return a folder's policy, with weights where they are needed in this process; refuse settings that the sampler cannot draw."""
    if params.rollout.sampler == "transformers":
        return load_policy(folder, params.policy.threads, made_by=made_by)
    policy, sampling = read_policy(folder, made_by), Sampling.of(params.rollout)
    if params.rollout.sampler == "vllm":
        from ospo_cli.sampling import vllm_engine

        vllm_engine.check_sampling(sampling, policy.is_adapter)
    else:
        from ospo_cli.sampling import completions_server

        completions_server.check_sampling(sampling)
    return policy


@contextlib.contextmanager
def opened(policy: LoadedPolicy, params: Params, longest_prompt: int) -> Iterator[CompletionSampler]:
    """Give rollout.sampler for a policy of `load_for`; what it started ends with the block."""
    settings = params.rollout
    if settings.sampler == "transformers":
        from ospo_cli.sampling.causal_lm import Sampler

        yield Sampler(policy)
    elif settings.sampler == "vllm":
        from ospo_cli.sampling.vllm_engine import VllmSampler

        engine = VllmSampler(policy, settings.vllm, longest_prompt + settings.max_new_tokens, params.policy.threads)
        try:
            yield engine
        finally:
            engine.close()
    else:
        from ospo_cli.sampling.completions_server import ServerSampler

        yield ServerSampler(policy, settings.server)


def identity(settings: Rollout) -> list[object]:
    """Return what a finished shard depends on besides policy, prompts and sampling: who drew it."""
    if settings.sampler == "vllm":
        return ["vllm", settings.vllm.dtype, settings.vllm.tensor_parallel]
    return ["openai", settings.server.url, settings.server.model] if settings.sampler == "openai" else []
