"""One optimiser step over nine rollouts, as this project takes it; the same rollouts, exported, are what another trainer is given."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file

from ospo_cli import presets
from ospo_cli.instruments import export
from ospo_cli.layout import Layout
from ospo_cli.params.whole import Params
from ospo_cli.policies.opening import load_policy
from ospo_cli.policies.token_pieces import TokenPieces
from ospo_cli.stages import update
from ospo_cli.tables import parquet, reference
from ospo_cli.tables.attribute import TOKEN_ADVANTAGES
from ospo_cli.tables.prepared import PROMPTS
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.training import forward, gradient_step
from ospo_cli.training.row_building import prepared, to_rows
from ospo_cli.training.rows import Rows, chosen
from tests.policies.tiny import tiny_params, write_tiny_policy

FIXTURE = Path(__file__).with_name("trl_update.json")
ITERATION = 2  # policy 001 trains, policy 000 is the reference: with both the same a penalty would have no gradient
LEARNING_RATE = 2e-4
MAX_NEW_TOKENS = 12
SAMPLER_BOUND = 1.1  # the old log-probabilities were moved by 0.15: many weights lie beyond
NOT_IN_TRL = ("grpo-lambda", "mirror-descent")
# By other trainers of TRL's than GRPOTrainer: see trl_preferences.py; the likelihood of targets is what every trainer starts from.
OF_OTHER_TRAINERS = ("best-of-g", "sft", "dpo", "dpo-all")
# By the update of row `ours`: they differ in the advantages, which every setup here is given.
AS_OURS = ("splice",)
# Every so-many-th number of the flattened weights is kept in the fixture.
STRIDE = 331


@dataclass(frozen=True)
class Setup:
    """One way to aggregate, clip, penalise and correct; `loss_type` is TRL's name of the aggregation."""

    name: str
    aggregation: str
    loss_type: str
    temperature: float = 1.0
    clip_low: float = 0.2
    clip_high: float = 0.2
    kl_weight: float = 0.0
    dual_clip: float = 0.0
    ratio: str = "token"
    kl_in: str = "loss"
    entropy_bonus: float = 0.0
    sampler_correction: str = "none"
    groups: str = "all"

    @property
    def params(self) -> Params:
        """All parameters of the tiny project under this setup: one step over all groups."""
        return tiny_params(
            rollout={"temperature": self.temperature, "max_new_tokens": MAX_NEW_TOKENS},
            update={
                "aggregation": self.aggregation,
                "clip_low": self.clip_low,
                "clip_high": self.clip_high,
                "kl_weight": self.kl_weight,
                "dual_clip": self.dual_clip,
                "ratio": self.ratio,
                "kl_in": self.kl_in,
                "entropy_bonus": self.entropy_bonus,
                "sampler_correction": self.sampler_correction,
                "sampler_bound": SAMPLER_BOUND,
                "groups": self.groups,
                "learning_rate": LEARNING_RATE,
                "groups_per_step": 100,
                "max_logprob_mismatch": 100.0,  # the old log-probabilities are moved on purpose, so that ratios are clipped
            },
        )


def of_preset(name: str) -> Setup:
    """Return an algorithm's row as a setup."""
    row = presets.algorithm_row(name)["update"]
    known = {field.name for field in dataclasses.fields(Setup)} & set(row)
    loss_type = {"seq_mean": "grpo", "token_mean": "dapo" if row["groups"] == "alive" else "bnpo", "constant": "dr_grpo"}[
        row["aggregation"]
    ]
    return Setup(name=f"preset {name}", loss_type=loss_type, **{key: row[key] for key in known})


SETUPS = {
    setup.name: setup
    for setup in (
        Setup("mean over rows", "seq_mean", "grpo"),
        Setup("mean over tokens", "token_mean", "bnpo"),
        Setup("constant", "constant", "dr_grpo"),
        Setup("uneven clip", "seq_mean", "grpo", clip_low=0.1, clip_high=0.3),
        Setup("penalty", "seq_mean", "grpo", kl_weight=0.05),
        Setup("temperature", "token_mean", "bnpo", temperature=0.7),
        Setup("everything", "constant", "dr_grpo", temperature=1.3, clip_low=0.05, clip_high=0.28, kl_weight=0.2),
        Setup("dual clip", "seq_mean", "grpo", dual_clip=1.25),
        Setup("ratio of the sequence", "seq_mean", "grpo", ratio="sequence", clip_low=0.03, clip_high=0.04),
        Setup("penalty times the ratio", "token_mean", "bnpo", kl_weight=0.05, kl_in="weighted-loss"),
        Setup("entropy bonus", "token_mean", "bnpo", entropy_bonus=0.1),
        *(
            Setup(f"sampler {how}", "seq_mean", "grpo", sampler_correction=how)
            for how in ("token-truncate", "token-mask", "sequence-truncate", "sequence-mask")
        ),
        *(of_preset(name) for name in presets.ALGORITHMS if name not in (*NOT_IN_TRL, *OF_OTHER_TRAINERS, *AS_OURS)),
    )
}


@dataclass(frozen=True)
class Step:
    """Loss, gradient and weights after the step, flat, in the order of the weights' names."""

    loss: float
    gradient: torch.Tensor
    weights: torch.Tensor

    def sample(self) -> dict[str, object]:
        """Return what the fixture keeps: the loss, norms, and every STRIDE-th number."""
        return {
            "loss": self.loss,
            "gradient_norm": float(self.gradient.double().norm()),
            "weights_norm": float(self.weights.double().norm()),
            "gradient": rounded(self.gradient[::STRIDE]),
            "weights": rounded(self.weights[::STRIDE]),
        }


def rounded(values: torch.Tensor) -> list[float]:
    """Return numbers to nine decimals: far below what is asked for, and short."""
    return [round(value, 9) for value in values.tolist()]


def flat(named: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return all tensors in one, by name."""
    return torch.cat([named[name].detach().float().flatten() for name in sorted(named)])


def write_policies(layout: Layout) -> None:
    """Write policies 000 and 001: same tokenizer, other weights."""
    write_tiny_policy(layout.policy(0), seed=0, scale=2.0)
    write_tiny_policy(layout.policy(1), seed=1, scale=2.0)


def draw_rows(layout: Layout) -> list[dict]:
    """Return nine rollouts of three prompts, 1 to 12 tokens long; old log-probabilities are not the policy's, one group has no advantage."""
    rng = np.random.default_rng(20260108)
    rows = []
    for group in range(3):
        prompt = rng.integers(5, 300, size=4 + 3 * group).tolist()
        for index in range(3):
            length = int(rng.integers(1, MAX_NEW_TOKENS + 1)) if group else (1, 12, 5)[index]
            advantages = rng.normal(size=length) * (group != 1)
            rows.append(
                {
                    "prompt_id": f"p{group}",
                    "sample_index": index,
                    "prompt_token_ids": prompt,
                    "token_ids": rng.integers(5, 300, size=length).tolist(),
                    "behavior_logprobs": np.zeros(length).tolist(),
                    "advantages": advantages.round(4).tolist(),
                }
            )
    write_rows(layout, rows)
    policy = load_policy(layout.policy(1), 1)
    moved = forward.logprobs_of(policy, _rows(layout, SETUPS["mean over rows"]), 10_000).astype(np.float64)
    moved = np.minimum(moved + rng.normal(scale=0.15, size=len(moved)), -0.001).round(5)
    for row in rows:
        row["behavior_logprobs"], moved = moved[: len(row["token_ids"])].tolist(), moved[len(row["token_ids"]) :]
    return rows


def write_rows(layout: Layout, rows: list[dict]) -> None:
    """Write the tables that update and export read."""
    frame = pl.DataFrame(rows).with_columns(rollout_id=pl.format("002:{}:0{}", "prompt_id", "sample_index"))
    pieces = TokenPieces.from_file(layout.policy(1) / "tokenizer.json")
    tables = {
        "rollouts": frame.with_columns(
            completion=pl.Series([pieces.text(ids) for ids in frame["token_ids"]]),
            answer_start=0,
            answer_end=1,
            has_answer_tags=False,
            finish_reason=pl.lit("length"),
        ),
        "token_advantages": frame,
        "rewards": frame.with_columns(
            is_degenerate_group=pl.col("prompt_id") == "p1",
            **{name: pl.lit(0.0) for name in ("reward", "retrieval", "format", "length", "repetition")},
        ),
    }
    for name, table in tables.items():
        declared = reference.TABLES[name]
        parquet.write(table.select(*declared.schema).cast(declared.schema), layout.iteration(ITERATION, f"{name}.parquet"), declared)
    asked = pl.DataFrame(
        [(prompt_id, "train", prompt_id, [], prompt_id) for prompt_id in ("p0", "p1", "p2")], schema=PROMPTS.schema, orient="row"
    )
    parquet.write(asked, layout.prepared("prompts.parquet"), PROMPTS)
    recorded = {"estimator": "myerson", "rule": "group-additive"}
    layout.iteration(ITERATION, "attribute_metrics.json").write_text(json.dumps(recorded), encoding="utf-8")


def exported(layout: Layout, setup: Setup, target: str = "trl") -> Path:
    """Return the file that `ospo export` writes."""
    return Path(export.execute(layout, setup.params.rollout, ITERATION, target, keep_degenerate=setup.groups == "all")["path"])


def our_step(layout: Layout, setup: Setup) -> Step:
    """Return loss and gradient as `update` computes them, and the weights that it writes."""
    policy = load_policy(layout.policy(ITERATION - 1), 1, trainable=True)
    sampled, reference = _rows(layout, setup), load_policy(layout.policy(0), 1) if setup.kl_weight else None
    groups = chosen(sampled, setup.params.update, 0, ITERATION)
    rows = prepared(sampled, groups, policy, reference, setup.params.update)
    measures = gradient_step.accumulate(policy, rows, rows.groups, setup.params.update)
    gradient = flat({name: weight.grad for name, weight in policy.model.named_parameters()})
    update.execute(layout, setup.params, ITERATION)
    return Step(measures["loss"], gradient, flat(load_file(layout.policy(ITERATION) / "model.safetensors")))


def _rows(layout: Layout, setup: Setup) -> Rows:
    rollouts = parquet.read(layout.iteration(ITERATION, "rollouts.parquet"), ROLLOUTS)
    advantages = parquet.read(layout.iteration(ITERATION, "token_advantages.parquet"), TOKEN_ADVANTAGES)
    return to_rows(rollouts, advantages, setup.params.rollout, ITERATION)
