"""What values a parameter may have: a fixed list is its type, names of things in the package come from their registry."""

import dataclasses
import importlib
import subprocess
import sys
import typing

import pytest

from ospo_cli.errors import ParameterError
from ospo_cli.params import whole
from ospo_cli.params.declare import Registered
from ospo_cli.params.whole import SECTIONS, Params
from tests.params.deletion import by_deletion

# Registry, and a parameter that names one of its entries (a list where the default is one).
NAMED = [
    ("sources", "SOURCES", "prepare_data", "source"),
    ("retrievers", "RETRIEVERS", "score_coalitions", "retriever"),
    ("retrievers", "RETRIEVERS", "evaluate", "retrievers"),
    ("sampling", "SAMPLERS", "rollout", "sampler"),
    ("maths.estimators", "ESTIMATORS", "score_coalitions", "estimators"),
    ("maths.coalitions", "FAMILIES", "score_coalitions", "families"),
    ("maths.estimators", "ESTIMATORS", "attribute", "estimator"),
    ("maths.redistribution", "RULES", "attribute", "rule"),
    ("maths.redistribution", "RULES", "attribute", "matched_rule"),
    ("training.objectives", "OBJECTIVES", "update", "objective"),
]


def with_value(section, name, value):
    content = whole.to_mapping(by_deletion())
    content[section][name] = [value] if isinstance(content[section][name], list) else value
    return content


@pytest.mark.parametrize(("module", "registry", "section", "name"), NAMED)
def test_a_new_entry_of_a_registry_is_a_value_without_an_edit_of_the_parameters(monkeypatch, module, registry, section, name):
    content = with_value(section, name, "brand-new")
    with pytest.raises(ParameterError, match=f"{section}.{name}: unknown value: found .*brand-new"):
        whole.from_mapping(content)
    known = getattr(importlib.import_module(f"ospo_cli.{module}"), registry)
    monkeypatch.setitem(known, "brand-new", next(iter(known.values())))
    assert "brand-new" in str(getattr(getattr(whole.from_mapping(content), section), name))
    shown = next(row["allowed"] for row in whole.describe() if row["name"] == f"{section}.{name}")
    assert shown.split(", ")[-1] == "brand-new"


def test_every_default_is_allowed():
    assert whole.from_mapping(whole.to_mapping(Params())) == Params()


def test_a_rule_is_not_brought_to_its_own_size():
    with pytest.raises(ParameterError, match=r"attribute\.matched_rule: unknown value"):
        whole.from_mapping(with_value("attribute", "matched_rule", "rms-matched"))


def literals():
    """Return (section, name, values) of every parameter whose type is a list of texts, sections within sections left out."""
    for section, kind in SECTIONS.items():
        hints = typing.get_type_hints(kind)
        yield from ((section, name, typing.get_args(hint)) for name, hint in hints.items() if typing.get_origin(hint) is typing.Literal)


@pytest.mark.parametrize(("section", "name", "values"), list(literals()), ids=str)
def test_of_a_fixed_list_every_other_value_is_refused_with_the_list(section, name, values):
    with pytest.raises(ParameterError) as caught:
        whole.from_mapping(with_value(section, name, "other"))
    assert (caught.value.where, caught.value.expected) == (f"params.yaml: {section}.{name}", ", ".join(values))
    shown = next(row for row in whole.describe() if row["name"] == f"{section}.{name}")
    assert (shown["type"], shown["allowed"]) == ("str", ", ".join(values))


def test_a_section_imports_nothing_but_how_parameters_are_declared():
    program = "import sys; import ospo_cli.params.attribute; print(sorted(name for name in sys.modules if name.startswith('ospo_cli.')))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(["ospo_cli.errors", "ospo_cli.params", "ospo_cli.params.attribute", "ospo_cli.params.declare"])


def test_every_registry_that_a_parameter_names_is_there():
    fields = [field for kind in SECTIONS.values() for field in dataclasses.fields(kind)]
    named = [value for field in fields for value in field.metadata.values() if isinstance(value, Registered)]
    assert len(named) > 10
    assert all(value.found() for value in named)
