"""How far recombined answers reach, how long they are, and how likely the policy finds them, by moves and by where the search may go.

    python benchmarks/recombined.py PROJECT [--iter 1] [--moves 1 2 4 16]

PROJECT has rollouts of that iteration and the policy that sampled them; nothing of it is written. "said twice" takes segments of other
answers that two answers say at least; "from the second" starts at a group's second best answer, a second target. Values, tokens and
log-probabilities (of a token, policy k-1) are means over all rollout groups whose rewards differ, those without a made answer by their
best. Texts are distinct ones, beside the answers.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from ospo_cli.instruments.audit import gradients
from ospo_cli.layout import Layout
from ospo_cli.params import whole
from ospo_cli.params.whole import Params
from ospo_cli.policies.opening import load_policy
from ospo_cli.rewards.answers import TextScorer, answer_rewards
from ospo_cli.rewards.opening import open_reward
from ospo_cli.rewards.recombined import recombined_answers
from ospo_cli.rewards.spliced_values import Answer, answer_groups, numbered_segments
from ospo_cli.stages import segment
from ospo_cli.tables import placed
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.tables.segment import SEGMENTS
from ospo_cli.training.forward import logprobs_of
from ospo_cli.training.given_rows import with_made
from ospo_cli.training.row_building import to_rows


def said_twice(group: Sequence[Answer], best: str) -> list[Answer]:
    """Return the group without segments that one answer alone says, but for those of the best."""
    count = Counter(number for answer in group for number in set(answer.said))
    found = []
    for answer in group:
        kept = [place for place, number in enumerate(answer.said) if count[number] > 1 or answer.rollout_id == best]
        found.append(replace(answer, spans=[answer.spans[place] for place in kept], said=[answer.said[place] for place in kept]))
    return found


def likelihood(layout: Layout, params: Params, iteration: int, rollouts: pl.DataFrame, made: pl.DataFrame) -> dict[str, tuple[int, float]]:
    """Return rollout id -> its tokens and their mean log-probability, made answers among them."""
    policy = load_policy(layout.policy(iteration - 1), params.policy.threads, made_by="ospo warm-start", project=layout.root)
    given = with_made(rollouts, made, list(made["rollout_id"]), lambda: policy)
    nothing = [[0.0] * len(ids) for ids in given["token_ids"]]
    rows = to_rows(given, pl.DataFrame({"rollout_id": given["rollout_id"], "advantages": nothing}), params.rollout, iteration)
    logprobs = logprobs_of(policy, rows, params.update.tokens_per_micro_batch)
    order = given.sort("prompt_id", "sample_index")["rollout_id"]
    return {name: (int(rows.lengths[row]), float(logprobs[rows.owner == row].mean())) for row, name in enumerate(order)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("--iter", type=int, default=1)
    parser.add_argument("--moves", type=int, nargs="+", default=[1, 2, 4, 16])
    options = parser.parse_args()
    layout, params, iteration = Layout(options.project), whole.load(options.project / "params.yaml"), options.iter
    reward = open_reward(layout, params)
    with gradients._sampled(layout, params, iteration, gradients.Request(prompts=10**9)) as (here, _, rollouts):
        placed.write(rollouts, ROLLOUTS, here, iteration)
        segment.execute(here, params, iteration)
        numbered = numbered_segments(rollouts, placed.read(SEGMENTS, here, iteration), reward.words)
    rewards = answer_rewards(rollouts.sort("rollout_id"), TextScorer(reward, params.score_coalitions))[0]
    differ = set(rewards.filter(~pl.col("is_degenerate_group"))["rollout_id"])
    groups = [group for group in answer_groups(rollouts, numbered) if group[0].rollout_id in differ]
    known = dict(rewards.select("rollout_id", "reward").iter_rows())
    ranked = [sorted((answer.rollout_id for answer in group), key=lambda name: -known[name]) for group in groups]
    kinds = {
        "all segments": groups,
        "said twice": [said_twice(group, names[0]) for group, names in zip(groups, ranked, strict=True)],
        "from the second": [[one for one in group if one.rollout_id != names[0]] for group, names in zip(groups, ranked, strict=True)],
    }
    print("| search | moves at most | groups improved | value | tokens | log-probability | texts scored |\n|" + "---|" * 7)
    for kind, moves in [("best sampled", 0), *((kind, moves) for kind in kinds for moves in options.moves)]:
        scorer = TextScorer(reward, replace(params.score_coalitions, recombine=moves))
        made, _ = recombined_answers(kinds[kind] if moves else [], rewards, scorer)
        found = likelihood(layout, params, iteration, rollouts, made)
        by_prompt = {
            prompt: (name, value) for prompt, name, value in made.select("prompt_id", "rollout_id", "recombined_value").iter_rows()
        }
        rows = []
        for group, names in zip(groups, ranked, strict=True):
            best = names[1 if kind == "from the second" else 0]
            name, value = by_prompt.get(group[0].prompt_id, (best, known[best]))
            rows.append((value, *found[name]))
        value, count, likely = np.mean(rows, axis=0)
        print(f"| {kind} | {moves} | {made.height} of {len(groups)} | {value:.3f} | {count:.1f} | {likely:.2f} | {scorer.ranked:,} |")


if __name__ == "__main__":
    main()
