"""Rollouts of another trainer get the credit that our own would get, or one line that says what is wrong with them."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from ospo_cli.cli import app
from ospo_cli.errors import CreditError, OspoError, TableError
from ospo_cli.instruments import export, foreign_credit
from ospo_cli.params.attribute import Attribute
from ospo_cli.tables import parquet, reference
from ospo_cli.tables.attribute import TOKEN_ADVANTAGES
from ospo_cli.tables.prepared import QRELS
from tests.exchange.small_shop import PARAMS, foreign_rows, write_json_lines, write_project
from tests.policies.tiny import copy_project, folder_bytes


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return write_project(tmp_path_factory.mktemp("foreign") / "shop")


def attributed(shop, source, out):
    return foreign_credit.attribute_file(shop, PARAMS, source, shop.policy(0), out)


def table(out, name):
    return parquet.read(out / f"{name}.parquet", reference.TABLES[name])


@pytest.mark.parametrize("target", ["jsonl", "parquet"])
def test_an_exported_iteration_gets_its_own_credit_back(shop, tmp_path, target):
    source = Path(export.execute(shop, PARAMS.rollout, 1, target, tmp_path / f"x.{target}")["path"])
    attributed(shop, source, tmp_path / "out")
    names = ("rollouts", "segments", "rewards", "coalition_values", "attributions", "token_advantages")
    assert [(tmp_path / "out" / f"{name}.parquet").read_bytes() for name in names] == [
        shop.iteration(1, f"{name}.parquet").read_bytes() for name in names
    ]


def test_the_required_columns_are_enough(shop, tmp_path):
    card = attributed(shop, write_json_lines(tmp_path / "x.jsonl", foreign_rows()), tmp_path / "out")
    own = parquet.read(shop.iteration(1, "token_advantages.parquet"), TOKEN_ADVANTAGES)
    rollouts = table(tmp_path / "out", "rollouts")
    assert table(tmp_path / "out", "token_advantages")["advantages"].to_list() == own["advantages"].to_list()
    assert rollouts["rollout_id"].to_list()[:2] == ["foreign:p00:00", "foreign:p00:01"]
    assert rollouts["finish_reason"].to_list() == ["stop", "stop", "stop", "length"] * 2 + ["stop"] * 4
    assert (card["rollouts"], card["rollout_groups"], card["degenerate_groups"], card["single_rollout_groups"]) == (12, 3, 1, 0)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_log_probabilities_that_are_one_number_are_said_with_how_many_rollouts(shop, tmp_path, capsys, value):
    rows = foreign_rows()
    rows[0]["old_logprobs"] = [value] * len(rows[0]["old_logprobs"])
    attributed(shop, write_json_lines(tmp_path / "x.jsonl", rows), tmp_path / "out")
    assert "old_logprobs are one number for all tokens in 1 of 12 rollouts" in capsys.readouterr().err
    attributed(shop, write_json_lines(tmp_path / "x.jsonl", foreign_rows()), tmp_path / "out")
    assert "warning" not in capsys.readouterr().err


def test_the_order_of_the_file_changes_no_credit(shop, tmp_path):
    rows = [row | {"rollout_id": f"r{index:02d}", "sample_index": index} for index, row in enumerate(foreign_rows())]
    attributed(shop, write_json_lines(tmp_path / "x.jsonl", rows), tmp_path / "a")
    attributed(shop, write_json_lines(tmp_path / "x.jsonl", rows[::-1]), tmp_path / "b")
    assert table(tmp_path / "a", "token_advantages").equals(table(tmp_path / "b", "token_advantages"))


def test_other_widths_of_numbers_are_read(shop, tmp_path):
    frame = pl.DataFrame(foreign_rows()).with_columns(
        pl.col("completion_token_ids").cast(pl.List(pl.UInt16)), pl.col("old_logprobs").cast(pl.List(pl.Float32))
    )
    frame.write_parquet(tmp_path / "x.parquet")
    assert attributed(shop, tmp_path / "x.parquet", tmp_path / "out")["rollouts"] == 12


def test_a_prompt_with_one_rollout_is_degenerate_and_counted(shop, tmp_path):
    card = attributed(shop, write_json_lines(tmp_path / "x.jsonl", foreign_rows()[:5]), tmp_path / "out")
    rewards, advantages = table(tmp_path / "out", "rewards"), table(tmp_path / "out", "token_advantages")
    assert (card["single_rollout_groups"], card["degenerate_groups"]) == (1, 1)
    assert rewards.filter(pl.col("prompt_id") == "p01")["is_degenerate_group"].to_list() == [True]
    assert advantages.filter(rollout_id="foreign:p01:00")["advantages"].explode().abs().max() == 0
    assert "1 of one rollout alone" in foreign_credit.summary(card, tmp_path / "out")


def test_the_group_game_compares_foreign_answers_with_those_of_their_own_group(shop, tmp_path):
    scoring = dataclasses.replace(PARAMS.score_coalitions, estimators=["splice"])
    params = dataclasses.replace(
        PARAMS, score_coalitions=scoring, attribute=Attribute(estimator="splice", rule="none", splice_trace=1.0, normalize="std")
    )
    source = write_json_lines(tmp_path / "x.jsonl", foreign_rows()[:-1])  # groups of unequal size
    card = foreign_credit.attribute_file(shop, params, source, shop.policy(0), tmp_path / "out")
    assert (card["estimator"], card["rule"]) == ("splice", "none")
    spliced = table(tmp_path / "out", "spliced_values")
    same_prompt = pl.col("rollout_id").str.slice(0, 11) == pl.col("other_rollout_id").str.slice(0, 11)
    assert spliced.height == spliced.filter(same_prompt & (pl.col("rollout_id") != pl.col("other_rollout_id"))).height > 0
    # λ = 1: the first token has the answer's reward over the mean of the others, in standard deviations.
    rewards = table(tmp_path / "out", "rewards").filter(~pl.col("is_degenerate_group"))
    mean = (pl.col("reward").sum().over("prompt_id") - pl.col("reward")) / (pl.len().over("prompt_id") - 1)
    expected = rewards.select("rollout_id", over=(pl.col("reward") - mean) / (pl.col("reward").std().over("prompt_id") + 1e-4))
    first = table(tmp_path / "out", "token_advantages").select("rollout_id", first=pl.col("advantages").list.first())
    found = expected.join(first, on="rollout_id").drop_nulls()  # one completion has no token
    assert found["first"].to_list() == pytest.approx(found["over"].to_list(), abs=1e-6)


def test_a_foreign_folder_is_exported_without_this_projects_sampling(shop, tmp_path):
    rows = [row | {"prompt_token_ids": [5, 6]} for row in foreign_rows()]
    attributed(shop, write_json_lines(tmp_path / "x.jsonl", rows), tmp_path / "out")
    done = export.execute(shop, PARAMS.rollout, None, "trl", tmp_path / "x.trl.safetensors", tmp_path / "out")
    assert (done["iteration"], done["temperature"], done["rule"], done["rollouts"]) == (None, None, "group-additive", 12)


def test_without_prompt_ids_there_are_no_tensors_for_a_trainer(shop, tmp_path):
    attributed(shop, write_json_lines(tmp_path / "x.jsonl", foreign_rows()), tmp_path / "out")
    with pytest.raises(TableError, match="rollout foreign:p00:00: has no prompt token ids"):
        export.execute(shop, PARAMS.rollout, None, "trl", tmp_path / "x.trl.safetensors", tmp_path / "out")
    assert export.execute(shop, PARAMS.rollout, None, "jsonl", tmp_path / "x2.jsonl", tmp_path / "out")["rollouts"] == 12


def changed(**values):
    """Return the rows with the third one changed."""
    rows = foreign_rows()
    rows[2] = {name: value for name, value in (rows[2] | values).items() if value is not ...}
    return rows


def third():
    return foreign_rows()[2]


LOGPROBS = third()["old_logprobs"]
IDS = third()["completion_token_ids"]
NAN = json.dumps(third() | {"old_logprobs": [math.nan, *LOGPROBS[1:]]})

BROKEN = {
    "column missing": (changed(old_logprobs=...), r"line 3: column old_logprobs is missing: found prompt_id, completion"),
    "unknown prompt": (changed(prompt_id="p\x1b[2J"), r"row 3: unknown prompt_id: found p\\x1b\[2J, expected one of the 16"),
    "ids of another text": (changed(completion="<answer>red</answer>"), r"row 3, character \d+: completion_token_ids do not spell"),
    "text without its ids": (changed(completion_token_ids=IDS[1:], old_logprobs=LOGPROBS[1:]), r"row 3, character 0: .* do not spell"),
    "id outside the vocabulary": (changed(completion_token_ids=[9999, *IDS[1:]]), r"row 3: token id outside the vocabulary: found 9999"),
    "negative id": (changed(completion_token_ids=[-1, *IDS[1:]]), r"line 3, completion_token_ids: is of the wrong type"),
    "id that is no whole number": (changed(completion_token_ids=[1.5, *IDS[1:]]), r"line 3, completion_token_ids: is of the wrong type"),
    "NaN": ([*foreign_rows()[:2], NAN], r"row 3, token 0: old_logprobs is no log-probability: found nan"),
    "minus infinity": (changed(old_logprobs=[*LOGPROBS[:-1], -math.inf]), r"row 3, token \d+: old_logprobs is no log-probability"),
    "a positive log-probability": (changed(old_logprobs=[0.5, *LOGPROBS[1:]]), r"row 3, token 0: .*found 0.5, expected a finite"),
    "what vLLM writes for none": (changed(old_logprobs=[-9999.0, *LOGPROBS[1:]]), r"row 3, token 0: .*found -9999.0"),
    "a prompt's id outside the vocabulary": (changed(prompt_token_ids=[5, 9999]), r"row 3, prompt_token_ids: token id outside .* 9999"),
    "a log-probability beyond any number": (
        changed(old_logprobs=[-(10**400), *LOGPROBS[1:]]),
        r"line 3, old_logprobs: is of the wrong type",
    ),
    "null in the log-probabilities": (changed(old_logprobs=[None, *LOGPROBS[1:]]), r"row 3, token 0: .*found null"),
    "fewer log-probabilities": (changed(old_logprobs=LOGPROBS[1:]), r"row 3: token ids and log-probabilities differ in number"),
    "padding": (changed(completion_token_ids=[*IDS, 0, 0], old_logprobs=[*LOGPROBS, -1, -1]), r"padding among completion_token_ids"),
    "doubled rollout_id": ([row | {"rollout_id": "same"} for row in foreign_rows()], r"row 2, rollout same: rollout_id occurs twice"),
    "doubled sample": ([row | {"sample_index": 0} for row in foreign_rows()], r"row 2: prompt_id and sample_index occurs twice"),
    "no row": ([], r"x\.jsonl: holds no rollout"),
    "no row but a header": (['{"format":"ospo-credit","version":1}'], r"x\.jsonl: holds no rollout"),
    "another version": (
        ['{"format":"ospo-credit","version":2}', *foreign_rows()],
        r"line 1: unknown format or version: found ospo-credit 2",
    ),
    "no JSON": ([foreign_rows()[0], "{"], r"line 2: cannot be read as JSON"),
    "no object": (["[1]"], r"line 1: is no JSON object: found list"),
    "text that is none": (changed(completion=7), r"line 3, completion: is of the wrong type: found 7, expected text"),
    "lone surrogate": (changed(completion="\ud800"), r"line 3, completion: holds a lone surrogate"),
    "unknown finish_reason": (changed(finish_reason="tired"), r"row 3: unknown finish_reason: found tired, expected stop or length"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_bad_input_is_one_line_and_nothing_is_written(shop, tmp_path, name):
    rows, message = BROKEN[name]
    source = write_json_lines(tmp_path / "x.jsonl", rows)
    with pytest.raises(OspoError, match=message) as caught:
        attributed(shop, source, tmp_path / "out")
    assert len(caught.value.line().splitlines()) == 1
    assert "\x1b" not in caught.value.line()
    assert list(tmp_path.iterdir()) == [source]


PARQUET = {
    "column missing": (lambda f: f.drop("prompt_id"), r"column prompt_id is missing"),
    "wrong type": (lambda f: f.with_columns(completion=pl.col("old_logprobs")), r"column completion has the wrong type: found List"),
    "text for numbers": (lambda f: f.with_columns(pl.col("old_logprobs").cast(pl.List(pl.String))), r"old_logprobs has the wrong type"),
    "null": (lambda f: f.with_columns(prompt_id=None, completion=pl.lit("x")).cast({"prompt_id": pl.String}), r"row 1: column prompt_id is null"),
    "huge id": (
        lambda f: f.with_columns(pl.col("completion_token_ids").list.eval(pl.element() + 2**40)),
        r"completion_token_ids holds numbers out of range",
    ),
    "negative id": (
        lambda f: f.with_columns(pl.col("completion_token_ids").list.eval(-pl.element())),
        r"row 1: column completion_token_ids holds a null or negative number",
    ),
    "no row": (lambda f: f.head(0), r"holds no rollout"),
}  # fmt: skip


@pytest.mark.parametrize("name", PARQUET)
def test_bad_parquet_is_one_line_and_nothing_is_written(shop, tmp_path, name):
    change, message = PARQUET[name]
    source = tmp_path / "x.parquet"
    change(pl.DataFrame(foreign_rows())).write_parquet(source)
    with pytest.raises(TableError, match=message):
        attributed(shop, source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [source]


def test_a_file_of_another_kind_or_cut_short_is_refused(shop, tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(TableError, match=r"x\.parquet: cannot be read as Parquet"):
        attributed(shop, tmp_path / "x.parquet", tmp_path / "out")
    (tmp_path / "x.pkl").write_bytes(b"\x80")
    with pytest.raises(TableError, match=r"unknown kind of file: found \.pkl, expected \.parquet or \.jsonl"):
        attributed(shop, tmp_path / "x.pkl", tmp_path / "out")


def test_an_earlier_result_is_replaced_whole_and_kept_when_the_next_file_is_bad(shop, tmp_path):
    source = write_json_lines(tmp_path / "x.jsonl", foreign_rows()[:8])
    attributed(shop, source, tmp_path / "out")
    first = folder_bytes(tmp_path / "out")
    attributed(shop, write_json_lines(source, foreign_rows()), tmp_path / "out")
    second = folder_bytes(tmp_path / "out")
    with pytest.raises(OspoError):
        attributed(shop, write_json_lines(source, changed(prompt_id="nobody")), tmp_path / "out")
    assert table(tmp_path / "out", "rollouts").height == 12
    assert first["rollouts.parquet"] != second["rollouts.parquet"]
    assert folder_bytes(tmp_path / "out") == second
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "x.jsonl"]


def test_a_folder_of_somebody_else_is_left_alone(shop, tmp_path):
    source = write_json_lines(tmp_path / "x.jsonl", foreign_rows())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(OspoError, match="is not empty and was not written by this command"):
        attributed(shop, source, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_an_error_of_a_stage_speaks_of_the_file_and_not_of_an_iteration(tmp_path):
    error = CreditError(f"{tmp_path}/rollouts.parquet: rollout 7", "is odd", remedy="add it and run `ospo score-coalitions --iter 1` again")
    told = foreign_credit._for_this_command(error, tmp_path, Path("theirs.jsonl"))
    assert told.line() == "theirs.jsonl: rollouts.parquet: rollout 7: is odd; add it and run the same command again"
    assert isinstance(told, CreditError)


def test_a_stage_that_fails_leaves_nothing(shop, tmp_path):
    layout = copy_project(shop, tmp_path / "shop")
    path = layout.prepared("qrels.parquet")
    parquet.write(parquet.read(path, QRELS).filter(pl.col("prompt_id") != "p01"), path, QRELS)
    source = write_json_lines(tmp_path / "x.jsonl", foreign_rows())
    with pytest.raises(OspoError, match="p01"):
        attributed(layout, source, tmp_path / "out")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["shop", "x.jsonl"]


def test_the_command_exits_1_with_one_line_and_2_on_wrong_usage(shop, tmp_path):
    from ospo_cli import presets

    (shop.root / "params.yaml").write_text(presets.render(PARAMS), encoding="utf-8")
    source = write_json_lines(tmp_path / "x.jsonl", changed(prompt_id="nobody"))

    arguments = ["attribute", "--rollouts", str(source), "--out", str(tmp_path / "out")]
    environment = {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    bad = subprocess.run([sys.executable, "-m", "ospo_cli", *arguments], cwd=shop.root, capture_output=True, text=True, env=environment)
    assert (bad.returncode, len(bad.stderr.strip().splitlines())) == (1, 1), bad.stderr
    assert "unknown prompt_id" in bad.stderr
    write_json_lines(source, foreign_rows())
    good = CliRunner().invoke(app, [*arguments, "--project", str(shop.root)])
    assert "12 rollouts in 3 groups" in good.stderr
    assert (good.exit_code, (tmp_path / "out" / "token_advantages.parquet").is_file()) == (0, True)
    assert CliRunner().invoke(app, ["attribute"]).exit_code == 2
    assert CliRunner().invoke(app, ["export", "--to", "jsonl"]).exit_code == 2
