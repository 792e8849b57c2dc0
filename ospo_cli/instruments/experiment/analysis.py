"""From outcomes to what may be said: each method at its own learning rate, differences over seeds and prompts, tokens to a level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.instruments.experiment.outcomes import Outcome
from ospo_cli.instruments.experiment.plan import Plan, Training
from ospo_cli.maths import seeding, student
from ospo_cli.maths.over_trainings import TrainingDifference, over_trainings
from ospo_cli.maths.statistics import PairedDifference, Resamples, holm

Values = NDArray[np.float64]
Found = dict[Training, Outcome]
RESAMPLES = 2000
CURVE_POINTS = 24


@dataclass(frozen=True)
class Row:
    """A method on a task at the learning rate whose last rollouts earned most (train prompts: held-out ones choose nothing)."""

    task: str
    method: str
    rate: float
    seeds: tuple[int, ...]
    outcomes: tuple[Outcome, ...]

    def value(self, system: str, decoding: str, seed: int) -> pl.DataFrame:
        """Return prompt_id and value of one seed, sorted."""
        frame = self.outcomes[self.seeds.index(seed)].values
        return frame.filter(pl.col("system") == system, pl.col("decoding") == decoding).select("prompt_id", "value").sort("prompt_id")

    def means(self, system: str, decoding: str) -> Values:
        """Return the mean over prompts of each seed."""
        return np.array([self.value(system, decoding, seed)["value"].mean() for seed in self.seeds], dtype=np.float64)

    def decodings(self) -> list[str]:
        """Return how the last policy was decoded, greedy first."""
        found = self.outcomes[0].values.filter(pl.col("system") == "final")["decoding"].unique().to_list()
        return sorted(found, key=lambda name: (name != "greedy", name))

    def along(self, column: str) -> Values:
        """Return [seeds, iterations] of a column of experiment_iterations."""
        return np.array([outcome.iterations.sort("iteration")[column].to_numpy() for outcome in self.outcomes], dtype=np.float64)


@dataclass(frozen=True)
class Compared:
    """A method's last policy less another system, with p adjusted for all comparisons of the task (Holm)."""

    method: str
    decoding: str
    other: str
    seeds: int
    found: TrainingDifference | PairedDifference
    adjusted_p: float


def rows_of(plan: Plan, task: str, found: Found, rate: float | None = None) -> list[Row]:
    """Return a row per method that has outcomes, the reference first; of its learning rates those with most seeds come into question."""
    rows = []
    for method in [plan.reference, *(name for name in plan.methods if name != plan.reference)]:
        by_rate = {each: _seeds(plan, found, task, method, each) for each in (plan.rates if rate is None else (rate,))}
        known = {each: seeds for each, seeds in by_rate.items() if len(seeds) == max(map(len, by_rate.values())) and seeds}
        if not known:
            continue
        chosen = max(known, key=lambda each: _last_reward(found, task, method, each, known[each]))
        outcomes = tuple(found[Training(task, method, seed, chosen)] for seed in known[chosen])
        rows.append(Row(task, method, chosen, known[chosen], outcomes))
    return rows


def _seeds(plan: Plan, found: Found, task: str, method: str, rate: float) -> tuple[int, ...]:
    return tuple(seed for seed in plan.seeds if Training(task, method, seed, rate) in found)


def _last_reward(found: Found, task: str, method: str, rate: float, seeds: Sequence[int]) -> float:
    last = [found[Training(task, method, seed, rate)].iterations.sort("iteration")["mean_reward"][-1] for seed in seeds]
    return float(np.mean(last))


def comparisons(rows: Sequence[Row]) -> list[Compared]:
    """Return each method against the first and against the raw query, per decoding.

    Of two seeds or more: over seeds and prompts (`over_trainings`), on the seeds that both have. Of one: over prompts alone.
    """
    if not rows:
        return []
    reference, found = rows[0], []
    for row in rows:
        for decoding in row.decodings():
            others = [(reference.method, reference, ("final", decoding))] if row is not reference else []
            for name, other, cell in [*others, ("raw query", row, ("raw query", "none"))]:
                seeds = [seed for seed in row.seeds if seed in other.seeds]
                apart = [_apart(row.value("final", decoding, seed), other.value(*cell, seed)) for seed in seeds]
                if apart and all(len(each) for each in apart):
                    found.append((row.method, decoding, name, len(seeds), _difference(apart, _same_prompts(row, seeds))))
    adjusted = holm([each[-1].p_value for each in found])
    return [Compared(*each, adjusted_p=p) for each, p in zip(found, adjusted, strict=True)]


def _apart(one: pl.DataFrame, two: pl.DataFrame) -> Values:
    both = one.join(two, on="prompt_id", suffix="_other").sort("prompt_id")
    return (both["value"] - both["value_other"]).to_numpy()


def _difference(apart: Sequence[Values], same_prompts: bool) -> TrainingDifference | PairedDifference:
    if len(apart) > 1:
        return over_trainings(apart, same_prompts)
    draws = Resamples(len(apart[0]), RESAMPLES, seeding.generator(0, "experiment"))
    return draws.difference(apart[0], np.zeros(len(apart[0])))


def _same_prompts(row: Row, seeds: Sequence[int]) -> bool:
    # Ids may be equal where the shop depends on the seed; equal values of all raw queries mean equal prompts.
    raw = [row.value("raw query", "none", seed) for seed in seeds]
    return all(raw[0].equals(other) for other in raw[1:])


@dataclass(frozen=True)
class ToLevel:
    """Share of the reference's tokens (reward calls, seconds) after which a method earns what the reference earns at its end.

    `low` and `high` are None where fewer than two seeds tell; `share` is None where the level is not reached.
    """

    method: str
    along: str
    share: float | None
    low: float | None
    high: float | None
    reached: int
    seeds: int


def to_level(rows: Sequence[Row], along: str) -> list[ToLevel]:
    """Return, per method, the share of `along` (tokens, reward_calls or cpu_seconds) to the reference's final level.

    Mean reward of the rollouts against the sum of `along`, smoothed by a parabola; the level is the reference's parabola at its end, the
    mean over the seeds that both have. The share is of the parabola of the mean curve; its interval is a jackknife over seeds with
    Student's t.
    """
    reference, found = rows[0], []
    for row in rows[1:]:
        seeds = [seed for seed in row.seeds if seed in reference.seeds]
        own, other = _curves(row, seeds, along), _curves(reference, seeds, along)
        if own is None or other is None:
            continue
        share = _share(own, other)
        parts = [_share(_without(own, place), _without(other, place)) for place in range(len(seeds))] if len(seeds) > 1 else []
        single = [_share(_only(own, place), _only(other, place)) for place in range(len(seeds))]
        low = high = None
        if share is not None and parts and all(part is not None for part in parts):
            spread = np.array(parts, dtype=np.float64)
            error = float(np.sqrt((len(parts) - 1) / len(parts) * np.sum((spread - spread.mean()) ** 2)))
            half = float(student.quantile(len(parts) - 1, 0.95)) * error
            low, high = share - half, share + half
        found.append(ToLevel(row.method, along, share, low, high, sum(one is not None for one in single), len(seeds)))
    return found


Curves = tuple[Values, Values]


def _curves(row: Row, seeds: Sequence[int], along: str) -> Curves | None:
    """Return sums of `along` and mean rewards, [seeds, iterations]; None where there are fewer than four iterations or no numbers."""
    places = [row.seeds.index(seed) for seed in seeds]
    spent, earned = row.along(along)[places], row.along("mean_reward")[places]
    return None if earned.shape[1] < 4 or np.isnan(spent).any() else (np.cumsum(spent, axis=1), earned)


def _without(curves: Curves, place: int) -> Curves:
    return np.delete(curves[0], place, axis=0), np.delete(curves[1], place, axis=0)


def _only(curves: Curves, place: int) -> Curves:
    return curves[0][place : place + 1], curves[1][place : place + 1]


def _share(own: Curves, other: Curves) -> float | None:
    (spent, earned), (other_spent, other_earned) = ((each.mean(axis=0) for each in pair) for pair in (own, other))
    end = other_spent[-1]
    level = float(np.polyval(np.polyfit(other_spent / end, other_earned, 2), 1.0))
    fit = np.polyfit(spent / end, earned, 2)
    places = np.linspace(0, spent[-1] / end, 2001)
    reached = np.nonzero(np.polyval(fit, places) >= level)[0]
    return float(places[reached[0]]) if len(reached) else None


def curve(row: Row, along: str) -> list[tuple[float, float, float, float]]:
    """Return (sum of `along`, mean reward, low, high) at up to CURVE_POINTS places; the band is a 95 % t interval over seeds.

    With one seed the band has no width.
    """
    spent, earned = np.nancumsum(row.along(along), axis=1), row.along("mean_reward")
    points = []
    for part in np.array_split(np.arange(earned.shape[1]), min(CURVE_POINTS, earned.shape[1])):
        of_seed = earned[:, part].mean(axis=1)
        half = 0.0
        if len(of_seed) > 1:
            half = float(student.quantile(len(of_seed) - 1, 0.95)) * float(of_seed.std(ddof=1)) / np.sqrt(len(of_seed))
        mean = float(of_seed.mean())
        points.append((float(spent[:, part].mean()), mean, mean - half, mean + half))
    return points
