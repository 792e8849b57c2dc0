"""The lines under the table of results."""

import pytest

from ospo_cli.report.result_table import _gap_line


@pytest.mark.parametrize(
    ("low", "high", "p_value", "ending"),
    [
        (0.1, 0.3, 0.01, "p = 0.0100"),
        (-0.3, -0.1, 0.01, "(below 0)"),
        (-0.1, 0.3, 0.5, "(0 is in the interval)"),
        (0.1, 0.3, 0.5, "signs by chance give as much: not shown)"),
        (-0.3, -0.1, 0.5, "signs by chance give as much: not shown)"),
    ],
)
def test_a_gap_of_few_prompts_is_not_called_one_where_the_test_of_signs_finds_none(low, high, p_value, ending):
    gap = {"better": "000", "worse": "raw-query", "decoding": "greedy", "mean": (low + high) / 2}
    assert _gap_line(gap | {"low": low, "high": high, "p_value": p_value}).endswith(ending)
