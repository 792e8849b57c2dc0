"""Operations and bytes per token of rollout and update, against what a core does: its own rates of matrix products and copies, measured.

    python benchmarks/limits.py [--policy data/pretrained/smollm2-135m] [--groups 16] [--group-size 8] [--repeats 5]

One thread, processor time, the best of the repeats. Without a folder: the tiny policy, untrained (its completions share few tokens).
Counted are the operations that the arithmetic needs and nothing else: 2 per weight and token in a linear layer and the output embedding,
three times that where a gradient is wanted; attention's own products are left out. Bytes: each weight is read once per decoding step, in
an update once per pass forward and twice per pass backward, and moved seven times by AdamW; activations are left out. What lies between
the share of the limit and 1 is small operations, activations and Python.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import rollout
import torch
import update

from ospo_cli.params.policy import Policy
from ospo_cli.params.update import Update
from ospo_cli.policies.folder import LoadedPolicy, render_prompt
from ospo_cli.policies.opening import load_policy
from ospo_cli.policies.small_llama import write_small_llama
from ospo_cli.sampling.causal_lm import Sampler

CAP, PROMPT_TOKENS, NEW_TOKENS = 24, 30, 14
COLUMNS = (
    "| work | tokens/s | operations a token, M | GFLOP/s | of products its size | of large products | bytes a token | GB/s | of copies |"
)


def best(work: Callable[[], object], repeats: int) -> float:
    """Return the processor seconds of the fastest repeat after one that warms up."""
    work()
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


def products(rows: int, inner: int, outer: int, repeats: int) -> float:
    """Return operations a second of products [rows, inner] × [inner, outer] in float32, enough of them to be timed."""
    left, right = torch.randn(rows, inner), torch.randn(inner, outer)
    times = max(1, int(2e8 / (2 * rows * inner * outer)))
    return 2 * rows * inner * outer * times / best(lambda: [left @ right for _ in range(times)], repeats)


def measure(policy: LoadedPolicy, options: argparse.Namespace, large: float, copies: float) -> None:
    """Print a row for rollout and one for update."""
    config, rows = policy.model.config, options.groups * options.group_size
    head = config.vocab_size * config.hidden_size
    linear = sum(weight.numel() for name, weight in policy.model.named_parameters() if weight.ndim == 2 and "embed" not in name)
    linear -= head if any("lm_head" in name for name, _ in policy.model.named_parameters()) else 0
    size = 4 * (linear + head)
    own = products(rows, config.hidden_size, config.intermediate_size, options.repeats)
    texts = [rollout.TASK + " ".join(rollout.WORDS[(7 * index + 3 * place) % 16] for place in range(4)) for index in range(options.groups)]
    ids, sampler = [render_prompt(policy, text) for text in texts], Sampler(policy)
    tokens = rollout.grouped(sampler, ids, CAP, options)
    seconds = best(lambda: rollout.grouped(sampler, ids, CAP, options), options.repeats)
    found = [("rollout", tokens / seconds, 2 * (linear + head), size * CAP / tokens)]
    drawn = update.draw_rows(policy, options.groups, options.group_size, PROMPT_TOKENS, NEW_TOKENS)
    step = update.our_step(policy, drawn, Update())
    count, run = rows * NEW_TOKENS, rows * NEW_TOKENS + options.groups * PROMPT_TOKENS
    passes = -(-run // Update().tokens_per_micro_batch)
    seconds = best(step, options.repeats)
    found.append(("update", count / seconds, 6 * (linear * run / count + head), size * (3 * passes + 7) / count))
    for name, rate, operations, moved in found:
        speed, read = rate * operations, rate * moved
        print(
            f"| {name} | {rate:,.0f} | {operations / 1e6:.2f} | {speed / 1e9:.1f} | {speed / own:.0%} | {speed / large:.0%} | "
            f"{moved:,.0f} | {read / 1e9:.2f} | {read / copies:.0%} |",
            flush=True,
        )


def main() -> None:
    """Print the machine's rates and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path)
    for name, default in (("groups", 16), ("group-size", 8), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    values = torch.zeros(1 << 25)
    copies = 2 * 4 * len(values) / best(values.clone, options.repeats)
    large = products(1024, 1024, 1024, options.repeats)
    print(f"one core: large products {large / 1e9:.1f} GFLOP/s, copies {copies / 1e9:.1f} GB/s read and written")
    print(COLUMNS + "\n" + "|---" * 9 + "|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.policy
        if folder is None:
            folder = Path(scratch)
            write_small_llama(
                [f"{a} {b} {a[:3]}{b[-3:]} {b[:2]}{a[-2:]}" for a in rollout.WORDS for b in rollout.WORDS], Policy(), 0, folder
            )
        measure(load_policy(folder, 1, trainable=True), options, large, copies)


if __name__ == "__main__":
    main()
