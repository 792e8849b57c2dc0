"""Progress of 16 rollout groups: discounts of splice, what a choice among them is worth, and credit for stopping under other rules.

    python benchmarks/credit_of_parts.py PROJECT [--iter 1] [--groups 96]

PROJECT has rollouts of that iteration and the policy that sampled them; nothing of it is written but what `ospo audit` keeps for itself.
`| stop` is a rule whose tokens behind the last segment have splice's advantage, `| outside` one whose tokens outside segments have it.
± is a jackknife's standard error over prompts; differences are paired. "Chosen" counts the best discount on 200 random halves.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ospo_cli.credit.token_kinds import KINDS
from ospo_cli.instruments.audit import gradient_vectors, gradients
from ospo_cli.instruments.audit.gradients import TRUE, Method, Request
from ospo_cli.layout import Layout
from ospo_cli.maths import gradient_noise as noise
from ospo_cli.params import whole

TRACES = ("0", "0.25", "0.5", "0.75", "0.9", "1")
OWN = Method("splice(0.5)", "none", "std")
BASES = (Method("any", "uniform", "std"), Method("myerson", "group-additive", "std"), Method("myerson", "signed", "std"))
OUTSIDE = {"stop": ("stop",), "outside": tuple(kind for kind in KINDS if kind != "segments")}
GROUPS, HALVES = 16, 200


def measured(layout: Layout, iteration: int, prompts: int) -> dict[str, noise.Gradients]:
    """Return name -> gradients of the rollout groups, the true gradient first."""
    params = whole.load(layout.root / "params.yaml")
    params = replace(params, score_coalitions=replace(params.score_coalitions, estimators=["splice", "myerson"]))
    games = [Method(f"splice({trace})", "none", normalize) for normalize in ("std", "none") for trace in TRACES]
    methods = [TRUE, *BASES, *games]
    with gradients._sampled(layout, params, iteration, Request(prompts=prompts)) as (here, used, rollouts):
        judged = gradients._judged(here, used, iteration, methods, rollouts, False)
    found: dict[Any, Any] = dict(zip(methods, judged.wholes[0], strict=True))
    for base in BASES:
        for name, kinds in OUTSIDE.items():
            chosen = [KINDS.index(kind) for kind in kinds]
            found[f"{told(base)} | {name}"] = {
                rollout: np.where(np.isin(kind, chosen), found[OWN][rollout], found[base][rollout])
                for rollout, kind in judged.kinds.items()
            }
    alike = {rollout: np.zeros_like(kind) for rollout, kind in judged.kinds.items()}
    vectors, _ = gradient_vectors.vectors(
        layout, params, iteration, rollouts, replace(judged, wholes=[list(found.values())], halves=[], kinds=alike)
    )
    return {told(name): noise.of_groups(vectors.whole(number)) for number, name in enumerate(found)}


def told(method: Method | str) -> str:
    """Return its name."""
    return method if isinstance(method, str) else f"{method.rule if method.rule != 'none' else method.estimator}, {method.normalize}"


def chosen_on_halves(found: dict[str, noise.Gradients], normalize: str) -> dict[str, int]:
    """Return how often each discount has the most progress on a random half of the prompts."""
    true, rng = found[told(TRUE)], np.random.default_rng(0)
    count = dict.fromkeys(TRACES, 0)
    for _ in range(HALVES):
        half = rng.permutation(len(true.mean))[: len(true.mean) // 2]
        part = {name: noise.Gradients(own.mean[half], own.squared_length[half]) for name, own in found.items()}
        best = max(TRACES, key=lambda trace: noise.progress(part[f"splice({trace}), {normalize}"], part[told(TRUE)], GROUPS)[0])
        count[best] += 1
    return count


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("--iter", type=int, default=1)
    parser.add_argument("--groups", type=int, default=96)
    arguments = parser.parse_args()
    found = measured(Layout(arguments.project), arguments.iter, arguments.groups)
    progress = {name: noise.progress(own, found[told(TRUE)], GROUPS) for name, own in found.items()}
    print(f"{'method':<32} progress of {GROUPS} groups | less uniform, std | less splice(0.5), std")
    for name, own in progress.items():
        values = (own, own - progress[told(BASES[0])], own - progress[told(OWN)])
        print(f"{name:<32} " + " | ".join("{:+.3f} ± {:.3f}".format(*noise.estimate(value)) for value in values))
    for normalize in ("std", "none"):
        print(f"chosen, {normalize}: {chosen_on_halves(found, normalize)}")
