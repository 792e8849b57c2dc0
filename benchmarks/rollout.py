"""Tokens per second of sampling: transformers' generate, rows one by one in the batch, and prompts read once per rollout group.

Run: python benchmarks/rollout.py [POLICY_FOLDER] [--threads 2] [--prompts 64] [--group-size 8] [--new-tokens 32]
Without a folder: a Llama of the demo's size with random weights.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ospo_cli  # noqa: F401  (first: it tells OpenMP to wait passively, which is read when torch loads)

# isort: split
import torch

from ospo_cli.params import Policy
from ospo_cli.policies.causal_lm import Sampler
from ospo_cli.policies.folder import LoadedPolicy, load_policy
from ospo_cli.policies.small_llama import write_small_llama

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
    """Print one line per way of sampling."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    for name, default in (("threads", 2), ("prompts", 64), ("group-size", 8), ("new-tokens", 32), ("prompt-tokens", 40), ("repeats", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        if options.folder is None:
            write_small_llama([f"{a} {b}" for a in WORDS for b in WORDS], Policy(), 0, folder)
        policy = load_policy(folder, options.threads)
    policy.end_token_id = -1  # no row ends early: every way makes the same number of tokens
    generator = torch.Generator().manual_seed(0)
    size = policy.model.config.vocab_size
    prompts = torch.randint(5, size, (options.prompts, options.prompt_tokens), generator=generator).tolist()
    rows = options.prompts * options.group_size
    print(f"{sum(weight.numel() for weight in policy.model.parameters()):,} weights, {rows} rows, {options.threads} threads")
    ways = {
        "transformers generate": lambda: generate(policy, prompts, options),
        "each row reads its prompt": lambda: alone(policy, prompts, options),
        "prompt read once per group": lambda: grouped(policy, prompts, options),
    }
    for name, way in ways.items():
        seconds = min(timed(way) for _ in range(options.repeats))
        print(f"{name:28s} {seconds:8.2f} s {rows * options.new_tokens / seconds:10.0f} tokens/s")


def generate(policy: LoadedPolicy, prompts: list[list[int]], options: argparse.Namespace) -> None:
    """Sample with transformers."""
    ids = torch.tensor(prompts).repeat_interleave(options.group_size, 0)
    settings = {"do_sample": True, "top_k": 0, "max_new_tokens": options.new_tokens, "min_new_tokens": options.new_tokens}
    with torch.inference_mode():
        policy.model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **settings)


def alone(policy: LoadedPolicy, prompts: list[list[int]], options: argparse.Namespace) -> None:
    """Sample with one prompt per row."""
    repeated = [prompt for prompt in prompts for _ in range(options.group_size)]
    Sampler(policy).sample(repeated, [[str(i)] for i in range(len(repeated))], options.new_tokens, 1.0, 0, 1 << 20)


def grouped(policy: LoadedPolicy, prompts: list[list[int]], options: argparse.Namespace) -> None:
    """Sample as the rollout stage does."""
    names = [[f"{i}/{j}" for j in range(options.group_size)] for i in range(len(prompts))]
    Sampler(policy).sample(prompts, names, options.new_tokens, 1.0, 0, 1 << 20)


def timed(way: Callable[[], None]) -> float:
    """Return the seconds that a call takes."""
    began = time.monotonic()
    way()
    return time.monotonic() - began


if __name__ == "__main__":
    main()
