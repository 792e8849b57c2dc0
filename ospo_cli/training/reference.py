"""Policy 000 as what an update compares with: of two adapters over one base, the trained model computes under both."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ospo_cli.executors import peers
from ospo_cli.policies import lora
from ospo_cli.policies.folder import LoadedPolicy, check_folder
from ospo_cli.policies.opening import open_policy
from ospo_cli.training import token_logprobs
from ospo_cli.training.cut_weights import cut


def reference_for(policy: LoadedPolicy, folder: Path, threads: int, project: Path, precision: str) -> LoadedPolicy:
    """Return the policy of a folder for forward passes beside a policy that trains, whose base is not loaded a second time.

    Raises:
        PolicyError: as `load_policy`.
    """
    check_folder(folder, "ospo warm-start")
    if policy.adapter_card is not None and lora.is_adapter(folder) and not peers.cuts_weights():
        weights = lora.weights_over(policy.model, policy.adapter_card, folder, project)
        if weights is not None:
            return dataclasses.replace(policy, folder=folder, model=OtherAdapter(policy.model, weights))
    return cut(open_policy(folder, threads, made_by="ospo warm-start", project=project), precision)


class OtherAdapter:
    """A peft model under other weights of its adapter, without gradient; between passes it has its own."""

    def __init__(self, model: Any, weights: dict[str, torch.Tensor]) -> None:
        """`weights`: those that train, by name."""
        self.model, self.config = model, model.config
        self.weights = [(weight, weights[name]) for name, weight in model.named_parameters() if name in weights]

    def token_logprobs(self, *arguments: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return `token_logprobs.of_model` under the other weights; the model's dropout must be off."""
        with self._in_place():
            return token_logprobs.of_model(self.model, *arguments)

    @contextlib.contextmanager
    def _in_place(self) -> Iterator[None]:
        own = [weight.data for weight, _ in self.weights]
        for weight, other in self.weights:
            weight.data = other
        try:
            yield
        finally:
            for (weight, _), value in zip(self.weights, own, strict=True):
                weight.data = value
