"""The plan: what is counted exactly, what a calibration leaves behind, and plan against actual."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path

import polars as pl
import pytest

from ospo_cli.errors import OspoError
from ospo_cli.graph import nodes, runner
from ospo_cli.instruments.plan import command as planning
from ospo_cli.instruments.plan import rules
from ospo_cli.layout import Layout
from ospo_cli.params.whole import Params, to_mapping
from ospo_cli.report.page import render
from ospo_cli.report.plan_sections import HEADER, UNITS, cells, compared, section, total
from ospo_cli.stages import evaluate
from ospo_cli.stages.report import plan_and_actual, report
from ospo_cli.tables import parquet
from ospo_cli.tables.plan import PLAN
from tests.policies.tiny import tiny_params
from tests.report import small_project
from tests.sources import own_data

COLOURS, THINGS = ("navy", "red", "olive", "black", "white"), ("coat", "dress", "boots", "scarf", "lamp", "mug")


def shop(folder: Path) -> None:
    products = [(f"{colour}-{thing}", f"{colour} wool {thing}", thing) for colour in COLOURS for thing in THINGS]
    names = ("product_id", "title", "category")
    own_data.shop(
        folder,
        products=dict(zip(names, map(list, zip(*products, strict=True)), strict=True)),
        queries={
            "query_id": [f"q{index}" for index in range(24)],
            "query": [f"{THINGS[index % 6]} number {COLOURS[index % 5]}" for index in range(24)],
            "split": ["train"] * 18 + ["test"] * 6,
        },
        judgments={
            "query_id": [f"q{index}" for index in range(24)],
            "product_id": [f"{COLOURS[index % 5]}-{THINGS[index % 6]}" for index in range(24)],
            "grade": [1] * 24,
        },
    )


def values() -> Params:
    found = tiny_params(
        train={"iterations": 2},
        prepare_data={"source": "tables", "path": "catalogue", "prompt_template": "{query}", "pool": "catalogue"},
        warm_start={"teacher": "judgments", "steps": 20, "batch_size": 4, "max_epochs": 3.0},
        rollout={"prompts_per_iteration": 8, "group_size": 4, "max_new_tokens": 12, "batch_size": 16},
        update={"groups_per_step": 3, "epochs": 2},
        evaluate={"split": "test", "max_prompts": 4, "samples": 2, "retrievers": ["bm25", "tfidf-char"], "bootstrap": 100},
    )
    return dataclasses.replace(found, report=dataclasses.replace(found.report, title="small"))


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Layout, pl.DataFrame, dict]:
    """A project of which nothing but the data set is there, and its plan."""
    layout, one_round = Layout(tmp_path_factory.mktemp("plan")), planning._round
    shop(layout.root / "catalogue")

    def looked_at(scratch: Layout, params: Params) -> dict:
        assert list((scratch.cache / "index").iterdir())  # an iteration finds the index
        return one_round(scratch, params)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "_round", looked_at)
        return layout, *planning.plan(layout, values(), sample=True)


def test_every_stage_has_a_cost_from_the_sample_and_only_the_data_is_up_to_date(planned: tuple[Layout, pl.DataFrame, dict]) -> None:
    _, table, _ = planned
    assert set(table.select("stage", "iteration").rows()) == {(made.stage, made.iteration or 0) for made in nodes.plan(values())}
    assert (table["seconds"] > 0).all()
    assert (table["peak_bytes"] > 50_000_000).all()
    assert (table["bytes"] > 0).all()
    assert table.filter("is_current")["stage"].to_list() == ["prepare-data"]
    assert set(table.filter(~pl.col("is_current"))["rate_from"]) == {"sample"}


def test_the_plan_leaves_nothing_behind_but_itself_and_the_prepared_data(planned: tuple[Layout, pl.DataFrame, dict]) -> None:
    layout, table, _ = planned
    found = {path.relative_to(layout.root).as_posix() for path in layout.data.rglob("*") if path.is_file()}
    prepared = {path for path in found if path.startswith("data/prepared/")}
    code = "data/cache/code.json"  # hashes of the code
    kept = {"data/plan/plan.parquet", "data/plan/plan.json", "data/plan/actual/prepare-data.json", "data/manifests/prepare-data.json", code}
    assert found == prepared | kept
    assert "data/prepared/prompts.parquet" in prepared
    assert parquet.read(layout.plan("plan.parquet"), PLAN).equals(table.sort("stage", "iteration"))


def test_it_prints_stages_in_the_order_of_the_work_and_the_sum(planned: tuple[Layout, pl.DataFrame, dict]) -> None:
    stream = io.StringIO()
    planning.print_plan(*planned[1:], stream)
    expected = [*(stage for stage in UNITS if stage != "score-queries"), "to do"]
    assert [line.split("  ")[0] for line in stream.getvalue().splitlines()[1:]][: len(expected)] == expected


def test_making_an_index_is_planned_for_the_first_stage_that_scores_alone(
    planned: tuple[Layout, pl.DataFrame, dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    alike = record(**dict.fromkeys(("prompts", "steps", "answers", "rollouts", "completions", "distinct_values", "iterations"), 10))
    stages = {made.stage for made in nodes.plan(values())}
    making = {planning.INDEX: [{"seconds": 9000.0, "cpu_seconds": 7000.0}]}
    monkeypatch.setattr(planning, "_sampled", lambda *_: {stage: [alike] for stage in stages} | making)
    layout = Layout(planned[0].root.with_name("unplanned"))
    shop(layout.root / "catalogue")
    table, _ = planning.plan(layout, values(), sample=True)
    dear = table.filter(pl.col("seconds") > 9000)
    assert dear.select("stage", "iteration", pl.col("cpu_seconds") > 7000).rows() == [("score-coalitions", 1, True)]
    assert "score-coalitions" in table.filter(pl.col("iteration") == 2)["stage"]


def test_counts_come_before_any_sample_and_can_be_all(planned: tuple[Layout, pl.DataFrame, dict], monkeypatch: pytest.MonkeyPatch) -> None:
    layout, table, _ = planned
    monkeypatch.setattr(planning, "_sampled", lambda *_: pytest.fail("sampled though the counts were all that was asked"))
    before = layout.plan("plan.parquet").read_bytes()
    stream = io.StringIO()
    assert planning.plan(layout, values(), lambda runs, exact, why: planning.print_counts(runs, exact, stream) or False) is None
    assert layout.plan("plan.parquet").read_bytes() == before
    found = {line.split("  ")[0]: line.split() for line in stream.getvalue().splitlines()[1:] if line}
    for stage in ("warm-start", "rollout", "update", "evaluate"):
        own = table.filter(pl.col("stage") == stage)
        assert found[stage][1:3] == [str(own.height), str(own["units"][0])]


@pytest.fixture(scope="module")
def run(planned: tuple[Layout, pl.DataFrame, dict]) -> Layout:
    """The same project after its run."""
    layout = planned[0]
    runner.run(layout, values())
    return layout


def test_counts_are_those_of_the_run(run: Layout, planned: tuple[Layout, pl.DataFrame, dict]) -> None:
    found = plan_and_actual(run, to_mapping(values()))
    assert found is not None
    rows = {row["stage"]: row for row in found["rows"]}
    assert all(row["runs"] == row["planned_runs"] and row["seconds"] > 0 for row in rows.values())
    for stage in ("prepare-data", "warm-start", "rollout", "segment", "attribute", "evaluate", "report"):
        assert rows[stage]["units"] == rows[stage]["planned_units"] > 0, stage
    assert rows["warm-start"]["units"] < 20  # three passes are fewer steps
    assert 0 < rows["update"]["units"] <= rows["update"]["planned_units"] == 2 * 2 * 3
    for stage, most in (("rollout", 2 * 32 * 12), ("update", 2 * 32 * 12 * 2)):
        assert 0 < rows[stage]["tokens"] <= rows[stage]["planned_tokens"] == most
    assert found["changed"] == []
    assert "Plan against actual" in render(report(run, values()))


def test_after_a_run_its_own_rates_count_and_nothing_is_sampled(run: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_sampled", lambda *_: pytest.fail("sampled though a run recorded its rates"))
    path = run.plan("actual/attribute@1.json")
    records = [json.loads(run.plan(f"actual/attribute@{k}.json").read_text(encoding="utf-8")) for k in (1, 2)]
    table, _ = planning.plan(run, values())
    assert table["is_current"].all()
    assert set(table["rate_from"]) == {"run"}
    texts = [
        json.loads(run.plan(f"actual/score-coalitions@{k}.json").read_text(encoding="utf-8"))["counts"]["distinct_values"] for k in (1, 2)
    ]
    by_stage = {row["stage"]: row for row in table.iter_rows(named=True)}
    assert by_stage["score-coalitions"]["units"] == round(sum(texts) / 2)
    assert by_stage["attribute"]["cpu_seconds"] == pytest.approx(sum(record["cpu_seconds"] for record in records) / 2)
    assert path.is_file()


def test_twice_the_prompts_take_twice_the_recorded_time(run: Layout) -> None:
    one, _ = planning.plan(run, values())
    half, _ = planning.plan(run, dataclasses.replace(values(), rollout=dataclasses.replace(values().rollout, prompts_per_iteration=4)))
    for stage in ("rollout", "segment", "score-coalitions", "attribute", "update"):
        seconds = [table.filter(stage=stage, iteration=1)["seconds"].item() for table in (one, half)]
        assert seconds[0] == pytest.approx(2 * seconds[1]), stage
    assert one.filter(stage="evaluate")["seconds"].item() == half.filter(stage="evaluate")["seconds"].item()


def record(**counts: int) -> dict:
    params = {"rollout": {"group_size": 4, "temperature": 1.0}, "train.seed": 0}
    return {"seconds": 2.0, "cpu_seconds": 1.0, "bytes": 10, "peak_bytes": 7, "counts": counts, "params": params}


@pytest.mark.parametrize(
    ("changed", "used"), [({"group_size": 8, "temperature": 1.0}, 1), ({"group_size": 4, "temperature": 0.5}, 0)], ids=["a count", "a rate"]
)
def test_a_record_of_other_parameters_is_used_where_they_only_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict, used: int
) -> None:
    layout, made = Layout(tmp_path), nodes.node("rollout", 1, tiny_params())
    layout.plan("actual").mkdir(parents=True)
    layout.plan("actual/rollout@1.json").write_text(json.dumps(record(rollouts=8)), encoding="utf-8")
    layout.plan("actual/rollout@2.json").write_text(json.dumps(record(rollouts=8, reused_values=3)), encoding="utf-8")
    layout.plan("actual/rollout@3.json").write_text("no JSON", encoding="utf-8")
    monkeypatch.setattr(planning, "section_values", lambda *_: {"rollout": changed, "train.seed": 1})
    assert len(planning.recorded(layout, made, to_mapping(tiny_params()))) == used


def test_two_sizes_give_a_fixed_cost_and_one_of_a_unit_and_equal_sizes_a_median() -> None:
    few, many = record(rollouts=4), record(rollouts=12) | {"seconds": 4.0, "cpu_seconds": 2.0, "bytes": 30}
    assert planning._cost("rollout", [few, many], 100) == pytest.approx([2 * (0.5 + 12.5), 0.5 + 12.5, 250.0])
    slow = record(rollouts=4) | {"seconds": 200.0, "cpu_seconds": 100.0}
    assert planning._cost("rollout", [few, slow, few], 8)[1:] == pytest.approx([2.0, 20.0])


@pytest.mark.parametrize(
    ("one", "four", "planned", "steps"),
    [
        (0.30, 0.42, 60, 60),  # 40 ms a step: all of them
        (0.40, 0.38, 1000, 394),  # noise: a tenth of the time is taken for three steps
        (5.0, 6.5, 1000, 10),  # half a second a step
        (10.0, 20.0, 1000, 0),  # no more than were sampled
        (0.1, 0.1, 4, 0),
        (0.0, 0.0, 0, 0),  # a policy that is copied
    ],
)
def test_short_steps_of_the_warm_start_are_sampled_for_longer(one: float, four: float, planned: int, steps: int) -> None:
    assert planning._further_steps(one, four, planned) == steps


def test_an_iteration_takes_no_more_prompts_than_there_are(run: Layout) -> None:
    many = dataclasses.replace(values(), rollout=dataclasses.replace(values().rollout, prompts_per_iteration=500))
    found = planning.counts(run, many)
    train = pl.read_parquet(run.prepared("prompts.parquet")).filter(split="train").height
    assert found["rollout"][0] == train * 4 < 500


def test_the_oracle_is_planned_by_prompts_and_the_rest_of_the_evaluation_by_completions() -> None:
    exact = {"evaluate": (60, 60, 720), planning.ORACLE: (10, 10, 0)}
    own = {"evaluate": [record(completions=6)], planning.ORACLE: [record(prompts=2)]}
    units, _, tokens, seconds, cpu, size, _ = planning._expected("evaluate", exact, own)
    assert (units, tokens, seconds, cpu, size) == (60, 720, 20.0 + 10.0, 10.0 + 5.0, 100 + 50)


def test_full_rankings_are_planned_by_the_answers_to_evaluated_prompts_counted_as_the_evaluation_counts_them(run: Layout) -> None:
    counted = planning.counts(run, values())[planning.RANKED][0]
    assert counted == json.loads(run.plan("actual/evaluate.json").read_text(encoding="utf-8"))["counts"]["ranked"] > 0
    exact = {"evaluate": (60, 60, 720), planning.RANKED: (40, 40, 0)}
    own = {
        "evaluate": [record(completions=6)],
        planning.RANKED: [record(ranked=size) | {"cpu_seconds": took} for size, took in ((4, 3.0), (8, 5.0))],
    }
    assert planning._expected("evaluate", exact, own)[4] == pytest.approx(10.0 + 1.0 + 40 * 0.5)


def test_what_an_evaluation_does_once_is_planned_once_and_named_as_the_stage_names_it() -> None:
    exact = {"evaluate": (60, 60, 720), planning.ONCE: (1, 1, 0)}
    once = [record(prompts=2), record(prompts=8) | {"seconds": 6.0, "cpu_seconds": 3.0}]
    _, _, _, seconds, cpu, _, _ = planning._expected("evaluate", exact, {"evaluate": [record(completions=6)], planning.ONCE: once})
    assert (seconds, cpu) == (20.0 + 4.0, 10.0 + 2.0)  # the median of 1 and 3, and seconds in proportion
    source = Path(evaluate.__file__).read_text(encoding="utf-8")
    for names in planning.PARTS.values():
        assert all(re.search(rf'parts\.begin\(f?"{name}', source) for name in names)


def planned_row(stage: str, iteration: int, seconds: float, units: int = 10) -> dict:
    numbers = {"seconds": seconds, "cpu_seconds": seconds / 2, "bytes": 5, "peak_bytes": 100, "units": units, "tokens": 20}
    return {"stage": stage, "iteration": iteration, "unit": "answers", "rate_from": "run", "is_current": False} | numbers


def took(seconds: float, **counts: float) -> dict:
    return {"seconds": seconds, "cpu_seconds": seconds, "peak_bytes": 200, "counts": counts}


def test_only_runs_that_are_planned_and_done_are_compared() -> None:
    planned = [planned_row("rollout", 1, 4.0), planned_row("rollout", 2, 4.0), planned_row("update", 1, 8.0)]
    rows = compared(planned, {("rollout", 1): took(2.0, rollouts=9, tokens=30), ("report", 0): took(1.0)})
    rollout, update = rows
    assert (rollout["runs"], rollout["planned_runs"], rollout["ratio"]) == (1, 2, 0.5)
    assert (rollout["units"], rollout["planned_units"], rollout["tokens"], rollout["planned_tokens"]) == (9, 10, 30, 20)
    assert (update["runs"], update["ratio"], update["seconds"]) == (0, None, None)
    assert total(rows)["seconds"] == 2.0
    assert total(rows)["planned_seconds"] == 4.0
    assert all(len(cells(row)) == len(HEADER) for row in [*rows, total(rows)])


def test_a_plan_of_other_parameters_is_told_apart() -> None:
    rows = compared([planned_row("rollout", 1, 4.0)], {("rollout", 1): took(2.0)})
    shown = section({"rows": rows, "changed": ["rollout.<script>"]})
    assert shown["changed"] == ["rollout.<script>"]
    assert [row[:2] for row in shown["rows"]] == [["rollout", "1"], ["all of these", "1"]]
    assert section({"rows": compared([planned_row("rollout", 1, 4.0)], {}), "changed": []}) is None
    assert section(None) is None


def test_the_report_shows_plan_and_actual_where_there_is_a_plan(tmp_path: Path) -> None:
    layout, params = small_project.write_project(tmp_path, iterations=2)
    assert "Plan against actual" not in render(report(layout, params))
    rows = [(planned_row("rollout", k, 4.0) | {"unit": "completions"}) for k in (1, 2)]
    parquet.write(pl.DataFrame(rows, schema=PLAN.schema), layout.plan("plan.parquet"), PLAN)
    layout.plan("actual").mkdir(parents=True)
    layout.plan("actual/rollout@1.json").write_text(json.dumps(took(6.0)), encoding="utf-8")
    page = render(report(layout, params))
    assert "Plan against actual" in page
    assert ">1.50<" in page  # 6 s in place of 4


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_other_objectives_are_planned_by_the_rollouts_that_they_choose_from(
    tmp_path: Path, planned: tuple[Layout, pl.DataFrame, dict], objective: str
) -> None:
    layout, whole = Layout(tmp_path), planned[1]
    shop(tmp_path / "catalogue")
    other = dataclasses.replace(values(), update=dataclasses.replace(values().update, objective=objective))
    found, _ = planning.plan(layout, other, sample=True)
    rows = [table.filter((pl.col("stage") == "update") & (pl.col("iteration") == 1)).row(0, named=True) for table in (whole, found)]
    assert rows[0]["units"] == rows[1]["units"]
    assert rows[1]["seconds"] > 0


def test_a_rule_of_thumb_plans_every_stage_and_says_how_far_it_may_be_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_sampled", lambda *_: pytest.fail("sampled though nobody asked for it"))
    layout, stream = Layout(tmp_path), io.StringIO()
    shop(tmp_path / "catalogue")
    table, facts = planning.plan(layout, values())
    todo = table.filter(~pl.col("is_current"))
    assert set(todo["rate_from"]) == {"rule"}
    assert (todo["seconds"] > 0).all()
    assert (todo["bytes"] > 0).all()
    assert parquet.read(layout.plan("plan.parquet"), PLAN).equals(table.sort("stage", "iteration"))
    again, _ = planning.plan(layout, values())
    assert again.equals(table)  # a rule, not a clock
    planning.print_plan(table, facts, stream)
    total = todo["seconds"].sum()
    assert f"likely {total / rules.FACTOR / 60:.1f} to {total * rules.FACTOR / 60:.1f} min in all" in " ".join(stream.getvalue().split())


def seconds_by_rule(run: Layout, **sections: dict) -> dict[str, float]:
    params = planning._replaced(values(), sections)
    return {stage: found["seconds"] for stage, found in rules.expected(run, params, planning.counts(run, params)).items()}


def test_a_rule_grows_with_the_work_and_with_the_model(run: Layout) -> None:
    base = seconds_by_rule(run)
    more = seconds_by_rule(run, rollout={"group_size": 8})
    assert {stage for stage in base if more[stage] > base[stage]} == {"rollout", "segment", "score-coalitions", "attribute", "update"}
    assert more["rollout"] == pytest.approx(2 * base["rollout"])
    wide = seconds_by_rule(run, policy={"hidden_size": 512, "intermediate_size": 2048, "layers": 12})
    assert {stage for stage in base if wide[stage] > base[stage]} == {"warm-start", "rollout", "update", "evaluate"}


def test_a_record_goes_before_a_rule(run: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_sampled", lambda *_: pytest.fail("sampled though nobody asked for it"))
    longer = planning._replaced(values(), {"rollout": {"temperature": 0.5}})
    rates = dict(planning.plan(run, longer)[0].select("stage", "rate_from").iter_rows())
    assert {stage for stage, rate in rates.items() if rate == "run"} >= {"prepare-data", "warm-start", "score-coalitions"}
    assert rates["rollout"] == "rule"


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({"rollout": {"sampler": "vllm"}}, "rollout.sampler is vllm"),
        ({"score_coalitions": {"own_reward": "mine.py:reward"}}, "score_coalitions.own_reward is your own code"),
        ({"score_coalitions": {"retriever": "http"}}, "retriever http runs a model or asks a server"),
        ({"policy": {"base": "nowhere"}}, "nowhere is not there"),
    ],
)
def test_what_no_rule_knows_is_sampled(planned: tuple[Layout, pl.DataFrame, dict], sections: dict, why: str) -> None:
    heard = []
    params = planning._replaced(values(), sections)
    assert planning.plan(planned[0], params, lambda runs, exact, reason: heard.append(reason) or False) is None
    assert heard == [why]


def test_a_pretrained_model_is_known_by_its_config(run: Layout, tmp_path: Path) -> None:
    params = planning._replaced(values(), {"policy": {"base": "base", "lora_rank": 4}})
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 49152}
    (tmp_path / "config.json").write_text(json.dumps(sizes), encoding="utf-8")
    weights, trained = rules._weights(params.policy, tmp_path)
    assert weights == pytest.approx(135e6, rel=0.15)
    assert 0 < trained < weights / 50
    (tmp_path / "config.json").write_text(json.dumps(sizes | {"num_hidden_layers": None}), encoding="utf-8")
    with pytest.raises(OspoError, match=r"config.json: no rule for this model: found no num_hidden_layers.*--sample"):
        rules._weights(params.policy, tmp_path)
