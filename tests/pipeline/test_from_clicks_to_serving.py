"""The page from clicks to serving: its commands, run in their order on a small shop, end in a gated rewriter behind HTTP."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from ospo_cli import presets
from ospo_cli.params import whole
from tests.pipeline import click_shop
from tests.pipeline.miniature import SMALL, rewrite

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "from-clicks-to-serving.md").read_text(encoding="utf-8")


def commands():
    """Return the lines of the page's code blocks."""
    return [line for block in re.findall(r"(?s)```\n(.*?)```", PAGE) for line in block.splitlines()]


def small(folder):
    """Make the project's sizes those of a miniature."""
    content = whole.to_mapping(whole.load(folder / "params.yaml"))
    for section, values in SMALL.items():
        content[section].update(values)
    content["prepare_data"]["clicks"]["minimum_impressions"] = 2
    content["evaluate"]["max_prompts"] = 0
    rewrite(folder, whole.from_mapping(content))


def ospo(line, folder, **more):
    return subprocess.run(
        [sys.executable, "-m", "ospo_cli", *line], cwd=folder, capture_output=True, text=True, check=True, env=os.environ, **more
    )


def test_the_page_names_the_preset_and_the_commands_of_the_path():
    lines = commands()
    assert [line.split(" #")[0] for line in lines if line.startswith("ospo ") and "init" not in line] == [
        "ospo prepare-data", "ospo run", "ospo gate", "ospo run", "ospo serve --port 8017",
    ]  # fmt: skip
    (made,) = [line.split() for line in lines if line.startswith("ospo init")]
    assert made[-1] in presets.NAMES


@pytest.mark.slow
def test_its_commands_end_in_a_gated_rewriter_behind_http(tmp_path):
    init = next(line for line in commands() if line.startswith("ospo init")).split()[1:]
    ospo(init, tmp_path)
    folder = tmp_path / init[1]
    click_shop.write(folder / "catalogue")
    small(folder)
    said = [ospo(line.split()[1:], folder) for line in commands() if re.match(r"ospo (prepare-data|run|gate)", line)]
    assert "clicks" in said[0].stderr
    summary = json.loads((folder / "data/evaluation/summary.json").read_text(encoding="utf-8"))
    (gate,) = summary["gated"]
    assert "With and without the gate" in (folder / "data/report/report.html").read_text(encoding="utf-8")
    query = "parka navy"
    by_stream = ospo(["rewrite", "-", "--as", "text"], folder, input=f"{query}\n").stdout.rstrip("\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "ospo_cli", "serve", "--port", str(port), "--deadline", "60000"], cwd=folder)
    try:
        body = json.dumps({"query": query}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/rewrite", body, {"Content-Type": "application/json"})
        answer = json.loads(_asked(request))
    finally:
        server.terminate()
        server.wait(60)
    assert answer["engine_query"] == by_stream
    assert gate["lets"] != "nothing" or answer["why"] != "rewritten"


def _asked(request, seconds=120.0):
    end = time.monotonic() + seconds
    while True:
        try:
            return urllib.request.urlopen(request, timeout=seconds).read()
        except urllib.error.URLError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)
