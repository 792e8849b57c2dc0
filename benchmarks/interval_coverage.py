"""How often 95 % intervals hold the true mean: differences between trainings, and means of few or rarely different values.

Run: python benchmarks/interval_coverage.py [--repetitions 1000]

Simulated differences are like those of nDCG between two policies: of two in three prompts nearly 0. "spread" is the standard deviation
between seeds; "shared" that of what a prompt does under every seed, "rest" that of what it does under one. Columns: over prompts alone (a
normal interval of the pooled differences), t over seed means, a hierarchical bootstrap (seeds, then prompts, percentiles of 400), and
`maths/over_trainings.py`. Second table: percentiles, BCa and t, and `maths/statistics.py`, which takes the wider of the last two.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from ospo_cli.maths import student
from ospo_cli.maths.over_trainings import over_trainings
from ospo_cli.maths.statistics import Resamples

TRUTH, PROMPTS = 0.02, 256
SEEDS, SPREADS, EFFECTS = (2, 3, 5, 8), (0.0, 0.01, 0.05), ((0.1, 0.17), (0.2, 0.03), (0.0, 0.2))
Ends = tuple[float, float]
Draw = Callable[[np.random.Generator, int], np.ndarray]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=1000)
    repetitions = parser.parse_args().repetitions
    names = ("over prompts", "t over seeds", "hierarchical", "ours")
    print("| seeds | spread | shared, rest | " + " | ".join(names) + " |\n|" + " --- |" * (3 + len(names)))
    for seeds in SEEDS:
        for spread in SPREADS:
            for shared, rest in EFFECTS:
                draws = np.random.default_rng([seeds, int(1000 * spread), int(100 * shared)])
                # Drawn once: as good for every simulated comparison, and most of the time else.
                weights = [draws.multinomial(size, np.full(size, 1 / size), 400) / size for size in (seeds, PROMPTS)]
                held = np.mean([trainings(draws, weights, spread, shared, rest) for _ in range(repetitions)], axis=0)
                print(f"| {seeds} | {spread:g} | {shared:g}, {rest:g} | " + " | ".join(f"{share:.3f}" for share in held) + " |")
    names = ("percentiles", "BCa", "t", "ours")
    print("\n| values | prompts | " + " | ".join(names) + " |\n|" + " --- |" * (2 + len(names)))
    for name, (draw, truth, sizes) in KINDS.items():
        for size in sizes:
            draws = np.random.default_rng(size)
            resamples = Resamples(size, 1000, draws)
            held = np.mean([few(resamples, draw(draws, size), truth) for _ in range(repetitions)], axis=0)
            print(f"| {name} | {size} | " + " | ".join(f"{share:.3f}" for share in held) + " |")


def effect(draws: np.random.Generator, size: tuple[int, ...], deviation: float) -> np.ndarray:
    """Return values that are 0 in two of three places."""
    return np.where(draws.random(size) < 0.35, draws.normal(0, deviation / np.sqrt(0.35), size), 0.0)


def trainings(draws: np.random.Generator, weights: list[np.ndarray], spread: float, shared: float, rest: float) -> list[bool]:
    """Return for one simulated comparison which intervals hold the truth; `weights` are [resamples, seeds] and [resamples, prompts]."""
    seeds = weights[0].shape[1]
    of_prompts = effect(draws, (1, PROMPTS), shared)
    table = TRUTH + draws.normal(0, spread, (seeds, 1)) + of_prompts + effect(draws, (seeds, PROMPTS), rest)
    mean, by_seed = table.mean(), table.mean(axis=1)
    pooled = 1.96 * table.mean(axis=0).std(ddof=1) / np.sqrt(PROMPTS)
    over_seeds = float(student.quantile(seeds - 1)) * by_seed.std(ddof=1) / np.sqrt(seeds)
    ours = over_trainings(table, same_prompts=True)
    ends = [(mean - half, mean + half) for half in (pooled, over_seeds)]
    ends += [tuple(np.quantile(np.einsum("bs,bs->b", weights[0], weights[1] @ table.T), [0.025, 0.975])), (ours.low, ours.high)]
    return [bool(low <= TRUTH <= high) for low, high in ends]


def few(resamples: Resamples, sample: np.ndarray, truth: float) -> list[bool]:
    """Return which intervals of the mean of `sample` hold the truth."""
    from scipy import stats

    found = resamples.mean(sample)
    if np.all(sample == sample[0]):
        return [bool(sample[0] == truth)] * 4
    bca = stats.bootstrap((sample,), np.mean, n_resamples=500, method="BCa", rng=resamples.seeds[0]).confidence_interval
    percentiles = stats.bootstrap((sample,), np.mean, n_resamples=500, method="percentile", rng=resamples.seeds[0]).confidence_interval
    half = float(student.quantile(sample.size - 1)) * sample.std(ddof=1) / np.sqrt(sample.size)
    ends = [tuple(percentiles), tuple(bca), (sample.mean() - half, sample.mean() + half), (found.low, found.high)]
    return [bool(low <= truth <= high) for low, high in ends]


def every_size(draws: np.random.Generator, size: int) -> np.ndarray:
    """Return values like nDCG's: 0, 1, and between."""
    part = draws.random(size)
    return np.where(part < 0.3, 0.0, np.where(part < 0.5, 1.0, draws.beta(2, 2, size)))


def rarely(share: float, losses: float) -> Draw:
    """Return differences of which `share` are not 0, and of these `losses` below it."""
    return lambda draws, size: (
        np.where(draws.random(size) < share, np.where(draws.random(size) < losses, -1, 1), 0) * draws.beta(2, 2, size)
    )


KINDS: dict[str, tuple[Draw, float, tuple[int, ...]]] = {
    "0, 1 and between": (every_size, 0.45, (10, 30)),
    "mostly 1": (lambda draws, size: np.where(draws.random(size) < 0.7, 1.0, draws.beta(2, 2, size)), 0.85, (10, 20, 30)),
    "differences, a third not 0": (
        lambda draws, size: np.where(draws.random(size) < 0.35, draws.normal(0.05, 0.3, size), 0),
        0.0175,
        (10, 20, 30),
    ),
    "losses, 1 in 100": (rarely(0.01, 1), -0.005, (256,)),
    "losses, 2 in 100": (rarely(0.02, 1), -0.01, (256,)),
    "losses and gains, 3 in 100": (rarely(0.03, 0.7), -0.006, (256,)),
    "losses and gains, 8 in 100": (rarely(0.08, 0.5), 0.0, (256,)),
}

if __name__ == "__main__":
    main()
