"""A stage sees the parameters that its node declares, and no others."""

import pickle

import pytest

from ospo_cli.graph.nodes import node
from ospo_cli.params.declared import FREE, Declared, UndeclaredError
from ospo_cli.params.whole import Params
from ospo_cli.rewriting.setup import of_project


def test_a_declared_section_is_given_whole():
    assert Declared(Params(), ("rollout",), "ospo rollout").rollout == Params().rollout


def test_a_section_that_is_not_declared_is_refused_by_name():
    with pytest.raises(UndeclaredError, match="ospo segment reads attribute, which its node"):
        _ = Declared(Params(), ("segment",), "ospo segment").attribute


def test_of_a_section_only_the_declared_names_are_given():
    reads = Declared(Params(), ("train.seed", "score_coalitions.orders"), "ospo attribute")
    assert reads.train.seed == 0
    assert reads.score_coalitions.orders == Params().score_coalitions.orders
    with pytest.raises(UndeclaredError, match=r"ospo attribute reads train\.iterations"):
        _ = reads.train.iterations


def test_a_value_that_is_computed_from_several_names_needs_all_of_them():
    names = ("contiguous_width", "contiguous_cap", "exact_coalitions", "orders", "budget", "further_coalitions")
    entries = [f"score_coalitions.{name}" for name in names]
    assert Declared(Params(), entries, "a stage").score_coalitions.coalition_budget == Params().score_coalitions.coalition_budget
    with pytest.raises(UndeclaredError, match=r"score_coalitions\.contiguous_cap"):
        _ = Declared(Params(), [entry for entry in entries if "cap" not in entry], "a stage").score_coalitions.coalition_budget


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such"):
        _ = Declared(Params(), ("train",), "a stage").no_such


def test_it_can_be_sent_to_another_process():
    sent = pickle.loads(pickle.dumps(Declared(Params(), ("train.seed",), "ospo rollout")))
    assert sent.train.seed == 0
    with pytest.raises(UndeclaredError):
        _ = sent.update


def test_what_changes_no_result_is_in_no_stages_sections():
    declared = {entry for stage in ("rollout", "segment", "attribute", "update") for entry in node(stage, 1, Params()).sections}
    assert declared.isdisjoint(FREE)


def test_evaluate_is_given_what_says_how_a_policy_is_asked():
    assert of_project(Declared(Params(), node("evaluate", None, Params()).sections, "ospo evaluate")) == of_project(Params())
