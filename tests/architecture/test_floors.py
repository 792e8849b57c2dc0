"""The layout is the architecture: floors, names and lightness are proved, not remembered."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_imports_keep_to_the_floors():
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_import_that_goes_up_is_caught(tmp_path):
    package = tmp_path / "ospo_cli"
    subprocess.run(["cp", "-r", str(ROOT / "ospo_cli"), str(package)], check=True)
    subprocess.run(["cp", str(ROOT / "pyproject.toml"), str(tmp_path)], check=True)
    (package / "maths" / "myerson.py").open("a").write("\nfrom ospo_cli.retrievers import base\n")
    command = [
        sys.executable,
        "-c",
        "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command; lint_imports_command()",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "ospo_cli.maths.myerson -> ospo_cli.retrievers" in done.stdout


def test_no_file_has_a_name_that_says_nothing():
    empty = {"utils", "util", "common", "helpers", "core", "manager", "misc", "base_utils"}
    assert [path for path in ROOT.glob("ospo_cli/**/*.py") if path.stem in empty] == []


# More than seven parameters, and why.
MANY_PARAMETERS = {
    "parameter": "those of dataclasses.field and what a section declares",
    "forward": "torch.autograd hands over all of them",
    "train": "two of them call back",
}


def test_files_and_functions_are_short():
    long = []
    for path in (*ROOT.glob("ospo_cli/**/*.py"), *ROOT.glob("benchmarks/**/*.py")):
        text = path.read_text(encoding="utf-8")
        long += [f"{path}: {text.count(chr(10))} lines"] * (text.count("\n") > 450)
        for found in ast.walk(ast.parse(text)):
            if isinstance(found, ast.FunctionDef):
                taken = [
                    name for name in (*found.args.posonlyargs, *found.args.args, *found.args.kwonlyargs) if name.arg not in ("self", "cls")
                ]
                is_command = any(ast.unparse(one).startswith("app.command") for one in found.decorator_list)
                is_free = is_command or found.name in MANY_PARAMETERS
                long += [f"{path}: {found.name}: {len(taken)} parameters"] * (len(taken) > 7 and not is_free)
                long += [f"{path}: {found.name}: {found.end_lineno - found.lineno + 1} lines"] * (found.end_lineno - found.lineno >= 60)
    assert long == []


HEAVY = ["torch", "transformers", "peft", "faiss", "bm25s", "polars", "dvc", "scipy", "numba", "rich.table"]


# `ospo params` lists the names in the registries of maths, whose modules need numpy.
@pytest.mark.parametrize(
    ("arguments", "heavy"), [(["--help"], [*HEAVY, "numpy"]), (["rollout", "--help"], [*HEAVY, "numpy"]), (["params"], HEAVY)]
)
def test_help_loads_nothing_heavy(arguments, heavy):
    program = (
        "import sys; sys.argv = ['ospo', *sys.argv[1:]]\n"
        "from ospo_cli import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        f"print('LOADED', [name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "LOADED []", done.stdout[-500:] + done.stderr


def test_a_defect_is_one_line_too_and_its_place_can_be_asked_for():
    program = (
        "import sys; sys.argv = ['ospo', 'params']\n"
        "from ospo_cli import cli\n"
        "from ospo_cli.params import whole\n"
        "def broken(): raise KeyError('a\\nb')\n"
        "whole.describe = broken\n"
        "cli.main()\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("ospo: unexpected: KeyError")
    assert len(done.stderr.splitlines()) == 1
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"OSPO_TRACEBACK": "1"})
    assert "in broken" in shown.stderr


def test_commands_that_need_no_model_never_import_torch():
    """In one process: what one of them loads is still there after the next, and is named with the first that loads it."""
    modules = [
        "stages.prepare_data",
        "stages.segment",
        "stages.score_coalitions",
        "stages.attribute",
        "stages.report",
        "instruments.export",
    ]
    program = (
        f"import importlib, sys\nfor name in {modules}:\n    importlib.import_module(f'ospo_cli.{{name}}')\n"
        "    print(name, [heavy for heavy in ('torch', 'transformers', 'peft') if heavy in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines() == [f"{name} []" for name in modules], done.stderr
