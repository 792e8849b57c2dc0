"""README says what the program does."""

import re
from pathlib import Path

from typer.main import get_command

from ospo_cli.cli import app
from ospo_cli.maths.estimators import ESTIMATORS
from ospo_cli.maths.redistribution import RULES
from ospo_cli.tables import reference

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_is_short_enough_to_be_read():
    assert len(README.splitlines()) <= 200


def test_the_table_reference_is_the_declarations():
    assert (ROOT / "docs" / "tables.md").read_text(encoding="utf-8") == reference.reference() + "\n"


def test_every_link_of_readme_and_docs_leads_to_a_file():
    broken = [
        f"{page.name}: {target}"
        for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md"))
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert broken == []


def test_every_command_in_the_readme_exists():
    named = set(re.findall(r"(?m)(?:^|`|&& )ospo ([a-z][a-z-]+)", README))
    assert {"rollout", "init", "inspect"} <= named
    assert named <= set(get_command(app).commands)


def test_every_estimator_and_rule_is_explained_in_maths():
    pages = (ROOT / "docs" / "maths.md").read_text(encoding="utf-8")
    missing = [name for name in (*ESTIMATORS, *RULES) if f"`{name}`" not in pages]
    assert missing == []
