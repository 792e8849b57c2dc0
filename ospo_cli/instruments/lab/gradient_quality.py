"""How well the gradient estimated from one rollout group points along the exact one: free of any learning rate, no policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import CreditError
from ospo_cli.maths import coalitions, seeding
from ospo_cli.maths.advantages import group_advantages
from ospo_cli.maths.coalitions import Budget, Masks, Players
from ospo_cli.maths.estimators import Estimator, needed_coalitions, sample, sampled_shares
from ospo_cli.maths.redistribution import Credit, Rule, Settings, redistribute
from ospo_cli.maths.shaping import prefix_advantages
from ospo_cli.maths.token_map import TokenMap

Values = NDArray[np.float64]

# Coalition values held at once (about 100 MB with what estimators make of them); bounds memory, changes no result.
_CELLS = 2_000_000
_NEGLIGIBLE = 1e-12


@dataclass(frozen=True)
class Interaction:
    """How words earn together.

    Attributes:
        name: short, for tables.
        meaning: one line for people.
        value: ([..., n] which words are there, [..., n] weights) -> [...] reward; 0 where none is.
        gradient: ([seeds, n] chances, weights) -> [seeds, n] gradient of the expected reward with respect to the logits.
        variance: ([seeds, n] chances, weights) -> [seeds] variance of the reward.
        allows: whether there is such a problem of n words.
        weights: smallest and largest weight.
    """

    name: str
    meaning: str
    value: Callable[[Values, Values], Values]
    gradient: Callable[[Values, Values], Values]
    variance: Callable[[Values, Values], Values]
    allows: Callable[[int], bool]
    weights: tuple[float, float]


def _pairs(words: Values) -> Values:
    """Return [..., n / 2] products of neighbours."""
    return words[..., 0::2] * words[..., 1::2]


def _pair_weights(weights: Values) -> Values:
    return weights[..., 0::2]


def _substitutes_gradient(chance: Values, weights: Values) -> Values:
    kept = 1.0 - weights * chance
    return np.asarray(weights * chance * (1.0 - chance) * np.prod(kept, axis=-1, keepdims=True) / kept)


INTERACTIONS: dict[str, Interaction] = {
    interaction.name: interaction
    for interaction in (
        Interaction(
            "additive",
            "each word earns its weight, R = Σ w a",
            lambda words, weights: np.asarray((words * weights).sum(axis=-1)),
            lambda chance, weights: weights * chance * (1.0 - chance),
            lambda chance, weights: (weights**2 * chance * (1.0 - chance)).sum(axis=-1),
            lambda n: n >= 1,
            (0.3, 1.7),
        ),
        Interaction(
            "pairs",
            "two neighbours earn only together, R = Σ over pairs of w a a'",
            lambda words, weights: (_pairs(words) * _pair_weights(weights)).sum(axis=-1),
            lambda chance, weights: np.repeat(_pair_weights(weights) * _pairs(chance), 2, axis=-1) * (1.0 - chance),
            lambda chance, weights: (_pair_weights(weights) ** 2 * _pairs(chance) * (1.0 - _pairs(chance))).sum(axis=-1),
            lambda n: n >= 2 and n % 2 == 0,
            (0.3, 1.7),
        ),
        Interaction(
            "substitutes",
            "what one word earned another cannot, R = 1 - Π (1 - w a)",
            lambda words, weights: 1.0 - np.prod(1.0 - words * weights, axis=-1),
            _substitutes_gradient,
            lambda chance, weights: np.prod(1.0 - chance * (1.0 - (1.0 - weights) ** 2), axis=-1)
            - np.prod(1.0 - chance * weights, axis=-1) ** 2,
            lambda n: n >= 2,
            (0.05, 0.5),
        ),
    )
}  # fmt: skip

CHANCES = (0.1, 0.8)


@dataclass(frozen=True)
class Condition:
    """What is measured: how words earn together, n words, G completions, and noise as a multiple of the reward's standard deviation."""

    interaction: str
    n: int
    group_size: int
    noise: float = 0.0


@dataclass(frozen=True)
class Quality:
    """Of one rule and estimator under one condition, per seed.

    Attributes:
        cosine: [seeds] between the estimated and the exact gradient; 0 where the estimate is 0 (no differences within the rollout group).
        squared_error: [seeds] of c times the estimate, in units of the exact gradient's mean square, with the one c for all
            seeds that makes their mean smallest; its mean lies between 0 and 1, and 1 is as good as no gradient.
        is_silent: [seeds] the estimate is 0.
    """

    cosine: Values
    squared_error: Values
    is_silent: NDArray[np.bool_]


@dataclass(frozen=True)
class Standing:
    """A rule against the best one under the same condition, over the same seeds.

    Attributes:
        rule: its name.
        mean: of the cosine.
        behind: mean difference of the best rule's cosine to this one's.
        standard_error: of that difference, paired by seed.
        is_tied: the difference could be chance: below `z` standard errors, z by Bonferroni over all rules compared, 5 % in all.
    """

    rule: str
    mean: float
    behind: float
    standard_error: float
    is_tied: bool


@dataclass(frozen=True)
class Draw:
    """The problems and rollouts of one condition.

    Attributes:
        chance, weights: [seeds, n].
        words: [seeds, G, n] which words were drawn (0 or 1).
        sigma: [seeds] standard deviation of the noise.
        reward_noise: [seeds, G].
    """

    condition: Condition
    seed: int
    chance: Values
    weights: Values
    words: Values
    sigma: Values
    reward_noise: Values

    @property
    def rows(self) -> int:
        """Number of completions."""
        return int(self.words.shape[0] * self.words.shape[1])

    def values(self, first: int, last: int, masks: Masks, stream: str) -> Values:
        """Return [rows, m] v of the coalitions in completions `first` up to `last`, with noise but for the empty one.

        Args:
            masks: bool[m, n], or bool[rows, m, n] for coalitions of each row's own.
            stream: name of the noise.
        """
        group_size, n = self.words.shape[1:]
        seeds = np.arange(first, last) // group_size
        words, weights = self.words.reshape(-1, n)[first:last, None], self.weights[seeds][:, None]
        clean = INTERACTIONS[self.condition.interaction].value(words * masks, weights)
        if self.condition.noise == 0:
            return clean
        drawn = self._noise(first, last, masks.shape[-2], stream)
        grand = np.broadcast_to(masks.all(axis=-1), clean.shape)
        drawn = np.where(grand, self.reward_noise.reshape(-1)[first:last, None], drawn)
        has_words = np.broadcast_to(masks.any(axis=-1), clean.shape)
        return np.asarray(clean + self.sigma[seeds][:, None] * np.where(has_words, drawn, 0.0))

    def _noise(self, first: int, last: int, count: int, stream: str) -> Values:
        names = [f"lab|{stream}|{self.condition.n}|{row}" for row in range(first, last)]
        return np.stack([seeding.generator(self.seed, name).normal(size=count) for name in names])


def draw(condition: Condition, seeds: int, seed: int) -> Draw:
    """Draw one problem and one rollout group per seed; smaller rollout groups are the first completions of larger ones.

    Raises:
        CreditError: unknown kind of interaction, or there is none of n words.
    """
    if condition.interaction not in INTERACTIONS:
        raise CreditError("lab", "unknown interaction", found=condition.interaction, expected=", ".join(INTERACTIONS))
    kind = INTERACTIONS[condition.interaction]
    if not kind.allows(condition.n):
        raise CreditError("lab", f"there are no {kind.name} of {condition.n} words", found=kind.meaning)
    n, group_size = condition.n, condition.group_size
    chance, weights = np.empty((seeds, n)), np.empty((seeds, n))
    words, noise = np.empty((seeds, group_size, n)), np.empty((seeds, group_size))
    for number in range(seeds):
        rng = seeding.generator(seed, f"lab|{n}|{number}")
        chance[number], weights[number] = rng.uniform(*CHANCES, n), rng.uniform(*kind.weights, n)
        words[number] = rng.random((group_size, n)) < chance[number]
        noise[number] = seeding.generator(seed, f"lab|noise|{n}|{number}").normal(size=group_size)
    sigma = condition.noise * np.sqrt(np.maximum(kind.variance(chance, weights), 0.0))
    return Draw(condition, seed, chance, weights, words, sigma, noise)


def shares(drawn: Draw, estimator: Estimator) -> Values:
    """Return [rows, n] shares of all completions, sampled where the exact value needs more than `Budget.exact` coalitions."""
    n = drawn.condition.n
    found = np.empty((drawn.rows, n))
    players, budget = Players(n), Budget()
    if estimator.is_sampled(players, budget):
        step = max(1, _CELLS // (n * (n + 1) * (budget.orders + 1)))
        for first in range(0, drawn.rows, step):
            last = min(drawn.rows, first + step)
            draws = [_stream(drawn.seed, f"{estimator.name}|{n}|{row}") for row in range(first, last)]
            picked = sample(estimator, [players] * (last - first), budget, draws)
            values = drawn.values(first, last, picked.coalitions, "orders")
            found[first:last] = sampled_shares(picked, values).share
        return found
    masks = needed_coalitions(estimator, n, n)
    step = max(1, _CELLS // (len(masks) * n))
    rng = seeding.generator(drawn.seed, f"lab|order|{estimator.name}|{n}")
    for first in range(0, drawn.rows, step):
        last = min(drawn.rows, first + step)
        values = drawn.values(first, last, masks, "coalitions|" + "+".join(estimator.families))
        found[first:last] = estimator.shares(masks, values, rng).share
    return found


def qualities(
    drawn: Draw, share: Values, rules: Mapping[str, Rule], settings: Settings, normalize: str = "std", trace: float = 1.0
) -> dict[str, Quality]:
    """Return the quality of each rule's gradient, all from the same rollout groups; arguments as of `gradients`."""
    exact = INTERACTIONS[drawn.condition.interaction].gradient(drawn.chance, drawn.weights)
    return {name: _quality(found, exact) for name, found in gradients(drawn, share, rules, settings, normalize, trace).items()}


def gradients(
    drawn: Draw, share: Values, rules: Mapping[str, Rule], settings: Settings, normalize: str = "std", trace: float = 1.0
) -> dict[str, Values]:
    """Return [seeds, n] each rule's gradient of each problem, all from the same rollout groups.

    Args:
        drawn: the condition's problems and rollouts.
        share: [rows, n] φ.
        rules: by name.
        settings: of the rules.
        normalize: of the group advantage.
        trace: λ of the prefix advantages.
    """
    seeds, group_size, n = drawn.words.shape
    rows = drawn.rows
    everything = np.arange(rows * n)
    tokens = TokenMap(np.repeat(np.arange(rows), n), np.repeat(np.arange(rows), n), everything, everything, np.ones(rows * n), rows)
    prefix = drawn.values(0, rows, coalitions.prefix(n), "prefix")
    reward, group = prefix[:, -1], np.repeat(np.arange(seeds), group_size)
    advantage = group_advantages(reward, group, normalize)
    credit = Credit(
        advantage=advantage.advantage,
        scale=advantage.scale,
        group=group,
        is_degenerate=advantage.is_degenerate,
        share=share.ravel(),
        prefix_advantage=prefix_advantages(prefix, np.zeros(rows), trace).ravel(),
        terminal=np.zeros(rows),
        noise=seeding.generator(drawn.seed, f"lab|rule|{n}").random(rows * n),
        reward=reward,
    )
    score = drawn.words - drawn.chance[:, None, :]
    found = {}
    for name, rule in rules.items():
        advantages = redistribute(rule, tokens, credit, settings).advantages.reshape(seeds, group_size, n)
        found[name] = (advantages * score).mean(axis=1)
    return found


def standings(found: Mapping[str, Quality]) -> list[Standing]:
    """Return the rules by mean cosine, best first, each with its paired difference to the best.

    >>> equal = Quality(np.array([0.5, 0.7]), np.zeros(2), np.zeros(2, dtype=bool))
    >>> [(each.rule, each.behind, each.is_tied) for each in standings({"a": equal, "b": equal})]
    [('a', 0.0, True), ('b', 0.0, True)]
    """
    order = sorted(found, key=lambda name: -round(float(found[name].cosine.mean()), 9))  # rounding breaks no tie; the order given does
    best = found[order[0]].cosine
    z = NormalDist().inv_cdf(1.0 - 0.025 / max(1, len(order) - 1))
    rows = []
    for name in order:
        difference = best - found[name].cosine
        error = standard_error(difference)
        behind = float(difference.mean())
        rows.append(Standing(name, float(found[name].cosine.mean()), behind, error, behind <= max(z * error, _NEGLIGIBLE)))
    return rows


def standard_error(sample_values: Values) -> float:
    """Return the standard error of a mean (0 for a single value: nothing is known of it)."""
    count = len(sample_values)
    return float(sample_values.std(ddof=1) / np.sqrt(count)) if count > 1 else 0.0


def conditions(
    interactions: Sequence[str], segments: Sequence[int], group_sizes: Sequence[int], noises: Sequence[float], is_crossed: bool
) -> list[Condition]:
    """Return what is measured: every combination, or each axis by itself around its middle (n = 8, G = 8, no noise, or what is nearest).

    Kinds of interaction that do not exist for n words are left out.
    """
    middle_n, middle_group, middle_noise = (middle(axis, wanted) for axis, wanted in ((segments, 8), (group_sizes, 8), (noises, 0)))
    wanted = []
    for kind in interactions:
        for n in segments:
            for group_size in group_sizes:
                for noise in noises:
                    moved = (n != middle_n) + (group_size != middle_group) + (noise != middle_noise)
                    if (is_crossed or moved <= 1) and INTERACTIONS[kind].allows(n):
                        wanted.append(Condition(kind, int(n), int(group_size), float(noise)))
    return wanted


def middle(axis: Sequence[float], wanted: float) -> float:
    """Return the value of an axis next to the wanted one, the smaller of two.

    >>> middle((2, 4, 16), 8)
    4
    """
    return min(axis, key=lambda value: (abs(value - wanted), value))


def _quality(estimate: Values, exact: Values) -> Quality:
    length, exact_length = np.linalg.norm(estimate, axis=1), np.linalg.norm(exact, axis=1)
    is_silent = length <= _NEGLIGIBLE
    product = (estimate * exact).sum(axis=1)
    cosine = np.where(is_silent, 0.0, product / np.where(is_silent, 1.0, length) / exact_length)
    power = float((estimate**2).sum())
    scale = max(float(product.sum()), 0.0) / power if power > 0 else 0.0
    error = ((scale * estimate - exact) ** 2).sum(axis=1) / float((exact_length**2).mean())
    return Quality(cosine, error, is_silent)


def _stream(seed: int, row: str) -> coalitions.Draw:
    return lambda name: seeding.generator(seed, f"lab|{row}|{name}")
