"""Throughput and numerics of sampler and update in bfloat16 on a GPU: models of real sizes with random weights, under LoRA.

Run: python benchmarks/gpu.py [--only qwen2.5-0.5b] [--prompts 32] [--group-size 8] [--prompt-tokens 128] [--new-tokens 128] [--repeats 3]
Sizes are those of Qwen2.5-0.5B and Qwen2.5-7B, built from a config: nothing is loaded. The sampler's weights are bfloat16, the update runs
under autocast over float32 weights, as `update.precision: bfloat16` does, on the rows that were just sampled. Where no GPU is found it says
so and runs a small shape on the CPU in float32 (--precision bfloat16 there: the same paths, slower, as a check alone).

Share of peak: arithmetic counted from the config (products of matrices and attention, forward and backward) over that of a large product
of two matrices, measured here in the same precision. Random policies share next to no tokens: every row is computed by itself. Numerics:
largest and mean absolute difference of the sampled tokens' log-probabilities, to the update's forward pass and to one in float32.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ospo_cli  # noqa: F401  (first: it tells OpenMP to wait passively, which is read when torch loads)

# isort: split
import numpy as np
import torch
from numpy.typing import NDArray

from ospo_cli.params.update import Update
from ospo_cli.policies.folder import LoadedPolicy
from ospo_cli.sampling.causal_lm import SampledRow, Sampler
from ospo_cli.sampling.next_token import Sampling
from ospo_cli.sampling.sampler import Request
from ospo_cli.training import forward, gradient_step
from ospo_cli.training.rows import Rows
from ospo_cli.training.token_batches import Group
from ospo_cli.training.training_state import Training

# hidden, feed-forward, layers, heads, key/value heads, vocabulary, tied embeddings
SIZES: dict[str, tuple[int, int, int, int, int, int, bool]] = {
    "qwen2.5-0.5b": (896, 4864, 24, 14, 2, 151_936, True),
    "qwen2.5-7b": (3584, 18_944, 28, 28, 4, 152_064, False),
    "small": (128, 384, 3, 4, 2, 1024, True),
}
RANK = 16
LEARNING_RATE = 1e-5


def main() -> None:
    """Print the lines of each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=tuple(SIZES))
    parser.add_argument("--precision", choices=("float32", "bfloat16"))
    parser.add_argument("--tokens-per-micro-batch", type=int, default=8192)
    parser.add_argument("--gradient-checkpointing", action="store_true")
    for name, default in (("prompts", 32), ("group-size", 8), ("prompt-tokens", 128), ("new-tokens", 128), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}")
        names = (options.only,) if options.only else ("qwen2.5-0.5b", "qwen2.5-7b")
    else:
        print("no GPU was found: a small shape on the CPU")
        names = (options.only or "small",)
        torch.set_num_threads(1)
        if not options.only:
            options.prompts, options.prompt_tokens, options.new_tokens = 4, 32, 16
    options.precision = options.precision or ("bfloat16" if device.type == "cuda" else "float32")
    for name in names:
        measure(name, device, options)


def measure(name: str, device: torch.device, options: argparse.Namespace) -> None:
    """Print a size's lines."""
    dtype = torch.bfloat16 if options.precision == "bfloat16" else torch.float32
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    peak = peak_arithmetic(device, dtype)
    policy = random_policy(name, device)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(5, SIZES[name][5], options.prompt_tokens).tolist() for _ in range(options.prompts)]
    ids = [[f"{i}/{j}" for j in range(options.group_size)] for i in range(options.prompts)]
    base = policy.model.get_base_model()
    shape = f"{name}, {options.precision}, {options.prompts} prompts of {options.prompt_tokens} × {options.group_size}"
    shape += f" completions of {options.new_tokens} tokens"

    seconds, found = sampled(policy, without_adapter(base).to(dtype), prompts, ids, options)  # a fresh adapter changes nothing: B = 0
    tokens = options.prompts * options.group_size * options.new_tokens
    work = sampler_work(name, options.prompts, options.group_size, options.prompt_tokens, options.new_tokens)
    print(
        f"{shape}\n  sampler: {tokens / seconds:.0f} tokens/s, {memory(device):.2f} GiB at most, {work / seconds / peak:.1%} of peak",
        flush=True,
    )

    rows = rows_of(prompts, found, options.new_tokens)
    settings = Update(
        learning_rate=LEARNING_RATE,
        precision=options.precision,
        tokens_per_micro_batch=options.tokens_per_micro_batch,
        gradient_checkpointing=options.gradient_checkpointing,
        max_logprob_mismatch=1e9,
    )
    with autocast_anywhere(device):
        trained = forward.logprobs_of(policy, rows, options.tokens_per_micro_batch, options.precision)
    exact = forward.logprobs_of(policy, rows, options.tokens_per_micro_batch)
    print(
        f"  numerics: sampler to update {apart(rows.behavior_logprobs, trained)}, sampler to float32 {apart(rows.behavior_logprobs, exact)}"
    )

    training = Training(policy.model, 0.0, 1.0)
    if options.gradient_checkpointing:
        forward.checkpoint_layers(policy)
    losses: list[float] = []

    def update() -> None:
        losses.append(gradient_step.accumulate(policy, rows, rows.groups, settings)["loss"])
        training.step(LEARNING_RATE)

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with autocast_anywhere(device):
        seconds = best(update, options.repeats, device)
    work = update_work(name, options.prompts, options.group_size, options.prompt_tokens, options.new_tokens)
    print(
        f"  update: {tokens / seconds:.0f} tokens/s, {memory(device):.2f} GiB at most, {work / seconds / peak:.1%} of peak, "
        f"losses {losses[0]:+.6f} to {losses[-1]:+.6f}; peak {peak / 1e12:.2f} TFLOP/s",
        flush=True,
    )


def sampled(
    policy: LoadedPolicy, model: Any, prompts: list[list[int]], ids: list[list[str]], options: argparse.Namespace
) -> tuple[float, list[list[SampledRow]]]:
    """Return the least seconds, and the completions; the model's copy and its cache go with the sampler."""
    sampler = Sampler(LoadedPolicy(**{**vars(policy), "model": model}))
    found: list[list[SampledRow]] = []

    def work() -> None:
        found[:] = sampler.sample(Request(prompts, ids, options.new_tokens, Sampling(), 0, 1 << 20))

    return best(work, options.repeats, policy.device), found


def random_policy(name: str, device: torch.device) -> LoadedPolicy:
    """Return a policy with random weights under a fresh adapter on all linear layers; its completions never end."""
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM
    from transformers.utils import logging

    hidden, inner, layers, heads, kv_heads, vocabulary, tied = SIZES[name]
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=tied,
        use_sliding_window=False,
    )
    logging.set_verbosity_error()
    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen2ForCausalLM(config).eval().requires_grad_(False)
        model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"))
    tokenizer: Any = SimpleNamespace(pad_token_id=0)
    pieces: Any = SimpleNamespace(text=lambda ids: "")
    return LoadedPolicy(Path(name), model.eval(), tokenizer, pieces, -1, 1 << 15, "", device, True)


def without_adapter(model: Any) -> Any:
    """Return a copy of the model with plain linear layers in place of those that an adapter wraps."""
    from peft.tuners.lora import LoraLayer

    plain = copy.deepcopy(model)
    for name, module in list(plain.named_modules()):
        if isinstance(module, LoraLayer):
            parent, _, own = name.rpartition(".")
            setattr(plain.get_submodule(parent), own, module.get_base_layer())
    return plain


def rows_of(prompts: Sequence[Sequence[int]], found: list[list[SampledRow]], new_tokens: int) -> Rows:
    """Return the rollouts with random advantages."""
    size = len(found[0])
    groups = [
        Group(prompt, [row.token_ids for row in group], index * size)
        for index, (prompt, group) in enumerate(zip(prompts, found, strict=True))
    ]
    logprobs = np.asarray([value for group in found for row in group for value in row.logprobs], dtype=np.float32)
    lengths = np.full(len(prompts) * size, new_tokens)
    advantages = np.random.default_rng(1).normal(size=len(logprobs)).astype(np.float32)
    return Rows(groups, lengths, np.cumsum(lengths) - lengths, logprobs, advantages, None, 1.0, new_tokens)


@contextlib.contextmanager
def autocast_anywhere(device: torch.device) -> Any:
    """Let the update's arithmetic be bfloat16 on a CPU too, which `ospo update` refuses as slow: here the path alone is checked."""
    real = forward.arithmetic
    if device.type == "cpu":
        forward.arithmetic = lambda _, precision: torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")
    try:
        yield
    finally:
        forward.arithmetic = real


def best(work: Callable[[], None], repeats: int, device: torch.device) -> float:
    """Return the least seconds of the repeats, after one that warms up."""
    found = []
    for _ in range(repeats + 1):
        wait(device)
        began = time.perf_counter()
        work()
        wait(device)
        found.append(time.perf_counter() - began)
    return min(found[1:])


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory(device: torch.device) -> float:
    """Return the GiB held at most, of the GPU or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def peak_arithmetic(device: torch.device, dtype: torch.dtype) -> float:
    """Return the floating-point operations per second of a large product of two matrices."""
    size = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))

    def work() -> None:
        for _ in range(8):
            torch.matmul(left, right)

    return 8 * 2 * size**3 / best(work, 5, device)


def layer_weights(name: str) -> int:
    """Return the weights in the products of all layers, embeddings left out."""
    hidden, inner, layers, heads, kv_heads, _, _ = SIZES[name]
    return layers * (2 * hidden * hidden + 2 * hidden * hidden * kv_heads // heads + 3 * hidden * inner)


def attention_work(name: str, start: int, count: int) -> int:
    """Return the operations of the attention of `count` tokens from position `start` on: scores and sums of values."""
    hidden, _, layers, *_ = SIZES[name]
    return 4 * layers * hidden * (count * start + count * (count + 1) // 2)


def sampler_work(name: str, prompts: int, size: int, prompt_tokens: int, new_tokens: int) -> int:
    """Return the operations of sampling: each prompt once, then every row by itself; the last token of a row is not read."""
    head = 2 * SIZES[name][0] * SIZES[name][5]
    read = prompts * (2 * layer_weights(name) * prompt_tokens + attention_work(name, 0, prompt_tokens) + head)
    rows = prompts * size
    return read + rows * ((2 * layer_weights(name) + head) * (new_tokens - 1) + attention_work(name, prompt_tokens, new_tokens - 1))


def update_work(name: str, prompts: int, size: int, prompt_tokens: int, new_tokens: int) -> int:
    """Return the operations of a step under LoRA: forward, and backward by the inputs (attention: twice); the head's logits and slopes.

    The prompt is counted once per rollout group, as it is computed where packing pays; adapters are left out (below 3 % here).
    """
    head = 2 * SIZES[name][0] * SIZES[name][5]
    tokens = prompt_tokens + size * new_tokens
    attention = attention_work(name, 0, prompt_tokens) + size * attention_work(name, prompt_tokens, new_tokens)
    return prompts * (4 * layer_weights(name) * tokens + 3 * attention + 2 * head * size * new_tokens)


def apart(first: NDArray[np.float32], second: NDArray[np.float32]) -> str:
    """Return the largest and the mean absolute difference as text."""
    difference = np.abs(first - second)
    return f"{difference.max():.1e} at most, {difference.mean():.1e} on average"


if __name__ == "__main__":
    main()
