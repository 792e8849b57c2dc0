"""README says what the program does."""

import re
from pathlib import Path

from typer.main import get_command

from ospo_cli import params
from ospo_cli.cli import app
from ospo_cli.tables import schemas

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_reference_is_the_declarations():
    between = README.partition("<!-- tables -->\n")[2].partition("<!-- /tables -->")[0]
    assert between == schemas.reference()


def test_every_command_in_the_readme_exists():
    named = set(re.findall(r"(?m)(?:^|`|&& )ospo ([a-z][a-z-]+)", README.partition("## Tables")[0]))
    assert {"rollout", "init", "inspect"} <= named
    assert named <= set(get_command(app).commands)


def test_every_estimator_and_rule_in_the_readme_exists():
    named = set(re.findall(r"`attribute\.(\w+)`", README))
    assert named == {"rule", "estimator"}
    assert {"myerson", "contiguous-mean"} <= set(params.Attribute.__dataclass_fields__["estimator"].metadata["choices"])
