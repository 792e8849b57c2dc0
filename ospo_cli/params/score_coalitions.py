"""Section score_coalitions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ospo_cli.errors import ParameterError
from ospo_cli.params.declare import Registered, parameter

METRIC = Registered("maths.ranking", "parse_metric")


@dataclass(frozen=True)
class ScoreCoalitions:
    """The characteristic function and the reward."""

    retriever: str = parameter(
        "bm25", "retriever that gives the reward (docs/retrievers.md)", choices=Registered("retrievers", "RETRIEVERS")
    )
    metric: str = parameter(
        "ndcg@10",
        "ndcg@K, ndcg@pool, ndcg@retrieved, ndcg-exp@K, ndcg-exp@pool, mrr, mrr@K, ap, ap@K, recall@K or precision@K (docs/rewards.md)",
        parser=METRIC,
    )
    further_metrics: dict[str, float] = parameter(
        {}, "further metrics of the same ranking that are added to the reward, and their weights, such as {recall@10: 0.2}",
        parser=METRIC,
    )  # fmt: skip
    own_reward: str = parameter(
        "",
        "function of your own that gives further parts: FILE.py:FUNCTION (relative to params.yaml), MODULE:FUNCTION, or the name of an "
        "entry point in group ospo.rewards; it is run (docs/own-code.md)",
    )
    own_weights: dict[str, float] = parameter(
        {}, "the parts that own_reward gives, and their weights", pattern=r"[a-z][a-z0-9_-]{0,31}"
    )  # fmt: skip
    own_ranks: int = parameter(10, "documents of the ranking that own_reward is shown", minimum=0, maximum=10_000, when="own_reward given")
    composition: Literal["replace", "append"] = parameter("replace", "replace: the answer is the query; append: raw query + answer")
    empty_value: Literal["zero", "query"] = parameter(
        "zero", "v of the empty coalition under replace: zero or query (the raw query's value)", when="composition: replace"
    )
    estimators: list[str] = parameter(
        ["splice", "myerson"],
        "the coalitions that these need are evaluated, so that attribute.estimator may be any of them (contiguous-mean, "
        "contiguous-shapley, alone and random need what myerson needs); splice, swap, stopping: texts spliced with the group's other "
        "answers, and myerson beside them: shares for people to look at",
        choices=Registered("maths.group_game", "ESTIMATOR_NAMES"),
    )
    families: list[str] = parameter(
        ["prefix"],
        "further coalitions that are evaluated (rule potential needs prefix)",
        choices=Registered("maths.coalitions", "FAMILIES"),
    )
    alignment: Literal["batch", "group", "group-first", "index"] = parameter(
        "batch",
        "what another answer says after a point (splice, swap, stopping): what mostly stands behind the own last segment in the other "
        "answers of the batch or of the rollout group, and is not said yet; group-first: of the group where it has an order of the two "
        "segments, else of the batch; or by index, whatever it is",
        when="estimators: splice, swap or stopping",
    )
    recombine: int = parameter(
        0,
        "most strictly improving moves (drop, swap or add a segment) from a rollout group's best answer to one made of all its answers' "
        "segments, table recombined (attribute.targets: recombined); 0 makes none",
        minimum=0,
    )
    contiguous_width: int = parameter(32, "widest window of the contiguous family", minimum=1)
    contiguous_cap: int = parameter(0, "most coalitions per rollout of the contiguous family (M); 0 is no cap", minimum=0)
    exact_coalitions: int = parameter(
        256, "shapley, owen and banzhaf are exact if they need at most this many coalitions, else sampled", minimum=2, maximum=4096
    )
    orders: int = parameter(
        16,
        "sampled orders per rollout, an even number; below 8 standard errors can be half of the true errors (docs/maths.md, budget)",
        minimum=4,
        maximum=4096,
    )
    budget: Literal["fixed", "adaptive"] = parameter(
        "fixed",
        "fixed, or adaptive: further orders where the ranking of segments is uncertain (sampled shapley, owen)",
    )
    further_coalitions: int = parameter(
        64,
        "coalitions per rollout, on average over its rollout group, for further orders (budget: adaptive)",
        minimum=1,
        when="budget: adaptive",
    )
    grand_value: Literal["reward", "any"] = parameter(
        "reward", "reward: v of all segments must be the reward without its format part, checked; any: segments may leave words out"
    )
    degenerate_groups: Literal["skip", "evaluate"] = parameter(
        "skip", "rollout groups of equal rewards: skip their coalitions, or evaluate them (no stage reads them)"
    )
    calls: Literal["batched", "one-by-one"] = parameter(
        "batched", "batched: each distinct text once; one-by-one: one retriever call per coalition, repeated texts too; changes no result"
    )
    retrieval_weight: float = parameter(1.0, "weight of the retrieval metric")
    format_weight: float = parameter(0.1, "weight of the format part")
    length_weight: float = parameter(0.0, "weight of the length part")
    length_limit: int = parameter(20, "words that an answer may have before the length part counts", minimum=1, when="length_weight not 0")
    repetition_weight: float = parameter(0.02, "weight of the repetition part, per repeated word")

    @property
    def coalition_budget(self) -> dict[str, int]:
        """Return the fields of `maths.coalitions.Budget`."""
        return {
            "width": self.contiguous_width,
            "cap": self.contiguous_cap,
            "exact": self.exact_coalitions,
            "orders": self.orders,
            "further": self.further_coalitions if self.budget == "adaptive" else 0,
        }

    def check(self, where: str) -> None:
        """Raise ParameterError where parameters of this section contradict each other; `where` names the section."""
        if bool(self.own_reward) != bool(self.own_weights):
            raise ParameterError(
                f"{where}.own_weights",
                "names no part of own_reward" if self.own_reward else "names parts, and there is no own_reward",
                found=", ".join(self.own_weights) or "none",
                expected="both or neither",
            )
