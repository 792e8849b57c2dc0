"""Click models on logs whose relevance is known: the model that made the log is found again, and beats the plain rate under position bias."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from ospo_cli.maths import click_models
from ospo_cli.maths.click_models import MODELS, ClickCounts, click_rate, clicks_over_expected, movement, position_based

POSITIONS = 10


def simulated(bias, seed, queries=300, items=10, sessions=400, quality=1.0, habit=0.0):
    """Return (counts, true attraction, true examination) of a shop whose engine ranks by relevance, by habits of its own, and by noise.

    A place is looked at with probability (1 + place)^-bias; rankings of a query differ between sessions.
    """
    draw = np.random.default_rng(seed)
    truth = draw.beta(1, 4, size=(queries, items))
    examination = (1.0 + np.arange(POSITIONS)) ** -bias
    shown = np.zeros((queries, items, POSITIONS))
    clicked = np.zeros_like(shown)
    for query in range(queries):
        score = quality * truth[query] / truth[query].std() + habit * draw.normal(size=items)
        orders = np.argsort(-(score + draw.normal(size=(sessions, items))), axis=1)
        places = np.argsort(orders, axis=1)
        clicks = draw.random((sessions, items)) < examination[places] * truth[query]
        index = (np.broadcast_to(np.arange(items), places.shape), places)
        np.add.at(shown[query], index, 1)
        np.add.at(clicked[query], index, clicks)
    query, item, place = np.nonzero(shown)
    counts = ClickCounts(query * items + item, np.repeat(np.arange(queries), items), place, shown[shown > 0], clicked[shown > 0])
    return counts, truth.ravel(), examination


def within_queries(found, truth, items=10):
    """Return the mean over queries of Spearman's rank correlation."""
    return np.mean([spearmanr(a, b).statistic for a, b in zip(found.reshape(-1, items), truth.reshape(-1, items), strict=True)])


@pytest.mark.parametrize("bias", [0.0, 0.5, 1.0, 2.0])
def test_the_model_that_made_the_log_is_found_again(bias):
    counts, truth, examination = simulated(bias, seed=1)
    found = position_based(counts, prior=1.0)
    assert np.abs(found.examination - examination).max() < 0.04
    assert abs(np.mean(found.attraction - truth)) < 0.02
    assert within_queries(found.attraction, truth) > (0.9 if bias < 2 else 0.75)


def test_the_more_position_counts_the_more_the_model_gains_on_the_plain_rate():
    gains = []
    for bias in (0.0, 1.0, 2.0):
        counts, truth, _ = simulated(bias, seed=2, quality=0.0, habit=1.0)
        gains.append(
            within_queries(position_based(counts, 1.0).attraction, truth) - within_queries(click_rate(counts, 1.0).attraction, truth)
        )
    assert abs(gains[0]) < 0.01
    assert gains[0] < gains[1] < gains[2]
    assert gains[2] > 0.1


def test_under_an_engine_that_ranks_by_relevance_the_plain_rate_orders_as_well_for_what_it_mistakes_is_true():
    counts, truth, _ = simulated(1.0, seed=2, queries=100)
    assert within_queries(click_rate(counts, 1.0).attraction, truth) > within_queries(position_based(counts, 1.0).attraction, truth)


def test_an_engine_that_ranks_well_makes_expected_clicks_too_hard_on_its_first_items():
    counts, truth, examination = simulated(1.0, seed=3, quality=2.0)
    coec, model = clicks_over_expected(counts, 1.0), position_based(counts, 1.0)
    assert np.all(coec.examination[1:] < examination[1:])
    assert within_queries(model.attraction, truth) > within_queries(coec.attraction, truth) + 0.005


def log_likelihood(counts, attraction, examination):
    p = examination[counts.position] * attraction[counts.item]
    return np.sum(counts.clicked * np.log(p) + (counts.shown - counts.clicked) * np.log1p(-p))


def test_the_result_is_a_maximum_of_the_likelihood():
    counts, _, _ = simulated(1.0, seed=4, queries=20, sessions=100)
    found = position_based(counts, prior=1e-9)
    best = log_likelihood(counts, found.attraction, found.examination)
    draw = np.random.default_rng(0)
    for _ in range(200):
        attraction = np.clip(found.attraction * np.exp(draw.normal(0, 0.02, len(found.attraction))), 1e-12, 1 - 1e-9)
        examination = np.minimum(found.examination * np.exp(draw.normal(0, 0.02, POSITIONS)), 1.0)
        assert log_likelihood(counts, attraction, examination) < best + 1e-3


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), prior=st.sampled_from([0.1, 1.0, 20.0]))
def test_the_order_of_rows_and_how_they_are_summed_change_nothing(model, seed, prior):
    counts, _, _ = simulated(1.0, seed=seed, queries=4, sessions=12)
    rows = np.random.default_rng(seed).permutation(len(counts.item))
    other = ClickCounts(counts.item[rows], counts.group, counts.position[rows], counts.shown[rows], counts.clicked[rows])
    halves = ClickCounts(
        np.tile(counts.item, 2), counts.group, np.tile(counts.position, 2), np.tile(counts.shown / 2, 2), np.tile(counts.clicked / 2, 2)
    )
    found = MODELS[model](counts, prior)
    assert np.all((found.attraction > 0) & (found.attraction < 1))
    for same in (MODELS[model](other, prior), MODELS[model](halves, prior)):
        np.testing.assert_allclose(same.attraction, found.attraction, atol=1e-9)
        np.testing.assert_allclose(same.examination, found.examination, atol=1e-9)


def test_an_item_without_clicks_is_drawn_to_its_query_and_less_so_the_more_it_was_shown():
    counts = ClickCounts(np.arange(3), np.zeros(3, int), np.zeros(3, int), np.array([10.0, 10.0, 1000.0]), np.array([5.0, 0.0, 0.0]))
    found = position_based(counts, prior=10.0).attraction
    assert found[0] > found[1] > found[2] > 0


def test_a_log_in_which_nothing_moved_says_so():
    counts, _, _ = simulated(1.0, seed=5, queries=3)
    fixed = ClickCounts(np.arange(4), np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), np.full(4, 9.0), np.array([3.0, 1.0, 2.0, 0.0]))
    assert movement(fixed) == 0
    assert movement(counts) > 0.9


def test_ten_thousand_items_take_no_more_steps_than_allowed(monkeypatch):
    monkeypatch.setattr(click_models, "MOST_STEPS", 3)
    counts, _, _ = simulated(1.0, seed=6, queries=5)
    found = position_based(counts, 1.0)
    assert (found.steps, found.has_converged) == (3, False)


def test_em_that_has_come_to_rest_says_so():
    counts, _, _ = simulated(2.0, seed=6, queries=40)
    found = position_based(counts, 1.0)
    assert found.has_converged
    assert 3 < found.steps < 1000
