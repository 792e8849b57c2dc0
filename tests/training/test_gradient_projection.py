"""A projection keeps inner products on average, to the error that it states, and is the same for the same seed."""

import numpy as np
import pytest
import torch

from ospo_cli.training import gradient_projection
from ospo_cli.training.gradient_projection import Projection

SIZES = [300, 500, 1200]


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(4)
    return [[torch.randn(size, generator=generator) for size in SIZES] for _ in range(2)]


def inner(first, second):
    return float(torch.cat(first) @ torch.cat(second))


def test_gradients_that_fit_are_kept_whole_with_zeros_where_a_weight_has_none(pair):
    own = Projection(SIZES, 10, 0)
    assert own.is_exact
    assert own.error == 0
    found = own.of([pair[0][0].reshape(30, 10), None, pair[0][2]])
    assert np.array_equal(found, np.concatenate([pair[0][0], np.zeros(500, np.float32), pair[0][2]]))


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(gradient_projection, "LONGEST", 256)
    monkeypatch.setattr(gradient_projection, "SHORTEST", 16)


def test_inner_products_are_kept_on_average_and_lengths_to_the_stated_error(short, pair):
    draws = [Projection(SIZES, 10, seed) for seed in range(400)]
    assert not draws[0].is_exact
    assert draws[0].size == 256
    products = np.array([[own.of(x) @ own.of(y) for x in pair for y in pair] for own in draws])
    exact = np.array([inner(x, y) for x in pair for y in pair])
    assert products.mean(axis=0) == pytest.approx(exact, abs=4 * exact[0] * draws[0].error / 20)
    assert products[:, 0].std() / exact[0] == pytest.approx(draws[0].error, rel=0.15)


def test_it_is_linear_and_a_weight_without_gradient_adds_nothing(short, pair):
    own = Projection(SIZES, 10, 1)
    parts = [[pair[0][0], None, None], [None, *pair[0][1:]]]
    assert own.of(parts[0]) + own.of(parts[1]) == pytest.approx(own.of(pair[0]), abs=1e-4)
    assert not own.of([None, None, None]).any()


def test_equal_seeds_give_equal_bytes_and_others_do_not(short, pair):
    first, again, other = (Projection(SIZES, 10, seed).of(pair[0]).tobytes() for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_more_vectors_are_shorter_so_that_all_fit():
    few, many = (Projection([1 << 20], count, 0) for count in (100, 20_000))
    assert few.size == 1 << 16
    assert many.size * 20_000 * 4 <= gradient_projection.BYTES
    assert many.size == 1 << 12


def test_gradients_whose_elements_all_point_one_way_keep_their_length_too():
    projection = Projection([100_000], 1 << 20, seed=3)
    whole = projection.of([torch.ones(100_000)])
    assert not projection.is_exact
    assert float(whole @ whole) == pytest.approx(100_000, rel=5 * projection.error)
