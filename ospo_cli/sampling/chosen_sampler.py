"""The sampler that the parameters name, opened for as long as it is needed."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path

from ospo_cli.executors import engines
from ospo_cli.params.rollout import Rollout
from ospo_cli.policies.folder import LoadedPolicy
from ospo_cli.policies.opening import open_policy, read_policy
from ospo_cli.sampling import SAMPLERS
from ospo_cli.sampling.next_token import Sampling
from ospo_cli.sampling.sampler import CompletionSampler


def kind_of(settings: Rollout) -> type[CompletionSampler]:
    """Return the class of rollout.sampler."""
    module, name = SAMPLERS[settings.sampler].split(":")
    kind: type[CompletionSampler] = getattr(importlib.import_module(module), name)
    return kind


def load_for(folder: Path, settings: Rollout, threads: int, made_by: str) -> LoadedPolicy:
    """Return a folder's policy, with weights where they are needed in this process; refuse settings that the sampler cannot draw."""
    kind = kind_of(settings)
    policy = open_policy(folder, threads, made_by=made_by) if kind.needs_weights and engines.works_here() else read_policy(folder, made_by)
    kind.check(Sampling.of(settings), policy)
    return policy


@contextlib.contextmanager
def opened(policy: LoadedPolicy, settings: Rollout, threads: int, longest_prompt: int) -> Iterator[CompletionSampler]:
    """Give rollout.sampler for a policy of `load_for`; what it started ends with the block. Where workers draw, one that draws nothing."""
    sampler = kind_of(settings).opened(policy, settings, threads, longest_prompt) if engines.works_here() else CompletionSampler()
    try:
        yield sampler
    finally:
        sampler.close()
