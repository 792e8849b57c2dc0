"""A table declares where it lies and which command makes it; every reader, and `ospo inspect`, goes by that."""

import io

import polars as pl
import pytest

from ospo_cli.cli import app
from ospo_cli.errors import MissingInputError, OspoError
from ospo_cli.instruments.inspect_table import inspect
from ospo_cli.layout import Layout
from ospo_cli.tables import parquet, placed, reference
from ospo_cli.tables.headroom import HEADROOM_QUERIES
from ospo_cli.tables.keep import KEPT_VALUES
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.tables.segment import SEGMENTS
from ospo_cli.tables.store import STORED_VALUES

PLACED = [table for table in reference.TABLES.values() if table.place is not None]
# Where a person looks for them, and what they are told to run.
PLACES = {
    "documents": ("data/prepared/documents.parquet", "ospo prepare-data"),
    "raw_query_values": ("data/raw_query_values.parquet", "ospo score-queries"),
    "rollouts": ("data/iterations/003/rollouts.parquet", "ospo rollout --iter 3"),
    "gradient_audit": ("data/iterations/003/gradient_audit.parquet", "ospo audit --iter 3 --gradients"),
    "query_metrics": ("data/evaluation/query_metrics.parquet", "ospo evaluate"),
    "headroom": ("data/headroom/headroom.parquet", "ospo headroom"),
    "plan": ("data/plan/plan.parquet", "ospo plan"),
    "lab_curves": ("lab/lab_curves.parquet", "ospo lab"),
    "gate_curve": ("data/gates/*_curve.parquet", "ospo gate"),
    "kept_values": ("data/kept/*/values.parquet", "ospo keep NAME"),
    "reward_comparison": ("data/rescored/003/*/comparison.parquet", "ospo compare-rewards A B --iter 3"),
}


@pytest.mark.parametrize(("name", "place"), PLACES.items())
def test_a_table_lies_where_its_command_puts_it(tmp_path, name, place):
    table = reference.TABLES[name]
    assert (table.path(Layout(tmp_path), 3).relative_to(tmp_path).as_posix(), table.command(3)) == place


@pytest.mark.parametrize("table", PLACED, ids=lambda table: table.name)
def test_what_is_written_is_read_at_the_tables_place(tmp_path, table):
    layout = Layout(tmp_path)
    placed.write(table.empty(), table, layout, 2)
    assert table.path(layout, 2).is_file()
    assert placed.read(table, layout, 2).equals(table.empty())


@pytest.mark.parametrize("table", PLACED, ids=lambda table: table.name)
def test_an_absent_table_advises_the_command_that_makes_it(tmp_path, table):
    with pytest.raises(MissingInputError) as caught:
        inspect(table.name, Layout(tmp_path), 2, stream=io.StringIO())
    assert caught.value.remedy == f"run `{table.command(2)}`"


@pytest.mark.parametrize("table", PLACED, ids=lambda table: table.name)
def test_the_command_of_a_table_exists(table):
    known = {command.name for command in app.registered_commands}
    assert table.command(1).split()[1] in known


@pytest.mark.parametrize("table", PLACED, ids=lambda table: table.name)
def test_inspect_finds_a_table_by_its_name(tmp_path, table):
    layout, stream = Layout(tmp_path), io.StringIO()
    placed.write(ROLLOUTS.empty(), ROLLOUTS, layout, 2)
    parquet.write(table.empty(), tmp_path / table.path(layout, 2).relative_to(tmp_path).as_posix().replace("*", "mine"), table)
    inspect(table.name, layout, 2, stream=stream)
    assert f"{table.name}: {table.meaning}" in stream.getvalue()


def test_of_several_files_of_a_table_a_person_names_one(tmp_path):
    layout = Layout(tmp_path)
    for name in ("first", "second"):
        parquet.write(KEPT_VALUES.empty(), layout.kept(name) / "values.parquet", KEPT_VALUES)
    with pytest.raises(OspoError, match=r"several files hold it: found .*first.*second.*name one: `ospo inspect .*first/values.parquet`"):
        inspect("kept_values", layout, 1, stream=io.StringIO())


def test_only_files_that_a_person_names_have_no_place():
    unplaced = {table.name for table in reference.TABLES.values() if table.place is None}
    assert unplaced == {STORED_VALUES.name, "rewrites", "experiment_values", "experiment_iterations"}


def test_a_table_without_a_place_asks_for_its_file(tmp_path):
    with pytest.raises(OspoError, match="stored_values: has no place of its own; give the file's path"):
        inspect("stored_values", Layout(tmp_path), 1, stream=io.StringIO())


def test_tables_of_an_iteration_lie_apart_by_its_number(tmp_path):
    layout = Layout(tmp_path)
    assert SEGMENTS.path(layout, 1) != SEGMENTS.path(layout, 2)
    assert HEADROOM_QUERIES.path(layout, 1) == HEADROOM_QUERIES.path(layout, 2)


def test_a_broken_file_advises_the_command_that_makes_it(tmp_path):
    path = ROLLOUTS.path(Layout(tmp_path), 4)
    path.parent.mkdir(parents=True)
    pl.DataFrame({"rollout_id": ["a"]}).write_parquet(path)
    with pytest.raises(OspoError, match="run `ospo rollout --iter 4` again"):
        placed.read(ROLLOUTS, Layout(tmp_path), 4)
