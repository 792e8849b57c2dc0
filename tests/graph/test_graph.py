"""dvc.yaml, params.yaml and the presets say the same as the code."""

import typing
from pathlib import Path

import pytest
import yaml

from ospo_cli import presets
from ospo_cli.errors import MissingInputError, OspoError
from ospo_cli.graph import declared, dvc, runner
from ospo_cli.graph.nodes import each, node, plan, require_inputs
from ospo_cli.layout import Layout
from ospo_cli.params import whole
from ospo_cli.params.whole import SECTIONS

QWEN = "data/pretrained/Qwen2.5-7B-Instruct"
ROOT = Path(__file__).resolve().parents[2]


def test_the_repository_runs_the_demo_preset():
    assert (ROOT / "params.yaml").read_text(encoding="utf-8") == presets.render(presets.load("demo"))


def test_dvc_yaml_is_what_the_graph_says():
    made = dvc.files(whole.load(ROOT / "params.yaml"))
    assert {name: (ROOT / name).read_text(encoding="utf-8") for name in made} == made


def test_dvc_yaml_is_short_enough_to_read():
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    assert len(text.splitlines()) / len(yaml.safe_load(text)["stages"]) < 16


def test_every_input_is_made_by_an_earlier_stage():
    made: set[str] = set()
    for item in plan(presets.load("demo")):
        assert set(item.inputs) <= made, item.command
        made |= {*item.outputs, *item.metrics}


@pytest.mark.parametrize("name", [*presets.NAMES, *presets.ALGORITHMS, "smollm2-movies+dapo"])
def test_a_preset_makes_a_project_whose_graph_is_up_to_date(name, tmp_path):
    presets.init(tmp_path / "project", name)
    values = whole.load(tmp_path / "project" / "params.yaml")
    assert values == presets.load(name)
    made = dvc.files(values)
    assert sorted(made) == ["dvc.yaml", "iterations.yaml"]
    assert all((tmp_path / "project" / file).read_text(encoding="utf-8") == text for file, text in made.items())


@pytest.mark.parametrize(("name", "needed"), [("esci-qwen7b", ["esci", QWEN]), ("hm-qwen7b", ["hm", QWEN]), ("demo", [])])
def test_the_plan_of_a_preset_lists_every_stage_and_what_a_user_must_bring(name, needed, tmp_path):
    presets.init(tmp_path / "project", name)
    values = presets.load(name)
    found = runner.outlook(Layout(tmp_path / "project"), values)
    assert [wanted for wanted, _ in found] == plan(values)
    assert [state for _, state in found if state != "run"] == [f"needs {path}" for path in needed]


def test_code_yaml_names_a_hash_per_stage_and_they_differ(tmp_path):
    stages = yaml.safe_load(dvc.code_yaml(tmp_path, each(presets.load("demo"))))["stages"]
    assert len(set(stages.values())) == len(stages) == len({item.stage for item in plan(presets.load("demo"))})


def test_an_unknown_stage_is_refused_with_those_that_exist():
    with pytest.raises(OspoError, match="nonsense: no such stage: expected prepare-data, score-queries, warm-start, rollout"):
        node("nonsense", None, presets.load("demo"))


def test_init_leaves_a_folder_with_files_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OspoError, match="is not an empty folder"):
        presets.init(tmp_path, "demo")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_unknown_preset_lists_what_exists(tmp_path):
    with pytest.raises(OspoError, match="found nonsense, expected demo, demo-quick, controlled, smollm2-movies"):
        presets.init(tmp_path / "x", "nonsense")


def test_a_dvc_yaml_written_by_hand_is_never_overwritten(tmp_path):
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    with pytest.raises(OspoError, match="was not made by `ospo graph`"):
        dvc.write(tmp_path, presets.load("demo"))
    assert (tmp_path / "dvc.yaml").read_text() == "stages: {}\n"
    assert not (tmp_path / "iterations.yaml").exists()


def test_a_missing_predecessor_is_named_with_the_command_that_makes_it(tmp_path):
    values = presets.load("demo")
    presets.init(tmp_path / "p", "demo")
    layout = Layout(tmp_path / "p")
    layout.prepared("").mkdir(parents=True)
    layout.prepared("prompts.parquet").touch()
    with pytest.raises(MissingInputError, match=r"data/policies/002: no such file or folder.*run `ospo update --iter 2` first"):
        require_inputs(node("rollout", 3, values), layout, values)


def test_dvc_reads_the_name_of_every_iterations_folder_as_it_is_written():
    from ruamel.yaml import YAML  # what DVC reads with: YAML 1.2, unlike PyYAML

    found = YAML(typ="safe").load(dvc.iterations_yaml(120))["iterations"]
    assert [(entry["folder"], entry["previous"]) for entry in found.values()] == [(f"{k:03d}", f"{k - 1:03d}") for k in range(1, 121)]


def test_a_declaration_is_given_sections_of_its_own_and_they_have_the_types_it_names():
    declarations = [found for name, found in vars(declared).items() if name.removeprefix("_").replace("_", "-") in declared.STAGES]
    assert len(declarations) == len(declared.STAGES)
    for declaration in declarations:
        hints = typing.get_type_hints(declaration)
        hints.pop("return")
        others = {"k": int, "evaluated_iterations": list[int]}
        assert hints == {name: {**SECTIONS, **others}[name] for name in hints}
