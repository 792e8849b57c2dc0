"""Section update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ospo_cli.errors import ParameterError
from ospo_cli.params.declare import Registered, parameter


@dataclass(frozen=True)
class Update:
    """The training steps of an iteration."""

    objective: str = parameter(
        "policy-gradient",
        "policy-gradient or mirror-descent (token advantages), sft (likelihood of table targets) or dpo (table preference_pairs)",
        choices=Registered("training.objectives", "OBJECTIVES"),
    )
    mirror_beta: float = parameter(
        0.1,
        "β of objective mirror-descent: a log-ratio is to become its advantage over β; large is slow",
        minimum=1e-6,
        when="objective: mirror-descent",
    )
    mirror_unit: Literal["segment", "token"] = parameter(
        "segment",
        "what has a log-ratio in mirror-descent: segment (neighbouring tokens of one advantage; under rule uniform the answer) or token",
        when="objective: mirror-descent",
    )
    dpo_beta: float = parameter(
        0.1, "β of objective dpo: how closely the policy is held to the reference", minimum=1e-6, when="objective: dpo"
    )
    dpo_reference: Literal["behavior", "warm-start"] = parameter(
        "behavior",
        "reference of objective dpo: behavior (the policy that sampled, anew each iteration) or warm-start (policy 000)",
        when="objective: dpo",
    )
    imitation_weight: float = parameter(
        0.0,
        "weight of the mean negative log-likelihood of table targets beside the policy gradient (attribute.targets); 0 is off",
        minimum=0,
        when="objective: policy-gradient",
    )
    examples_file: str = parameter(
        "",
        "Parquet of your own in place of the iteration's tables: prompt_id and completion (sft), or prompt_id, chosen and rejected (dpo)",
    )
    learning_rate: float = parameter(5e-4, "AdamW's learning rate; with a schedule its peak", minimum=0)
    schedule: Literal["constant", "linear", "cosine"] = parameter(
        "constant", "fall of the learning rate over all iterations: constant, linear or cosine"
    )
    warmup_steps: int = parameter(0, "optimiser steps, counted over all iterations, in which the learning rate first rises", minimum=0)
    weight_decay: float = parameter(0.0, "AdamW's weight decay", minimum=0)
    epochs: int = parameter(1, "passes over the iteration's rollouts", minimum=1)
    groups: Literal["all", "alive"] = parameter(
        "all",
        "rollout groups in the steps: all, or alive (those with an advantage; dynamic sampling draws more prompts and leaves the rest out)",
    )
    max_groups: int = parameter(0, "most rollout groups in the steps, by seed; 0 is no limit", minimum=0)
    groups_per_step: int = parameter(16, "rollout groups per optimiser step", minimum=1)
    tokens_per_micro_batch: int = parameter(
        2048, "tokens (padding included) of one forward pass; changes no result but rounding", minimum=1
    )
    clip_low: float = parameter(0.2, "ε of the lower clip of the ratio", minimum=0, maximum=1, when="objective: policy-gradient")
    clip_high: float = parameter(0.2, "ε of the upper clip of the ratio", minimum=0, when="objective: policy-gradient")
    dual_clip: float = parameter(0.0, "upper bound of the ratio where the advantage is negative; above 1 + clip_high; 0 is off", minimum=0)
    ratio: Literal["token", "sequence", "sequence-token"] = parameter(
        "token",
        "importance ratio: token, sequence (geometric mean, GSPO), or sequence-token (that value with each token's own gradient)",
    )
    trace: float = parameter(0.0, "λ of GRPO-λ: log-ratios are summed backwards with this decay; 0 is off", minimum=0, maximum=1)
    aggregation: Literal["seq_mean", "token_mean", "constant"] = parameter(
        "seq_mean",
        "weights of tokens: seq_mean (rows alike), token_mean (tokens alike) or constant (divided by rows · rollout.max_new_tokens)",
    )
    kl_weight: float = parameter(0.0, "β of the KL penalty that pulls to policy 000", minimum=0)
    kl: Literal["k1", "k2", "k3"] = parameter(
        "k3", "KL term: k1 (log-ratio; in the plain loss its gradient is 0 on average), k2 (half its square) or k3", when="kl_weight not 0"
    )
    kl_in: Literal["loss", "weighted-loss", "reward"] = parameter(
        "loss",
        "where the KL term enters: loss, weighted-loss (times the importance ratio) or reward (subtracted from the advantage)",
        when="kl_weight not 0",
    )
    entropy_bonus: float = parameter(0.0, "weight of the entropy in the loss", minimum=0)
    sampler_correction: Literal["none", "token-truncate", "token-mask", "sequence-truncate", "sequence-mask"] = parameter(
        "none",
        "importance weights for a sampler whose probabilities differ slightly from the trained policy's (vLLM): truncated at "
        "sampler_bound, or masked (0 beyond it), per token or per sequence",
    )
    sampler_bound: float = parameter(
        2.0,
        "largest weight of a sampled token (sampler_correction)",
        minimum=1,
        when="sampler_correction: token-truncate, token-mask, sequence-truncate or sequence-mask",
    )
    max_gradient_norm: float = parameter(1.0, "gradient clipping; 0 never clips", minimum=0)
    precision: Literal["float32", "bfloat16", "float16"] = parameter(
        "float32", "arithmetic of the passes: float32, or bfloat16 or float16 (autocast; need a GPU; float16 with a scaled loss)"
    )
    gradient_checkpointing: bool = parameter(False, "recompute each layer in the backward pass: less memory, a third more time")
    reference_groups: int = parameter(
        16, "rollout groups on which the KL divergence from policy 000 is measured when there is no penalty; 0 measures none", minimum=0
    )
    max_logprob_mismatch: float = parameter(
        0.05, "largest difference allowed between the sampler's log-probabilities and the first forward pass's", minimum=0
    )

    def check(self, where: str) -> None:
        """Raise ParameterError where parameters of this section contradict each other; `where` names the section."""
        if self.objective != "policy-gradient":
            plain = Update()
            rows_alike = ("aggregation",) if self.objective == "mirror-descent" else ()
            of_gradient = ("dual_clip", "ratio", "trace", "kl_weight", "entropy_bonus", "sampler_correction", "imitation_weight")
            for name in (*of_gradient, *rows_alike):
                found, expected = getattr(self, name), getattr(plain, name)
                if found != expected:
                    raise ParameterError(
                        f"{where}.{name}", f"is not of objective {self.objective}", found=found, expected=f"{name}: {expected}"
                    )
        if self.examples_file and self.objective in ("policy-gradient", "mirror-descent"):
            raise ParameterError(
                f"{where}.examples_file", f"is not of objective {self.objective}", found=self.examples_file, expected="sft or dpo"
            )
        if self.dual_clip and self.dual_clip <= 1 + self.clip_high:
            raise ParameterError(
                f"{where}.dual_clip", "lies within the clip", found=self.dual_clip, expected=f"0 or above {1 + self.clip_high:g}"
            )
        if self.imitation_weight and self.kl_weight and self.kl_in == "reward":
            raise ParameterError(
                f"{where}.imitation_weight", "targets have no reward to take a penalty off", found="kl_in: reward", expected="kl_in: loss"
            )
        if self.trace > 0 and self.ratio != "token":
            raise ParameterError(f"{where}.trace", "is of token ratios", found=f"ratio: {self.ratio}", expected="ratio: token")
