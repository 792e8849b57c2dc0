"""One training step over the same rows: this project's update against TRL's GRPOTrainer, in one process; completion tokens per second.

Run: python benchmarks/update.py [--policy data/pretrained/smollm2-135m] [--groups 16] [--group-size 8] [--prompt-tokens 30]
With a policy folder: that model under LoRA (rank 16, all linear layers) besides the tiny one. Without TRL (extra [oracle]) ours alone is
measured. --memory ROWS TOKENS: one step of so many rows of so many tokens over the policy folder (--full: all its weights; without a
folder the tiny policy), peak memory alone, beside what policies/memory_plan.py planned.

Every row has the same lengths, so that TRL loses nothing to padding; its gradient checkpointing, on by default, is off; of the
micro-batches that were tried each side is given its best. Peaks are of the process during a step, with both sides' models loaded.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import importlib.util
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ospo_cli  # noqa: F401  (first: it tells OpenMP to wait passively, which is read when torch loads)

# isort: split
import numpy as np
import torch

from ospo_cli.executors.usage import Usage
from ospo_cli.params.policy import Policy
from ospo_cli.params.update import Update
from ospo_cli.policies import lora
from ospo_cli.policies.folder import LoadedPolicy
from ospo_cli.policies.opening import load_policy
from ospo_cli.policies.small_llama import write_small_llama
from ospo_cli.training import forward, gradient_step, memory_plan, update_sizes
from ospo_cli.training.rows import Rows
from ospo_cli.training.token_batches import Group
from ospo_cli.training.training_state import Training

COLOURS, THINGS = ("navy", "red", "olive", "black"), ("coat", "dress", "boots", "scarf")
LEARNING_RATE = 1e-5  # small: the rows stay near the policy however often they are trained on


def main() -> None:
    """Print the lines of each policy, the ratio last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path)
    for name, default in (("threads", 2), ("groups", 16), ("group-size", 8), ("prompt-tokens", 30), ("new-tokens", 14), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--memory", type=int, nargs=2, metavar=("ROWS", "TOKENS"))
    parser.add_argument("--by", choices=("wall", "cpu"), default="wall", help="seconds that are compared; cpu on a busy machine")
    parser.add_argument("--full", action="store_true", help="all weights of the policy folder in place of LoRA")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        tiny = Path(scratch) / "tiny"
        write_small_llama([f"{a} {b}" for a in COLOURS for b in THINGS], Policy(), 0, tiny)
        folders = {} if options.memory and options.policy else {"tiny": tiny}
        if options.policy is not None and options.full:
            folders[options.policy.name] = options.policy
        elif options.policy is not None:
            adapter = Path(scratch) / "adapter"
            adapter.mkdir()
            base = options.policy.resolve()
            lora.write_fresh_adapter(adapter, base, Path(scratch), Policy(base=str(base), lora_rank=16, lora_alpha=32.0), 0)
            folders[options.policy.name] = adapter
        for name, folder in folders.items():
            if options.memory:
                measure_memory(name, folder, *options.memory, options.threads)
            else:
                compare(name, folder, options, Path(scratch) / "trl")


def compare(name: str, folder: Path, options: argparse.Namespace, scratch: Path) -> None:
    """Print our step and TRL's for one policy."""
    policy = load_policy(folder, options.threads, trainable=True)
    rows = draw_rows(policy, options.groups, options.group_size, options.prompt_tokens, options.new_tokens)
    tokens = len(rows.advantages)
    what = f"{sum(weight.numel() for weight in policy.model.parameters()) / 1e6:.1f} M weights{', LoRA' if policy.is_adapter else ''}"
    lengths = f"prompt {options.prompt_tokens}, completion {options.new_tokens}"
    print(f"{name}: {what}, {len(rows.lengths)} rows, {lengths}, {options.threads} threads")
    steps: dict[str, Callable[[], float]] = {}
    for budget in (1024, 2048, 4096):
        steps[f"ours, micro-batch {budget} tokens"] = our_step(policy, rows, Update(tokens_per_micro_batch=budget))
    if importlib.util.find_spec("trl") is None:
        print("TRL is not installed (extra [oracle]): ours alone")
    else:
        other = load_policy(folder, options.threads, trainable=True)
        for module in other.model.modules():
            module.__dict__.pop("forward", None)  # the adapter as peft computes it, not policies/fused_adapter.py
        for size in (32, 64, 128):
            steps[f"TRL, micro-batch {size} rows"] = trl_step(other, rows, size, scratch)
    losses = {label: step() for label, step in steps.items()}  # the first round warms up
    found = timed(steps, options.repeats)
    seconds = {
        label: min(usage.seconds if options.by == "wall" else usage.cpu_seconds for usage in usages) for label, usages in found.items()
    }
    peaks = {label: max(usage.peak_bytes for usage in usages) / 2**30 for label, usages in found.items()}
    for label, best in seconds.items():
        print(f"  {label:30s} {best:7.2f} s {tokens / best:8.0f} tokens/s, peak {peaks[label]:.2f} GiB, loss {losses[label]:+.6f}")
    ours = min((label for label in seconds if label.startswith("ours")), key=lambda label: seconds[label])
    line = f"{name}: ours {tokens / seconds[ours]:.0f} tokens/s, peak {peaks[ours]:.2f} GiB"
    theirs = min((label for label in seconds if label.startswith("TRL")), key=lambda label: seconds[label], default=None)
    if theirs is not None:
        # Only the first step of either side starts from the same weights.
        first = [next(loss for label, loss in losses.items() if label.startswith(who)) for who in ("ours", "TRL")]
        line += f", first losses apart by {abs(first[0] - first[1]):.0e}; TRL {tokens / seconds[theirs]:.0f} tokens/s, "
        line += f"peak {peaks[theirs]:.2f} GiB, {seconds[theirs] / seconds[ours]:.1f}x"
    print(line, flush=True)


def give_back() -> None:
    """Return freed memory to the system, so that the next peak is what the next step needs (glibc)."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def timed(steps: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[Usage]]:
    """Return what each step took, all in turn: what else the machine does then falls on both sides."""
    found: dict[str, list[Usage]] = {label: [] for label in steps}
    for _ in range(repeats):
        for label, step in steps.items():
            give_back()
            with Usage() as usage:
                step()
            found[label].append(usage)
    return found


def draw_rows(policy: LoadedPolicy, groups: int, group_size: int, prompt_tokens: int, new_tokens: int) -> Rows:
    """Return random rows with their log-probabilities under the policy."""
    rng = np.random.default_rng(0)
    vocabulary = len(policy.tokenizer)
    made = [
        Group(
            rng.integers(5, vocabulary, prompt_tokens).tolist(),
            [rng.integers(5, vocabulary, new_tokens).tolist() for _ in range(group_size)],
            index * group_size,
        )
        for index in range(groups)
    ]
    lengths = np.full(groups * group_size, new_tokens)
    starts = np.cumsum(lengths) - lengths
    count = int(lengths.sum())
    rows = Rows(made, lengths, starts, np.zeros(count, np.float32), rng.normal(size=count).astype(np.float32), None, 1.0, new_tokens)
    return Rows(made, lengths, starts, forward.logprobs_of(policy, rows, 2048), rows.advantages, None, 1.0, new_tokens)


def our_step(policy: LoadedPolicy, rows: Rows, settings: Update) -> Callable[[], float]:
    """Return a training step as `ospo update` takes it; it gives the loss."""
    training = Training(policy.model, 0.0, 1.0)

    def step() -> float:
        measures = gradient_step.accumulate(policy, rows, rows.groups, settings)
        training.step(LEARNING_RATE)
        return measures["loss"]

    return step


def trl_step(policy: LoadedPolicy, rows: Rows, size: int, scratch: Path) -> Callable[[], float]:
    """Return a training step by TRL's GRPOTrainer over the same rows, in micro-batches of `size` rows; it gives the loss."""
    completions = [ids for group in rows.groups for ids in group.completions]
    prompts = [list(group.prompt) for group in rows.groups for _ in group.completions]
    size = min(size, len(completions))
    trainer = _trainer(policy, rows.max_new_tokens, size, len(completions), scratch)
    trained = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    shape = (len(completions), -1)
    everything = {
        "prompt_ids": torch.tensor(prompts),
        "completion_ids": torch.tensor(completions),
        "advantages": torch.from_numpy(rows.advantages).reshape(shape),
        "old_per_token_logps": torch.from_numpy(rows.behavior_logprobs).reshape(shape),
    }
    for name in ("prompt", "completion"):
        everything[f"{name}_mask"] = torch.ones_like(everything[f"{name}_ids"])
    parts: list[dict[str, Any]] = [
        {name: value[start : start + size] for name, value in everything.items()} for start in range(0, len(completions), size)
    ]
    trainer.current_gradient_accumulation_steps = len(parts)

    def step() -> float:
        trainer.model.train()
        total = 0.0
        for part in parts:
            loss = trainer._compute_loss(trainer.model, part)
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total

    return step


def _trainer(policy: LoadedPolicy, most_tokens: int, size: int, count: int, scratch: Path) -> Any:
    """Return a GRPOTrainer of `count` completions in micro-batches of `size`, without gradient checkpointing."""
    warnings.simplefilter("ignore", FutureWarning)  # of an argument's name, which TRL itself still uses
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    config = GRPOConfig(
        output_dir=str(scratch),
        loss_type="grpo",
        beta=0.0,
        epsilon=0.2,
        temperature=1.0,
        max_completion_length=most_tokens,
        learning_rate=LEARNING_RATE,
        gradient_checkpointing=False,
        per_device_train_batch_size=size,
        num_generations=2,
        use_cpu=True,
        bf16=False,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
    )
    with contextlib.redirect_stdout(sys.stderr):
        trainer = GRPOTrainer(
            model=policy.model,
            processing_class=policy.tokenizer,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=config,
            train_dataset=Dataset.from_list([{"prompt": "coat"}] * count),
        )
    if trainer.model.is_gradient_checkpointing:
        raise SystemExit("TRL's gradient checkpointing is on: the comparison would be unfair")
    return trainer


def measure_memory(name: str, folder: Path, rows: int, tokens: int, threads: int) -> None:
    """Print time and peak memory of one step of `rows` completions of `tokens` tokens, G = 8, with the default micro-batch."""
    policy = load_policy(folder, threads, trainable=True)
    loaded = resident()
    settings = Update(learning_rate=LEARNING_RATE)
    size = min(rows, 8)
    drawn = draw_rows(policy, max(rows // size, 1), size, 30, tokens)
    planned = memory_plan.needed_bytes(policy, drawn.groups, settings) / 2**30
    training = Training(policy.model, 0.0, 1.0)
    start = update_sizes.copied(training.weights)  # as `ospo update` keeps them
    gradient_step.accumulate(policy, drawn, drawn.groups[:1], settings)
    training.step(LEARNING_RATE)  # from here on there are moments
    began = time.perf_counter()
    gradient_step.accumulate(policy, drawn, drawn.groups, settings)
    training.step(LEARNING_RATE)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    del start
    count = len(drawn.lengths)
    speed = f"{count} rows of {tokens} tokens in {seconds:.0f} s, {count * tokens / seconds:.0f} tokens/s"
    print(f"{name}: {speed}, loaded {loaded:.2f} GiB, peak {peak:.2f} GiB: {peak - loaded:.2f} more, {planned:.2f} planned")


def resident() -> float:
    """Return the GiB that the process holds now: what loading needed in passing is no part of it."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**30


if __name__ == "__main__":
    main()
