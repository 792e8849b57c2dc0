"""An experiment's file: what it stands for, and how its faults are named."""

import pytest
import yaml

from ospo_cli.errors import OspoError
from ospo_cli.instruments.experiment.plan import Training, read
from tests.instruments.experiment.made import DOORS

GOOD = {
    "tasks": {"shop": {"preset": "demo", "params": {"train.iterations": 3}}},
    "methods": {"grpo": {"row": "grpo", "params": {"update.kl_weight": 0.0}}, "ours": {"row": "ours"}},
    "reference": "grpo",
    "seeds": [0, 1],
    "learning_rates": [1.0e-4, 2],
    "params": {"rollout.group_size": 4, "retrieval.dense.max_length": 32},
}


def written(folder, **changes):
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(GOOD | changes), encoding="utf-8")
    return path


def test_a_training_has_the_tasks_parameters_and_over_them_the_methods_its_seed_and_rate(tmp_path):
    plan = read(written(tmp_path), DOORS)
    values = plan.params(Training("shop", "grpo", 1, 1e-4))
    assert (values.train.seed, values.train.iterations, values.update.learning_rate) == (1, 3, 1e-4)
    assert (values.update.kl_weight, values.attribute.rule, values.rollout.group_size) == (0.0, "uniform", 4)
    assert (values.evaluate.every, values.evaluate.retrievers, values.retrieval.dense.max_length) == (3, ["bm25"], 32)
    assert plan.params(Training("shop", "ours", 0, 2.0)).attribute.rule == "group-additive"
    assert len(plan.trainings()) == 8
    assert len({training.folder for training in plan.trainings()}) == 8
    assert [training.seed for training in plan.trainings()] == [0] * 4 + [1] * 4


def test_a_project_of_ones_own_is_a_task_whose_data_is_found_from_anywhere(tmp_path):
    from ospo_cli import presets

    presets.init(tmp_path / "shop", "tables")
    plan = read(written(tmp_path, tasks={"mine": {"project": "shop"}}), DOORS)
    assert plan.params(Training("mine", "grpo", 0, 2.0)).prepare_data.path == str((tmp_path / "shop" / "catalogue").resolve())


BROKEN = {
    "an unknown name": ({"task": {}}, r"own\.yaml: unknown name"),
    "no tasks": ({"tasks": {}}, r"tasks: is missing or empty"),
    "a name with a slash": ({"methods": {"../x": {}}}, r"methods: not a name: found \.\./x"),
    "neither preset nor project": ({"tasks": {"a": {}}}, r"tasks\.a: needs a preset or a project"),
    "an unknown preset": ({"tasks": {"a": {"preset": "demos"}}}, r"no such preset: found demos"),
    "an unknown algorithm": ({"methods": {"a": {"row": "grppo"}}}, r"methods\.a\.row: no such algorithm: found grppo"),
    "a reference that is no method": ({"reference": "grp"}, r"reference: .*grp"),
    "a seed twice": ({"seeds": [1, 1]}, r"seeds: is no list of different numbers"),
    "a truth value for a seed": ({"seeds": [True]}, r"seeds: is no list of different numbers"),
    "a rate that is a word": ({"learning_rates": ["1e-4"]}, r"learning_rates: is no list"),
    "a parameter that is none": ({"params": {"update.learning": 1}}, r"shop, grpo: update.*learning"),
    "a section that is none": ({"params": {"updates.epochs": 1}}, r"updates"),
    "a name without a section": ({"params": {"epochs": 1}}, r"params: is no mapping of dotted names"),
    "a value out of range": ({"methods": {"a": {"params": {"update.epochs": 0}}}}, r"shop, a: update\.epochs"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_fault_of_the_file_is_one_line_before_anything_runs(tmp_path, case):
    changes, message = BROKEN[case]
    path = written(tmp_path, **{key: value for key, value in changes.items() if key != "methods"} | {
        "methods": changes.get("methods", GOOD["methods"]),
        "reference": changes.get("reference", next(iter(changes.get("methods", GOOD["methods"])))),
    })  # fmt: skip
    with pytest.raises(OspoError, match=message) as caught:
        read(path, DOORS)
    assert "\n" not in str(caught.value)
