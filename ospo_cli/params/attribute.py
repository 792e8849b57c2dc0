"""Section attribute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ospo_cli.errors import ParameterError
from ospo_cli.params.declare import Registered, parameter


@dataclass(frozen=True)
class Attribute:
    """From coalition values to token advantages."""

    estimator: str = parameter(
        "splice",
        "value that divides the answer's gain among its segments, as their shares; or splice, swap or stopping, which compare with what "
        "the rollout group's other answers say (docs/maths.md)",
        choices=Registered("maths.group_game", "ESTIMATOR_NAMES"),
    )
    rule: str = parameter(
        "none",
        "how shares become token advantages (docs/maths.md); none: estimator splice, swap or stopping gives them itself",
        choices=Registered("maths.redistribution", "RULE_NAMES"),
        open_with="rule_file",
    )
    rule_file: str = parameter(
        "",
        "rules of your own, of which rule may name one: FILE.py that defines RULE or RULES (relative to params.yaml), FILE.py:NAME, a "
        "module, MODULE:NAME, or the name of an entry point in group ospo.rules; it is run (docs/own-code.md)",
    )
    beta: float = parameter(0.5, "weight β of a segment's deviation from the mean share (additive, group-additive)", minimum=0)
    alpha: float = parameter(0.5, "part of the advantage that follows the shares; the rest is uniform (mix)", minimum=0, maximum=1)
    matched_rule: str = parameter(
        "proportional",
        "rule whose root mean square within the answer the uniform advantages are scaled to (rms-matched)",
        choices=Registered("maths.redistribution", "RULES", without=("rms-matched",)),
        when="rule: rms-matched",
    )
    trace: float = parameter(1.0, "discount λ of rule potential", minimum=0, maximum=1, when="rule: potential")
    splice_trace: float = parameter(
        0.5,
        "discount λ of estimator splice: 1 is unbiased, 0 has the least noise",
        minimum=0,
        maximum=1,
        when="estimator: splice",
    )
    outside: Literal["sequence", "zero"] = parameter(
        "sequence", "advantage of tokens outside segments: sequence (the group advantage; rule potential: that of their position) or zero"
    )
    credit_unit: Literal["divide", "copy"] = parameter(
        "divide", "a segment's advantage is divided over its tokens, or copied to each (rules that keep the sum)"
    )
    normalize: Literal["std", "none"] = parameter("none", "group advantage: std (divide by the group's standard deviation) or none")
    baseline: Literal["group", "batch"] = parameter(
        "group",
        "mean and deviation that standardise a reward: of its rollout group, or of the batch of all rollouts (rule uniform)",
    )
    clip: float | None = parameter(None, "clip token advantages at ± clip · std of the group advantages; null never clips", minimum=0)
    targets: Literal["best", "above-mean", "all", "recombined"] = parameter(
        "best",
        "completions that are imitated (update.objective: sft, update.imitation_weight): the best of each rollout group (best-of-G), those "
        "above the group's mean, all, or recombined: what score_coalitions.recombine made of the group, else its best",
        when="update.objective: sft, or where update.imitation_weight not 0",
    )
    targets_above: float | None = parameter(
        0.0,
        "targets have a reward above this; null sets no bound",
        when="update.objective: sft, or where update.imitation_weight not 0",
    )
    pairs: Literal["best-worst", "all", "recombined-worst"] = parameter(
        "best-worst",
        "pairs that objective dpo learns from: the best and the worst of each rollout group, all whose rewards differ, or the recombined "
        "answer (else the best) and the worst",
        when="update.objective: dpo",
    )
    pairs_margin: float = parameter(0.0, "only pairs whose rewards differ by more than this", minimum=0, when="update.objective: dpo")

    def check(self, where: str) -> None:
        """Raise ParameterError where parameters of this section contradict each other; `where` names the section."""
        if self.baseline == "batch" and self.rule != "uniform":
            raise ParameterError(
                f"{where}.baseline",
                "batch gives groups of equal rewards an advantage, but shares are not evaluated there",
                found=f"rule {self.rule}",
                expected="rule uniform, or baseline group",
            )
        is_game = self.estimator in Registered("maths.group_game", "GROUP_GAMES")
        if is_game != (self.rule == "none"):
            gives = "gives token advantages itself" if is_game else "gives shares, which a rule turns into advantages"
            rules = ", ".join(Registered("maths.redistribution", "RULES"))
            raise ParameterError(
                f"{where}.rule",
                f"estimator {self.estimator} {gives}",
                found=self.rule,
                expected="none" if is_game else rules,
                remedy=f"set attribute.estimator too, such as {'myerson' if is_game else 'splice'}",
            )
        if is_game and self.outside != "sequence":
            raise ParameterError(
                f"{where}.outside", f"estimator {self.estimator} credits all tokens", found=self.outside, expected="sequence"
            )
