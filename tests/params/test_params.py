"""Unknown, missing, ill-typed and out-of-range parameters are refused with what exists."""

import copy
import dataclasses

import pytest
import yaml

from ospo_cli import presets
from ospo_cli.errors import ParameterError
from ospo_cli.params import whole
from ospo_cli.params.train import Train
from ospo_cli.params.whole import Params


def changed(section, name, value):
    content = copy.deepcopy(whole.to_mapping(Params()))
    content[section][name] = value
    return content


def test_reading_what_was_rendered_gives_the_same_parameters(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(presets.render(Params()))
    assert whole.load(path) == Params()


def test_an_unknown_name_is_refused_with_the_list_of_what_exists():
    with pytest.raises(
        ParameterError, match=r"attribute: unknown parameter: found estimater, expected estimator, rule.*did you mean estimator"
    ):
        whole.from_mapping(changed("attribute", "estimater", "myerson"))


def test_an_unknown_section_is_refused():
    with pytest.raises(ParameterError, match="unknown section: found atribute"):
        whole.from_mapping({**whole.to_mapping(Params()), "atribute": {}})


def test_a_mapping_that_lacks_a_name_is_refused():
    content = whole.to_mapping(Params())
    del content["update"]["learning_rate"]
    with pytest.raises(ParameterError, match=r"update: missing parameter.*learning_rate"):
        whole.from_mapping(content)


@pytest.mark.parametrize(
    ("section", "name", "value", "message"),
    [
        ("train", "iterations", "four", "wrong type"),
        ("train", "iterations", True, "wrong type"),
        ("train", "iterations", -1, "out of range"),
        ("train", "iterations", 10_001, "out of range"),  # the graph of more does not fit the memory
        ("rollout", "temperature", float("nan"), "not a finite number"),
        ("attribute", "rule", "grpo", "unknown value.*expected none, uniform, proportional"),
        ("evaluate", "retrievers", ["bm25", 3], "wrong type"),
        ("attribute", "clip", -2.0, "out of range"),
        ("update", "learning_rate", 1e300, "out of range"),
        ("evaluate", "bootstrap", 10**9, "out of range"),
        (
            "score_coalitions",
            "metric",
            "ndcg@0",
            r"metric: unknown value: found ndcg@0, expected ndcg@K, ndcg@pool, ndcg@retrieved, ndcg-exp@K,",
        ),
        ("score_coalitions", "metric", "ndgc@10", "unknown value"),
    ],
)
def test_a_wrong_value_is_refused(section, name, value, message):
    with pytest.raises(ParameterError, match=message):
        whole.from_mapping(changed(section, name, value))


def test_a_number_in_scientific_notation_is_a_number():
    assert whole.from_mapping(changed("update", "learning_rate", "1e-3")).update.learning_rate == 1e-3


def test_a_doubled_key_is_refused(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(presets.render(Params()).replace("  seed: 0", "  seed: 0\n  seed: 1"))
    with pytest.raises(ParameterError, match="duplicate key seed"):
        whole.load(path)


@pytest.mark.parametrize("written", ["010", "1:30", "0_7", "1:30.5"])
def test_a_number_that_yaml_1_1_reads_as_another_is_refused(tmp_path, written):
    path = tmp_path / "params.yaml"
    path.write_text(presets.render(Params()).replace("max_prompts: 0 ", f"max_prompts: {written} ", 1))
    with pytest.raises(ParameterError, match=f"{written} is no decimal number"):
        whole.load(path)


@pytest.mark.parametrize(("written", "value"), [("1_000", 1000), ("+7", 7), ("0", 0)])
def test_other_ways_to_write_a_whole_number_are_read(tmp_path, written, value):
    path = tmp_path / "params.yaml"
    path.write_text(presets.render(Params()).replace("max_prompts: 0 ", f"max_prompts: {written} ", 1))
    assert whole.load(path).prepare_data.max_prompts == value


@pytest.mark.parametrize(
    "value", ["2026-13-01", "!!int abc", "!!bool maybe", "!!timestamp x", "!!python/object/apply:os.system [true]", "9" * 5000, "[" * 3000]
)
def test_yaml_that_its_reader_chokes_on_is_one_clear_error(tmp_path, value):
    path = tmp_path / "params.yaml"
    path.write_text(presets.render(Params()).replace("  seed: 0 ", f"  seed: {value} "))
    with pytest.raises(ParameterError, match=r"params\.yaml: cannot be read as YAML"):
        whole.load(path)


@pytest.mark.parametrize(
    ("section", "name"), [("train", "seed"), ("policy", "threads"), ("update", "learning_rate"), ("policy", "hidden_size")]
)
def test_a_number_that_no_machine_can_hold_is_out_of_range(section, name):
    with pytest.raises(ParameterError, match="out of range: found 10\\^400"):
        whole.from_mapping(changed(section, name, 10**400))


def test_every_parameter_has_a_meaning():
    assert all(row["meaning"] for row in whole.describe())


def test_an_unknown_item_of_a_list_is_refused():
    with pytest.raises(ParameterError, match=r"families: unknown value.*expected contiguous, prefix"):
        whole.from_mapping(changed("score_coalitions", "families", ["contiguous", "prefixes"]))


@pytest.mark.parametrize(
    ("level", "unions"), [("phrase", "phrase"), ("sentence", "clause"), ("window", "phrase"), ("sentence", "sentence")]
)
def test_unions_that_the_level_does_not_have_are_refused(level, unions):
    content = changed("segment", "level", level)
    content["segment"]["unions"] = unions
    with pytest.raises(ParameterError, match=rf"segment.unions: no unions of level {level}: found {unions}, expected auto"):
        whole.from_mapping(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score_coalitions": {"retriever": "hybrid"}}, r"evaluate\.retrievers: needs the training retriever.*put hybrid"),
        ({"evaluate": {"retrievers": ["lsa"]}}, r"found lsa; put bm25"),
        ({"evaluate": {"retrievers": ["bm25", "bm25"]}}, r"found bm25, bm25; name each once"),
        (
            {"retrieval": {"fields": ["title^2"]}, "score_coalitions": {"retriever": "lsa"}},
            r"retriever: weighted fields \(title\^2\) are known to bm25 alone: found lsa",
        ),
    ],
)
def test_what_evaluation_could_not_do_is_said_before_any_training(change, message):
    values = Params()
    for section, fields in change.items():
        values = dataclasses.replace(values, **{section: dataclasses.replace(getattr(values, section), **fields)})
    with pytest.raises(ParameterError, match=message):
        whole.check_retrievers(values.evaluate, values.score_coalitions, values.retrieval)


def test_a_file_of_an_earlier_version_works_with_the_defaults_of_what_it_lacks_and_says_so(tmp_path, capsys):
    path = tmp_path / "params.yaml"
    content = whole.to_mapping(Params())
    content["train"]["seed"] = 7
    del content["update"]["learning_rate"], content["retrieval"]["dense"]["pooling"], content["store"]
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert whole.load(path) == dataclasses.replace(Params(), train=Train(seed=7))
    names = "retrieval.dense.pooling, update.learning_rate, store.values, store.products"
    assert capsys.readouterr().err == f"{path}: not there, so at the default: {names}; `ospo params --write` adds what is missing\n"


def test_nothing_is_said_of_a_file_that_has_all_names(tmp_path, capsys):
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(whole.to_mapping(Params())), encoding="utf-8")
    assert whole.load(path) == Params()
    assert capsys.readouterr().err == ""


def test_aliases_that_grow_into_millions_of_values_are_refused_at_once(tmp_path):
    path = tmp_path / "params.yaml"
    growing = ["x0: &x0 [a, a, a, a, a, a, a, a, a, a]"] + [f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 10)}]" for i in range(1, 9)]
    path.write_text("\n".join(growing), encoding="utf-8")
    with pytest.raises(ParameterError, match=r"cannot be read as YAML: found more than 100000 values, aliases included"):
        whole.read(path)


def test_an_alias_for_a_value_used_twice_is_read(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("rollout: {vllm: &own {a: 1}}\nupdate: *own\n", encoding="utf-8")
    assert whole.read(path) == {"rollout": {"vllm": {"a": 1}}, "update": {"a": 1}}


def test_a_file_of_pairs_that_no_teacher_reads_is_refused():
    content = whole.to_mapping(Params())
    content["warm_start"] |= {"pairs_file": "mine.parquet"}
    with pytest.raises(
        ParameterError, match=r"warm_start\.pairs_file: has no effect: teacher source does not read it: found mine\.parquet"
    ):
        whole.from_mapping(content)
    content["warm_start"] |= {"teacher": "file"}
    assert whole.from_mapping(content).warm_start.pairs_file == "mine.parquet"
