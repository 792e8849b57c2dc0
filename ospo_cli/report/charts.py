"""Drawings for the pages: lines with intervals, small trends, interval bars. Geometry alone; macro `drawing` writes them as inline SVG.

Colours come from classes of the page's style. All lengths are in units of the drawing's own view box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ospo_cli.report.number_text import interval, plain, short

_LEFT, _TOP, _BOTTOM = 44, 12, 35
_FEW = 8  # points of a line without intervals: so many are drawn as dots


@dataclass(frozen=True)
class Mark:
    """One element of a drawing: its kind, attributes, the text it holds, and what it tells on hover."""

    kind: str
    attributes: dict[str, str]
    text: str = ""
    told: str = ""


@dataclass(frozen=True)
class Drawing:
    """Marks in the order in which they are drawn, on `width` × `height`; `label` is for those who do not see it."""

    width: int
    height: int
    label: str
    style: str
    marks: list[Mark]


@dataclass(frozen=True)
class Line:
    """A line: its names (several where lines are equal), class of style, and points (x, y) or (x, mean, low, high) in order of x."""

    names: tuple[str, ...]
    style: str
    points: Sequence[tuple[float, ...]]


@dataclass(frozen=True)
class Level:
    """A horizontal reference; one without a name is drawn and not named."""

    name: str
    value: float


@dataclass(frozen=True)
class Frame:
    """What surrounds the lines of a chart.

    Attributes:
        label: the chart in words.
        x_label: name of the horizontal axis.
        margin_right: room for the names at the lines' right ends; 0 where a legend names them.
        is_log: the horizontal axis is log x, or log(1 + x) where it holds 0.
        ticks_at: where the horizontal axis has numbers; None: at the points, thinned out where they crowd.
        zero: what x = 0 is called, "" for the number.
        digits: of the values at the right ends.
    """

    label: str
    x_label: str
    width: int = 520
    height: int = 320
    margin_right: int = 150
    is_log: bool = False
    ticks_at: Sequence[float] | None = None
    zero: str = ""
    digits: int = 3

    def named(self, x: float) -> str:
        """Return what a point at x is called."""
        return self.zero if self.zero and x == 0 else f"{self.x_label} {x:g}"


@dataclass
class _Plane:
    """Places of numbers on the drawing."""

    frame: Frame
    xs: list[float]
    ticks: list[float]
    right: int = field(init=False)
    base: int = field(init=False)

    def __post_init__(self) -> None:
        self.right = self.frame.width - (self.frame.margin_right or 12)
        self.base = self.frame.height - _BOTTOM

    def x(self, value: float) -> float:
        first, here, last = (self._along(x) for x in (self.xs[0], value, self.xs[-1]))
        return _LEFT + (here - first) / (last - first) * (self.right - _LEFT) if last > first else (_LEFT + self.right) / 2

    def _along(self, x: float) -> float:
        return math.log(x + (self.xs[0] <= 0)) if self.frame.is_log else x

    def y(self, value: float) -> float:
        low, high = self.ticks[0], self.ticks[-1]
        return self.base - (value - low) / ((high - low) or 1) * (self.base - _TOP)


def line_chart(lines: Sequence[Line], frame: Frame, levels: Sequence[Level] = ()) -> Drawing:
    """Return lines with bands where their points have intervals, reference levels, and names at the right ends."""
    values = [value for line in lines for point in line.points for value in point[1:]] + [level.value for level in levels]
    xs = sorted({point[0] for line in lines for point in line.points})
    plane = _Plane(frame, xs, nice_ticks(min(values), max(values)))
    marks = _axes(plane)
    names = []
    for level in levels:
        y = plane.y(level.value)
        marks.append(_stroke(_LEFT, y, plane.right, y, "level"))
        if level.name:
            names.append((y, f"{level.name} {plain(level.value, frame.digits)}", "name level-name"))
    for line in lines:
        marks += _line_marks(line, plane)
        if line.points:
            end, more = line.points[-1][1], f" +{len(line.names) - 1}" if len(line.names) > 1 else ""
            names.append((plane.y(end), f"{line.names[0]}{more} {plain(end, frame.digits)}", f"name {line.style}"))
    if frame.margin_right:
        names.sort()
        places = spread_out([y for y, _, _ in names], 15, _TOP, plane.base)
        marks += [_text(plane.right + 10, y + 4, name, style) for y, (_, name, style) in zip(places, names, strict=True)]
    return Drawing(frame.width, frame.height, frame.label, "chart", marks)


def _axes(plane: _Plane) -> list[Mark]:
    frame, marks = plane.frame, []
    for tick in plane.ticks:
        marks.append(_stroke(_LEFT, plane.y(tick), plane.right, plane.y(tick), "grid"))
        marks.append(_text(_LEFT - 8, plane.y(tick) + 4, plain(tick, _digits(plane.ticks)), "tick end"))
    every = max(1, math.ceil(len(plane.xs) / max(1, (plane.right - _LEFT) // 46)))
    for x in plane.xs[::every] if frame.ticks_at is None else frame.ticks_at:
        has_room = len(frame.zero) * 3.2 < plane.x(x)
        marks.append(_text(plane.x(x), plane.base + 18, frame.zero if frame.zero and x == 0 and has_room else f"{x:g}", "tick middle"))
    return [*marks, _text(plane.right, frame.height - 2, f"{frame.x_label} →", "tick end")]


def _line_marks(line: Line, plane: _Plane) -> list[Mark]:
    marks, told = [], " = ".join(line.names)
    has_band = all(len(point) == 4 for point in line.points)
    if len(line.points) > 1:
        if has_band:
            upper = [(plane.x(point[0]), plane.y(point[3])) for point in line.points]
            lower = [(plane.x(point[0]), plane.y(point[2])) for point in reversed(line.points)]
            marks.append(Mark("polygon", {"points": _pairs([*upper, *lower]), "class": f"band {line.style}"}))
        points = _pairs([(plane.x(point[0]), plane.y(point[1])) for point in line.points])
        marks.append(Mark("polyline", {"points": points, "class": f"line {line.style}"}, told=told))
    for x, y, *bounds in line.points if has_band or len(line.points) <= _FEW else ():
        if bounds and len(line.points) == 1:
            marks.append(_stroke(plane.x(x), plane.y(bounds[0]), plane.x(x), plane.y(bounds[1]), f"whisker {line.style}"))
        spread = f" {interval(dict(zip(('low', 'high'), bounds, strict=True)))}" if bounds else ""
        here = f"{plane.frame.named(x)}, {told}: {plain(y)}{spread}"
        marks.append(_dot(plane.x(x), plane.y(y), 3.5 if bounds else 3, line.style, here))
    return marks


def trend(values: Sequence[tuple[int, float | None]], label: str, width: int = 208, height: int = 56) -> Drawing | None:
    """Return a small line over iterations without axes, gaps where there is no value; None where there is none at all."""
    known = [(x, y) for x, y in values if y is not None]
    if not known:
        return None
    xs, ys = [x for x, _ in values], [y for _, y in known]
    low, high = min(ys), max(ys)
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 1, high + 1

    def place(x: float, y: float) -> tuple[float, float]:
        along = (x - xs[0]) / ((xs[-1] - xs[0]) or 1) if len(xs) > 1 else 0.5
        return 5 + along * (width - 10), height - 6 - (y - low) / (high - low) * (height - 12)

    points = [place(x, y) for x, y in known]
    marks = [_stroke(0, height - 1, width, height - 1, "grid")]
    if len(points) > 1:
        marks.append(Mark("polyline", {"points": _pairs(points), "class": "line plain"}))
    marks += [_dot(*point, 2.5, "plain", f"iteration {x}: {short(y)}") for (x, y), point in zip(known, points, strict=True)]
    return Drawing(width, height, label, "trend", marks)


def interval_bar(cell: dict[str, float], span: tuple[float, float], style: str, label: str, width: int = 240) -> Drawing:
    """Return a dot at the mean with its interval, on a scale that all rows of a table share."""
    start, end = span
    mean, low, high = (6 + (cell[name] - start) / ((end - start) or 1) * (width - 12) for name in ("mean", "low", "high"))
    marks = [_stroke(0, 10, width, 10, "grid"), _stroke(low, 10, high, 10, f"whisker {style}"), _dot(mean, 10, 5, style)]
    return Drawing(width, 20, label, "bar", marks)


def share_bar(share: float, error: float | None, reach: float, label: str, width: int = 240) -> Drawing:
    """Return a bar from zero to the share, with one standard error to both sides, on a scale from -reach to reach."""

    def place(value: float) -> float:
        return width / 2 + value / (reach or 1) * (width / 2 - 6)

    left, right = sorted((place(0), place(share)))
    marks = [_stroke(place(0), 0, place(0), 20, "axis")]
    if right > left:
        marks.append(_bar(left, right - left, 5, f"fill {'earned' if share > 0 else 'cost'}"))
    if error is not None and error > 0:
        marks.append(_stroke(place(share - error), 10, place(share + error), 10, "whisker error"))
    return Drawing(width, 20, label, "bar", marks)


def split_bar(parts: Sequence[tuple[str, int]], label: str) -> Drawing:
    """Return one bar of 100 units, divided in proportion; the names of the parts are their classes of style."""
    total, start, marks = max(1, sum(number for _, number in parts)), 0.0, []
    for name, number in parts:
        marks.append(_bar(start, 100 * number / total, 0, name, f"{name}: {number}"))
        start += 100 * number / total
    return Drawing(100, 10, label, "split", marks)


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Return round, evenly spaced numbers that enclose [low, high].

    >>> [round(tick, 2) for tick in nice_ticks(0.31, 0.88)]
    [0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if high - low < 1e-9:
        low, high = low - 0.05, high + 0.05
    rough = (high - low) / max(1, wanted - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(multiple * power for multiple in (1, 2, 2.5, 5, 10) if multiple * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def spread_out(wanted: Sequence[float], least: float, low: float, high: float) -> list[float]:
    """Return places at least `least` apart, close to the wanted ones (ascending), inside [low, high] where they fit.

    >>> spread_out([10, 11, 40], 15, 0, 60)
    [10, 25, 40]
    """
    placed: list[float] = []
    for value in wanted:
        placed.append(max(value, placed[-1] + least) if placed else max(value, low))
    for index in reversed(range(len(placed))):
        bound = high if index == len(placed) - 1 else placed[index + 1] - least
        placed[index] = min(placed[index], bound)
    return placed


def _digits(ticks: Sequence[float]) -> int:
    step = ticks[1] - ticks[0]
    return 1 if abs(step * 10 - round(step * 10)) < 1e-9 else 2 if abs(step * 100 - round(step * 100)) < 1e-9 else 3


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _pairs(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{_n(x)},{_n(y)}" for x, y in points)


def _stroke(x1: float, y1: float, x2: float, y2: float, style: str) -> Mark:
    return Mark("line", {"x1": _n(x1), "y1": _n(y1), "x2": _n(x2), "y2": _n(y2), "class": style})


def _dot(x: float, y: float, radius: float, style: str, told: str = "") -> Mark:
    return Mark("circle", {"cx": _n(x), "cy": _n(y), "r": _n(radius), "class": f"dot {style}"}, told=told)


def _bar(x: float, width: float, y: int, style: str, told: str = "") -> Mark:
    return Mark("rect", {"x": f"{x:.3f}", "y": str(y), "width": f"{width:.3f}", "height": "10", "class": style}, told=told)


def _text(x: float, y: float, content: str, style: str) -> Mark:
    return Mark("text", {"x": _n(x), "y": _n(y), "class": style}, content)
