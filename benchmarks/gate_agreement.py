"""Does the agreement of a policy's samples help its gate? The same gate with and without it, on the same queries and halves.

    python benchmarks/gate_agreement.py [--project .] [--samples 8] [--halves 10]

Needs a project with a policy and judged dev and test queries, such as gate_on_movies.py makes. `--samples` completions of each query are
drawn at temperature 1. Printed: the correlation of each measure with the gain of rewriting (dev), the processor time of the samples, and
for so many drawn halves of the dev queries the gain on test queries of gates with and without agreement, with and without result lists.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from ospo_cli.instruments import gate as instrument
from ospo_cli.policies.folder import render_prompt
from ospo_cli.rewriting.chosen import Chosen, choose
from ospo_cli.rewriting.gate import POLICY_FEATURES, Values, feature_names
from ospo_cli.rewriting.rewriter import Asked, Rewriter
from ospo_cli.sampling.next_token import Sampling
from ospo_cli.sampling.sampler import Request
from ospo_cli.tables import placed
from ospo_cli.tables.prepared import PROMPTS
from ospo_cli.text.composition import served
from ospo_cli.text.prompt_template import one_line, user_message

AGREEMENT = ("entropy", "entropy_per_token", "same_answer", "distinct_answers", "words_shared", "greedy_words_sampled")


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--project", type=Path, default=Path())
    parser.add_argument("--policy", default="")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--halves", type=int, default=10)
    parser.add_argument("--bound", type=float, default=0.1)
    arguments = parser.parse_args()
    chosen = choose(arguments.project, arguments.policy)
    assert chosen.params is not None
    rewriter, name = Rewriter.opened(chosen, with_gate=False), chosen.params.score_coalitions.retriever
    rewriter.engine = chosen.engine(name, "gate_agreement")
    began = time.process_time()
    without = {split: instrument.answered(chosen, rewriter, split, name) for split in ("dev", "test")}
    middle = time.process_time()
    drawn = {split: agreement(chosen, rewriter, split, arguments.samples) for split in without}
    with_it = {split: replace(found, features=np.hstack([found.features, drawn[split]])) for split, found in without.items()}
    took = time.process_time() - middle
    print(f"greedy answers, result lists, values {middle - began:.1f} s of the processor; {arguments.samples} samples {took:.1f} s")
    dev = with_it["dev"]
    for column, label in enumerate([*feature_names(name), *AGREEMENT]):
        print(f"  {label:24} correlation with the gain {np.corrcoef(dev.features[dev.is_open, column], dev.gains[dev.is_open])[0, 1]:+.3f}")
    wanted = instrument.Wanted(rewriter.policy.content_hash, name, arguments.bound, 0.9)
    own = len(POLICY_FEATURES)
    kinds = {
        "policy and words": range(own),
        "with agreement": [*range(own), *range(dev.features.shape[1] - len(AGREEMENT), dev.features.shape[1])],
        "with result lists": range(dev.features.shape[1] - len(AGREEMENT)),
        "with both": range(dev.features.shape[1]),
    }
    table = np.zeros((arguments.halves, len(kinds), 4))
    for seed in range(arguments.halves):
        for place, (label, columns) in enumerate(kinds.items()):
            dev, test = (replace(found, features=found.features[:, list(columns)]) for found in with_it.values())
            made = instrument.fit(dev, wanted, seed)[0]
            used = instrument.passes(test, made)
            told = np.corrcoef(made.scores(test.features[test.is_open]), test.gains[test.is_open])[0, 1]
            gains = test.gains[used]
            table[seed, place] = gains.sum() / len(test.raw), (gains > 0).sum(), (gains < 0).sum(), told
            print(f"halves {seed}, {label:18}: {described(table[seed, place])}", flush=True)
    for place, label in enumerate(kinds):
        print(f"mean of {arguments.halves} halves, {label:18}: {described(table[:, place].mean(axis=0))}")
    for first, second in ((0, 1), (2, 3)):
        apart = table[:, second, 0] - table[:, first, 0]
        print(f"agreement adds {apart.mean():+.4f} to the gain ({list(kinds)[first]}), over halves ± {apart.std(ddof=1):.4f}")


def described(row: Values) -> str:
    """Return gain on test queries, better, worse, and the correlation of the score with the gain, in words."""
    return f"{row[0]:+.4f}, {row[1]:.0f} better, {row[2]:.0f} worse; score and gain {row[3]:+.3f}"


def agreement(chosen: Chosen, rewriter: Rewriter, split: str, count: int) -> Values:
    """Return AGREEMENT of each judged query of a split, from `count` samples and the greedy answer: float64[n, measures]."""
    assert chosen.project is not None
    prompts = placed.read(PROMPTS, chosen.project).filter(pl.col("split") == split).sort("prompt_id")
    asked = [Asked(query, tuple(history)) for query, history in zip(prompts["query"], prompts["history"].to_list(), strict=True)]
    setup = rewriter.setup
    queries = setup.spelt([one_line(one.query) for one in asked])
    messages = [user_message(setup.template, query, list(one.history)) for query, one in zip(queries, asked, strict=True)]
    ids = [render_prompt(rewriter.policy, message) for message in messages]
    names = [[f"agreement:{one}:{index}" for index in range(count + 1)] for one in prompts["prompt_id"]]
    rows = []
    for start in range(0, len(ids), 64):
        request = Request(ids[start : start + 64], names[start : start + 64], setup.max_new_tokens, Sampling(), setup.seed, 512)
        for greedy, *samples in rewriter.sampler.sample(request, greedy_rows=1):
            own, *others = (
                tuple(one_line(served("", row.text, setup.composition).answer).casefold().split()) for row in (greedy, *samples)
            )
            surprise, tokens = [-sum(row.policy_logprobs) for row in samples], sum(len(row.policy_logprobs) for row in samples)
            shared = [len(set(own) & set(other)) / max(1, len(set(own) | set(other))) for other in others]
            seen = [float(np.mean([word in other for other in others])) for word in set(own)] or [0.0]
            rows.append([
                np.mean(surprise), sum(surprise) / tokens, np.mean([other == own for other in others]),
                len(set(others)) / count, np.mean(shared), np.mean(seen),
            ])  # fmt: skip
    return np.array(rows, dtype=np.float64)


if __name__ == "__main__":
    main()
