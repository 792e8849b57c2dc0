"""A row's random numbers depend on the seed and the row alone."""

from __future__ import annotations

import numpy as np

from ospo_cli.maths import seeding


def test_generators_are_the_same_on_every_machine() -> None:
    assert seeding.generator(0, "001:p:00").integers(0, 1_000_000, 3).tolist() == [888768, 294310, 636308]


def test_uniforms_of_a_row_do_not_depend_on_the_other_rows_or_on_the_count() -> None:
    together = seeding.uniforms(7, ["a", "b", "c"], 20)
    assert np.array_equal(together[1:2, :5], seeding.uniforms(7, ["b"], 5))


def test_rows_seeds_and_purposes_have_streams_of_their_own() -> None:
    streams = [
        seeding.uniforms(0, ["a"], 4)[0],
        seeding.uniforms(1, ["a"], 4)[0],
        seeding.uniforms(0, ["b"], 4)[0],
        seeding.generator(0, "a").random(4),
    ]
    assert len({tuple(stream) for stream in streams}) == 4


def test_uniforms_lie_in_the_half_open_unit_interval_and_are_even() -> None:
    numbers = seeding.uniforms(0, [str(row) for row in range(200)], 50)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.01
