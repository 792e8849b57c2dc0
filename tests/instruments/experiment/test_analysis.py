"""Comparisons and costs to a level on outcomes whose truth is known."""

import numpy as np
import pytest

from ospo_cli.instruments.experiment.analysis import comparisons, curve, rows_of, to_level
from ospo_cli.instruments.experiment.plan import Plan, Task, Training
from ospo_cli.maths.over_trainings import over_trainings
from ospo_cli.maths.statistics import PairedDifference, holm
from tests.instruments.experiment.made import outcome

PLAN = Plan({"t": Task("t", {}, None)}, {"other": {}, "base": {}, "third": {}}, "base", (0, 1, 2), (0.1, 0.2))
STEPS = np.arange(1, 11)


def rising(pace, top=0.9):
    """Return a parabola of ten iterations that reaches `top` after 10 / pace of them."""
    part = np.minimum(pace * STEPS / 10, 1.0)
    return top * part * (2 - part)


def found(methods, seeds=(0, 1, 2), rates=(0.1,), noise=0.0):
    draw = np.random.default_rng(0)
    return {
        Training("t", method, seed, rate): outcome(
            Training("t", method, seed, rate), pace(rate) + noise * draw.normal(size=10), final(seed)
        )
        for method, (pace, final) in methods.items()
        for seed in seeds
        for rate in rates
    }


def test_of_each_method_the_rate_with_the_best_last_rollouts_is_shown_and_the_reference_is_first():
    outcomes = found(
        {"other": (lambda rate: np.full(10, rate), lambda seed: 0.5), "base": (lambda rate: np.full(10, 1 - rate), lambda seed: 0.5)},
        rates=(0.1, 0.2),
    )
    rows = rows_of(PLAN, "t", outcomes)
    assert [(row.method, row.rate, row.seeds) for row in rows] == [("base", 0.1, (0, 1, 2)), ("other", 0.2, (0, 1, 2))]
    assert [row.rate for row in rows_of(PLAN, "t", outcomes, 0.2)] == [0.2, 0.2]


def test_a_rate_that_lacks_a_seed_does_not_win_by_its_lucky_ones():
    outcomes = found({"base": (lambda rate: np.full(10, rate), lambda seed: 0.5)}, rates=(0.1, 0.2))
    del outcomes[Training("t", "base", 2, 0.2)]
    assert rows_of(PLAN, "t", outcomes)[0].rate == 0.1


def test_differences_are_those_over_seeds_and_prompts_and_holm_covers_the_table():
    outcomes = found(
        {"base": (lambda rate: rising(1), lambda seed: 0.5), "other": (lambda rate: rising(1), lambda seed: 0.6 + 0.01 * seed)}
    )
    compared = comparisons(rows_of(PLAN, "t", outcomes))
    own = {(each.method, each.decoding, each.other): each for each in compared}
    assert set(own) == {(method, decoding, "raw query") for method in ("base", "other") for decoding in ("greedy", "sampled")} | {
        ("other", decoding, "base") for decoding in ("greedy", "sampled")
    }
    expected = over_trainings([np.full(40, 0.1 + 0.01 * seed) for seed in range(3)], same_prompts=False)
    assert own["other", "greedy", "base"].found.mean == pytest.approx(expected.mean)
    assert own["other", "greedy", "base"].found.low == pytest.approx(expected.low)
    assert [each.adjusted_p for each in compared] == holm([each.found.p_value for each in compared])
    assert own["other", "greedy", "base"].adjusted_p > own["other", "greedy", "base"].found.p_value


def test_one_seed_is_compared_over_prompts_alone():
    outcomes = found(
        {"base": (lambda rate: rising(1), lambda seed: 0.5), "other": (lambda rate: rising(1), lambda seed: np.linspace(0.5, 0.7, 40))},
        seeds=(0,),
    )
    (greedy,) = [each for each in comparisons(rows_of(PLAN, "t", outcomes)) if (each.other, each.decoding) == ("base", "greedy")]
    assert isinstance(greedy.found, PairedDifference)
    assert greedy.seeds == 1
    assert greedy.found.mean == pytest.approx(0.1)


def test_only_seeds_that_both_have_are_compared():
    outcomes = found({"base": (lambda rate: rising(1), lambda seed: 0.5), "other": (lambda rate: rising(1), lambda seed: 0.6)})
    del outcomes[Training("t", "other", 0, 0.1)]
    assert {each.seeds for each in comparisons(rows_of(PLAN, "t", outcomes)) if each.other == "base"} == {2}


def test_the_cost_to_a_level_is_found_again():
    # The level of the reference's end lies at (1 - sqrt(1 - x)) of the way of a curve of the same shape with a higher top.
    outcomes = found(
        {"base": (lambda rate: rising(1, top=0.6), lambda seed: 0.5), "other": (lambda rate: rising(1, top=0.8), lambda seed: 0.5)}
    )
    for along in ("tokens", "reward_calls", "cpu_seconds"):
        (level,) = to_level(rows_of(PLAN, "t", outcomes), along)
        assert level.share == pytest.approx(1 - np.sqrt(1 - 0.75), abs=2e-3)
        assert (level.low, level.high) == pytest.approx((level.share, level.share), abs=1e-9)
        assert level.reached == 3


def test_noise_widens_the_interval_and_a_level_out_of_reach_is_said():
    outcomes = found(
        {"base": (lambda rate: rising(1, top=0.6), lambda seed: 0.5), "other": (lambda rate: rising(1, top=0.8), lambda seed: 0.5)},
        noise=0.02,
    )
    (level,) = to_level(rows_of(PLAN, "t", outcomes), "tokens")
    assert level.low < level.share < level.high
    outcomes = found(
        {"base": (lambda rate: rising(1, top=0.8), lambda seed: 0.5), "other": (lambda rate: rising(1, top=0.6), lambda seed: 0.5)}
    )
    (level,) = to_level(rows_of(PLAN, "t", outcomes), "tokens")
    assert (level.share, level.low, level.reached) == (None, None, 0)


def test_a_curve_has_the_mean_over_seeds_and_a_band():
    outcomes = found({"base": (lambda rate: rising(1), lambda seed: 0.5)}, noise=0.01)
    points = curve(rows_of(PLAN, "t", outcomes)[0], "tokens")
    assert [point[0] for point in points] == [1000.0 * step for step in STEPS]
    assert all(low < mean < high for _, mean, low, high in points)
