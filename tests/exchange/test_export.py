"""An exported file holds what the tables hold, aligned to the sampled tokens, in equal bytes."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file

from ospo_cli.errors import MissingInputError, OspoError, TableError
from ospo_cli.exchange import credit_files
from ospo_cli.instruments import export
from ospo_cli.stages import attribute
from ospo_cli.tables import parquet, reference
from ospo_cli.tables.attribute import TOKEN_ADVANTAGES
from ospo_cli.tables.exchange import CREDIT, FOREIGN_ROLLOUTS
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.tables.score_coalitions import REWARDS
from tests.exchange.small_shop import PARAMS, write_project
from tests.policies.tiny import copy_project

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "export.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return write_project(tmp_path_factory.mktemp("export") / "shop")


@pytest.fixture
def layout(shop, tmp_path):
    return copy_project(shop, tmp_path / "copy")


def exported(layout, target, **options):
    return Path(export.execute(layout, PARAMS.rollout, 1, target, **options)["path"])


def header_of(path):
    with safe_open(path, framework="np") as opened:
        return json.loads(opened.metadata()["ospo"])


def credit(layout):
    return pl.read_parquet(exported(layout, "parquet"))


def test_rows_are_those_of_the_tables_in_the_order_of_prompts(layout):
    rows = credit(layout)
    rollouts = parquet.read(layout.iteration(1, "rollouts.parquet"), ROLLOUTS)
    advantages = parquet.read(layout.iteration(1, "token_advantages.parquet"), TOKEN_ADVANTAGES)
    rewards = parquet.read(layout.iteration(1, "rewards.parquet"), REWARDS)
    assert rows["rollout_id"].to_list() == rollouts["rollout_id"].sort().to_list()
    assert rows["group_id"].to_list() == [0] * 4 + [1] * 4 + [2] * 4
    assert rows["completion_token_ids"].to_list() == rollouts["token_ids"].to_list()
    assert rows["old_logprobs"].to_list() == rollouts["behavior_logprobs"].to_list()
    assert rows["advantages"].to_list() == advantages["advantages"].to_list()
    assert rows["reward"].to_list() == rewards["reward"].to_list()
    assert rows["prompt"].str.contains("for the office").all()


def test_json_lines_and_parquet_hold_the_same_header_and_rows(layout):
    lines = exported(layout, "jsonl").read_text(encoding="utf-8").splitlines()
    path = exported(layout, "parquet")
    header, rows = json.loads(lines[0]), [json.loads(line) for line in lines[1:]]
    assert header == json.loads(pl.read_parquet_metadata(path)["ospo"])
    assert rows == pl.read_parquet(path).to_dicts()
    assert (header["format"], header["version"], header["iteration"]) == ("ospo-credit", 1, 1)
    assert (header["rollouts"], header["groups"], header["degenerate_groups"]) == (12, 3, 1)
    assert header["temperature"] == PARAMS.rollout.temperature


@pytest.mark.parametrize("target", credit_files.TARGETS)
def test_two_exports_are_equal_bytes_and_leave_no_other_file(layout, target):
    first = exported(layout, target).read_bytes()
    second = exported(layout, target).read_bytes()
    assert first == second
    assert len(list(layout.export("x").parent.iterdir())) == 1


def test_tensors_for_trl_are_the_rows_filled_up(layout):
    rows, path = credit(layout), exported(layout, "trl")
    tensors = load_file(path)
    for name, mask, column in (
        ("prompt_ids", "prompt_mask", "prompt_token_ids"),
        ("completion_ids", "completion_mask", "completion_token_ids"),
        ("advantages", "completion_mask", "advantages"),
        ("old_per_token_logps", "completion_mask", "old_logprobs"),
    ):
        found = [values[kept == 1].tolist() for values, kept in zip(tensors[name], tensors[mask], strict=True)]
        assert found == rows[column].to_list()
        assert (tensors[name][tensors[mask] == 0] == 0).all()
    assert (np.diff(tensors["prompt_mask"], axis=1) >= 0).all()
    assert (np.diff(tensors["completion_mask"], axis=1) <= 0).all()
    assert tensors["group_ids"].tolist() == rows["group_id"].to_list()
    assert header_of(path)["rows"]["rollout_id"] == rows["rollout_id"].to_list()


def test_tensors_for_verl_are_its_names_over_the_same_rows(layout):
    trl, verl = load_file(exported(layout, "trl")), load_file(exported(layout, "verl"))
    width = trl["prompt_ids"].shape[1]
    assert (verl["input_ids"][:, :width] == trl["prompt_ids"]).all()
    assert (verl["input_ids"][:, width:] == verl["responses"]).all()
    assert (verl["attention_mask"][:, width:] == verl["response_mask"]).all()
    places = [row[kept == 1].tolist() for row, kept in zip(verl["position_ids"], verl["attention_mask"], strict=True)]
    assert places == [list(range(len(row))) for row in places]
    assert np.allclose(verl["token_level_scores"].sum(axis=1)[:7], trl["rewards"][:7])
    assert (verl["token_level_scores"][7] == 0).all()  # the completion of no token has no place for a reward
    assert (verl["advantages"] == trl["advantages"]).all()
    assert (verl["old_log_probs"] == trl["old_per_token_logps"]).all()


def test_datums_for_tinker_predict_each_token_from_those_before_it(layout):
    header, *datums = map(json.loads, exported(layout, "tinker").read_text(encoding="utf-8").splitlines())
    rows = credit(layout)
    assert header["rows"]["rollout_id"] == rows["rollout_id"].to_list()
    for row, datum in zip(rows.iter_rows(named=True), datums, strict=True):
        (chunk,) = datum["model_input"]["chunks"]
        inputs = {name: tensor["data"] for name, tensor in datum["loss_fn_inputs"].items()}
        assert all(tensor["shape"] == [len(chunk["tokens"])] == [len(tensor["data"])] for tensor in datum["loss_fn_inputs"].values())
        assert [tensor["dtype"] for tensor in datum["loss_fn_inputs"].values()] == ["int64", "float32", "float32", "float32"]
        assert chunk["tokens"][:1] + inputs["target_tokens"] == row["prompt_token_ids"] + row["completion_token_ids"]
        assert inputs["target_tokens"][:-1] == chunk["tokens"][1:]
        for name, column in (("target_tokens", "completion_token_ids"), ("logprobs", "old_logprobs"), ("advantages", "advantages")):
            assert [value for value, kept in zip(inputs[name], inputs["mask"], strict=True) if kept] == row[column]
        assert not any(value for value, kept in zip(inputs["advantages"], inputs["mask"], strict=True) if not kept)


@given(st.lists(st.lists(st.integers(1, 9), max_size=6), min_size=1, max_size=6), st.booleans())
def test_filling_up_loses_nothing(lists, left):
    values, mask = credit_files._padded(pl.Series(lists, dtype=pl.List(pl.Int32)), np.int64, left)
    assert [row[kept == 1].tolist() for row, kept in zip(values, mask, strict=True)] == lists
    assert values.shape == mask.shape == (len(lists), max(1, *map(len, lists)))


def test_degenerate_groups_are_kept_with_advantage_zero_or_left_out(layout):
    kept = credit(layout)
    assert kept.filter("is_degenerate_group")["prompt_id"].unique().to_list() == ["p02"]
    assert kept.filter("is_degenerate_group")["advantages"].explode().abs().max() == 0
    done = export.execute(layout, PARAMS.rollout, 1, "parquet", keep_degenerate=False)
    left = pl.read_parquet(done["path"])
    assert left["prompt_id"].unique().sort().to_list() == ["p00", "p01"]
    assert (done["degenerate_groups"], done["left_out_rollouts"], left.height) == (0, 4, 8)


def test_estimator_and_rule_are_those_that_made_the_advantages(layout):
    changed = dataclasses.replace(PARAMS, attribute=dataclasses.replace(PARAMS.attribute, rule="signed", estimator="alone"))
    before = export.execute(layout, changed.rollout, 1, "jsonl")
    attribute.execute(layout, changed, 1)
    after = export.execute(layout, changed.rollout, 1, "jsonl")
    assert (before["estimator"], before["rule"]) == ("myerson", "group-additive")
    assert (after["estimator"], after["rule"]) == ("alone", "signed")


def edit(layout, name, change):
    path = layout.iteration(1, f"{name}.parquet")
    parquet.write(change(parquet.read(path, reference.TABLES[name])), path, reference.TABLES[name])


BROKEN = {
    "rewards of other rollouts": ("rewards", lambda f: f.head(3), "table rewards: rows are not those of the rollouts"),
    "advantages of other rollouts": ("token_advantages", lambda f: f.tail(3), "table token_advantages: rows are not those"),
    "advantages of another length": ("token_advantages", lambda f: f.with_columns(pl.col("advantages").list.head(2)), "differ in number"),
    "infinite advantages": (
        "token_advantages",
        lambda f: f.with_columns(pl.col("advantages").list.eval(pl.element() / 0)),
        "advantages that are not finite",
    ),
    "a prompt that is not there": (
        "rollouts",
        lambda f: f.with_columns(prompt_id=pl.lit("elsewhere"), sample_index=pl.int_range(pl.len(), dtype=pl.Int32)),
        "names a prompt that is not in table prompts",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_tables_that_do_not_belong_together_are_refused_and_nothing_is_written(layout, name):
    table, change, message = BROKEN[name]
    edit(layout, table, change)
    with pytest.raises(TableError, match=message):
        export.execute(layout, PARAMS.rollout, 1, "jsonl")
    assert not layout.export("x").parent.exists()


def test_nothing_left_to_write_is_an_error(layout):
    edit(layout, "rewards", lambda f: f.with_columns(is_degenerate_group=True))
    with pytest.raises(TableError, match="nothing is left to write: found 12 rollouts, all in degenerate groups"):
        export.execute(layout, PARAMS.rollout, 1, "parquet", keep_degenerate=False)


def test_an_unknown_target_lists_what_exists(layout):
    with pytest.raises(OspoError, match="--to pickle: no such target: expected jsonl, parquet, trl, verl, tinker"):
        export.execute(layout, PARAMS.rollout, 1, "pickle")


@pytest.mark.parametrize(
    ("file", "command"),
    [("rollouts.parquet", "rollout"), ("rewards.parquet", "score-coalitions"), ("token_advantages.parquet", "attribute"), ("attribute_metrics.json", "attribute")],
)  # fmt: skip
def test_a_missing_input_names_its_command(layout, file, command):
    layout.iteration(1, file).unlink()
    with pytest.raises(MissingInputError, match=f"run `ospo {command} --iter 1`"):
        export.execute(layout, PARAMS.rollout, 1, "jsonl")


def test_the_page_describes_the_declared_columns():
    for table in (CREDIT, FOREIGN_ROLLOUTS):
        between = DOCUMENT.partition(f"<!-- {table.name} -->\n")[2].partition(f"<!-- /{table.name} -->")[0]
        assert between == reference.column_reference(table)


def test_the_page_names_every_tensor_that_is_written(layout):
    rows = credit(layout)
    trl, verl = credit_files.trl_tensors(rows), credit_files.verl_tensors(rows)
    datum = credit_files.tinker_datum(rows.row(0, named=True))["loss_fn_inputs"]
    for title, tensors in (("### TRL", trl), ("### verl", verl), ("### Tinker", datum)):
        section = DOCUMENT.partition(title)[2].partition("\n### ")[0].partition("\n## ")[0]
        assert set(re.findall(r"(?m)^\| `(\w+)`", section)) == set(tensors)


def test_the_code_of_the_page_reads_the_files(layout, monkeypatch):
    for target in credit_files.TARGETS:
        exported(layout, target)
    monkeypatch.chdir(layout.root)
    for block in re.findall(r"```python\n# reads.*?\n(.*?)```", DOCUMENT, re.DOTALL):
        names: dict = {}
        exec(block, names)
        assert names["header"]["format"] == "ospo-credit"
        assert len(names["rows"]) == 12
