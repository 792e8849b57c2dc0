"""The plan: what is counted exactly, what a calibration leaves behind, and plan against actual."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import polars as pl
import pytest

from ospo_cli.graph import nodes, runner
from ospo_cli.instruments.plan import planning
from ospo_cli.instruments.plan.calibration import Cost, Measures
from ospo_cli.layout import Layout
from ospo_cli.params.whole import Params
from ospo_cli.report.page import render
from ospo_cli.report.plan_sections import HEADER, STAGES, cells, compared, section, total
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
    layout = Layout(tmp_path_factory.mktemp("plan"))
    shop(layout.root / "catalogue")
    return layout, *planning.plan(layout, values())


def test_what_the_parameters_fix_is_counted_exactly(planned: tuple[Layout, pl.DataFrame, dict]) -> None:
    _, table, facts = planned
    units = {(stage, iteration): number for stage, iteration, number in table.select("stage", "iteration", "units").iter_rows()}
    assert units["prepare-data", 0] == 24
    # One pair per train prompt, in batches of 4: three passes are fewer than the 20 steps.
    assert units["warm-start", 0] == 3 * facts["train_prompts"] // 4 < 20
    assert [units["rollout", k] for k in (1, 2)] == [32, 32]
    assert units["segment", 1] == units["attribute", 1] == 32
    assert units["update", 1] == 2 * 3
    assert units["evaluate", 0] == 3 * 4 * (1 + 2)
    assert facts["evaluated_prompts"] == 4
    assert set(units) == {(made.stage, made.iteration or 0) for made in nodes.plan(values())}


def test_every_stage_has_a_cost_and_nothing_is_up_to_date(planned: tuple[Layout, pl.DataFrame, dict]) -> None:
    _, table, facts = planned
    assert (table["seconds"] > 0).all()
    assert (table["peak_bytes"] > 50_000_000).all()
    assert (table["bytes"] > 0).all()
    assert not table["is_current"].any()
    assert facts["answers_from"] == "the teacher"
    assert 1 < facts["completion_tokens"] < 40
    assert 1 <= facts["distinct_texts"] <= facts["coalitions"] + 1


def test_the_plan_leaves_nothing_behind_but_itself(planned: tuple[Layout, pl.DataFrame, dict]) -> None:
    layout, table, _ = planned
    found = {path.relative_to(layout.root).as_posix() for path in layout.data.rglob("*") if path.is_file()}
    assert found == {"data/plan/plan.parquet", "data/plan/calibration.json"}
    assert parquet.read(layout.plan("plan.parquet"), PLAN).equals(table.sort("stage", "iteration"))


def test_it_prints_stages_in_the_order_of_the_work_and_the_sum(planned: tuple[Layout, pl.DataFrame, dict]) -> None:
    stream = io.StringIO()
    planning.print_plan(*planned[1:], stream)
    first = [line.split("  ")[0] for line in stream.getvalue().splitlines()[1:10]]
    assert first == [stage for stage in STAGES if stage != "score-queries"]
    assert "to do" in stream.getvalue()


@pytest.mark.slow
def test_after_the_run_counts_agree_and_the_report_holds_plan_and_actual(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    shop(layout.root / "catalogue")
    planning.plan(layout, values())
    runner.run(layout, values())
    found = plan_and_actual(layout, values())
    assert found is not None
    rows = {row["stage"]: row for row in found["rows"]}
    assert all(row["runs"] == row["planned_runs"] and row["seconds"] > 0 for row in rows.values())
    for stage in ("warm-start", "rollout", "segment", "attribute", "update"):
        assert rows[stage]["units"] == rows[stage]["planned_units"], stage
    assert "Plan against actual" in layout.report().read_text(encoding="utf-8") or "Plan against actual" in render(report(layout, values()))
    again, _ = planning.plan(layout, values())
    assert again["is_current"].all()


def measures_of(**changes: object) -> Measures:
    names = (
        "prepare-data",
        "score-queries",
        "warm-start",
        "rollout",
        "rollout: prompt",
        "segment",
        "score-coalitions",
        "attribute",
        "update",
    )
    costs = {name: Cost(seconds=1.0, unit_seconds=0.01) for name in (*names, "report")}
    costs |= {f"evaluate: {name}": Cost(unit_seconds=0.5) for name in ("load", "rank", "run", "oracle")}
    found = Measures(
        costs=costs, prompts=100, train_prompts=80, evaluated_prompts=10, teacher_pairs=80, prompt_tokens=5, completion_tokens=10
    )
    return dataclasses.replace(found, distinct_texts=7.0, **changes)  # type: ignore[arg-type]


def test_doubling_the_prompts_of_an_iteration_doubles_what_grows_with_them_and_no_fixed_cost() -> None:
    def seconds(prompts: int) -> dict[str, float]:
        params = tiny_params(train={"iterations": 1}, rollout={"prompts_per_iteration": prompts, "group_size": 4})
        return {row[0]: row[5] for row in planning.expected(measures_of(), params)}

    few, many = seconds(10), seconds(20)
    for stage in ("segment", "score-coalitions", "attribute", "update"):
        assert many[stage] - 1.0 == pytest.approx(2 * (few[stage] - 1.0)), stage
    assert many["rollout"] - 2.0 == pytest.approx(2 * (few["rollout"] - 2.0))  # loading, and the fixed cost of its prompts
    assert many["evaluate"] == few["evaluate"]


def test_an_iteration_takes_no_more_prompts_than_there_are() -> None:
    params = tiny_params(train={"iterations": 1}, rollout={"prompts_per_iteration": 500, "group_size": 4})
    assert {row[0]: row[2] for row in planning.expected(measures_of(), params)}["rollout"] == 80 * 4


def test_titles_that_are_scored_for_the_teacher_are_part_of_the_warm_start() -> None:
    params = tiny_params()
    plain, judged = ({row[0]: row[5] for row in planning.expected(measures_of(judged_titles=n), params)}["warm-start"] for n in (0, 300))
    assert judged - plain == pytest.approx(1.0 + 3.0)


def planned_row(stage: str, iteration: int, seconds: float, units: int = 10) -> dict:
    numbers = {"seconds": seconds, "cpu_seconds": seconds / 2, "bytes": 5, "peak_bytes": 100, "units": units, "tokens": 20}
    return {"stage": stage, "iteration": iteration, "unit": "answers", "is_current": False} | numbers


def took(seconds: float, **counts: float) -> dict:
    return {"seconds": seconds, "cpu_seconds": seconds, "peak_bytes": 200} | counts


def test_only_runs_that_are_planned_and_done_are_compared() -> None:
    planned = [planned_row("rollout", 1, 4.0), planned_row("rollout", 2, 4.0), planned_row("update", 1, 8.0)]
    rows = compared(planned, {("rollout", 1): took(2.0, units=9, tokens=30), ("report", 0): took(1.0)})
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


@pytest.mark.parametrize(("answers_from", "expected"), [("rollouts 001", [70, None]), ("the teacher", [None, None])])
def test_texts_that_the_store_holds_are_planned_as_found_where_they_are_known_and_nowhere_else(
    answers_from: str, expected: list[int | None]
) -> None:
    params = tiny_params(train={"iterations": 2}, rollout={"prompts_per_iteration": 5, "group_size": 4})
    measures = measures_of(raw_queries_found=0.5, texts_found=0.5, answers_from=answers_from)
    plain = {(row[0], row[1]): row for row in planning.expected(measures, params)}
    rows = {(row[0], row[1]): (row, found) for row, found in planning._with_found(planning.expected(measures, params), measures)}
    assert [rows["score-coalitions", k][1] for k in (1, 2)] == expected
    assert rows["score-queries", 0][1] == 50
    assert plain["score-queries", 0][5] - rows["score-queries", 0][0][5] == pytest.approx(0.5)


def test_a_plan_tells_what_the_store_holds_of_a_kept_reward_and_makes_no_book(planned: tuple[Layout, pl.DataFrame, dict]) -> None:
    layout, _, facts = planned
    assert (facts["raw_queries_found"], facts["texts_found"]) == (None, None)
    kept = dataclasses.replace(values(), store=dataclasses.replace(values().store, values="always"))
    _, found = planning.plan(layout, kept)
    assert (found["raw_queries_found"], found["texts_found"]) == (0.0, 0.0)
    assert not layout.store.exists()


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_other_objectives_are_planned_by_the_rollouts_that_they_choose_from(
    planned: tuple[Layout, pl.DataFrame, dict], objective: str
) -> None:
    layout, whole, _ = planned
    found, _ = planning.plan(layout, dataclasses.replace(values(), update=dataclasses.replace(values().update, objective=objective)))
    rows = [table.filter((pl.col("stage") == "update") & (pl.col("iteration") == 1)).row(0, named=True) for table in (whole, found)]
    assert rows[0]["units"] == rows[1]["units"]
    assert 0 < rows[1]["seconds"] < 3 * rows[0]["seconds"] + 5
