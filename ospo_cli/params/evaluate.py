"""Section evaluate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ospo_cli.params.declare import Registered, parameter
from ospo_cli.params.score_coalitions import METRIC


@dataclass(frozen=True)
class Evaluate:
    """Held-out comparison."""

    split: Literal["train", "dev", "test"] = parameter("test", "prompts that are evaluated")
    retrievers: list[str] = parameter(
        ["bm25", "tfidf-char", "lsa"],
        "first the retriever that gave the reward, then ones that the policy never saw",
        choices=Registered("retrievers", "RETRIEVERS"),
    )
    metric: str = parameter(
        "ndcg@10", "metric that systems are compared by, and policy and decoding chosen (docs/rewards.md)", parser=METRIC
    )
    every: int = parameter(1, "evaluate every n-th policy, the warm start and the last one", minimum=1)
    samples: int = parameter(4, "sampled completions per prompt; 0 evaluates greedy decoding alone", minimum=0)
    temperatures: list[float] = parameter(
        [0.5],
        "temperatures at which policies are sampled, a quarter as often, besides greedy decoding and rollout.temperature",
        minimum=0.01,
        maximum=100,
        when="samples not 0",
    )
    choose_on: Literal["train", "dev", "test", "none"] = parameter(
        "dev", "split on which the best policy and decoding are chosen, the raw query among them; none chooses the last policy, greedy"
    )
    choose_prompts: int = parameter(
        64, "prompts of that split that are answered, by seed; 0 is all", minimum=0, when="choose_on: train, dev or test"
    )
    max_prompts: int = parameter(256, "prompts that are evaluated, by seed; 0 is all", minimum=0)
    oracle_edits: int = parameter(8, "greedy single-word edits of the oracle query; 0 leaves the oracle out", minimum=0)
    oracle_words: int = parameter(
        64, "words of the relevant products that the oracle may add, per prompt", minimum=1, when="oracle_edits not 0"
    )
    bootstrap: int = parameter(2000, "bootstrap resamples of the intervals", minimum=100, maximum=1_000_000)
