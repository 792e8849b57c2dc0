"""Relevance from clicks: the position-based model by expectation-maximisation, clicks over expected clicks, and the plain rate.

Sources: Craswell et al., "An experimental comparison of click position-bias models", WSDM 2008; Chuklin, Markov, de Rijke, "Click Models
for Web Search", 2015, section 4 (the EM steps); Zhang and Jones, "Comparing click logs and editorial labels", 2007 (clicks over expected
clicks).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Indices = NDArray[np.int64]

# A step of EM that moves no parameter by more than this ends it.
TOLERANCE = 1e-5
MOST_STEPS = 1000
_TINY = 1e-12


@dataclass(frozen=True)
class ClickCounts:
    """A log, summed: one row per (item, position); an item is a product under a query.

    Attributes:
        item: [rows] from 0, every number up to the largest occurs.
        group: [items] query of each item, from 0.
        position: [rows] from 0 (the first place).
        shown: [rows] impressions, above 0.
        clicked: [rows] of these with a click.
    """

    item: Indices
    group: Indices
    position: Indices
    shown: Values
    clicked: Values

    def per_item(self, values: Values) -> Values:
        """Return sums over the rows of each item."""
        return np.bincount(self.item, values, minlength=len(self.group)).astype(np.float64)


@dataclass(frozen=True)
class Relevance:
    """What a model found.

    Attributes:
        attraction: [items] probability of a click where the item is looked at (`ctr`: where it is shown), smoothed.
        examination: [positions] probability that a place is looked at, that of the one looked at most being 1; NaN where nothing was shown.
        steps: of EM; 0 for models without.
        has_converged: whether the last step moved no parameter by more than TOLERANCE.
    """

    attraction: Values
    examination: Values
    steps: int = 0
    has_converged: bool = True


def click_rate(counts: ClickCounts, prior: float) -> Relevance:
    """Return clicks over impressions of each item, drawn towards its query's own rate as by `prior` further impressions."""
    shown, clicked = counts.per_item(counts.shown), counts.per_item(counts.clicked)
    positions = int(counts.position.max()) + 1
    return Relevance(_smoothed(clicked, shown, counts.group, prior), np.ones(positions))


def clicks_over_expected(counts: ClickCounts, prior: float) -> Relevance:
    """Return each item's clicks over those that its places would give an average item, times the mean rate of the first place.

    A place's rate mixes how often it is looked at with how good the products are that the engine puts there, so good engines' items are
    judged too low; `position_based` tells the two apart.
    """
    rates = _rates(counts)
    first = np.nanmax(rates) if np.isfinite(rates).any() else 1.0
    examination = rates / max(first, _TINY)
    expected = counts.per_item(counts.shown * examination[counts.position])
    return Relevance(_smoothed(counts.per_item(counts.clicked), expected, counts.group, prior), examination)


def position_based(counts: ClickCounts, prior: float) -> Relevance:
    """Return the maximum of P(click) = examination[position] · attraction[item], smoothed towards each query's own attraction.

    EM on the summed counts: a step costs their number, not that of the log. The scale of the two factors is free, so the examination of
    the place with the highest rate is 1. Where every item was shown at one place only, place and item cannot be told apart: the answer is
    then as near to the starting point as EM stays, and says little (see `movement`).

    Args:
        counts: the log.
        prior: pseudo-impressions, examined, at the query's mean attraction; above 0, so that no item is certain.
    """
    positions = int(counts.position.max()) + 1
    shown_there = np.bincount(counts.position, counts.shown, minlength=positions)
    rates = _rates(counts)
    # A place at exactly 1 stays there, so all but the one with most clicks start below it.
    examination = np.clip(0.9 * rates / max(np.nanmax(rates), _TINY), 0.01, 0.9)
    examination[np.nanargmax(rates)] = 1.0
    attraction = _smoothed(counts.per_item(counts.clicked), counts.per_item(counts.shown), counts.group, prior)
    steps, moved = 0, np.inf
    while moved > TOLERANCE and steps < MOST_STEPS:
        at, of = examination[counts.position], attraction[counts.item]
        unclicked, none = counts.shown - counts.clicked, np.maximum(1 - at * of, _TINY)
        looked = counts.clicked + unclicked * at * (1 - of) / none  # expected impressions that were looked at
        attracted = counts.clicked + unclicked * of * (1 - at) / none  # expected ones whose item attracts, looked at or not
        new_attraction = _smoothed(counts.per_item(attracted), counts.per_item(counts.shown), counts.group, prior)
        with np.errstate(invalid="ignore", divide="ignore"):
            new_examination = np.bincount(counts.position, looked, minlength=positions) / shown_there
        new_examination = np.clip(new_examination, _TINY, 1.0)
        moved = max(np.abs(new_attraction - attraction).max(), np.nanmax(np.abs(new_examination - examination)))
        attraction, examination, steps = new_attraction, new_examination, steps + 1
    return Relevance(attraction, examination, steps, bool(moved <= TOLERANCE))


def movement(counts: ClickCounts) -> float:
    """Return the share of impressions of items that were shown at two places or more: what tells place and item apart."""
    places = np.bincount(counts.item, minlength=len(counts.group))
    return float(counts.shown[places[counts.item] > 1].sum() / counts.shown.sum())


def grades(counts: ClickCounts, attraction: Values, levels: int) -> Values:
    """Return 1 to `levels` for each item, in equal steps of its attraction over its query's highest; 0 without a click."""
    highest = np.zeros(int(counts.group.max()) + 1)
    np.maximum.at(highest, counts.group, attraction)
    # A product that nobody clicked is not relevant because its query's others are.
    return np.where(counts.per_item(counts.clicked) > 0, np.ceil(levels * attraction / highest[counts.group] - 1e-9), 0.0)


MODELS = {"position-based": position_based, "expected-clicks": clicks_over_expected, "click-rate": click_rate}


def _rates(counts: ClickCounts) -> Values:
    positions = int(counts.position.max()) + 1
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.bincount(counts.position, counts.clicked, minlength=positions) / np.bincount(
            counts.position, counts.shown, minlength=positions
        )


def _smoothed(hits: Values, trials: Values, group: Indices, prior: float) -> Values:
    """Return hits over trials of each item, drawn towards its group's rate, within (0, 1)."""
    mean = np.bincount(group, hits) / np.maximum(np.bincount(group, trials), _TINY)
    return np.clip((hits + prior * mean[group]) / np.maximum(trials + prior, _TINY), _TINY, 1 - _TINY)
