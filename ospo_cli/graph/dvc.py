"""dvc.yaml, iterations.yaml and code.yaml, made from the declared graph."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

import ospo_cli
from ospo_cli.errors import OspoError
from ospo_cli.graph import code
from ospo_cli.graph.declared import Node
from ospo_cli.graph.nodes import ITERATED, each, node
from ospo_cli.params.whole import Params
from ospo_cli.tables.files import write_text

MARK = "# Made by `ospo graph` from params.yaml; run it again after a change of train.iterations or of what a stage reads."
# Written by the graph's first stage, on every `dvc repro`: an edit of the code is seen without anybody thinking of it.
CODE = "code.yaml"
_CODE_STAGE = {"cmd": "ospo graph --code", "always_changed": True, "outs": [{CODE: {"cache": False, "persist": True}}]}


def files(params: Params) -> dict[str, str]:
    """Return file name -> text of what belongs into version control."""
    return {"dvc.yaml": dvc_yaml(params), "iterations.yaml": iterations_yaml(params.train.iterations)}


def write_code(root: Path, nodes: Iterable[Node]) -> bool:
    """Write code.yaml, the hash of the code that each stage can reach; tell whether it changed."""
    path, text = root / CODE, code_yaml(root, nodes)
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    write_text(path, text)
    return True


def write(root: Path, params: Params) -> list[str]:
    """Write the files that differ and return their names; a dvc.yaml that was not made here is never overwritten."""
    changed = []
    made = files(params)
    for name, text in made.items():
        path = root / name
        present = path.read_text(encoding="utf-8") if path.is_file() else None
        if present is not None and present != text and not present.startswith("# Made by `ospo"):
            raise OspoError(
                path,
                "was not made by `ospo graph`, so it is left alone",
                remedy="move it (DVC reads a dvc.yaml in any folder), then run `ospo graph`",
            )
        if present != text:
            changed.append((path, text))
    for path, text in changed:
        write_text(path, text)
    return [path.name for path, _ in changed]


def iterations_yaml(iterations: int) -> str:
    """DVC's templates know no arithmetic: the number train.iterations is unrolled here.

    Names of folders stand in quotes: DVC reads YAML 1.2, where a bare 008 is the number 8, which PyYAML does not know.
    """
    entry = "  '{k}':\n    number: {k}\n    folder: '{k:03d}'\n    previous: '{before:03d}'\n"
    entries = [entry.format(k=k, before=k - 1) for k in range(1, iterations + 1)]
    return f"{MARK}\niterations:\n{''.join(entries)}"


def code_yaml(root: Path, nodes: Iterable[Node]) -> str:
    """Version of the package and, per stage, the hash of the code that it can reach."""
    stages = code_hashes(root, nodes)
    return "# Made by `ospo graph --code`.\n" + yaml.safe_dump({"version": ospo_cli.__version__, "stages": stages}, sort_keys=True)


def code_hashes(root: Path, nodes: Iterable[Node]) -> dict[str, str]:
    """Return stage -> hash of the code that it can reach."""
    modules = code.of_project(root)
    return {made.stage: modules.hash(made) for made in nodes}


def dvc_yaml(params: Params) -> str:
    """The stages as DVC reads them; iterated ones with `foreach` over iterations.yaml."""
    stages: dict[str, Any] = {"code": _CODE_STAGE}
    for made in each(params):
        if made.iteration is None:
            stages[made.stage] = stage_of(made)
        else:
            stages[made.stage] = {"foreach": "${iterations}", "do": stage_of(_templated(node(made.stage, 7, params)))}
    content = {
        "vars": ["iterations.yaml"],
        "stages": stages,
        "plots": [
            {
                "learning curve": {
                    "x": "iteration",
                    "y": {"data/evaluation/curves.json": ["greedy", "sampled"]},
                    "title": "nDCG@10 on held-out prompts",
                    "y_label": "nDCG@10",
                }
            }
        ],
    }
    return f"{MARK}\n" + yaml.safe_dump(content, sort_keys=False, width=110, default_flow_style=None)


def check_reads(root: Path, made: Node, params: Params) -> None:
    """Refuse to run under DVC what depends on more than the dvc.yaml in `root` says: DVC would keep it when that changes.

    Raises:
        OspoError: an input or a parameter is not declared, which is so where `dvc exp run -S` changes what a stage reads.
    """
    path = root / "dvc.yaml"
    try:
        declared = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"][made.stage]["do"]
        known = [*declared["deps"], *(name for name in declared["params"] if isinstance(name, str))]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise OspoError(path, "cannot be read as a graph of ospo's", found=repr(error), remedy="run `ospo graph`") from None
    templated = _templated(node(made.stage, 7, params))
    missing = [name for name in (*templated.inputs, *templated.sections) if name not in known]
    if missing:
        raise OspoError(
            path,
            f"was made for other parameters: it does not say that {made.stage} reads {missing[0]}",
            remedy="run `ospo graph` (params.yaml holds what `dvc exp run -S` set), then the same command again",
        )


def _templated(made: Node) -> Node:
    """Return a node of iteration 7 of which the paths hold DVC's ${item} in place of the numbers 6 and 7."""
    assert made.stage in ITERATED

    def put(path: str) -> str:
        return path.replace("/007", "/${item.folder}").replace("/006", "/${item.previous}")

    return replace(made, inputs=tuple(map(put, made.inputs)), outputs=tuple(map(put, made.outputs)), metrics=tuple(map(put, made.metrics)))


def stage_of(made: Node) -> dict[str, Any]:
    """Return one run of a stage as DVC reads it from dvc.yaml."""
    inputs = list(made.inputs)
    if made.stage in ("evaluate", "report"):  # whole folders, so that dvc.yaml does not change with the number of iterations
        inputs = list(dict.fromkeys(re.sub(r"^(data/(?:policies|iterations))/.*", r"\1", path) for path in inputs))
    stage: dict[str, Any] = {"cmd": made.command.replace("--iter 7", "--iter ${item.number}")}
    if inputs:
        stage["deps"] = inputs
    stage["params"] = [*made.sections, {CODE: [f"stages.{made.stage}"]}]
    stage["outs"] = list(made.outputs)
    if made.metrics:
        stage["metrics"] = list(made.metrics)
    return stage
