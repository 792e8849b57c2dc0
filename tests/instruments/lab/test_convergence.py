"""Where rules lead a policy, on exact expectations, against a plain enumeration of every ordered rollout group."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from ospo_cli.errors import CreditError
from ospo_cli.instruments.lab.convergence import Climb, ExpectedGradient, climb, expected_advantages, steps_to
from ospo_cli.instruments.lab.decision_problems import OUTSIDE, PROBLEMS, DecisionProblem, sigmoid
from ospo_cli.maths.estimators import ESTIMATORS
from ospo_cli.maths.redistribution import RULES, Rule, Settings
from tests.maths import expected_gradients as oracle

SMALL = [name for name, problem in PROBLEMS.items() if problem.n <= 3]


@cache
def climbed(problem: str, outside: str = "sequence", estimator: str = "myerson") -> Climb:
    made = PROBLEMS[problem]
    return climb(made, expected_advantages(made, list(RULES.values()), Settings(outside=outside), ESTIMATORS[estimator]), 4000, 0.5)


def end(problem: str, rule: str, **how: str) -> float:
    return float(climbed(problem, **how).expected_reward[-1, list(RULES).index(rule)])


def first_token(problem: str, rule: str, **how: str) -> float:
    """The first logit's way from its start."""
    return float(climbed(problem, **how).logits[list(RULES).index(rule), 0] - PROBLEMS[problem].start[0])


@pytest.mark.parametrize("rule", RULES)
def test_two_independent_words_are_both_learned(rule: str) -> None:
    assert end("independent", rule) == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("rule", [name for name in RULES if name not in ("uniform", "mix")])
def test_a_token_outside_is_never_learned_where_it_gets_zero(rule: str) -> None:
    assert first_token("context", rule, outside="zero") == 0


@pytest.mark.parametrize("rule", ["uniform", "mix"])
def test_a_token_outside_is_learned_where_it_keeps_something_of_the_advantage(rule: str) -> None:
    assert end("context", rule, outside="zero") == pytest.approx(1.1, abs=0.01)


@pytest.mark.parametrize("rule", RULES)
def test_a_token_outside_is_learned_under_outside_sequence(rule: str) -> None:
    assert end("context", rule) == pytest.approx(1.1, abs=0.01)


@pytest.mark.parametrize("rule", ["proportional", "share-only"])
def test_a_segment_without_a_share_is_never_learned_by_shares_alone(rule: str) -> None:
    assert first_token("context-word", rule) == pytest.approx(0, abs=1e-9)


def test_a_harmful_word_is_never_unlearned_by_a_rule_that_cuts_negative_shares() -> None:
    assert end("harmful", "proportional") < 0.76


@pytest.mark.parametrize("rule", ["uniform", "signed", "additive", "group-additive", "share-only", "potential"])
def test_a_harmful_word_is_unlearned(rule: str) -> None:
    assert end("harmful", rule) == pytest.approx(0.9, abs=0.01)


def test_shares_of_a_duplicate_mislead_rules_that_follow_them_alone() -> None:
    assert [round(end("duplicate", rule), 2) for rule in ("uniform", "potential", "signed")] == [0.9, 0.9, 0.9]
    assert [round(end("duplicate", rule), 2) for rule in ("additive", "share-only")] == [0.8, 0.8]


@pytest.mark.parametrize("name", PROBLEMS)
def test_no_rule_gets_beyond_the_best_of_a_problem(name: str) -> None:
    outside = "zero" if PROBLEMS[name].has_outside else "sequence"
    made = PROBLEMS[name]
    way = climb(made, expected_advantages(made, list(RULES.values()), Settings(outside=outside), ESTIMATORS["myerson"]), 60, 2.0)
    assert way.expected_reward.max() <= made.best() + 1e-12
    assert way.expected_reward[0] == pytest.approx(float(made.expected_reward(np.array(made.start))))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("outside", ["sequence", "zero"])
def test_the_expected_gradient_is_that_of_all_ordered_rollout_groups(name: str, outside: str) -> None:
    made, how = PROBLEMS[name], Settings(outside=outside)
    plain = oracle.Problem(made.drawn, made.segments, made.logit, made.value)
    logits = np.linspace(-0.7, 0.6, len(made.start))
    expected = expected_advantages(made, list(RULES.values()), how, ESTIMATORS["myerson"])
    found, _ = ExpectedGradient(made, expected).at(np.tile(logits, (len(RULES), 1)))
    for index, rule in enumerate(RULES):
        slow = np.where(made.is_learned, oracle.expected_gradient(plain, logits, oracle.advantages(plain, rule, how)), 0)
        # The one factor of rms-matched rests on how often each rollout group is counted: its direction alone is compared.
        unit = np.linalg.norm(slow) / np.linalg.norm(found[index]) if rule == "rms-matched" and slow.any() else 1.0
        assert unit * found[index] == pytest.approx(slow, abs=1e-12)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_exact_gradient_is_the_slope_of_the_expected_reward(name: str) -> None:
    made = PROBLEMS[name]
    logits = np.linspace(-0.7, 0.6, len(made.start))
    ends = logits + 1e-5 * np.array([[1], [-1]])[:, :, None] * np.eye(len(logits))
    slope = (made.expected_reward(ends[0]) - made.expected_reward(ends[1])) / 2e-5
    assert exact_gradient(made, logits) == pytest.approx(np.where(made.is_learned, slope, 0), abs=1e-8)


def exact_gradient(problem: DecisionProblem, logits: np.ndarray) -> np.ndarray:
    tokens, place = problem.tables()
    found = np.zeros(len(logits))
    np.add.at(found, place, (problem.probabilities(logits) * problem.rewards())[:, None] * (tokens - sigmoid(logits)[place]))
    return np.where(problem.is_learned, found, 0.0)


def ratio(name: str, rule: str) -> np.ndarray:
    """Expected gradient over the exact one, by logit that is learned."""
    made = PROBLEMS[name]
    logits = np.array(made.start) + 0.2
    expected = expected_advantages(made, [RULES[rule]], Settings(), ESTIMATORS["myerson"], "none")
    found = ExpectedGradient(made, expected).at(logits[None])[0][0]
    learned = np.array(made.is_learned)
    return found[learned] / exact_gradient(made, logits)[learned] / (1 - 1 / made.group_size)


@pytest.mark.parametrize("name", PROBLEMS)
def test_uniform_is_unbiased_up_to_the_groups_own_mean(name: str) -> None:
    assert ratio(name, "uniform") == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("name", ["independent", "context", "context-word", "pair"])
def test_potential_is_unbiased_where_answers_of_equal_reward_have_equal_prefixes(name: str) -> None:
    assert ratio(name, "potential") == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("name", ["duplicate", "harmful", "long"])
def test_potential_is_biased_a_little_where_a_group_of_equal_rewards_is_left_out_though_its_prefixes_differ(name: str) -> None:
    assert 1e-4 < np.abs(ratio(name, "potential") - 1).max() < 0.2


def test_the_best_of_a_problem_is_found_by_trying_every_policy_that_always_decides_alike() -> None:
    made = PROBLEMS["duplicate"]
    assert made.best() == pytest.approx(max(made.rewards()))
    assert PROBLEMS["context"].best() == pytest.approx(1.1)  # the world's .9 and the .2 of the last segment


def test_every_problem_names_segments_in_order_and_is_worth_nothing_when_empty() -> None:
    for made in PROBLEMS.values():
        owners = [owner for owner in made.segments if owner != OUTSIDE]
        assert owners == sorted(owners)
        assert sorted(set(owners)) == list(range(made.n))
        assert made.ladder()[:, 0] == pytest.approx(0)
        assert made.probabilities(np.array(made.start)).sum() == pytest.approx(1)


def test_an_estimator_that_draws_is_refused() -> None:
    with pytest.raises(CreditError, match="estimator random: is random, which exact expectations are not"):
        expected_advantages(PROBLEMS["independent"], [RULES["uniform"]], Settings(), ESTIMATORS["random"])


@pytest.mark.parametrize(
    ("curve", "level", "step"), [([0.0, 1.0], 0.5, 1), ([1.0, 1.0], 0.5, 0), ([0.0, 0.9, 0.2], 0.5, None), ([0.0, 0.9, 0.2, 0.6], 0.5, 3)]
)
def test_a_level_is_reached_when_it_is_held_to_the_end(curve: list[float], level: float, step: int | None) -> None:
    assert steps_to(np.array(curve), level) == step


def test_a_rule_that_pays_only_the_first_token_moves_no_other_logit() -> None:
    made = PROBLEMS["independent"]
    own = Rule(
        "first-only",
        False,
        lambda tokens, credit, how: (np.tile([1.0, 0.0], tokens.n_rows) * credit.advantage[tokens.token_row], np.full(tokens.n_rows, "")),
    )
    way = climb(made, expected_advantages(made, [own], Settings(), ESTIMATORS["myerson"]), 500, 0.5)
    assert way.logits[0, 1] == 0
    assert way.expected_reward[-1, 0] == pytest.approx(0.6 * sigmoid(way.logits[0, 0]) + 0.15)


def test_a_problem_of_one_word_is_learned_alike_by_every_rule() -> None:
    made = DecisionProblem("one", "one word", (0,), 1, len, (0.0,), (True,), lambda outcome, present: float(outcome[0]) if present else 0.0)
    way = climb(made, expected_advantages(made, list(RULES.values()), Settings(beta=0.0), ESTIMATORS["myerson"]), 50, 0.5)
    assert np.ptp(way.expected_reward[-1]) < 1e-12
