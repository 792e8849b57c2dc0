"""Drawings: marks lie where the numbers say, inside the picture, and names do not cover each other."""

import itertools
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ospo_cli.report import pages
from ospo_cli.report.charts import Frame, Level, Line, interval_bar, line_chart, nice_ticks, split_bar, spread_out, trend

numbers = st.floats(-100, 100, allow_nan=False).map(lambda value: round(value, 4))


@settings(max_examples=60)
@given(numbers, numbers)
def test_ticks_enclose_the_range_evenly_and_are_few(a, b):
    low, high = min(a, b), max(a, b)
    ticks = nice_ticks(low, high)
    steps = [later - earlier for earlier, later in itertools.pairwise(ticks)]
    assert ticks[0] <= low + 1e-6
    assert ticks[-1] >= high - 1e-6
    assert max(steps) - min(steps) < 1e-9 * max(1, abs(high))
    assert 2 <= len(ticks) <= 8


@settings(max_examples=60)
@given(st.lists(st.floats(0, 300), min_size=1, max_size=8).map(sorted))
def test_names_keep_their_distance_and_stay_inside(wanted):
    placed = spread_out(wanted, 15, 0, 300)
    assert all(later - earlier >= 15 - 1e-9 for earlier, later in itertools.pairwise(placed))
    assert placed[-1] <= 300


def written(drawing):
    """Return the drawing as it stands on a page."""
    template = '{% from "macros.html" import drawing %}{{ drawing(made) }}'
    return pages.environment(pages.TEMPLATES).from_string(template).render(made=drawing)


def chart(count, width=400, height=240):
    points = [(float(k), 0.3 + 0.02 * k, 0.28 + 0.02 * k, 0.33 + 0.02 * k) for k in range(count)]
    frame = Frame("a <label>", "iteration", width, height, margin_right=128, zero="warm start")
    return written(line_chart([Line(("greedy",), "greedy", points)], frame, [Level("raw query", 0.25), Level("oracle", 0.9)]))


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_a_learning_chart_is_well_formed_with_one_dot_per_point_inside_the_picture(count):
    tree = ElementTree.fromstring(chart(count))
    dots = [item for item in tree if item.tag == "circle"]
    assert len(dots) == count
    assert all(0 <= float(dot.get("cx")) <= 400 and 0 <= float(dot.get("cy")) <= 240 for dot in dots)
    assert tree.get("aria-label") == "a <label>"


def test_higher_values_stand_higher():
    tree = ElementTree.fromstring(chart(5))
    heights = [float(item.get("cy")) for item in tree if item.tag == "circle"]
    assert heights == sorted(heights, reverse=True)
    levels = {item.get("class"): float(item.get("y1")) for item in tree if item.get("class") == "level"}
    assert levels["level"] < min(heights)


def test_every_point_tells_its_numbers_on_hover():
    assert "iteration 2, greedy: 0.340 [0.320, 0.370]" in chart(3)


def test_drawings_hold_no_inline_style_which_the_page_forbids():
    drawings = [trend([(1, 0.2), (2, 0.4)], "t"), interval_bar({"mean": 0.5, "low": 0.4, "high": 0.6}, (0, 1), "greedy", "b")]
    drawn = chart(3) + "".join(map(written, [*drawings, split_bar([("better", 1), ("worse", 3)], "s")]))
    assert drawn.count("<svg") == 4
    assert not re.search(r"\sstyle=", drawn)


def test_a_trend_leaves_out_iterations_that_were_not_measured():
    drawn = trend([(1, 0.1), (2, None), (3, 0.3)], "entropy")
    assert [mark.told for mark in drawn.marks if mark.kind == "circle"] == ["iteration 1: 0.100", "iteration 3: 0.300"]
    assert trend([(1, None)], "entropy") is None


def test_a_bar_is_divided_in_proportion():
    bars = split_bar([("better", 1), ("equal", 0), ("worse", 3)], "s").marks
    assert [(bar.attributes["x"], bar.attributes["width"]) for bar in bars] == [
        ("0.000", "25.000"),
        ("25.000", "0.000"),
        ("25.000", "75.000"),
    ]


def test_lines_on_a_logarithmic_axis_that_begins_at_zero_stay_inside_the_picture():
    line = Line(("uniform", "potential"), "r0", [(0, 0.1), (9, 0.5), (99, 0.9)])
    marks = line_chart([line], Frame("reward", "step", is_log=True, digits=2), [Level("", 1.0)]).marks
    dots = [float(mark.attributes["cx"]) for mark in marks if mark.kind == "circle"]
    assert dots == [44.0, 207.0, 370.0]
    assert [mark.text for mark in marks if mark.attributes["class"] == "name r0"] == ["uniform +1 0.90"]
