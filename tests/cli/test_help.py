"""The help: groups in the order in which a person meets them, and a whole sentence for every command."""

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from ospo_cli.cli import app
from ospo_cli.graph.declared import STAGES

GROUPS = ["Before training:", "The loop:", "Looking:", "After training:", "Exchange:", "Store:"]


def shown(*arguments: str, columns: int = 100) -> str:
    done = CliRunner().invoke(app, [*arguments, "--help"], env={"COLUMNS": str(columns)}, terminal_width=columns)
    assert done.exit_code == 0, done.output
    return done.output


def test_commands_stand_in_groups_in_this_order():
    assert [line for line in shown().splitlines() if line.endswith(":") and not line.startswith((" ", "Options"))] == GROUPS


@pytest.mark.parametrize("columns", [60, 100, 200])
def test_every_command_is_shown_with_its_whole_first_sentence_at_every_width(columns):
    words = " ".join(shown(columns=columns).split()).replace("- ", "-")
    for name, command in get_command(app).commands.items():
        sentence = " ".join(command.help.split("\n\n")[0].split())
        assert sentence.endswith("."), name
        assert f"{name} {sentence}" in words, name


def test_no_command_stands_outside_a_group():
    assert {command.rich_help_panel for command in get_command(app).commands.values()} == {name.rstrip(":") for name in GROUPS}


def test_the_loop_lists_the_stages_in_the_order_in_which_they_run():
    names = [name for name, command in get_command(app).commands.items() if command.rich_help_panel == "The loop"]
    assert names == [*STAGES, "run", "submit", "result"]
