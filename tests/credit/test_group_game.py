"""The group game: texts, baselines and advantages against known answers, a slow oracle and exact expectations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import permutations, product
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ospo_cli.maths.group_credit import group_credit, token_advantages
from ospo_cli.maths.group_game import Precedence, continuations
from ospo_cli.params.score_coalitions import ScoreCoalitions
from ospo_cli.rewards.answers import Parts
from ospo_cli.rewards.spliced_values import Answer, SplicedTable
from tests.maths.flat_rows import OUTSIDE, token_map

Said = tuple[str, ...]
Worth = Callable[[Said], float]


class Scorer:
    """Scores a text by its words; stands for the reward, too."""

    takes_parts, settings = False, ScoreCoalitions()

    def __init__(self, worth: Worth) -> None:
        self.worth, self.reward, self.asked = worth, self, 0

    def compose(self, prompt_id: str, text: str) -> str:
        return text

    def parts(self, prompt_ids: Sequence[str], queries: Sequence[str], texts: Sequence[str], known: None) -> Parts:
        self.asked += len(texts)
        nothing = np.zeros(len(texts))
        return Parts(nothing, nothing, nothing, np.array([self.worth(tuple(text.split())) for text in texts]), {})


def additive(weights: dict[str, float]) -> Worth:
    return lambda words: sum(weights[word] for word in set(words))


def pair(words: Said) -> float:
    return float({"a", "b"} <= set(words))


def spliced(answers: Sequence[Said], worth: Worth, game: str, alignment: str, batch: Sequence[Said] = ()) -> pl.DataFrame:
    """Return table spliced_values of one rollout group; `batch` are the answers of other groups."""
    vocabulary = sorted({word for answer in [*answers, *batch] for word in answer})
    said = [[vocabulary.index(word) for word in answer] for answer in [*answers, *batch]]
    group = []
    for index, (answer, own) in enumerate(zip(answers, said, strict=False)):
        starts = np.cumsum([0, *(len(word) + 1 for word in answer)]).tolist()
        spans = [(start, start + len(word)) for start, word in zip(starts, answer, strict=False)]
        group.append(Answer(f"g{index}", "p", " ".join(answer), spans, own))
    table = SplicedTable(Scorer(worth))  # type: ignore[arg-type]
    nearer = Precedence(said[: len(answers)]) if alignment == "group-first" else None
    table.ask(group, [game], None if alignment == "index" else Precedence(said), nearer)
    return table.frame()


def baselines(
    answers: Sequence[Said], worth: Worth, game: str = "splice", alignment: str = "group", batch: Sequence[Said] = ()
) -> np.ndarray:
    """Return [Σ (n + 1)] means over the other answers of each place."""
    means = spliced(answers, worth, game, alignment, batch).group_by("rollout_id", "place").agg(pl.col("spliced_value").mean())
    found = means.sort("rollout_id", "place")["spliced_value"].to_numpy()
    if game == "stopping":  # before the end the mean of the others
        worths = np.array([worth(answer) for answer in answers])
        others = (worths.sum() - worths) / (len(worths) - 1)
        found = np.concatenate([[*[other] * len(answer), end] for answer, other, end in zip(answers, others, found, strict=True)])
    return found


def credited(answers: Sequence[Said], worth: Worth, trace: float = 1.0, game: str = "splice", alignment: str = "group") -> Any:
    counts, rewards = np.array([len(answer) for answer in answers]), np.array([worth(answer) for answer in answers])
    batch = (("b", "a"), ("b", "a"), ("b", "b")) if alignment == "group-first" else ()
    return group_credit(game, baselines(answers, worth, game, alignment, batch), counts, rewards, trace)


WEIGHTS = {"a": 1.0, "b": 0.2, "c": 0.4, "d": 0.5}
TWO = (("a", "b"), ("c", "d"))
PAIR = (("a", "b"), ("a", "x"))


@pytest.mark.parametrize("alignment", ["group", "index"])
def test_golden_values_of_two_additive_answers(alignment: str) -> None:
    worth = additive(WEIGHTS)
    assert baselines(TWO, worth, alignment=alignment)[:3] == pytest.approx([0.9, 1.5, 1.2])
    first, last = (credited(TWO, worth, trace, alignment=alignment) for trace in (0.0, 1.0))
    assert first.share[:2] == pytest.approx([0.6, -0.3])
    assert first.end[0] == pytest.approx(0)
    assert first.advantage[:2] == pytest.approx([0.6, -0.3])
    assert last.advantage[:2] == pytest.approx([0.3, -0.3])
    assert credited(TWO, worth, game="swap", alignment=alignment).advantage[:2] == pytest.approx([0.6, -0.3])


@pytest.mark.parametrize("alignment", ["group", "index"])
def test_golden_values_of_two_words_that_earn_only_together(alignment: str) -> None:
    assert baselines(PAIR, pair, alignment=alignment)[:3].tolist() == [0, 0, 1]
    assert credited(PAIR, pair, 0.0, alignment=alignment).advantage[:2].tolist() == [0, 1]
    assert credited(PAIR, pair, 1.0, alignment=alignment).advantage[:2].tolist() == [1, 1]
    assert credited(PAIR, pair, game="swap", alignment=alignment).advantage[:2].tolist() == [0, 1]


@pytest.mark.parametrize("alignment", ["group", "index"])
def test_golden_values_of_an_answer_that_stops_early(alignment: str) -> None:
    answers = (("a",), ("c", "d"))
    assert baselines(answers, additive(WEIGHTS), alignment=alignment)[:2] == pytest.approx([0.9, 1.5])
    found = credited(answers, additive(WEIGHTS), alignment=alignment)
    assert (found.share[0], found.end[0]) == pytest.approx((0.6, -0.5))


@pytest.mark.parametrize(("alignment", "value", "share", "end"), [("group", 0.6, -1.5, -0.4), ("batch", 0.6, -1.5, -0.4), ("index", 1.1, -1.0, -0.9)])  # fmt: skip
def test_golden_values_of_an_answer_that_leaves_segments_out(alignment: str, value: float, share: float, end: float) -> None:
    worth, answers = additive({"a": 1.0, "b": 0.5, "c": 0.2, "d": 0.4}), (("c",), ("a", "b", "c", "d"))
    assert baselines(answers, worth, alignment=alignment)[:2] == pytest.approx([2.1, value])
    found = credited(answers, worth, alignment=alignment)
    assert (found.share[0], found.end[0]) == pytest.approx((share, end))


def test_other_groups_of_the_batch_tell_what_stands_behind_a_segment() -> None:
    # In the group alone nobody else says c, which then takes the place of a.
    texts = {batch: spliced((("c",), ("a", "d")), len, "splice", "batch", batch) for batch in ((), (("a", "c", "d"),))}
    assert [texts[batch].filter(rollout_id="g0", place=1)["query"].to_list() for batch in texts] == [["c d"], ["c d"]]
    again = spliced((("c",), ("d", "a")), len, "splice", "batch", (("a", "c", "d"),))
    assert again.filter(rollout_id="g0", place=1)["query"].to_list() == ["c d"]
    assert spliced((("c",), ("d", "a")), len, "splice", "group").filter(rollout_id="g0", place=1)["query"].to_list() == ["c a"]


def test_an_order_of_the_group_goes_before_that_of_the_batch_which_tells_where_the_group_has_none() -> None:
    answers = (("a",), ("b", "a", "c"), ("x",))
    batch = (("a", "b"), ("a", "b"), ("a", "b"), ("x", "c"), ("x", "b"), ("x", "a"))
    texts = {
        alignment: spliced(answers, len, "splice", alignment, batch).filter(place=1, other_rollout_id="g1")["query"].to_list()
        for alignment in ("batch", "group-first")
    }
    assert texts == {"batch": ["a b c", "x b a c"], "group-first": ["a c", "x b a c"]}


# The definition, word for word, by counting in plain loops.


def oracle_continuation(own: Said, point: int, other: Said, batch: Sequence[Said], nearer: Sequence[Said] = ()) -> list[int]:
    """Places of `other` that it says after the point; `batch` and `nearer` without the answer itself."""
    known = [word for answer in batch for word in answer]

    def before(first: str, second: str, answers: Sequence[Said]) -> int:
        return sum(answer[i] == first and answer[j] == second for answer in answers for j in range(len(answer)) for i in range(j))

    def order(first: str, second: str) -> int:
        nets = [before(first, second, answers) - before(second, first, answers) for answers in (nearer, batch)]
        return nets[0] or nets[1]

    def mean_place(word: str) -> Fraction:
        places = [Fraction(((2 * place + 1) << 19) // len(answer)) for answer in batch for place, at in enumerate(answer) if at == word]
        return sum(places, Fraction(0)) / len(places)

    since, anchor = 0, None
    for word in reversed(own[:point]):
        if word in known:
            anchor = word
            break
        since += 1
    kept = [place for place, word in enumerate(other) if word not in own[:point]]
    if anchor is not None:
        net = {word: order(anchor, word) for word in other}
        kept = [
            place for place in kept
            if net[other[place]] > 0 or (net[other[place]] == 0 and mean_place(other[place]) > mean_place(anchor))
        ]  # fmt: skip
    return kept[since:]


answers_of = st.lists(st.lists(st.sampled_from("abcdefg"), max_size=5).map(tuple), min_size=2, max_size=4)


@settings(max_examples=150)
@given(answers_of, st.lists(st.lists(st.sampled_from("abcdefg"), max_size=5).map(tuple), max_size=4), st.booleans())
def test_continuations_are_those_of_the_definition(answers: list[Said], batch: list[Said], has_nearer: bool) -> None:
    everything = [*answers, *batch]
    said = [[ord(word) - ord("a") for word in answer] for answer in everything]
    found = continuations(said[: len(answers)], Precedence(said), Precedence(said[: len(answers)]) if has_nearer else None)
    for index, own in enumerate(answers):
        others, nearer = everything[:index] + everything[index + 1 :], (answers[:index] + answers[index + 1 :]) * has_nearer
        for point, number in product(range(len(own) + 1), set(range(len(answers))) - {index}):
            expected = oracle_continuation(own, point, answers[number], others, nearer)
            assert np.flatnonzero(found[index][point][number]).tolist() == expected


@settings(max_examples=100)
@given(answers_of)
def test_a_swap_takes_the_first_segment_that_the_other_says_there_and_the_answer_not_behind(answers: list[Said]) -> None:
    found = {
        row[:3]: row[3] for row in spliced(answers, len, "swap", "group").select("rollout_id", "place", "other_rollout_id", "query").rows()
    }
    for (index, own), (number, other) in permutations(enumerate(answers), 2):
        others = answers[:index] + answers[index + 1 :]
        for place in range(len(own)):
            there = [at for at in oracle_continuation(own, place, other, others) if other[at] not in own[place + 1 :]]
            text = [*own[:place], *(other[at] for at in there[:1]), *own[place + 1 :]]
            assert found[f"g{index}", place, f"g{number}"].split() == text
        goes_on = [other[at] for at in oracle_continuation(own, len(own), other, others)]
        assert found[f"g{index}", len(own), f"g{number}"].split() == [*own, *goes_on]


@settings(max_examples=100)
@given(answers_of, st.sampled_from(["group", "index"]), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_differences_and_stopping_sum_to_the_reward_over_the_mean_of_the_others(
    answers: list[Said], alignment: str, trace: float, seed: int
) -> None:
    worth = random_worth(seed)
    found = credited(answers, worth, trace, alignment=alignment)
    rewards = [worth(answer) for answer in answers]
    at = np.cumsum([0, *map(len, answers)])
    for index, reward in enumerate(rewards):
        others = rewards[:index] + rewards[index + 1 :]
        total = found.share[at[index] : at[index + 1]].sum() + found.end[index]
        assert total == pytest.approx(reward - sum(others) / len(others), abs=1e-12)


@settings(max_examples=60)
@given(answers_of, st.randoms(use_true_random=False))
def test_what_an_answer_says_after_a_point_changes_no_baseline_of_it(answers: list[Said], random: Any) -> None:
    worth, place = random_worth(7), random.randint(0, len(answers[0]))
    changed = [(*answers[0][:place], *random.choices("abcdefg", k=random.randint(0, 4))), *answers[1:]]
    before, after = (spliced(each, worth, "splice", "group").filter(pl.col("rollout_id") == "g0") for each in (answers, changed))
    columns = ["place", "other_rollout_id", "query", "spliced_value"]
    assert before.filter(pl.col("place") <= place).select(columns).equals(after.filter(pl.col("place") <= place).select(columns))


def random_worth(seed: int) -> Worth:
    """Any number for any text."""
    known: dict[Said, float] = {}

    def worth(words: Said) -> float:
        if words not in known:
            known[words] = float(np.random.Generator(np.random.Philox(key=[seed, len(known)])).uniform(0, 1))
        return known[words]

    return worth


def test_equal_texts_of_a_group_are_scored_once() -> None:
    table = SplicedTable(Scorer(len))  # type: ignore[arg-type]
    group = [Answer(f"g{index}", "p", "a b", [(0, 1), (2, 3)], [0, 1]) for index in range(4)]
    table.ask(group, ["splice", "swap"], Precedence([[0, 1]] * 4))
    assert table.frame().height == 4 * 3 * 6
    assert table.scorer.asked == 1  # type: ignore[attr-defined]


def test_64_segments_against_one() -> None:
    long, short = tuple(f"w{index:02d}" for index in range(64)), ("w40",)
    found = credited((long, short), lambda words: len(set(words)) / 64, 0.5)
    assert len(found.share) == 65
    assert found.share.sum() + found.end.sum() == pytest.approx(0)  # two answers: what one is over the other
    assert baselines((long, short), lambda words: len(set(words)) / 64)[-2:] == pytest.approx([1.0, 24 / 64])


# Exact expectations: a policy of words and of stopping, whose every choice hangs on what it said before.

VOCABULARY = ("a", "b", ".")
STATES = ((), ("a",), ("b",))
OUTCOMES: tuple[Said, ...] = ((), ("a",), ("b",), ("a", "a"), ("a", "b"), ("b", "a"), ("b", "b"))


def choices(outcome: Said) -> list[tuple[int, int]]:
    """Return (state, choice) of each token; after two words the policy stops of itself."""
    words = (*outcome, ".")[:2]
    return [(STATES.index(outcome[:place]), VOCABULARY.index(word)) for place, word in enumerate(words)]


def gradients(
    logits: np.ndarray, worth: Worth, trace: float, alignment: str, size: int = 3, game: str = "splice"
) -> tuple[np.ndarray, np.ndarray]:
    """Return the expected gradient of one rollout group's mean, and the exact gradient of the expected reward."""
    chance = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    probability = np.array([np.prod([chance[at] for at in choices(outcome)]) for outcome in OUTCOMES])

    def score(at: tuple[int, int]) -> np.ndarray:
        found = np.zeros(logits.shape)
        found[at[0]] -= chance[at[0]]
        found[at] += 1
        return found

    scores = [[score(at) for at in choices(outcome)] for outcome in OUTCOMES]
    exact = sum(chance_of * worth(outcome) * sum(own) for chance_of, outcome, own in zip(probability, OUTCOMES, scores, strict=True))
    expected = np.zeros(logits.shape)
    for group in product(range(len(OUTCOMES)), repeat=size):
        answers = [OUTCOMES[index] for index in group]
        credit = credited(answers, worth, trace, game, alignment)
        # A token of each word, and one for stopping behind the last.
        tokens = token_map([[*range(len(answer)), OUTSIDE] for answer in answers], [len(answer) for answer in answers])
        found = token_advantages(tokens, credit, np.ones(size), np.zeros(size, dtype=bool))
        for row, index in enumerate(group):
            own = found[tokens.token_row == row]
            expected += np.prod(probability[list(group)]) * sum(
                advantage * each for advantage, each in zip(own, scores[index], strict=False)
            ) / size  # fmt: skip
    return expected, np.asarray(exact)


@pytest.mark.parametrize("alignment", ["group", "group-first", "index"])
def test_with_the_whole_trace_the_expected_gradient_is_the_exact_one(alignment: str) -> None:
    logits = np.array([[0.3, -0.2, 0.1], [-0.5, 0.9, 0.0], [0.4, 0.2, -0.7]])
    expected, exact = gradients(logits, random_worth(3), 1.0, alignment)
    assert expected == pytest.approx(exact, abs=1e-12)
    assert np.abs(exact).max() > 0.01


def test_with_a_shorter_trace_it_is_another_where_words_interact() -> None:
    logits = np.array([[0.3, -0.2, 0.1], [-0.5, 0.9, 0.0], [0.4, 0.2, -0.7]])
    expected, exact = gradients(logits, random_worth(3), 0.5, "group", size=2)
    assert np.abs(expected - exact).max() > 0.01


def test_stopping_is_grpo_before_the_end_and_splice_behind_it() -> None:
    answers, worth = (("a",), ("c", "d"), ()), random_worth(11)
    rewards = np.array([worth(answer) for answer in answers])
    found, whole = (credited(answers, worth, 0.0, game) for game in ("stopping", "splice"))
    loo = rewards - (rewards.sum() - rewards) / 2
    assert found.advantage == pytest.approx(loo[[0, 1, 1]])
    assert found.end == pytest.approx(whole.end)
    assert spliced(answers, worth, "stopping", "group").height == 3 * 2


def test_the_baseline_of_stopping_alone_is_another_than_that_of_going_on_which_is_a_bias() -> None:
    logits = np.array([[0.3, -0.2, 0.1], [-0.5, 0.9, 0.0], [0.4, 0.2, -0.7]])
    expected, exact = gradients(logits, random_worth(3), 1.0, "group", size=2, game="stopping")
    assert np.abs(expected - exact).max() > 0.003
    cosine = (expected * exact).sum() / np.sqrt((expected**2).sum() * (exact**2).sum())
    assert 0.5 < cosine < 0.999


@pytest.mark.parametrize(("first", "low", "high"), [((0.0, 0.0, -1.0), 0.02, 0.025), ((3.0, -3.0, -1.0), 0.0, 0.001)])
def test_swap_is_biased_where_answers_say_the_same_words_in_either_order(first: tuple[float, ...], low: float, high: float) -> None:
    # Each word is worth something by itself; the other one mostly follows.
    logits = np.array([first, (-1.0, 1.5, 0.0), (1.5, -1.0, 0.0)])
    expected, exact = gradients(logits, additive({"a": 1.0, "b": 0.6}), 0.0, "group", game="swap")
    assert low <= np.abs(expected - exact)[0].max() < high
    assert np.abs(exact[0]).max() > 0.02


@pytest.mark.parametrize("seed", range(5))
def test_swaps_of_answers_of_one_length_sum_to_the_reward_over_the_mean_of_the_others_where_words_add_up(seed: int) -> None:
    rng = np.random.default_rng(seed)
    answers = [tuple(rng.permutation(list("abcdefg"))[:4]) for _ in range(3)]
    weights = dict(zip("abcdefg", rng.random(7).tolist(), strict=True))

    def worth(words: Said) -> float:  # a word said twice earns twice
        return sum(weights[word] for word in words)

    rewards = np.array([worth(answer) for answer in answers])
    found = credited(answers, worth, game="swap", alignment="index")
    assert found.advantage.reshape(3, 4).sum(axis=1) == pytest.approx(rewards - (rewards.sum() - rewards) / 2)


@pytest.mark.parametrize("alignment", ["group", "index"])
@pytest.mark.parametrize("game", ["splice", "swap"])
def test_without_a_trace_it_is_the_exact_one_for_words_that_are_drawn_apart_whatever_they_earn_together(game: str, alignment: str) -> None:
    # Two binary words, each in its place: the first is a or b, the second c or d.
    outcomes = [(first, second) for first in "ab" for second in "cd"]
    expected, exact = independent(outcomes, random_worth(5), game, 0.0, alignment)
    assert expected == pytest.approx(exact, abs=1e-12)
    assert np.abs(exact).max() > 0.005


def independent(outcomes: list[Said], worth: Worth, game: str, trace: float, alignment: str = "group") -> tuple[np.ndarray, np.ndarray]:
    """Return expected and exact gradient of the logits of two words that are drawn apart."""
    chance = np.array([0.3, 0.6])
    bits = np.array([[outcome[0] == "b", outcome[1] == "d"] for outcome in outcomes], dtype=float)
    probability = np.prod(np.where(bits == 1, chance, 1 - chance), axis=1)
    exact = np.einsum("o,o,ot->t", probability, [worth(outcome) for outcome in outcomes], bits - chance)
    expected = np.zeros(2)
    for group in product(range(4), repeat=3):
        credit = credited([outcomes[index] for index in group], worth, trace, game, alignment)
        advantages = credit.advantage.reshape(3, 2)
        expected += np.prod(probability[list(group)]) * (advantages * (bits - chance)[list(group)]).sum(axis=0) / 3
    return expected, np.asarray(exact)


def test_tokens_before_a_segment_get_its_advantage_and_those_behind_the_last_the_value_of_stopping() -> None:
    credit = group_credit("splice", np.array([0.9, 1.5, 1.2, 0.7]), np.array([2, 0]), np.array([1.2, 0.4]), 1.0)
    tokens = token_map([[OUTSIDE, 0, OUTSIDE, 1, OUTSIDE], [OUTSIDE]], [2, 0])
    found = token_advantages(tokens, credit, np.array([2.0, 1.0]), np.array([False, False]))
    assert found == pytest.approx([0.15, 0.15, -0.15, -0.15, 0.0, -0.3])
    assert token_advantages(tokens, credit, np.ones(2), np.array([True, False])).tolist()[:5] == [0.0] * 5
