"""Seconds of one gradient over rollout groups: completions apart (padded) against groups packed behind their prompt.

Run: python benchmarks/update.py [POLICY_FOLDER] [--threads 2] [--groups 16] [--group-size 8] [--prompt-tokens 40] [--new-tokens 16]
Without a folder: a Llama of the demo's size with random weights. An adapter folder trains its adapter alone.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import ospo_cli  # noqa: F401  (first: it tells OpenMP to wait passively, which is read when torch loads)

# isort: split
import torch

from ospo_cli.params import Policy
from ospo_cli.policies import token_batches
from ospo_cli.policies.folder import LoadedPolicy, load_policy
from ospo_cli.policies.small_llama import write_small_llama
from ospo_cli.policies.token_batches import Group
from ospo_cli.policies.token_logprobs import token_logprobs

WORDS = [
    "navy",
    "red",
    "olive",
    "black",
    "wool",
    "linen",
    "leather",
    "coat",
    "dress",
    "boots",
    "scarf",
    "slim",
    "loose",
    "office",
    "beach",
    "winter",
]


def main() -> None:
    """Print one line per layout and micro-batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    for name, default in (("threads", 2), ("groups", 16), ("group-size", 8), ("prompt-tokens", 40), ("new-tokens", 16), ("repeats", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        if options.folder is None:
            write_small_llama([f"{a} {b}" for a in WORDS for b in WORDS], Policy(), 0, folder)
        policy = load_policy(folder, options.threads, trainable=True)
    generator = torch.Generator().manual_seed(0)

    def random_ids(count: int) -> list[int]:
        return torch.randint(5, len(policy.tokenizer), (count,), generator=generator).tolist()

    groups = []
    for index in range(options.groups):
        lengths = torch.randint(options.new_tokens // 2, options.new_tokens * 3 // 2, (options.group_size,), generator=generator).tolist()
        groups.append(Group(random_ids(options.prompt_tokens), [random_ids(length) for length in lengths], index * options.group_size))
    apart = [single for group in groups for single in group.apart()]
    tokens = sum(group.tokens for group in groups)
    print(f"{sum(weight.numel() for weight in policy.model.parameters()):,} weights, {tokens} completion tokens, {options.threads} threads")
    for budget in (1024, 2048, 8192):
        for name, rows in (("apart", apart), ("packed", groups)):
            found = [gradient(policy, rows, budget) for _ in range(options.repeats)]
            seconds, places = min(found)
            share = f"{tokens / places:.0%} of all tokens"
            print(f"{name:7s} micro-batch {budget:5d} {seconds:8.2f} s {tokens / seconds:8.0f} completion tokens/s, {share}")


def gradient(policy: LoadedPolicy, groups: list[Group], budget: int) -> tuple[float, int]:
    """Return the seconds of forward and backward passes over the groups, and the tokens run through the model."""
    began, places = time.monotonic(), 0
    for part in token_batches.micro_batches(groups, budget):
        batch = token_batches.build(part, policy.pad_token_id, policy.device)
        places += batch.tokens_in_all
        token_logprobs(policy.model, batch, 1.0, want_entropy=True)[0].sum().backward()
    policy.model.zero_grad()
    return time.monotonic() - began, places


if __name__ == "__main__":
    main()
