"""A function is given the sections that it reads; who is given all of them has a reason that stands here."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Module -> how many of its functions take all parameters, and why.
WHOLE = {
    "graph/before_training.py": (1, "checks what sections name of one another"),
    "graph/dvc.py": (4, "writes and compares the whole graph"),
    "graph/nodes.py": (6, "the whole graph"),
    "graph/records.py": (1, "keys of every stage"),
    "graph/runner.py": (6, "runs any stage, which is then given its own sections"),
    "graph/standing.py": (2, "every stage's state"),
    "instruments/advise.py": (2, "compares hashes of many sections, and trains"),
    "instruments/audit/estimators.py": (1, "the command: writes hashes of many sections"),
    "instruments/audit/gradients.py": (4, "runs stages under other settings"),
    "instruments/experiment/running.py": (2, "compares all values"),
    "instruments/foreign_credit.py": (1, "runs three stages"),
    "instruments/keep.py": (1, "writes all values down"),
    "instruments/plan/command.py": (9, "plans every stage, and runs all of them on few prompts"),
    "instruments/rescore.py": (1, "runs three stages under other settings"),
    "instruments/submit.py": (1, "runs any stage"),
    "params/unread.py": (3, "a mode may hang on any parameter"),
    "params/whole.py": (2, "what all parameters are"),
    "params/written.py": (1, "writes params.yaml"),
    "report/kept_files.py": (1, "compares all values of runs"),
    "stages/report.py": (2, "shows all values"),
}


def takes_all(path: Path) -> list[str]:
    """Return the functions with a parameter that is annotated as all of Params."""
    found = []
    for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            taken = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
            names = {ast.unparse(one.annotation).strip("'\"") for one in taken if one.annotation is not None}
            found += [function.name] * bool(names & {"Params", "Params | None", "whole.Params", "Params | Any"})
    return found


def test_functions_take_sections_and_not_all_parameters_but_where_a_reason_stands():
    package = ROOT / "ospo_cli"
    found = {path.relative_to(package).as_posix(): takes_all(path) for path in sorted(package.rglob("*.py"))}
    assert {name: len(own) for name, own in found.items() if own} == {name: count for name, (count, _) in WHOLE.items()}


def test_a_function_that_takes_all_parameters_is_seen(tmp_path):
    (tmp_path / "made.py").write_text("def one(layout: Layout, params: Params) -> None: ...\ndef two(params: Reads) -> None: ...\n")
    assert takes_all(tmp_path / "made.py") == ["one"]
