"""Order of a rollout group's segments, and moves, against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ospo_cli.maths.recombination import group_order, moves


@pytest.mark.parametrize("seed", range(60))
def test_an_order_that_all_answers_keep_is_found(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true = rng.permutation(7).tolist()
    answers = [[segment for segment in true if rng.random() < 0.5] for _ in range(6)]
    found = group_order(answers)
    assert sorted(found) == sorted({segment for answer in answers for segment in answer})
    for answer in answers:
        assert [segment for segment in found if segment in answer] == answer


@pytest.mark.parametrize("seed", range(60))
def test_no_segment_is_placed_while_one_that_mostly_stands_before_it_is_left(seed: int) -> None:
    rng = np.random.default_rng(seed)
    answers = [rng.permutation(5)[: rng.integers(1, 6)].tolist() for _ in range(4)]
    found, left = group_order(answers), sorted({segment for answer in answers for segment in answer})

    def before(first: int, second: int) -> int:
        both = [answer for answer in answers if first in answer and second in answer]
        return sum(1 if answer.index(first) < answer.index(second) else -1 for answer in both)

    def place(segment: int) -> float:
        places = [(answer.index(segment) + 0.5) / len(answer) for answer in answers if segment in answer]
        return sum(places) / len(places)

    for segment in found:
        free = [one for one in left if not any(before(other, one) > 0 for other in left)] or left
        assert segment in free
        assert place(segment) == pytest.approx(min(place(one) for one in free), abs=1e-5)
        left.remove(segment)


@pytest.mark.parametrize("said", list(itertools.product([False, True], repeat=4))[1:])
def test_moves_are_all_sets_one_drop_swap_or_addition_away(said: tuple[bool, ...]) -> None:
    own = {place for place, is_said in enumerate(said) if is_said}
    found = [frozenset(np.flatnonzero(row).tolist()) for row in moves(np.array(said))]
    everything = [frozenset(chosen) for size in range(1, 5) for chosen in itertools.combinations(range(4), size)]
    wanted = {other for other in everything if (len(other - own), len(own - other)) in {(0, 1), (1, 0), (1, 1)}}
    assert len(found) == len(set(found))
    assert set(found) == wanted
    sizes = [len(other) - len(own) for other in found]
    assert sizes == sorted(sizes), "drops first, then swaps, then additions"
