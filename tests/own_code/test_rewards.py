"""A user's own reward: where it may lie, what it may return, and one line for everything that can be wrong with it."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from ospo_cli import presets
from ospo_cli.errors import CreditError, ParameterError
from ospo_cli.graph.nodes import node
from ospo_cli.own_code import rewards as own_reward
from ospo_cli.own_code.rewards import OwnReward
from ospo_cli.params import whole
from ospo_cli.params.whole import Params

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "own_reward.py"
GOOD = "def parts(text, prompt_id, ranking):\n    return {'a': len(text) / 100, 'b': -len(ranking) / 10}\n"


def loaded(folder: Path, text: str, parts: tuple[str, ...] = ("a", "b")) -> OwnReward:
    (folder / "mine.py").write_text(text, encoding="utf-8")
    return own_reward.load("mine.py:parts", parts, folder)


def returning(folder: Path, expression: str) -> OwnReward:
    return loaded(folder, f"def parts(text, prompt_id, ranking):\n    return {expression}\n")


def configured(**settings: object) -> Params:
    section = dataclasses.replace(Params().score_coalitions, **settings)  # type: ignore[arg-type]
    return dataclasses.replace(Params(), score_coalitions=section)


def test_a_file_beside_params_is_found_and_gives_its_parts_in_the_order_asked_for(tmp_path: Path) -> None:
    own = loaded(tmp_path, GOOD, ("b", "a"))
    assert own.measure("red coat", "p1", [("d1", 2.0)]) == (-0.1, 0.08)


def test_a_module_that_is_importable_is_found_and_one_that_is_not_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop_rewards_here.py").write_text(GOOD, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert own_reward.load("shop_rewards_here:parts", ("a", "b"), tmp_path / "elsewhere").measure("x", "p1", []) == (0.01, 0.0)
    sys.modules.pop("shop_rewards_here")
    with pytest.raises(CreditError, match="no such module where ospo runs: found shop_rewards_there:parts"):
        own_reward.load("shop_rewards_there:parts", ("a",), tmp_path)


def test_an_entry_point_of_an_installed_package_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop_package_here.py").write_text(GOOD, encoding="utf-8")
    information = tmp_path / "shop_package_here-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: shop-package-here\nVersion: 1.0\n", encoding="utf-8")
    (information / "entry_points.txt").write_text("[ospo.rewards]\nours = shop_package_here:parts\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert own_reward.load("ours", ("a", "b"), tmp_path).measure("x", "p1", []) == (0.01, 0.0)
    sys.modules.pop("shop_package_here")
    with pytest.raises(CreditError, match=r"no such entry point of group ospo\.rewards: found theirs, expected .*installed: ours"):
        own_reward.load("theirs", ("a",), tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def parts(:\n", r"mine\.py, line 1: is no valid Python"),
        ("x = 1 / 0\n", r"mine\.py, line 1: cannot be run: found ZeroDivisionError"),
        ("x = 1\n", r"mine\.py: parts: no such function"),
        ("parts = 3\n", r"mine\.py: parts: is no function"),
    ],
)
def test_a_file_that_holds_no_function_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CreditError, match=message):
        loaded(tmp_path, text)


@pytest.mark.parametrize("name", ["mine.py:", ":parts", "mine.py:not a name", "mine.py:a.b"])
def test_a_name_that_names_no_function_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CreditError, match="names nothing that can be loaded"):
        own_reward.load(name, ("a",), tmp_path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CreditError, match=r"absent\.py: no such file"):
        own_reward.load("absent.py:parts", ("a",), tmp_path)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("{'a': float('nan'), 'b': 0}", "part a: is no number from -1 to 1: found nan"),
        ("{'a': 0, 'b': float('inf')}", "part b: is no number from -1 to 1: found inf"),
        ("{'a': 1.5, 'b': 0}", r"part a: is no number from -1 to 1: found 1\.5"),
        ("{'a': '1', 'b': 0}", "part a: is no number from -1 to 1: found '1'"),
        ("{'a': None, 'b': 0}", "part a: is no number from -1 to 1: found None"),
        ("{'a': 1}", "gives other parts than score_coalitions.own_weights names: found no b, expected a, b"),
        ("{'a': 1, 'b': 0, 'c': 0}", "gives other parts than score_coalitions.own_weights names: found c, expected a, b"),
        ("0.5", "gives no parts by name: found float"),
        ("{'a': text.absent, 'b': 0}", r"mine\.py, line 2, own_reward .*: fails: found AttributeError"),
    ],
)
def test_what_it_returns_is_checked_and_the_text_at_fault_named(tmp_path: Path, expression: str, message: str) -> None:
    with pytest.raises(CreditError, match=message) as caught:
        returning(tmp_path, expression).measure("red \x1b[31mcoat", "p1", [])
    assert "prompt p1, text" in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_its_source_and_its_parts_make_the_fingerprint_and_nothing_is_written_beside_it(tmp_path: Path) -> None:
    prints = {loaded(tmp_path, GOOD + comment, parts).fingerprint for comment in ("", "# x\n") for parts in (("a", "b"), ("b", "a"))}
    assert len(prints) == 4
    assert loaded(tmp_path, GOOD).fingerprint == loaded(tmp_path, GOOD).fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]
    assert not [name for name in sys.modules if name.startswith("ospo_own_code")]


def test_score_coalitions_depends_on_the_file_and_no_other_stage_does() -> None:
    values = configured(own_reward="mine.py:parts", own_weights={"a": 1.0})
    assert "mine.py" in node("score-coalitions", 1, values).inputs
    assert all("mine.py" not in node(stage, 1, values).inputs for stage in ("rollout", "segment", "attribute", "update"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"own_reward": "mine.py:parts"}, "own_weights: names no part of own_reward"),
        ({"own_weights": {"a": 1.0}}, "own_weights: names parts, and there is no own_reward"),
        ({"own_reward": "mine.py:parts", "own_weights": {"A b": 1.0}}, "own_weights: unknown name: found A b"),
        ({"further_metrics": {"map@3": 1.0}}, "further_metrics: unknown name: found map@3"),
        ({"further_metrics": {"mrr": -1.0}}, "further_metrics.mrr: out of range"),
    ],
)
def test_parameters_that_do_not_go_together_are_refused(changes: dict, message: str) -> None:
    content = whole.to_mapping(presets.load("demo"))
    content["score_coalitions"].update(changes)
    with pytest.raises(ParameterError, match=message):
        whole.from_mapping(content)


def test_the_documented_example_runs() -> None:
    own = own_reward.load(f"{EXAMPLE}:parts", ("short", "decided"), Path())
    assert own.measure("navy wool coat", "p1", [("d1", 4.0), ("d2", 3.0)]) == (0.0, 0.25)
    assert own.measure("a b c d e f g h", "p1", []) == (-0.25, 0.0)
