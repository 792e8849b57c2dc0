"""What the sections about the training show: warnings, and every measure by iteration."""

from __future__ import annotations

from typing import Any

from ospo_cli.report.charts import trend
from ospo_cli.report.iteration_measures import MEASURES, Measure
from ospo_cli.report.number_text import plain, short, signed


def warnings(data: dict[str, Any]) -> list[Any] | None:
    """Return every check, crossed ones first; None where nothing was run yet."""
    if not data["iterations"] and data["summary"] is None:
        return None
    return sorted(data["signs"], key=lambda sign: {True: 0, None: 1, False: 2}[sign.is_crossed])


def training(data: dict[str, Any]) -> dict[str, Any] | None:
    """Return a panel per measure that changed, `flat` ones that did not, and the numbers of all by iteration; None before the first."""
    rows = data["iterations"]
    if not rows:
        return None
    panels, flat, numbers = [], [], []
    for measure in MEASURES:
        values = [(row["iteration"], row[measure.name]) for row in rows]
        known = [value for _, value in values if value is not None]
        if not known:
            continue
        numbers.append((measure.label, [_measured(value, measure) for _, value in values]))
        if len(known) > 1 and max(known) == min(known):
            flat.append((measure.label.lower(), _measured(known[-1], measure)))
            continue
        moved = known[-1] - known[0]
        change = "" if len(known) < 2 else f"{signed(100 * moved, 1)} points" if measure.is_share else signed(moved)
        chart = trend(values, f"{measure.label} by iteration")
        panels.append({"measure": measure, "last": _measured(known[-1], measure), "change": change, "chart": chart})
    return {"panels": panels, "flat": flat, "numbers": numbers}


def _measured(value: float | None, measure: Measure) -> str:
    if value is not None and measure.is_share:
        return f"{100 * value:.1f}%"
    return plain(value) if value is not None and 0.001 <= abs(value) < 1 else short(value)
