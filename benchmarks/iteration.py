"""A whole iteration: rollout, segment, score, attribute, update as `ospo run` does it, against TRL's GRPOTrainer with a reward over bm25s.

    python benchmarks/iteration.py PROJECT [--iter 1] [--repeats 5] [--counted 1]   # with TRL, bm25s (make test-oracle: .venv-oracle)

The project must hold prepared tables and policy K − 1 (`ospo run` once); it is copied. Both sides take its policy, its prompts of the
iterations, group size, temperature, cap of tokens, groups per step and pools; TRL's reward is the metric of `ospo`'s retriever bm25s on the
answer, so nothing is scored but the answers, while ospo scores all coalitions that its credit needs. TRL draws with its own generator
(transformers' `generate`), one micro-batch a step, without gradient checkpointing or a KL term; its learning rate is next to 0, so that all
its iterations start from the same policy; set update.kl_weight: 0 in a project whose preset has a KL term. Each repeat is a process per
side, in turns; each process runs iteration K, when things are imported and compiled, and then as many further ones as count (`--counted`),
ours with what `ospo run` keeps from stage to stage and measures beside the steps. Printed: median [least to most] of processor and wall
seconds of the counted ones, the share of each stage, and the ratio per token, since both draw their own answers.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

    from ospo_cli.layout import Layout
    from ospo_cli.params.rollout import Rollout
    from ospo_cli.params.whole import Params

STAGES = ("rollout", "segment", "score-coalitions", "attribute", "update")
CACHES = ("rollouts", "score_coalitions", "update")


class Clock:
    """Processor and wall seconds by name, summed."""

    def __init__(self) -> None:
        self.took: dict[str, list[float]] = {}

    def timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time counted under a name."""

        def run(*given: Any, **named: Any) -> Any:
            cpu, wall = time.process_time(), time.perf_counter()
            found = work(*given, **named)
            sums = self.took.setdefault(name, [0.0, 0.0])
            sums[0] += time.process_time() - cpu
            sums[1] += time.perf_counter() - wall
            return found

        return run


def ours(numbers: range) -> list[dict[str, Any]]:
    """Return what the iterations behind the first one take in the present folder, stage by stage, and their sampled tokens."""
    from ospo_cli.executors import kept
    from ospo_cli.graph import runner
    from ospo_cli.graph.nodes import node
    from ospo_cli.layout import Layout
    from ospo_cli.params.whole import load
    from ospo_cli.tables import placed
    from ospo_cli.tables.rollout import ROLLOUTS

    layout = Layout(Path())
    params = load(layout.params)
    found: list[dict[str, Any]] = []
    with kept.between_stages():
        for number in numbers:
            clock = Clock()
            for cache in CACHES:
                shutil.rmtree(layout.cache / cache, ignore_errors=True)
            for stage in STAGES:
                clock.timed(stage, runner.execute)(node(stage, number, params), layout, params)
            tokens = int(placed.read(ROLLOUTS, layout, number)["token_ids"].list.len().sum())
            found.append({"took": clock.took, "tokens": tokens})
            print(found[-1], flush=True)
    return found[1:]


def trl(numbers: range) -> list[dict[str, Any]]:
    """Return the same of GRPOTrainer's iterations."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import GRPOTrainer

    from ospo_cli.layout import Layout
    from ospo_cli.params.whole import load
    from ospo_cli.rewards.judged_reward import JudgedReward
    from ospo_cli.rewards.judgments import read_prepared
    from ospo_cli.text.composition import served

    layout = Layout(Path())
    params = load(layout.params)
    tables = read_prepared(layout)
    texts = _prompts(layout, tables[1], params, numbers)
    reward = JudgedReward(tables, params, retriever="bm25s")
    clock = Clock()
    tokens = [0]

    def score(completions: list[Any], completion_ids: list[Any], prompt_id: list[str], **_: Any) -> list[float]:
        tokens[-1] += sum(map(len, completion_ids))
        texts = [completion[0]["content"] for completion in completions]
        return reward.values(prompt_id, [served("", text, "replace").query for text in texts]).tolist()

    each = len(texts) // len(numbers)
    steps = max(1, each // params.update.groups_per_step)
    config = _config(params.rollout, each * params.rollout.group_size // steps, steps, len(numbers))
    folder = layout.policy(numbers[0] - 1)
    model = _trainable(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    torch.set_num_threads(params.policy.threads)
    trainer = GRPOTrainer(model=model, processing_class=tokenizer, reward_funcs=score, args=config, train_dataset=Dataset.from_list(texts))
    trainer._generate = clock.timed("generate", trainer._generate)
    trainer._calculate_rewards = clock.timed("reward", trainer._calculate_rewards)
    found: list[dict[str, Any]] = []
    marks = [(time.process_time(), time.perf_counter())]

    class Marks(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % steps:
                return
            marks.append((time.process_time(), time.perf_counter()))
            rest = [marks[-1][column] - marks[-2][column] - sum(took[column] for took in clock.took.values()) for column in (0, 1)]
            found.append({"took": clock.took | {"steps and the rest": rest}, "tokens": tokens[-1]})
            print(found[-1], flush=True)
            clock.took.clear()
            tokens.append(0)

    trainer.add_callback(Marks())
    trainer.train()
    return found[1:]


def _prompts(layout: Layout, prompts: pl.DataFrame, params: Params, numbers: range) -> list[dict[str, Any]]:
    """Return the rows of TRL's data set: the prompts that `ospo rollout` takes in these iterations."""
    from ospo_cli.stages.rollout import choose_prompts
    from ospo_cli.tables import placed
    from ospo_cli.tables.score_queries import RAW_QUERY_VALUES

    values = placed.read(RAW_QUERY_VALUES, layout) if params.rollout.prompts == "headroom" else None
    return [
        {"prompt": [{"role": "user", "content": text}], "prompt_id": name}
        for number in numbers
        for name, text in choose_prompts(prompts, values, params.rollout, params.train.seed, number)
        .select("prompt_id", "prompt")
        .iter_rows()
    ]


def _config(rollout: Rollout, rows: int, steps: int, iterations: int) -> Any:
    """Return TRL's settings for iterations of so many steps, of so many rows each."""
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir="trl",
        loss_type="grpo",
        beta=0.0,
        temperature=rollout.temperature,
        max_completion_length=rollout.max_new_tokens,
        num_generations=rollout.group_size,
        per_device_train_batch_size=rows,
        steps_per_generation=steps,
        max_steps=iterations * steps,
        learning_rate=1e-12,
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
    )


def _trainable(folder: Path) -> Any:
    """Return a policy as TRL trains it: a model of transformers, or with an adapter peft's."""
    if (folder / "adapter_config.json").exists():
        from peft import AutoPeftModelForCausalLM

        return AutoPeftModelForCausalLM.from_pretrained(folder, is_trainable=True, local_files_only=True)
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)


def one_process(side: str, project: Path, iteration: int, counted: int) -> list[dict[str, Any]]:
    """Return what a process of one side found in a copy of the project."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "project"
        shutil.copytree(project, folder, ignore=shutil.ignore_patterns("store", ".git", ".dvc", "pretrained"))
        if (project / "data" / "pretrained").exists():
            (folder / "data" / "pretrained").symlink_to((project / "data" / "pretrained").resolve())
        command = [sys.executable, str(Path(__file__).resolve()), str(folder), "--iter", str(iteration), "--side", side]
        command += ["--counted", str(counted)]
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, env=os.environ | {"OMP_WAIT_POLICY": "passive"}, check=False
        )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def show(side: str, found: list[dict[str, Any]]) -> list[float]:
    """Print a side's seconds and shares; return its median processor and wall seconds per 1,000 tokens."""
    totals = [[sum(took[column] for took in one["took"].values()) for one in found] for column in (0, 1)]
    tokens = statistics.median(one["tokens"] for one in found)
    texts = [f"{statistics.median(values):.2f} s [{min(values):.2f} to {max(values):.2f}]" for values in totals]
    print(f"{side}: processor time {texts[0]}, wall {texts[1]}; {tokens:,.0f} tokens")
    for stage in found[0]["took"]:
        cpu = statistics.median(one["took"][stage][0] for one in found)
        print(f"  {stage:<20}{cpu:7.2f} s {cpu / statistics.median(totals[0]):6.1%} of the processor time")
    return [statistics.median(value / one["tokens"] for value, one in zip(values, found, strict=True)) * 1000 for values in totals]


def main() -> None:
    """Print both sides and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("--iter", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--counted", type=int, default=1, help="iterations of each process that count")
    parser.add_argument("--side", choices=("ours", "trl"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        kept = os.dup(1)  # the libraries print; the last line is for the caller
        os.dup2(2, 1)
        found = {"ours": ours, "trl": trl}[arguments.side](range(arguments.iter, arguments.iter + 1 + arguments.counted))
        os.write(kept, (json.dumps(found) + "\n").encode())
        return
    runs: dict[str, list[dict[str, Any]]] = {"ours": []}
    if importlib.util.find_spec("trl") is None:
        print("TRL is not installed (extra [oracle]): ours alone")
    else:
        runs["trl"] = []
    for _ in range(arguments.repeats):
        for side, found_so_far in runs.items():
            found_so_far += one_process(side, arguments.project, arguments.iter, arguments.counted)
    per_token = {side: show({"ours": "ospo", "trl": "TRL"}[side], found) for side, found in runs.items()}
    if "trl" not in per_token:
        return
    ratio = [theirs / mine for mine, theirs in zip(per_token["ours"], per_token["trl"], strict=True)]
    print(f"per token TRL takes {ratio[0]:.1f} times the processor time and {ratio[1]:.1f} times the wall time")


if __name__ == "__main__":
    main()
