"""params.yaml as text, with each parameter's meaning beside it; and files of earlier versions brought up to the present one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from ospo_cli.params import whole
from ospo_cli.params.whole import Params


@dataclasses.dataclass(frozen=True)
class Renewed:
    """A params.yaml of the present version.

    Attributes:
        text: the whole file.
        added: dotted names that the old file lacked; they have their defaults.
        gone: dotted names of the old file that no longer exist.
    """

    text: str
    added: list[str]
    gone: list[str]


def render(values: Params) -> str:
    """Return params.yaml with each parameter's meaning and allowed values beside it."""
    rows = {row["name"]: row for row in whole.describe()}
    lines = ["# Every number that changes a result. `ospo params` lists types, defaults and meanings."]
    for section, content in whole.to_mapping(values).items():
        lines += ["", f"{section}:", *_lines(section, content, rows)]
    return "\n".join(lines) + "\n"


def renewed(path: Path) -> Renewed:
    """Return a file's values under the present names, with meanings as they are said now; comments of one's own are not kept.

    Raises:
        ParameterError: the file cannot be read, or a value of a name that still exists is not allowed.
    """
    named = {row["name"] for row in whole.describe()}
    added: list[str] = []
    gone: list[str] = []

    def kept(content: Any, defaults: dict[str, Any], section: str) -> Any:
        if not isinstance(content, dict):
            return content  # refused below
        gone.extend(f"{section}{name}" for name in content if name not in defaults)
        result = {}
        for name, default in defaults.items():
            is_section = isinstance(default, dict) and f"{section}{name}" not in named
            value = content.get(name, {} if is_section else default)
            if name not in content and not is_section:
                added.append(f"{section}{name}")
            result[name] = kept(value or {}, default, f"{section}{name}.") if is_section else value
        return result

    values = whole.from_mapping(kept(whole.read(path), whole.to_mapping(Params()), ""), where=str(path))
    return Renewed(render(values), added, gone)


def _lines(section: str, content: dict[str, Any], rows: dict[str, dict[str, str]]) -> list[str]:
    lines = []
    indent = "  " * (section.count(".") + 1)
    for name, value in content.items():
        row = rows.get(f"{section}.{name}")
        if row is None:  # a section within the section
            lines += [f"{indent}{name}:", *_lines(f"{section}.{name}", value, rows)]
            continue
        text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True).replace("\n...", "").strip()
        choices = f" [{row['allowed']}]" if row["allowed"] and "," in row["allowed"] else ""
        lines.append(f"{indent}{name}: {text}".ljust(44) + f"  # {row['meaning']}{choices}")
    return lines
