"""What some of many texts have in common, against counts made by hand and by the exact binomial."""

import numpy as np
import pytest
from scipy.stats import binom

from ospo_cli.text.shared_words import CHANCE, Texts, _chance

SHORTS = ["Swim Shorts red", "blue swim shorts", "swim shorts men", "swim shorts, men"]
OTHERS = ["wool coat red", "lamp"] * 150  # every other one red


def test_shared_is_what_most_of_the_weight_has_and_stands_as_in_titles():
    texts = Texts([*SHORTS, *OTHERS])
    assert texts.shared([0, 1, 2, 3], [1.0] * 4) == ["swim", "shorts"]
    assert texts.shared([0, 1, 2, 3], [0.0, 0.0, 0.0, 4.0]) == []  # one text has its words by chance
    assert texts.shared([0, 1, 2, 3, 4, 5], [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]) == ["swim", "shorts"]
    assert texts.shared([1, 2, 3], [1.0, 4.0, 4.0]) == ["swim", "shorts", "men"]
    assert texts.shared([0, 1, 2, *range(4, 300)], [1.0] * 299) == []
    assert texts.shared([], []) == []


def test_a_word_that_many_texts_have_is_not_shared_however_many_of_these_have_it():
    texts = Texts(["coat"] * 30 + ["lamp"] * 70)
    assert texts.shared(list(range(30)), [1.0] * 30) == []  # all of these, and thirty of a hundred anyway: less than four times as often


def test_having_is_every_text_with_all_words():
    texts = Texts([*SHORTS, *OTHERS])
    assert texts.having(["shorts", "men"]).tolist() == [2, 3]
    assert texts.having(["red"]).tolist() == [0, *range(4, 304, 2)]
    assert texts.having(["men", "lamp"]).tolist() == []


@pytest.mark.parametrize(("hits", "count", "usual"), [(3, 3, 0.02), (3, 5, 0.1), (9, 12, 0.05), (60, 80, 0.2)])
def test_the_bound_of_chance_is_not_below_the_exact_probability(hits, count, usual):
    exact = binom.sf(hits - 1, count, usual)
    assert exact <= _chance(hits / count, usual, count) <= np.sqrt(8 * count) * exact * 2
    assert (_chance(1.0, 0.09, 3) <= CHANCE, _chance(1.0, 0.11, 3) <= CHANCE) == (True, False)
