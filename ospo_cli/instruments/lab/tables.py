"""What the lab found, as tables: for the terminal and for its page."""

from __future__ import annotations

from typing import Any, TextIO

from ospo_cli.report.number_text import plain, short, signed
from ospo_cli.report.terminal import Terminal
from ospo_cli.text.visible import visible

AXES = {"segments": "n", "group_size": "G", "noise": "noise"}
CAUTION = (
    "A cosine tells how fast one noisy group points uphill at one place, not where a rule ends: only uniform and potential are unbiased. "
    "Look at both tables.",
    "Words here are independent and values are exact but for the stated noise; a language model's are neither.",
    "Starred rules cannot be told from the best over these seeds. Controls (random, rms-matched, answer-uniform) stand in the same tables.",
)


def along(data: dict[str, Any], interaction: str, axis: str, estimator: str | None = None) -> list[dict[str, Any]]:
    """Return the rows in which one axis moves and the others stand in their middle."""
    fixed = {name: value for name, value in data["middle"].items() if name != axis}
    wanted = fixed | {"interaction": interaction, "estimator": estimator or data["estimator"]}
    return [row for row in data["quality"] if all(row[name] == value for name, value in wanted.items())]


def by_rule(rows: list[dict[str, Any]], axis: str) -> dict[str, dict[Any, dict[str, Any]]]:
    """Return rule -> value of the axis -> row."""
    found: dict[str, dict[Any, dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row[axis]):
        found.setdefault(row["rule"], {})[row[axis]] = row
    return found


def convergence_columns(data: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (problem, outside) in order."""
    return list(dict.fromkeys((row["problem"], row["outside"]) for row in data["convergence"]))


def problem_label(problem: str, outside: str) -> str:
    """Return `context, outside zero` or `harmful`."""
    return problem if outside == "-" else f"{problem}, outside {outside}"


def best_rules(data: dict[str, Any], n: int) -> dict[str, list[dict[str, Any]]]:
    """Return interaction -> the rows of n words that cannot be told from the best, best first."""
    found = {}
    for interaction in data["interactions"]:
        rows = [row for row in along(data, interaction, "segments") if row["segments"] == n and row["is_tied"]]
        if rows:
            found[interaction] = sorted(rows, key=lambda row: row["behind_best"])
    return found


def safest_rule(data: dict[str, Any], n: int) -> tuple[str, float] | None:
    """Return the rule whose smallest cosine over all kinds of interaction is largest, and that cosine; None where there is one kind."""
    worst: dict[str, list[float]] = {}
    for interaction in data["interactions"]:
        for row in along(data, interaction, "segments"):
            if row["segments"] == n:
                worst.setdefault(row["rule"], []).append(row["cosine"])
    if not worst or len(next(iter(worst.values()))) < 2:
        return None
    rule = max(worst, key=lambda name: (round(min(worst[name]), 9), sum(worst[name])))
    return rule, min(worst[rule])


def lengths(data: dict[str, Any]) -> list[int]:
    """Return the numbers of segments that were measured."""
    return sorted({row["segments"] for row in data["quality"]})


def print_lab(data: dict[str, Any], stream: TextIO) -> None:
    """Print what was found: convergence, gradient quality along each axis, which rule for which length, and what it does not say."""
    output = Terminal(stream)
    _print_convergence(data, output)
    for interaction, meaning in data["interactions"].items():
        for axis, letter in AXES.items():
            rows = along(data, interaction, axis)
            if len({row[axis] for row in rows}) < 2 and axis != "segments":
                continue
            _print_quality(data, output, f"{interaction} ({meaning})", rows, axis, letter)
    _print_estimators(data, output)
    _print_noise(data, output)
    _print_answer(data, output)


def _print_convergence(data: dict[str, Any], output: Terminal) -> None:
    if not data["convergence"]:
        return
    first = data["convergence"][0]
    output.line(f"Convergence: J after {first['steps']} steps of {data['step_size']:g} along the exact expected gradient", style="bold")
    output.line(f"and in brackets steps to {data['level']:.0%} of the best J (– never); estimator {first['estimator']}")
    for problem, meaning in data["problems"].items():
        output.line(f"  {problem}: {meaning} (G = {data['group_sizes'][problem]})", style="dim")
    columns = convergence_columns(data)
    cells = {(row["rule"], row["problem"], row["outside"]): row for row in data["convergence"]}
    header = ["rule", *(problem if outside == "-" else f"{problem}/{outside[:3]}" for problem, outside in columns)]
    lines = [[visible(rule, 40), *(_converged(cells[rule, *column]) for column in columns)] for rule in data["rules"]]
    best = ["best possible", *(plain(next(cells[rule, *column]["best_reward"] for rule in data["rules"])) for column in columns)]
    output.grid(header, [*lines, best])


def _converged(row: dict[str, Any]) -> str:
    return f"{plain(row['end_reward'])} [{'–' if row['steps_to_level'] is None else row['steps_to_level']}]"


def _print_quality(data: dict[str, Any], output: Terminal, name: str, rows: list[dict[str, Any]], axis: str, short: str) -> None:
    if not rows:
        return
    values = sorted({row[axis] for row in rows})
    fixed = ", ".join(f"{AXES[key]} = {value:g}" for key, value in data["middle"].items() if key != axis)
    largest = max(row["cosine_standard_error"] for row in rows)
    output.line()
    output.line(f"Cosine with the exact gradient, {name}", style="bold")
    output.line(
        f"{fixed}, {data['seeds']} seeds, estimator {data['estimator']}; standard errors up to {largest:.3f}; * best, or tied with it"
    )
    found = by_rule(rows, axis)
    lines = [[visible(rule, 40), *(_cosine(cells.get(value)) for value in values)] for rule, cells in found.items()]
    output.grid(["rule", *(f"{short} = {value:g}" for value in values)], lines)


def _cosine(row: dict[str, Any] | None) -> str:
    return "–" if row is None else plain(row["cosine"]) + ("*" if row["is_tied"] else "")


def estimators_of(data: dict[str, Any]) -> list[str]:
    """Return the names of estimators that ran."""
    return list(dict.fromkeys(row["estimator"] for row in data["quality"]))


def best_rule_of_the_middle(data: dict[str, Any], interaction: str) -> str | None:
    """Return the rule with the best cosine where all axes stand in their middle."""
    rows = [row for row in along(data, interaction, "noise") if row["noise"] == data["middle"]["noise"]]
    return min(rows, key=lambda row: row["behind_best"])["rule"] if rows else None


def _print_estimators(data: dict[str, Any], output: Terminal) -> None:
    names = estimators_of(data)
    if len(names) < 2:
        return
    for interaction in data["interactions"]:
        rule = best_rule_of_the_middle(data, interaction)
        if rule is None:
            continue
        noises = sorted({row["noise"] for row in along(data, interaction, "noise")})
        output.line()
        output.line(f"Estimators, {interaction}: cosine under rule {visible(rule, 40)}", style="bold")
        lines = []
        for name in names:
            cells = by_rule(along(data, interaction, "noise", name), "noise").get(rule, {})
            lines.append([name, *(plain(cells[value]["cosine"]) if value in cells else "–" for value in noises)])
        output.grid(["estimator", *(f"noise = {value:g}" for value in noises)], lines)


def _print_noise(data: dict[str, Any], output: Terminal) -> None:
    """Print noise scale and direction by number of words, most progress at the largest first."""
    for interaction in data["interactions"]:
        rows = [row for row in data["noise"] if row["interaction"] == interaction]
        if not rows:
            continue
        sizes = sorted({row["segments"] for row in rows})
        floors = ", ".join(f"{short(next(row['true_floor'] for row in rows if row['segments'] == n))}" for n in sizes)
        output.line()
        output.line(f"Noise scale in rollout groups of {rows[0]['group_size']}, and (direction), {interaction}", style="bold")
        output.line(f"{data['seeds']} prompts that share the policy's logits; floor, from exact gradients: {floors}")
        cells = {(row["estimator"], row["rule"], row["segments"]): row for row in rows}
        methods = dict.fromkeys((row["estimator"], row["rule"]) for row in rows)
        order = sorted(methods, key=lambda method: -(cells[*method, sizes[-1]]["progress"] or 0.0))
        lines = [[method[0], visible(method[1], 40), *(_noise(cells[*method, n]) for n in sizes)] for method in order]
        output.grid(["estimator", "rule", *(f"n = {n}" for n in sizes)], lines)


def _noise(row: dict[str, Any]) -> str:
    return "no signal" if row["noise_scale"] is None else f"{short(row['noise_scale'])} ({plain(row['direction'], 2)})"


def _print_answer(data: dict[str, Any], output: Terminal) -> None:
    middle = data["middle"]
    output.line()
    output.line("Which rule for answers of n segments", style="bold")
    output.line(
        f"G = {middle['group_size']}, noise = {middle['noise']:g}; the best, its cosine and gain over uniform (± standard error), then ties"
    )
    lines = []
    for n in lengths(data):
        best = best_rules(data, n)
        safe = safest_rule(data, n)
        cells = [answer(best[kind]) if kind in best else "–" for kind in data["interactions"]]
        lines.append([str(n), *cells, "–" if safe is None else f"{visible(safe[0], 40)} {plain(safe[1], 2)}"])
    output.grid(["n", *data["interactions"], "best in the worst kind"], lines)
    for line in CAUTION:
        output.line(line, style="dim")


def answer(tied: list[dict[str, Any]]) -> str:
    """Return the best rule in words, and those tied with it."""
    first, rest = tied[0], tied[1:]
    gain = f" {signed(first['over_uniform'], 2)} ± {first['over_uniform_standard_error']:.2f}" if first["over_uniform"] is not None else ""
    if len(rest) > 3:
        return f"{visible(first['rule'], 40)} {plain(first['cosine'], 2)}{gain}; {len(rest)} others tied"
    also = f"; tied: {', '.join(visible(row['rule'], 40) for row in rest)}" if rest else ""
    return f"{visible(first['rule'], 40)} {plain(first['cosine'], 2)}{gain}{also}"
