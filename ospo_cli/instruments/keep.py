"""Put a finished run's results by, so that later runs of other parameters stand beside it."""

from __future__ import annotations

import re

from ospo_cli.errors import OspoError
from ospo_cli.layout import Layout
from ospo_cli.params import whole
from ospo_cli.params.whole import Params
from ospo_cli.report.kept_files import present_run
from ospo_cli.tables import files, parquet
from ospo_cli.tables.keep import KEPT_VALUES

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def execute(layout: Layout, source: Layout, params: Params, name: str) -> bool:
    """Write the run of project `source` to folder kept/NAME of this one; return whether it took another's place.

    Args:
        layout: the project that compares.
        source: the project whose evaluation is put by; usually the same.
        params: of `source`.
        name: letters, digits, dot, dash, underscore.

    Raises:
        OspoError: not a name.
        MissingInputError: the run is not evaluated.
    """
    if not _NAME.fullmatch(name):
        raise OspoError("ospo keep", "not a name", found=name, expected="up to 64 letters, digits, dots, dashes or underscores")
    made_with = whole.to_mapping(params)
    run = present_run(source, made_with)
    folder = layout.kept(name)
    is_there = (folder / "run.json").is_file()
    parquet.write(run.values, folder / "values.parquet", KEPT_VALUES)
    content = {"facts": dict(run.facts), "iterations": list(run.iterations), "params": made_with}
    files.write_json(folder / "run.json", content)
    return is_there
