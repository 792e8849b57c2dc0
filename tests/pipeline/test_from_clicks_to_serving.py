"""The page from clicks to serving names the preset and the commands of the path."""

import re
from pathlib import Path

from ospo_cli import presets

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "from-clicks-to-serving.md").read_text(encoding="utf-8")


def commands():
    """Return the lines of the page's code blocks."""
    return [line for block in re.findall(r"(?s)```\n(.*?)```", PAGE) for line in block.splitlines()]


def test_the_page_names_the_preset_and_the_commands_of_the_path():
    lines = commands()
    assert [line.split(" #")[0] for line in lines if line.startswith("ospo ") and "init" not in line] == [
        "ospo prepare-data", "ospo run", "ospo gate", "ospo run", "ospo serve --port 8017",
    ]  # fmt: skip
    (made,) = [line.split() for line in lines if line.startswith("ospo init")]
    assert made[-1] in presets.NAMES
