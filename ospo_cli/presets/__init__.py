"""Presets and own projects: `ospo init` writes params.yaml, dvc.yaml and a short README into a user's directory.

A preset is a project (demo, smollm2-movies, …), an algorithm (grpo, dapo, …: a row of parameters over the demo), or both, as in
smollm2-movies+grpo.
"""

from __future__ import annotations

import subprocess
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from ospo_cli.errors import OspoError, ParameterError
from ospo_cli.graph import dvc
from ospo_cli.params import whole
from ospo_cli.params.whole import Params
from ospo_cli.params.written import render
from ospo_cli.tables.files import write_text

NAMES = ("demo", "demo-quick", "controlled", "smollm2-movies", "tables", "clicks", "esci-qwen7b", "hm-qwen7b", "released")
ALGORITHMS = (
    "grpo", "dr-grpo", "dapo", "gspo", "grpo-lambda", "ppo", "mirror-descent", "best-of-g", "sft", "dpo", "dpo-all", "ospo-prop",
    "ospo-rank", "ours", "splice", "stopping",
)  # fmt: skip

DVC_CONFIG = """[core]
    analytics = false
    check_update = false
    autostage = false
"""
DVC_IGNORE = "__pycache__\n*.tmp\n/data/cache\n/data/manifests\n/data/store\n"


def load(name: str) -> Params:
    """Return a preset's parameters: the defaults with the preset's own values over them."""
    return whole.from_mapping(_merged(name), where=f"preset {name}")


def init(directory: Path, name: str) -> list[str]:
    """Write a preset into an empty or absent directory; return the lines to print.

    Raises:
        OspoError: the directory holds files, or there is no such preset.
    """
    values = load(name)
    if directory.exists() and (not directory.is_dir() or any(entry.name != ".git" for entry in directory.iterdir())):
        raise OspoError(directory, "is not an empty folder", remedy="give a new folder; nothing was written")
    directory.mkdir(parents=True, exist_ok=True)
    project, algorithm = _parted(name)
    readme = _text(f"{project}.md")
    if algorithm:
        readme += f"\nAlgorithm: `{algorithm}`, as the row of that name in ospo's presets/algorithms.yaml sets it.\n"
    in_git = _in_git(directory)
    config = DVC_CONFIG if in_git else DVC_CONFIG + "    no_scm = true\n"
    contents = {
        "params.yaml": render(values),
        "README.md": readme,
        ".gitignore": "/code.yaml\n/data/\n/dvc_plots/\n",
        ".dvcignore": DVC_IGNORE,
        ".dvc/config": config,
        ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
    }
    for path, text in contents.items():
        write_text(directory / path, text)
    dvc.write(directory, values)
    lines = [f"wrote {directory}: params.yaml, dvc.yaml, iterations.yaml, README.md (preset {name})"]
    if not in_git:
        lines.append("not in a git repository: dvc repro works, dvc exp needs git (git init, then remove no_scm from .dvc/config)")
    return [*lines, *(line[2:] for line in readme.splitlines() if line.startswith("$ "))]


def algorithm_row(name: str) -> dict[str, dict[str, Any]]:
    """Return the parameters of an algorithm, section -> name -> value."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(_text("algorithms.yaml"))["rows"][name]
    return found


def experiment_options(name: str) -> list[str]:
    """Return the words `-S section.name=value` by which `dvc exp run` lays an algorithm over params.yaml; none holds white space.

    Raises:
        ParameterError: no such algorithm.
    """
    if name not in ALGORITHMS:
        raise ParameterError("ospo params --row", "no such algorithm", found=name, expected=", ".join(ALGORITHMS))
    words = []
    for section, values in algorithm_row(name).items():
        for key, value in values.items():
            text = yaml.safe_dump(value, default_flow_style=True).replace("\n...", "").strip().replace(", ", ",")
            words += ["-S", f"{section}.{key}={text}"]
    return words


def _merged(name: str) -> dict[str, Any]:
    project, algorithm = _parted(name)
    content = whole.to_mapping(Params())
    rows = [yaml.safe_load(_text(f"{project}.yaml")) or {}, *([algorithm_row(algorithm)] if algorithm else [])]
    for row in rows:
        for section, overrides in row.items():
            content[section] = _over(content.get(section, {}), overrides)
    return content


def _parted(name: str) -> tuple[str, str]:
    """Return project and algorithm of a preset's name, the latter empty where there is none."""
    first, _, second = name.partition("+")
    project, algorithm = ("demo", first) if first in ALGORITHMS and not second else (first, second)
    if project not in NAMES or (algorithm or "ours") not in ALGORITHMS:
        expected = ", ".join((*NAMES, *ALGORITHMS)) + ", or PROJECT+ALGORITHM"
        turned = second in NAMES and first in ALGORITHMS
        remedy = f"the project comes first: {second}+{first}" if turned else None
        raise ParameterError("ospo init", "no such preset", found=name, expected=expected, remedy=remedy)
    return project, algorithm


def _over(content: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    # A mapping that is a section holds known names; one that is a value (columns, gains) starts empty.
    return content | {
        name: _over(content[name], value) if isinstance(value, dict) and content.get(name) else value for name, value in overrides.items()
    }


def _text(name: str) -> str:
    return (resources.files(__name__) / name).read_text(encoding="utf-8")


def _in_git(directory: Path) -> bool:
    try:
        asked = subprocess.run(["git", "rev-parse", "--is-inside-work-tree"], cwd=directory, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return False
    return asked.returncode == 0
