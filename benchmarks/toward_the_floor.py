"""What is between `splice` and the floor, idea by idea: each estimator's gradients, at equal sampled tokens.

    python benchmarks/toward_the_floor.py PROJECT [PROJECT ...] [--prompts 96]

PROJECT is one after its warm start (`ospo prepare-data`, `ospo warm-start`); nothing of it is written but the cache. From policy 000 come
16 rollouts for each prompt, the first 8 of which are its rollout group unless a row says otherwise, and for each of these two
continuations from its middle segment, for the rows that use them. Advantages are not normalised (`attribute.normalize: none`) and tokens
are weighed alike (`update.aggregation: constant`), so that `uniform` is the gradient of the expected reward.

Columns: tokens that a prompt takes to sample; noise scale B in prompts; direction against `uniform` of all 16; progress of as many prompts
as the tokens of 16 GRPO groups pay for; that less the progress of `uniform` and of `splice`. Numbers are means over projects, ± a standard
error by jackknife over prompts, project by project; differences are paired.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from ospo_cli.credit.rollout_rows import Rows, rollout_rows
from ospo_cli.credit.token_places import token_map
from ospo_cli.instruments.audit import gradient_vectors, gradients
from ospo_cli.instruments.audit.gradients import Method, Request
from ospo_cli.layout import IterationElsewhere, Layout
from ospo_cli.maths import gradient_noise as noise
from ospo_cli.maths.group_credit import group_credit, token_advantages
from ospo_cli.maths.token_map import TokenMap
from ospo_cli.params import whole
from ospo_cli.params.whole import Params
from ospo_cli.policies.folder import LoadedPolicy
from ospo_cli.policies.opening import load_policy
from ospo_cli.policies.unspelled import never_drawn
from ospo_cli.rewards.answers import TextScorer, answer_rewards
from ospo_cli.rewards.opening import open_reward
from ospo_cli.rewards.spliced_values import numbered_segments
from ospo_cli.sampling import chosen_sampler
from ospo_cli.sampling import sampler as sampling
from ospo_cli.sampling.next_token import Sampling
from ospo_cli.tables import placed
from ospo_cli.tables.rollout_rows import RolloutRow, rollouts_frame
from ospo_cli.tables.score_coalitions import REWARDS, SPLICED_VALUES
from ospo_cli.tables.segment import SEGMENTS
from ospo_cli.training import token_batches
from ospo_cli.training.gradient_projection import Projection
from ospo_cli.training.group_gradient import GroupGradient

GROUP, BRANCHES, ROOTS, BUDGET = 8, 2, 4, 16  # rollouts, continuations of each, roots of a tree, GRPO groups of a step
HALF = 0.5  # λ of splice
LEAST = 1e-9  # weight of an answer that has none
HELD = 8192  # vectors that the projection is sized for: 16,384 numbers each
Values = NDArray[np.float64]
Advantages = Mapping[str, NDArray[np.float32]]
SPLICE = Method("splice(0.5)", "none", "none")
TRUE = f"uniform, groups of {2 * GROUP}"
Found = dict[str, tuple[noise.Gradients, float]]  # gradients of the prompts, sampled tokens of each


@dataclass(frozen=True)
class Scored:
    """Rollout groups of at most M answers with their rewards, and the values of their splices.

    Attributes:
        rollouts: table, by rollout id.
        rows, tokens: the same as arrays, and where their segments lie.
        reward: [rows] R.
        member: [rows] number of each row within its rollout group.
        spliced: [places, M] reward of the row's first segments going on as each member does, place by place from 0 to n; NaN for itself.
        said: [segments] number of each segment's words.
        is_silent: [rows] of rollout groups of equal rewards.
    """

    rollouts: pl.DataFrame
    rows: Rows
    tokens: TokenMap
    reward: Values
    member: NDArray[np.int64]
    spliced: Values
    said: NDArray[np.int64]
    is_silent: NDArray[np.bool_]

    @property
    def row_of_place(self) -> NDArray[np.int64]:
        """[places] the row of each."""
        return np.repeat(np.arange(len(self.reward)), self.rows.segments + 1)

    @property
    def place(self) -> NDArray[np.int64]:
        """[places] from 0 within the row."""
        return np.asarray(np.arange(len(self.row_of_place)) - self.first[self.row_of_place])

    @property
    def of_group(self) -> NDArray[np.int64]:
        """[rows, M] row of each member of the own rollout group, -1 where there is none."""
        found = np.full((int(self.rows.group.max()) + 1, int(self.member.max()) + 1), -1)
        found[self.rows.group, self.member] = np.arange(len(self.reward))
        return found[self.rows.group]

    @property
    def first(self) -> NDArray[np.int64]:
        """[rows] place 0 of each."""
        return np.asarray(np.cumsum(self.rows.segments + 1) - (self.rows.segments + 1))

    def others(self, row: int) -> list[int]:
        """Return the rows of the others of its rollout group."""
        return [other for other in self.of_group[row].tolist() if 0 <= other != row]

    def by_row(self, of_tokens: Values) -> Advantages:
        """Return rollout id -> [tokens], 0 in silent groups."""
        values = np.where(self.is_silent[self.tokens.token_row], 0.0, of_tokens).astype(np.float32)
        return dict(zip(self.rows.rollout_ids, np.split(values, np.cumsum(self.tokens.tokens).astype(int)[:-1]), strict=True))


def scored(here: IterationElsewhere, params: Params, rollouts: pl.DataFrame, policy: LoadedPolicy) -> tuple[Scored, Advantages]:
    """Return the rollouts' groups scored by the project's stages, and the product's own `splice` of them."""
    own = gradients._credited(here, params, 1, [SPLICE], rollouts)[0]
    segments, rewards = placed.read(SEGMENTS, here, 1), placed.read(REWARDS, here, 1).sort("rollout_id")
    rows, rollouts = rollout_rows(rollouts, segments, 1), rollouts.sort("rollout_id")
    row_of = {name: row for row, name in enumerate(rows.rollout_ids)}
    member = np.array(rollouts.select(pl.int_range(pl.len()).over("prompt_id")).to_series(), dtype=np.int64)
    format_part = params.score_coalitions.format_weight * rewards["format"].to_numpy()
    table = placed.read(SPLICED_VALUES, here, 1)
    row, other = (np.array([row_of[name] for name in table[column]], dtype=np.int64) for column in ("rollout_id", "other_rollout_id"))
    first = np.cumsum(rows.segments + 1) - (rows.segments + 1)
    spliced = np.full((int((rows.segments + 1).sum()), int(member.max()) + 1), np.nan)
    spliced[first[row] + table["place"].to_numpy(), member[other]] = table["spliced_value"].to_numpy() + format_part[other]
    said = numbered_segments(rollouts, segments, open_reward(here, params).words)["said"].to_numpy()
    reward, silent = (rewards[name].to_numpy() for name in ("reward", "is_degenerate_group"))
    return Scored(rollouts, rows, token_map(rows, policy.pieces.pieces), reward, member, spliced, said, silent), own


def by_baseline(own: Scored, baseline: Values, trace: float, pooled: NDArray[np.int64] | None = None) -> Advantages:
    """Return λ-returns of [places] baselines; with `pooled` ([segments] numbers) segments of one number share their mean."""
    credit = group_credit("splice", baseline, own.rows.segments, own.reward, trace)
    if pooled is not None:
        _, which = np.unique(pooled, return_inverse=True)
        mean = np.bincount(which, weights=credit.advantage) / np.bincount(which)
        credit = replace(credit, advantage=mean[which])
    return own.by_row(token_advantages(own.tokens, credit, np.ones(len(own.reward)), own.is_silent))


def weighed(own: Scored, weights: Values | float = 1.0) -> Values:
    """Return [places] means of the spliced values under [places, M] weights of the members, 0 in silent groups."""
    full = np.where(np.isnan(own.spliced), 0.0, weights)
    return np.asarray((full * np.nan_to_num(own.spliced)).sum(axis=1) / np.maximum(full.sum(axis=1), LEAST**2))


def shared(own: Scored) -> NDArray[np.bool_]:
    """Return [places, M] whether a member says the row's segments before the place, too."""
    starts, members = own.rows.first_segment, own.of_group
    found = np.zeros(own.spliced.shape, dtype=bool)
    for at, (row, place) in enumerate(zip(own.row_of_place.tolist(), own.place.tolist(), strict=True)):
        said = own.said[starts[row] : starts[row] + place]
        for number, other in enumerate(members[row].tolist()):
            if 0 <= other != row:
                found[at, number] = np.array_equal(own.said[starts[other] : starts[other] + min(place, own.rows.segments[other])], said)
    return found


def energies(own: Scored, policy: LoadedPolicy, temperature: float) -> list[Values]:
    """Return for each row [tokens] Σ over the tokens so far of 1 - 2π + Σπ²: the squared gradient by the logits, arXiv 2602.07078."""
    found = []
    for prompt, ids in own.rollouts.select("prompt_token_ids", "token_ids").iter_rows():
        batch = token_batches.build([token_batches.Group(prompt, [ids])], policy.pad_token_id, policy.device)
        with torch.inference_mode():
            logits = policy.model(input_ids=batch.input_ids, use_cache=False).logits[0, batch.predict_positions]
            chances = torch.softmax(never_drawn(logits, policy.unspelled) / temperature, dim=-1)
        mine = chances.gather(1, batch.targets[:, None])[:, 0]
        found.append((1.0 - 2.0 * mine + (chances**2).sum(dim=1)).double().clamp(min=LEAST).cumsum(0).numpy())
    return found


def optimal_token_baseline(own: Scored, energy: Sequence[Values]) -> Advantages:
    """Return R less the others' mean reward weighed by their energy up to the same token (an answer that has ended keeps its last)."""
    found = np.zeros(len(own.tokens.token_row))
    for row, first in enumerate(own.tokens.first_token.tolist()):
        others, length = own.others(row), len(energy[row])
        weights = np.array([np.pad(energy[other][:length], (0, max(0, length - len(energy[other]))), mode="edge") for other in others])
        found[first : first + length] = own.reward[row] - (weights * own.reward[others][:, None]).sum(axis=0) / weights.sum(axis=0)
    return own.by_row(found)


def middle(own: Scored) -> NDArray[np.int64]:
    """Return [rows] behind how many segments an answer is gone on from: half of them, 0 (not at all) where there are fewer than two."""
    return own.rows.segments // 2


def prefix_tokens(own: Scored) -> NDArray[np.int64]:
    """Return [rows] tokens up to the middle."""
    row = own.tokens.token_row
    is_before = (own.tokens.place >= 0) & (own.tokens.place - own.rows.first_segment[row] < middle(own)[row])
    return np.bincount(row, weights=is_before, minlength=len(own.reward)).astype(np.int64)


def continued(own: Scored, policy: LoadedPolicy, layout: Layout, params: Params) -> pl.DataFrame:
    """Return table rollouts of BRANCHES continuations of each row from its middle; their ids are the row's and `~` with a number."""
    settings, cut, length = params.rollout, middle(own), prefix_tokens(own)
    made: list[RolloutRow] = []
    opened = chosen_sampler.load_for(layout.policy(0), settings, params.policy.threads, "ospo warm-start")
    given = own.rollouts.select("prompt_id", "sample_index", "prompt_token_ids", "token_ids", "behavior_logprobs").rows()
    with chosen_sampler.opened(opened, settings, params.policy.threads, policy.context_length) as engine:
        for size in sorted(set(length[cut > 0].tolist())):  # so that all may have as many tokens as a rollout
            chosen = np.flatnonzero((cut > 0) & (length == size)).tolist()
            names = [[f"{own.rows.rollout_ids[row]}~{number}" for number in range(BRANCHES)] for row in chosen]
            prompts = [[*given[row][2], *given[row][3][:size]] for row in chosen]
            limits = (settings.max_new_tokens - size, Sampling.of(settings), params.train.seed, settings.batch_size)
            for row, own_names, drawn in zip(chosen, names, engine.sample(sampling.Request(prompts, names, *limits)), strict=True):
                prompt_id, index, prompt, ids, logprobs = given[row]
                for number, (name, each) in enumerate(zip(own_names, drawn, strict=True), 1):
                    all_ids, all_logprobs = [*ids[:size], *each.token_ids], [*logprobs[:size], *each.logprobs]
                    place, text = 100 * number + index, policy.pieces.text(all_ids)
                    made.append(RolloutRow(name, prompt_id, place, prompt, text, all_ids, all_logprobs, each.finish_reason))
    return rollouts_frame(made)


def with_continuations(own: Scored, branches: Values, plain: Values) -> dict[str, Advantages]:
    """Return estimators that know [rows] mean rewards of continuations (NaN: there are none), and splice's baselines."""
    cut, known, row, at = middle(own), ~np.isnan(branches), own.tokens.token_row, own.row_of_place
    mean, others = np.nan_to_num(branches), plain[own.first]
    is_behind = known[at] & (own.place >= cut[at])
    apart = np.where(known, mean - plain[own.first + cut], 0.0)[at]
    ends = np.where(known, (own.reward + BRANCHES * mean) / (BRANCHES + 1), own.reward)
    is_before = (np.arange(len(row)) - own.tokens.first_token[row] < prefix_tokens(own)[row]) & known[row]
    mixed = np.where(is_before, (ends - others)[row], (own.reward - np.where(known, mean, others))[row])
    further = BRANCHES / (BRANCHES + GROUP - 1)
    return {
        "continuations alone (VinePPO)": by_baseline(own, np.where(is_behind, mean[at], others[at]), 0.0),
        "the same, the prefix credited by all three ends": own.by_row(mixed),
        "splice, continuations as further answers": by_baseline(own, plain + is_behind * further * apart, HALF),
        "splice, level behind the cut by continuations": by_baseline(own, plain + is_behind * apart, HALF),
    }


def trees(own: Scored, cuts: Mapping[str, tuple[int, int]]) -> dict[str, Advantages]:
    """Return estimators on trees: each root with the continuations from its middle; a leaf counts by one over its root's leaves.

    Args:
        own: the leaves, one rollout group a prompt.
        cuts: root's rollout id -> segments and tokens before its middle.
    """
    names, row, at = [name.partition("~")[0] for name in own.rows.rollout_ids], own.tokens.token_row, own.row_of_place
    _, root = np.unique(names, return_inverse=True)
    cut, length = np.array([cuts[name] for name in names]).T
    leaves = np.bincount(root)[root]
    mean = (np.bincount(root, weights=own.reward) / np.bincount(root))[root]
    members = own.of_group
    is_other = (members >= 0) & (members != np.arange(len(root))[:, None])
    is_sibling, is_stranger = (is_other & (same == (root[members] == root[:, None])) for same in (True, False))
    per_leaf = is_stranger / leaves[members]
    of_strangers = (per_leaf * own.reward[members]).sum(axis=1) / per_leaf.sum(axis=1)
    of_siblings = (is_sibling * own.reward[members]).sum(axis=1) / np.maximum(is_sibling.sum(axis=1), 1)
    is_before = (np.arange(len(row)) - own.tokens.first_token[row] < length[row]) & (leaves > 1)[row]
    behind = own.reward - np.where(leaves > 1, of_siblings, of_strangers)
    found = {"tree, exact prefix values": own.by_row(np.where(is_before, (mean - of_strangers)[row], behind[row]) / leaves[row])}
    knows = is_sibling[at] & (own.place >= cut[at])[:, None]
    for name, weight in (("tree, splice with strangers and siblings", 1.0), ("tree, splice with strangers alone", 0.0)):
        spliced = by_baseline(own, weighed(own, np.where(knows, weight, per_leaf[at])), HALF)
        found[name] = {rollout: spliced[rollout] / leaves[number] for number, rollout in enumerate(own.rows.rollout_ids)}
    return found


def vectors(policy: LoadedPolicy, params: Params, rollouts: pl.DataFrame, sets: Sequence[Advantages]) -> NDArray[np.float32]:
    """Return [sets, prompts, size] gradients of the rollout groups, prompts ascending; all calls project alike."""
    order = rollouts.sort("prompt_id", "sample_index")["rollout_id"].to_list()
    rows = gradient_vectors._rows(rollouts, params.rollout, 1)
    flat = [np.concatenate([own[name] for name in order]) for own in sets]
    projection = Projection([weight.numel() for weight in policy.model.parameters() if weight.requires_grad], HELD, params.train.seed)
    found = np.zeros((len(sets), len(rows.groups), projection.size), dtype=np.float32)
    for number, group in enumerate(rows.groups):
        graph, places = GroupGradient(policy, rows, group, params.update), rows.tokens_of([group])
        gradient_vectors._checked(graph.mismatch, params.update.max_logprob_mismatch, 1)
        for at, own in enumerate(flat):
            found[at, number] = projection.of(graph.of(own[places]))
    return found


def squared_lengths(own: Scored, policy: LoadedPolicy, params: Params) -> Values:
    """Return [rows] |∇ log π(answer)|²."""
    token_member = own.member[own.tokens.token_row]
    of_member = [own.by_row((token_member == at).astype(np.float64)) for at in range(GROUP)]
    found = (vectors(policy, params, own.rollouts, of_member) ** 2).sum(axis=2)
    return np.maximum(found[own.member, own.rows.group].astype(np.float64), LEAST)


def of_groups(own: Scored, plain: Values, energy: Sequence[Values], squared: Values) -> dict[str, Advantages]:
    """Return the estimators that need no further sample."""
    members, at, others = own.of_group, own.row_of_place, [own.others(row) for row in range(len(own.reward))]
    last = np.array([each[-1] for each in energy])
    best = np.array([squared[each] @ own.reward[each] / squared[each].sum() for each in others])
    alike = shared(own)
    sharing = (alike * own.reward[members[at]]).sum(axis=1) / np.maximum(alike.sum(axis=1), 1)
    again = np.where(alike & (own.place > 0)[:, None], 4.0, 1.0)
    number = own.rows.group[own.rows.segment_row] * (int(own.said.max()) + 1) + own.said
    before = np.where(own.tokens.position > 0, np.roll(own.said, 1) + 1, 0)
    return {
        "splice, λ 0": by_baseline(own, plain, 0.0),
        "splice, λ 1": by_baseline(own, plain, 1.0),
        "uniform, optimal token baseline": optimal_token_baseline(own, energy),
        "uniform, optimal baseline by exact gradients": own.by_row((own.reward - best)[own.tokens.token_row]),
        "splice, answers weighed by their energy": by_baseline(own, weighed(own, last[members[at]]), HALF),
        "splice, answers weighed by their |gradient|²": by_baseline(own, weighed(own, squared[members[at]]), HALF),
        "shared prefixes after the fact (GiGPO)": by_baseline(own, np.where(alike.sum(axis=1) > 1, sharing, plain[own.first][at]), 1.0),
        "splice, answers of the same prefix four times": by_baseline(own, weighed(own, again), HALF),
        "splice, equal segments pooled": by_baseline(own, plain, HALF, number),
        "the same, where the segment before is equal too": by_baseline(own, plain, HALF, number * (int(own.said.max()) + 2) + before),
    }


def halves(own: Scored) -> dict[str, Advantages]:
    """Return `uniform` of the first GROUP members, and of the others."""
    found = {}
    for name, is_in in (("first", own.member < GROUP), ("second", own.member >= GROUP)):
        total = np.bincount(own.rows.group, weights=own.reward * is_in)[own.rows.group]
        found[name] = own.by_row(np.where(is_in, own.reward - (total - own.reward) / (GROUP - 1), 0.0)[own.tokens.token_row])
    return found


def measured(layout: Layout, prompts: int) -> tuple[Found, Values]:
    """Return every estimator's gradients of one project with the tokens that a prompt takes, the true one first; and the floor."""
    params = whole.load(layout.root / "params.yaml")
    scoring = replace(params.score_coalitions, estimators=["splice"], families=[])
    params = replace(params, score_coalitions=scoring, update=replace(params.update, groups="all", aggregation="constant"))
    policy = load_policy(layout.policy(0), params.policy.threads, trainable=True, project=layout.root)
    found: Found = {}

    def keep(rollouts: pl.DataFrame, sets: Mapping[str, Advantages], sampled: float | None = None) -> None:
        tokens = int(rollouts["token_ids"].list.len().sum()) if sampled is None else sampled
        for name, own in zip(sets, vectors(policy, params, rollouts, list(sets.values())), strict=True):
            found[name] = (noise.of_groups(own[None]), tokens / len(own))

    with gradients._sampled(layout, params, 1, Request(prompts=prompts, fresh=True, group_size=GROUP)) as (here, used, rollouts):
        for size in (2 * GROUP, GROUP // 2, GROUP):
            part = rollouts.filter(pl.int_range(pl.len()).over("prompt_id") < size)
            own, product = scored(here, used, part, policy)
            plain = weighed(own)
            spliced = by_baseline(own, plain, HALF)
            assert all(np.allclose(spliced[name], each, atol=1e-6) for name, each in product.items())
            uniform = own.reward - plain[own.first]
            ending = "" if size == GROUP else f", groups of {size}"
            if size > GROUP:
                floor = noise.floor(vectors(policy, params, part, list(halves(own).values())))
            keep(part, {f"uniform{ending}": own.by_row(uniform[own.tokens.token_row]), f"splice{ending}": spliced})
        energy = energies(own, policy, params.rollout.temperature)
        keep(part, of_groups(own, plain, energy, squared_lengths(own, policy, params)))
        further, length = continued(own, policy, layout, params), prefix_tokens(own)
        values = answer_rewards(further, TextScorer(open_reward(here, used), scoring))[0]
        root = further["rollout_id"].str.split("~").list.first()
        means = dict(values.group_by(root.alias("root")).agg(pl.col("reward").mean()).iter_rows())
        cuts = dict(zip(own.rows.rollout_ids, zip(middle(own).tolist(), length.tolist(), strict=True), strict=True))
        new = further["token_ids"].list.len() - pl.Series([cuts[name][1] for name in root])
        branches = np.array([means.get(name, np.nan) for name in own.rows.rollout_ids])
        keep(part, with_continuations(own, branches, plain), int(part["token_ids"].list.len().sum() + new.sum()))
        of_root = part.filter(pl.col("sample_index") < ROOTS)
        is_of_root = root.is_in(of_root["rollout_id"].to_list())
        leaves = pl.concat([of_root, further.filter(is_of_root)])
        tree = scored(here, used, leaves, policy)[0]
        keep(leaves, trees(tree, cuts), int(of_root["token_ids"].list.len().sum()) + int(new.filter(is_of_root).sum()))
    return found, floor


def over_projects(each: Sequence[Values]) -> str:
    """Return the mean over projects of [1 + prompts] measures, and its standard error."""
    found = [noise.estimate(values) for values in each]
    mean, error = np.mean([value for value, _ in found]), np.sqrt(sum(error**2 for _, error in found)) / len(found)
    return f"{mean:.0f} ± {error:.0f}" if mean > 3 else f"{mean:.3f} ± {error:.3f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("projects", type=Path, nargs="+")
    parser.add_argument("--prompts", type=int, default=96)
    options = parser.parse_args()
    each = [measured(Layout(path), options.prompts) for path in options.projects]
    found = [own for own, _ in each]

    def progress(own: Found, name: str) -> Values:
        gradient, tokens = own[name]
        return noise.progress(gradient, own[TRUE][0], BUDGET * own["uniform"][1] / tokens)

    print("| estimator | tokens | B | direction | progress | less uniform | less splice |\n|---|---|---|---|---|---|---|")
    for name in found[0]:
        tokens = float(np.mean([own[name][1] for own in found]))
        cells = [over_projects([noise.noise_scale(own[name][0]) for own in found])]
        cells += [over_projects([noise.direction(own[name][0], own[TRUE][0]) for own in found])]
        cells += [over_projects([progress(own, name) for own in found])]
        cells += [over_projects([progress(own, name) - progress(own, usual) for own in found]) for usual in ("uniform", "splice")]
        print(f"| {name} | {tokens:.0f} | " + " | ".join(cells) + " |", flush=True)
    print(f"| floor: every prompt's gradient exact | – | {over_projects([floor for _, floor in each])} | | | | |")


if __name__ == "__main__":
    main()
