"""The lines under the table of results."""

import io
import json

import pytest

from ospo_cli.report.result_table import _gap_line, print_result
from tests.report import small_project


@pytest.mark.parametrize(
    ("low", "high", "p_value", "ending"),
    [
        (0.1, 0.3, 0.01, "p = 0.0100, Holm 0.0100"),
        (-0.3, -0.1, 0.01, "(below 0)"),
        (-0.1, 0.3, 0.5, "(0 is in the interval)"),
        (0.1, 0.3, 0.5, "signs by chance give as much: not shown)"),
        (-0.3, -0.1, 0.5, "signs by chance give as much: not shown)"),
    ],
)
def test_a_gap_of_few_prompts_is_not_called_one_where_the_test_of_signs_finds_none(low, high, p_value, ending):
    gap = {"better": "000", "worse": "raw-query", "decoding": "greedy", "mean": (low + high) / 2}
    assert _gap_line(gap | {"low": low, "high": high, "p_value": p_value, "p_holm": p_value}).endswith(ending)


def test_the_table_has_a_row_per_system_with_the_numbers_of_the_summary(tmp_path):
    layout, _ = small_project.write_project(tmp_path, iterations=1)
    summary = json.loads(layout.evaluation("summary.json").read_text(encoding="utf-8"))
    stream = io.StringIO()
    print_result(summary, stream)
    verdict, table, *_ = stream.getvalue().split("\n\nnDCG")
    assert verdict.startswith("Rewriting helps: nDCG@10 0.")
    heading, _, header, *rows = ("nDCG" + table).split("\n\nwarm start - raw query")[0].splitlines()
    assert (
        heading == "nDCG@10 on 12 test prompts, bm25, 95 % intervals over prompts, for these policies; raw query and oracle are not decoded"
    )
    assert header.split("  ")[0] == "system"
    assert [row.split("  ")[0] for row in rows] == ["raw query", "warm start", "iteration 1", "oracle"]
    cell = summary["values"]["policy-001"]["greedy"]["bm25"]["ndcg@10"]
    assert f"  {cell['mean']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]  " in rows[2]


def test_on_a_terminal_the_result_is_coloured_and_elsewhere_it_is_not(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    layout, _ = small_project.write_project(tmp_path, iterations=1)
    summary = json.loads(layout.evaluation("summary.json").read_text(encoding="utf-8"))
    coloured, plain = Terminal(), io.StringIO()
    print_result(summary, coloured)
    print_result(summary, plain)
    assert "\x1b[" in coloured.getvalue()
    assert "warm start" in coloured.getvalue()
    assert "\x1b" not in plain.getvalue()
