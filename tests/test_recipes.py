"""The recipes of docs/examples/scale: as far as they can be tried without the machines that they are for."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from ospo_cli.cli import app

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "docs" / "examples" / "scale"


def checks(script: str) -> bool:
    return subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_scripts_are_bash():
    task = yaml.safe_load((RECIPES / "skypilot.yaml").read_text(encoding="utf-8"))
    container = (RECIPES / "Dockerfile").read_text(encoding="utf-8")
    steps = re.findall(r"^RUN ((?:.*\\\n)*.*)$", container, re.MULTILINE)
    assert len(steps) == 2
    ray = yaml.safe_load((RECIPES / "ray.yaml").read_text(encoding="utf-8"))
    steps += [step for name, own in ray.items() if name.endswith("_commands") for step in own]
    assert all(map(checks, [(RECIPES / "update.sbatch").read_text(encoding="utf-8"), task["setup"], task["run"], *steps]))
    assert not checks("if true")


def test_the_container_copies_what_is_there_and_ends_as_another_user_than_root():
    lines = (RECIPES / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = [name for line in lines if line.startswith("COPY ") for name in shlex.split(line)[1:-1]]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert [line for line in lines if line.startswith("USER ")][-1] == "USER ospo"
    assert "--require-hashes" in "".join(lines)


@pytest.mark.parametrize("command", ["update", "graph", "submit", "prune", "plan"])
def test_commands_that_recipes_name_exist(command):
    assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0
