"""Inline SVG: learning curves with intervals, small trends, interval bars. Colours come from classes of the page's style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ospo_cli.report.markup import escape, tag
from ospo_cli.report.number_text import plain, short


@dataclass(frozen=True)
class Curve:
    """One line: its name, class of style, and (x, mean, low, high) points in order of x."""

    name: str
    style: str
    points: tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True)
class Level:
    """A horizontal reference: name and value."""

    name: str
    value: float


def learning_chart(curves: Sequence[Curve], levels: Sequence[Level], label: str, width: int, height: int, margin_right: int = 128) -> str:
    """Return a line chart with interval bands, reference levels and names at the right end of each line."""
    left, top, bottom = 44, 12, 34
    xs = sorted({x for curve in curves for x, *_ in curve.points})
    spread = [value for curve in curves for _, _, low, high in curve.points for value in (low, high)] + [level.value for level in levels]
    ticks = nice_ticks(min(spread), max(spread))
    low, high = ticks[0], ticks[-1]
    right, base = width - margin_right, height - bottom

    def place_x(x: float) -> float:
        return left + (x - xs[0]) / ((xs[-1] - xs[0]) or 1) * (right - left) if len(xs) > 1 else (left + right) / 2

    def place_y(y: float) -> float:
        return base - (y - low) / ((high - low) or 1) * (base - top)

    parts = []
    for tick in ticks:
        parts.append(_line(left, place_y(tick), right, place_y(tick), "grid"))
        parts.append(_text(left - 8, place_y(tick) + 4, plain(tick, _digits(ticks)), "tick end"))
    every = max(1, math.ceil(len(xs) / max(1, (right - left) // 46)))
    for index, x in enumerate(xs):
        if index % every == 0:
            name = "warm start" if x == 0 and place_x(x) - 32 > 0 else f"{x:g}"
            parts.append(_text(place_x(x), base + 18, name, "tick middle"))
    parts.append(_text(right, height - 2, "iteration →", "tick end"))
    names: list[tuple[float, str, str]] = []
    for level in levels:
        parts.append(_line(left, place_y(level.value), right, place_y(level.value), "level"))
        names.append((place_y(level.value), f"{level.name} {plain(level.value)}", "name level-name"))
    for curve in curves:
        upper = [(place_x(x), place_y(top_)) for x, _, _, top_ in curve.points]
        lower = [(place_x(x), place_y(bottom_)) for x, _, bottom_, _ in reversed(curve.points)]
        if len(curve.points) > 1:
            parts.append(tag("polygon", points=_pairs([*upper, *lower]), class_=f"band {curve.style}"))
            parts.append(
                tag(
                    "polyline", points=_pairs([(place_x(x), place_y(mean)) for x, mean, _, _ in curve.points]), class_=f"line {curve.style}"
                )
            )
        for x, mean, lowest, highest in curve.points:
            if len(curve.points) == 1:
                parts.append(_line(place_x(x), place_y(lowest), place_x(x), place_y(highest), f"whisker {curve.style}"))
            told = f"{'warm start' if x == 0 else f'iteration {x:g}'}, {curve.name}: {plain(mean)} [{plain(lowest)}, {plain(highest)}]"
            dot = tag("title", escape(told))
            parts.append(tag("circle", dot, cx=_n(place_x(x)), cy=_n(place_y(mean)), r="3.5", class_=f"dot {curve.style}"))
        if curve.points:
            names.append((place_y(curve.points[-1][1]), f"{curve.name} {plain(curve.points[-1][1])}", f"name {curve.style}"))
    for y, (_, name, style) in zip(spread_out([y for y, _, _ in sorted(names)], 15, top, base), sorted(names), strict=True):
        parts.append(_text(right + 10, y + 4, name, style))
    return _svg(width, height, label, parts, "chart")


def trend(values: Sequence[tuple[int, float | None]], label: str, width: int = 208, height: int = 56) -> str:
    """Return a small line over iterations without axes; gaps where there is no value."""
    known = [(x, y) for x, y in values if y is not None]
    if not known:
        return ""
    xs, ys = [x for x, _ in values], [y for _, y in known]
    low, high = min(ys), max(ys)
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 1, high + 1

    def place(x: float, y: float) -> tuple[float, float]:
        along = (x - xs[0]) / ((xs[-1] - xs[0]) or 1) if len(xs) > 1 else 0.5
        return 5 + along * (width - 10), height - 6 - (y - low) / (high - low) * (height - 12)

    points = [place(x, y) for x, y in known]
    dots = [
        tag("circle", tag("title", escape(f"iteration {x}: {short(y)}")), cx=_n(px), cy=_n(py), r="2.5", class_="dot plain")
        for (x, y), (px, py) in zip(known, points, strict=True)
    ]
    line = [tag("polyline", points=_pairs(points), class_="line plain")] if len(points) > 1 else []
    return _svg(width, height, label, [_line(0, height - 1, width, height - 1, "grid"), *line, *dots], "trend")


def interval_bar(mean: float, low: float, high: float, span: tuple[float, float], style: str, label: str, width: int = 240) -> str:
    """Return a dot with its interval on a scale that all rows of a table share."""
    start, end = span

    def place(value: float) -> float:
        return 6 + (value - start) / ((end - start) or 1) * (width - 12)

    parts = [
        _line(0, 10, width, 10, "grid"),
        _line(place(low), 10, place(high), 10, f"whisker {style}"),
        tag("circle", cx=_n(place(mean)), cy="10", r="5", class_=f"dot {style}"),
    ]
    return _svg(width, 20, label, parts, "bar")


def share_bar(share: float, error: float | None, reach: float, label: str, width: int = 240) -> str:
    """Return a bar from zero to the share, with one standard error to both sides, on a scale from -reach to reach."""

    def place(value: float) -> float:
        return width / 2 + value / (reach or 1) * (width / 2 - 6)

    left, right = sorted((place(0), place(share)))
    parts = [_line(place(0), 0, place(0), 20, "axis")]
    if right > left:
        parts.append(
            tag("rect", x=_n(left), y="5", width=_n(right - left), height="10", class_=f"fill {'earned' if share > 0 else 'cost'}")
        )
    if error is not None and error > 0:
        parts.append(_line(place(share - error), 10, place(share + error), 10, "whisker error"))
    return _svg(width, 20, label, parts, "bar")


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


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return tag("line", x1=_n(x1), y1=_n(y1), x2=_n(x2), y2=_n(y2), class_=style)


def _text(x: float, y: float, content: str, style: str) -> str:
    return tag("text", escape(content), x=_n(x), y=_n(y), class_=style)


def _svg(width: int, height: int, label: str, parts: Sequence[str], style: str) -> str:
    return tag(
        "svg", "".join(parts), viewBox=f"0 0 {width} {height}", width=width, height=height, role="img", aria_label=label, class_=style
    )


@dataclass(frozen=True)
class Series:
    """One line of a plain chart: its names (several where lines are equal), class of style, and points in order of x."""

    names: tuple[str, ...]
    style: str
    points: tuple[tuple[float, float], ...]


def line_chart(
    series: Sequence[Series], label: str, x_label: str, *, is_log: bool, width: int = 520, height: int = 320,
    ticks_at: Sequence[float] | None = None, level: Level | None = None, margin_right: int = 150, is_named: bool = True,
) -> str:  # fmt: skip
    """Return a chart of lines without intervals, named at their right ends unless a legend does it.

    `is_log`: the horizontal axis is log(1 + x) where it holds 0, else log x.
    """
    left, top, bottom = 44, 12, 36
    xs = sorted({x for each in series for x, _ in each.points})
    ys = [y for each in series for _, y in each.points] + ([level.value] if level else [])
    ticks = nice_ticks(min(ys), max(ys))
    low, high = ticks[0], ticks[-1]
    right, base = width - (margin_right if is_named else 12), height - bottom
    shift = 1.0 if xs[0] <= 0 else 0.0

    def along(x: float) -> float:
        return math.log(x + shift) if is_log else x

    def place_x(x: float) -> float:
        span = along(xs[-1]) - along(xs[0])
        return left + (along(x) - along(xs[0])) / span * (right - left) if span else (left + right) / 2

    def place_y(y: float) -> float:
        return base - (y - low) / ((high - low) or 1) * (base - top)

    parts = []
    for tick in ticks:
        parts.append(_line(left, place_y(tick), right, place_y(tick), "grid"))
        parts.append(_text(left - 8, place_y(tick) + 4, plain(tick, _digits(ticks)), "tick end"))
    parts += [_text(place_x(x), base + 17, f"{x:g}", "tick middle") for x in (ticks_at if ticks_at is not None else xs)]
    parts.append(_text(right, height - 3, f"{x_label} →", "tick end"))
    if level is not None:
        parts.append(_line(left, place_y(level.value), right, place_y(level.value), "level"))
    names: list[tuple[float, str, str]] = []
    for each in series:
        told = " = ".join(each.names)
        if len(each.points) > 1:
            points = _pairs([(place_x(x), place_y(y)) for x, y in each.points])
            parts.append(tag("polyline", tag("title", escape(told)), points=points, class_=f"line {each.style}"))
        if len(each.points) <= 8:
            for x, y in each.points:
                dot = tag("title", escape(f"{told}, {x_label} {x:g}: {plain(y)}"))
                parts.append(tag("circle", dot, cx=_n(place_x(x)), cy=_n(place_y(y)), r="3", class_=f"dot {each.style}"))
        if not is_named:
            continue
        more = f" +{len(each.names) - 1}" if len(each.names) > 1 else ""
        names.append((place_y(each.points[-1][1]), f"{each.names[0]}{more} {plain(each.points[-1][1], 2)}", f"name {each.style}"))
    for y, (_, name, style) in zip(spread_out([y for y, _, _ in sorted(names)], 14, top, base), sorted(names), strict=True):
        parts.append(_text(right + 10, y + 4, name, style))
    return _svg(width, height, label, parts, "chart")
