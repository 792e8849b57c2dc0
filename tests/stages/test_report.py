"""The report stage: works with what exists, names what is missing, refuses what is broken."""

import pytest

from ospo_cli.errors import FileError, MissingInputError, TableError
from ospo_cli.layout import Layout
from ospo_cli.stages import report
from tests.report import small_project


def test_a_whole_project_gives_one_page_of_the_same_bytes_twice(tmp_path):
    layout, values = small_project.write_project(tmp_path, iterations=2)
    metrics = report.execute(layout, values)
    first = layout.report().read_bytes()
    report.execute(layout, values)
    assert layout.report().read_bytes() == first
    assert metrics["bytes"] == len(first)
    assert sorted(path.name for path in layout.report().parent.iterdir()) == ["report.html", "warnings.json"]


def test_a_project_that_is_only_prepared_already_has_a_report(tmp_path):
    layout = Layout(tmp_path)
    small_project.write_prepared(layout)
    report.execute(layout, small_project.make_params(iterations=2))
    page = layout.report().read_text()
    assert "Nothing is evaluated yet" in page
    assert "What was run" in page


def test_iterations_without_an_evaluation_show_their_credit(tmp_path):
    layout = Layout(tmp_path)
    small_project.write_prepared(layout)
    small_project.write_iteration(layout, 1, of=3)
    metrics = report.execute(layout, small_project.make_params(iterations=3))
    page = layout.report().read_text()
    assert metrics["iterations"] == 1
    assert 'id="browser"' in page or "id='browser'" in page


def test_rollouts_that_are_not_attributed_yet_are_shown_without_shares(tmp_path):
    layout, values = small_project.write_project(tmp_path, iterations=1)
    for name in ("segments", "rewards", "attributions"):
        layout.iteration(1, f"{name}.parquet").unlink()
    data = report.report(layout, values)
    assert data["colour_scale"] == 0.0
    assert {len(piece) for group in data["groups"] for rollout in group["rollouts"] for piece in rollout["pieces"]} == {1}
    report.execute(layout, values)


def test_without_iterations_the_warm_start_alone_is_reported(tmp_path):
    layout, values = Layout(tmp_path), small_project.make_params(iterations=0)
    small_project.write_prepared(layout)
    small_project.write_evaluation(layout, values)
    report.execute(layout, values)
    assert "warm start, greedy" in layout.report().read_text()


def test_no_more_groups_are_shown_than_asked_and_the_seed_chooses_them(tmp_path):
    layout, values = small_project.write_project(tmp_path, iterations=2)
    few = small_project.make_params(iterations=2, report={"rollouts": 4, "queries": 2})
    groups = [(group["iteration"], group["prompt"]) for group in report.report(layout, few)["groups"]]
    others = [
        (group["iteration"], group["prompt"])
        for seed in range(1, 6)
        for group in report.report(layout, small_project.make_params(iterations=2, train={"seed": seed}, report={"rollouts": 4}))["groups"]
    ]
    assert [iteration for iteration, _ in groups] == [1, 1, 2, 2]
    assert set(others) - set(groups)
    assert [len(found["wins"]) for found in report.report(layout, few)["queries"]] == [1, 1]
    assert len(report.report(layout, values)["groups"]) == 12


def test_a_missing_prepared_table_names_its_command(tmp_path):
    with pytest.raises(MissingInputError, match="run `ospo prepare-data`"):
        report.execute(Layout(tmp_path), small_project.make_params())


def test_a_broken_summary_or_table_is_an_error_and_the_old_page_stays(tmp_path):
    layout, values = small_project.write_project(tmp_path, iterations=1)
    report.execute(layout, values)
    before = layout.report().read_bytes()
    layout.evaluation("summary.json").write_text('{"prompts": ')
    with pytest.raises(FileError, match="run `ospo evaluate` again"):
        report.execute(layout, values)
    small_project.write_evaluation(layout, values)
    layout.iteration(1, "attributions.parquet").write_bytes(b"PAR1")
    with pytest.raises(TableError, match=r"attributions\.parquet: cannot be read as Parquet"):
        report.execute(layout, values)
    assert layout.report().read_bytes() == before
