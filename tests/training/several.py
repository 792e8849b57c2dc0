"""The same training in one process and in several, which meet over gloo: `python -m tests.training.several FOLDER CASE:COUNT,…`.

One process imports torch; for each case and number of processes as many children are forked as take part. Each case works in a copy of its own.
"""

import dataclasses
import importlib
import json
import logging
import os
import signal
import sys
import traceback
from pathlib import Path

import numpy as np
import polars as pl

from ospo_cli.executors import peers
from ospo_cli.layout import Layout
from ospo_cli.tables import parquet
from ospo_cli.tables.attribute import TOKEN_ADVANTAGES
from ospo_cli.tables.rollout import ROLLOUTS
from tests.policies.tiny import copy_project, tiny_params, write_advantages, write_prepared, write_tiny_policy

# Section update of each case; the rest of the parameters is tiny_params'.
KL, NARROW, ALONE = {"kl_weight": 0.3}, "bfloat16", "one group a step"
UPDATES = {
    "mean over rows": {},
    "mean over tokens": {"aggregation": "token_mean"},
    "constant": {"aggregation": "constant", "tokens_per_micro_batch": 64},
    "alive groups": {"groups": "alive", "aggregation": "token_mean", "max_gradient_norm": 0.1, "weight_decay": 0.1},
    "ratio of sequences": {"ratio": "sequence", "clip_low": 0.01, "clip_high": 0.02},
    "sequence-token": {"ratio": "sequence-token", "dual_clip": 3.0},
    "trace": {"trace": 0.7, "entropy_bonus": 0.1},
    "k3 in the loss": {**KL, "aggregation": "token_mean"},
    "k1 in the weighted loss": {**KL, "kl": "k1", "kl_in": "weighted-loss"},
    "k2 in the reward": {**KL, "kl": "k2", "kl_in": "reward"},
    "sampler": {"sampler_correction": "sequence-truncate", "sampler_bound": 1.01},
    "mirror descent": {"objective": "mirror-descent"},
    "mirror descent of tokens": {"objective": "mirror-descent", "mirror_unit": "token"},
    "imitation": {"objective": "sft", "aggregation": "token_mean"},
    "preference": {"objective": "dpo"},
    "preference to the warm start": {"objective": "dpo", "dpo_reference": "warm-start"},
    "recomputed layers": {"gradient_checkpointing": True},
    ALONE: {"groups_per_step": 1},
    f"{ALONE} in parts": {"groups_per_step": 1, "tokens_per_micro_batch": 32},
    "adapter": {**KL},
    NARROW: {"precision": "bfloat16", "max_logprob_mismatch": 1.0},
}
SECTIONS = {"adapter": {"policy": {"lora_rank": 3}}}
WARM_START, INFINITE, KILLED, CUT = "warm start", "infinite in one process", "killed", "cut weights in "
CASES = (*(case for case in UPDATES if case not in (NARROW, f"{ALONE} in parts")), WARM_START)


def params_of(case):
    """Return the parameters of a case: small steps, since AdamW's first ones are the sign of the gradient, rounding or not."""
    update = {"learning_rate": 1e-4, "epochs": 2, "reference_groups": 3, **UPDATES.get(case, {})}
    return tiny_params(**{"update": update, "warm_start": {"steps": 5, "batch_size": 7, "learning_rate": 1e-4}, **SECTIONS.get(case, {})})


def write(root):
    """Write the project: rollouts of unequal lengths by a policy of moderate weights, advantages of either sign that differ by token."""
    from ospo_cli.stages import rollout

    layout = write_prepared(root)
    write_tiny_policy(layout.policy(0), scale=2.0)
    rollout.execute(layout, tiny_params(), 1)
    write_advantages(layout, 1)
    rng = np.random.default_rng(3)
    rollouts = parquet.read(layout.iteration(1, "rollouts.parquet"), ROLLOUTS)
    values = [(rng.normal(size=len(ids)).round(0) * (row % 4 > 0)).tolist() for row, ids in enumerate(rollouts["token_ids"].to_list())]
    table = pl.DataFrame({"rollout_id": rollouts["rollout_id"], "advantages": values}, schema=TOKEN_ADVANTAGES.schema)
    parquet.write(table, layout.iteration(1, "token_advantages.parquet"), TOKEN_ADVANTAGES)
    return layout


def work(layout, case):
    """Do the case's training in this process, whose number and company are known."""
    import torch

    from ospo_cli.stages import update, warm_start

    if case == WARM_START:
        warm_start.execute(layout, params_of(case))
        return
    if case == NARROW:  # which the stage refuses without a GPU
        from ospo_cli.training import forward

        forward.arithmetic = lambda policy, precision: torch.autocast("cpu", dtype=getattr(torch, precision))
    if case == INFINITE and peers.rank() == 1:
        from ospo_cli.training.objectives.policy_gradient import PolicyGradient

        real = PolicyGradient.loss
        PolicyGradient.loss = lambda self, tokens: dataclasses.replace(found := real(self, tokens), loss=found.loss * float("inf"))
    if case == KILLED and peers.rank() == 1:
        from ospo_cli.training.training_state import Training

        step, left = Training.step, [2]

        def killing(self, rate):
            left[0] -= 1
            return step(self, rate) if left[0] >= 0 else os.kill(os.getpid(), signal.SIGKILL)

        Training.step = killing
    if case.startswith(ALONE) and peers.rank() == 0 and not peers.cuts_weights():
        _keep_gradients(layout.root / "gradients")
    update.execute(layout, params_of(case), 1)


def _keep_gradients(folder):
    """Have every optimiser step write the gradient that it takes, clipped, by its number."""
    from safetensors.torch import save_file

    from ospo_cli.training.training_state import Training

    take = Training._adamw
    folder.mkdir()

    def keeping(self, rate):
        save_file({name: weight.grad for name, weight in self.weights.items()}, folder / f"{self.finished_steps:02d}.safetensors")
        take(self, rate)

    Training._adamw = keeping


def forked(folder, count, function, cuts=False):
    """Run a function in so many processes that have joined, their weights cut or not; return their exit statuses."""
    children = []
    for own in range(count):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                if count > 1:
                    peers.join(cuts, own, count, f"file://{folder}/meeting")
                function()
                peers.leave()
                status = 0
            except BaseException as error:
                sys.stderr.write(f"process {own}: {type(error).__name__}: {error}\n")
                if os.environ.get("OSPO_TRACEBACK"):
                    traceback.print_exc()
            os._exit(status)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def main(folder, asked):
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # which peft imports
    for name in (
        "torch.distributed.fsdp",
        "transformers.models.llama.modeling_llama",
        "peft.tuners.lora.layer",
    ):  # once, not in every child
        importlib.import_module(name)
    for case, count in asked:
        copy = copy_project(Layout(folder / "project"), folder / f"{case} {count}")
        plain, cuts = case.removeprefix(CUT), case.startswith(CUT)
        statuses = forked(copy.root, count, lambda copy=copy, plain=plain: work(copy, plain), cuts)
        sys.stdout.write(json.dumps([case, count, statuses]) + "\n")
        if plain == KILLED:  # the same command again, in one process more, and its weights not cut
            (copy.root / "meeting").unlink()
            statuses = forked(copy.root, count + 1, lambda copy=copy: work(copy, "mean over rows"))
            sys.stdout.write(json.dumps([case, count + 1, statuses]) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [(case, int(count)) for case, count in (each.split(":") for each in sys.argv[2].split(","))])
