"""A user's own file of rules: what it may define, and one line for everything that can be wrong with it."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

from ospo_cli.errors import CreditError, ParameterError
from ospo_cli.graph.nodes import node
from ospo_cli.instruments.lab import command as lab
from ospo_cli.layout import Layout
from ospo_cli.maths.redistribution import RULES, Settings, redistribute
from ospo_cli.own_code import rules as rule_file
from ospo_cli.params import whole
from ospo_cli.params.whole import Params
from ospo_cli.stages import attribute
from tests.maths.flat_rows import credit, token_map
from tests.params.deletion import MYERSON, by_deletion
from tests.stages.test_attribute import usual, write_inputs

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "own_rule.py"
HEAD = "import numpy as np\nfrom dataclasses import dataclass\nfrom ospo_cli.maths.redistribution import Rule, RULES as KNOWN\n"
GOOD = "def formula(tokens, credit, settings):\n    return 2 * credit.advantage[tokens.token_row], np.full(tokens.n_rows, '')\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.py"
    path.write_text(HEAD + text, encoding="utf-8")
    return path


def applied(path: Path, name: str) -> np.ndarray:
    rule = rule_file.load(str(path), Path())[name]
    return redistribute(rule, token_map([[0, 1], [0]]), credit([1.0, -1.0], [0.3, 0.1, 0.0]), Settings()).advantages


def test_one_rule_or_several_are_found_and_applied(tmp_path: Path) -> None:
    one = written(tmp_path, GOOD + "RULE = Rule('double', False, formula)\n")
    assert applied(one, "double").tolist() == [2.0, 2.0, -2.0]
    two = written(
        tmp_path, GOOD + "RULES = [Rule('a', False, formula), Rule('b', True, lambda t, c, s: KNOWN['uniform'].formula(t, c, s))]\n"
    )
    assert list(rule_file.load(str(two), Path())) == ["a", "b"]
    assert applied(two, "b").tolist() == [1.0, 1.0, -1.0]


def test_a_rule_may_be_named_as_a_reward_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, GOOD + "mine = Rule('double', False, formula)\nboth = [mine, Rule('b', False, formula)]\n")
    assert list(rule_file.load("mine.py:mine", tmp_path)) == ["double"]
    monkeypatch.syspath_prepend(str(tmp_path))
    assert list(rule_file.load("mine:both", tmp_path / "elsewhere")) == ["double", "b"]
    sys.modules.pop("mine")
    with pytest.raises(CreditError, match=r"attribute\.rule_file: no such entry point of group ospo\.rules: found double"):
        rule_file.load("double", tmp_path)


def test_nothing_is_written_beside_the_file_and_nothing_stays_loaded(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    own = "@dataclass\nclass Own:\n    number: int = 2\n"  # dataclasses look their module up by its name
    path.write_text("from __future__ import annotations\n" + HEAD + own + GOOD + "RULE = Rule('x', False, formula)\n", encoding="utf-8")
    assert list(rule_file.load(str(path), Path())) == ["x"]
    assert [file.name for file in tmp_path.iterdir()] == ["mine.py"]
    assert not [name for name in sys.modules if name.startswith("ospo_own_code")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("RULE = Rule('x', False\n", r"mine\.py, line 4: is no valid Python: found '\(' was never closed"),
        ("x = 1\n1 / 0\n", r"mine\.py, line 5: cannot be run: found ZeroDivisionError: division by zero"),
        ("import no_such_module_here\n", "line 4: cannot be run: found ModuleNotFoundError"),
        ("x = 1\n", r"mine\.py: defines no rule: expected one of them; docs/own-code\.md has an example"),
        ("RULES = []\n", "RULES is empty"),
        ("RULE = 3\n", "is no rule: found 3"),
        ("RULES = [Rule('x', False, None)]\n", "is no rule"),
        (GOOD + "RULE = Rule('signed', False, formula)\n", "a rule's name is taken: found signed"),
        (GOOD + "RULES = [Rule('x', False, formula)] * 2\n", "a rule's name is taken: found x"),
        (GOOD + "RULE = Rule('A b', False, formula)\n", "a rule's name is not usable: found A b"),
        (GOOD + "RULE = Rule('x', False, formula)\nRULES = [RULE]\n", "defines both RULE and RULES"),
    ],
)
def test_a_file_that_gives_no_rules_is_one_clear_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CreditError, match=message) as caught:
        rule_file.load(str(written(tmp_path, text)), Path())
    assert "\n" not in caught.value.line()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("credit.nothing, ''", r"mine\.py, line 5, rule x: fails: found AttributeError"),
        ("np.zeros(1), np.full(tokens.n_rows, '')", r"rule x: advantages have the wrong shape: found \(1,\), expected \(3,\)"),
        ("np.zeros(3), np.full(5, '')", r"special cases have the wrong shape: found \(5,\), expected \(2,\)"),
        ("np.array([0, np.nan, 0]), np.full(2, '')", "an advantage is not a finite number: found nan, token 1"),
        ("np.zeros(3)", "fails: found ValueError"),
        ("np.zeros(3), np.full(2, '')", "token advantages do not add up"),
    ],
)
def test_a_formula_that_fails_is_one_clear_line(body: str, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, f"def formula(tokens, credit, settings):\n    return {body}\nRULE = Rule('x', True, formula)\n")
    with pytest.raises(CreditError, match=message):
        applied(path, "x")


def test_a_missing_file_and_one_that_is_no_text_are_told(tmp_path: Path) -> None:
    with pytest.raises(CreditError, match=r"none\.py: no such file: expected a Python file with RULE or RULES"):
        rule_file.load("none.py", tmp_path)
    (tmp_path / "bytes.py").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CreditError, match="cannot be read"):
        rule_file.load("bytes.py", tmp_path)


# Through the parameters, the graph, the stage and the lab


def with_rule(rule: str, file: str) -> dict[str, dict[str, object]]:
    content = whole.to_mapping(by_deletion())
    content["attribute"] |= {"rule": rule, "rule_file": file}
    return content


def test_a_rules_name_is_free_only_where_a_file_is_given() -> None:
    assert whole.from_mapping(with_rule("half-share", "mine.py")).attribute.rule == "half-share"
    with pytest.raises(ParameterError, match=r"attribute\.rule: unknown value: found half-share"):
        whole.from_mapping(with_rule("half-share", ""))


def test_the_file_is_an_input_of_attribute_and_of_nothing_else() -> None:
    values = whole.from_mapping(with_rule("half-share", "rules/mine.py"))
    assert "rules/mine.py" in node("attribute", 1, values).inputs
    assert not [stage for stage in ("rollout", "segment", "score-coalitions", "update") if "rules/mine.py" in node(stage, 1, values).inputs]
    assert "rules/mine.py" not in node("attribute", 1, Params()).inputs


def test_attribute_uses_a_users_rule_and_names_it(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    write_inputs(layout, usual())
    (tmp_path / "own_rule.py").write_bytes(EXAMPLE.read_bytes())
    how = dataclasses.replace(Params(), attribute=dataclasses.replace(MYERSON, rule="half-share", rule_file="own_rule.py"))
    metrics = attribute.execute(layout, how, 1)
    mine = layout.iteration(1, "token_advantages.parquet").read_bytes()
    assert metrics["rule"] == "half-share"
    attribute.execute(
        layout, dataclasses.replace(Params(), attribute=dataclasses.replace(MYERSON, rule="uniform", rule_file="own_rule.py")), 1
    )
    assert layout.iteration(1, "token_advantages.parquet").read_bytes() != mine


def test_a_rule_that_the_file_does_not_define_is_refused_with_all_that_exist(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    write_inputs(layout, usual())
    (tmp_path / "own_rule.py").write_bytes(EXAMPLE.read_bytes())
    how = dataclasses.replace(Params(), attribute=dataclasses.replace(MYERSON, rule="half-shares", rule_file="own_rule.py"))
    with pytest.raises(CreditError, match=r"unknown rule: found half-shares, expected uniform, .*half-share"):
        attribute.execute(layout, how, 1)


def test_the_lab_runs_the_example_of_the_docs_beside_the_rules_asked_for() -> None:
    rules = lab.chosen_rules(["uniform", "share-only"], EXAMPLE)
    found = lab.lab(
        lab.Plan(
            rules=rules,
            estimators=("myerson",),
            segments=(8,),
            group_sizes=(8,),
            noises=(0.0,),
            interactions=("additive",),
            problems=("independent",),
            seeds=40,
            steps=300,
        )
    )
    assert list(rules) == ["uniform", "share-only", "half-share"]
    cosine = dict(found.quality.select("rule", "cosine").iter_rows())
    assert cosine["uniform"] < cosine["half-share"]
    assert dict(found.convergence.select("rule", "end_reward").iter_rows())["half-share"] == pytest.approx(0.9, abs=0.02)
    assert "half-share" not in RULES
