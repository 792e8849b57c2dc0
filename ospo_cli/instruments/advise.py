"""Settings to try, from the noise of one iteration's gradients. Outside the graph."""

from __future__ import annotations

import json
import sys
from typing import Any, TextIO

import polars as pl

from ospo_cli.errors import CreditError, MissingInputError, ParameterError
from ospo_cli.layout import Layout
from ospo_cli.maths.step_advice import Noise, Training, advised, rollouts_over_least, steps_over_exact
from ospo_cli.params.whole import Params
from ospo_cli.report import staleness
from ospo_cli.report.number_text import plain, short
from ospo_cli.report.terminal import Terminal
from ospo_cli.tables import placed
from ospo_cli.tables.advise import ADVICE
from ospo_cli.tables.audit import GRADIENT_AUDIT

STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def is_measured(layout: Layout, params: Params, iteration: int) -> bool:
    """Tell whether the iteration's gradients were audited, with the inputs that are there now and under the project's own method."""
    path = layout.iteration(iteration, "gradient_audit_metrics.json")
    if not path.exists() or not GRADIENT_AUDIT.path(layout, iteration).exists():
        return False
    metrics = json.loads(path.read_text(encoding="utf-8"))
    if staleness.changed(layout, params, metrics["tables"] | metrics["inputs"]):
        return False
    return not _own(placed.read(GRADIENT_AUDIT, layout, iteration), params).is_empty()


def check(params: Params) -> None:
    """Raise ParameterError where the objective reads no token advantages."""
    objective = params.update.objective
    if objective in ("sft", "dpo"):
        known = "policy-gradient or mirror-descent"
        raise ParameterError("update.objective", "reads no token advantages, whose noise is measured", found=objective, expected=known)


def execute(layout: Layout, params: Params, iteration: int) -> pl.DataFrame:
    """Write table advice from table gradient_audit; return it.

    Args:
        layout, params: the project.
        iteration: whose gradients were audited.

    Raises:
        ParameterError: the objective reads no token advantages.
        MissingInputError: the gradients were not audited, or under other inputs.
        CreditError: they have no signal.
    """
    check(params)
    if not is_measured(layout, params, iteration):
        raise MissingInputError(
            GRADIENT_AUDIT.path(layout, iteration),
            "no gradients of this policy and method under these parameters",
            remedy=f"run `ospo audit --iter {iteration} --gradients`",
        )
    noise, now = _noise(_own(placed.read(GRADIENT_AUDIT, layout, iteration), params), iteration), _now(params)
    wanted = advised(noise, now)
    rows = [
        (name, float(value), float(new), reason, noise.scale, noise.error, noise.floor)
        for name, value, new, reason in _reasoned(noise, now, wanted)
    ]
    table = pl.DataFrame(rows, schema=ADVICE.schema, orient="row")
    placed.write(table, ADVICE, layout, iteration)
    return table


def _own(table: pl.DataFrame, params: Params) -> pl.DataFrame:
    own = params.attribute
    return table.filter(
        pl.col("estimator").is_in([own.estimator, "any"]),
        rule=own.rule,
        normalize=own.normalize,
        tokens="all",
    )


def _noise(rows: pl.DataFrame, iteration: int) -> Noise:
    cells = {row["measure"]: row for row in rows.iter_rows(named=True)}
    scale = cells["noise scale"]
    if scale["value"] is None:
        raise CreditError(
            f"gradients of iteration {iteration}",
            "have no signal: their mean is not longer than noise alone would be",
            found=f"{cells['signal']['value']:.2f} standard deviations in {scale['n']} rollout groups",
            expected="more than 2",
            remedy=f"measure more of them: `ospo audit --iter {iteration} --gradients --prompts {4 * scale['n']}`",
        )
    return Noise(scale["value"], scale["standard_error"] or 0.0, cells["floor"]["value"])


def _now(params: Params) -> Training:
    update, groups = params.update, params.rollout.prompts_per_iteration
    return Training(min(update.groups_per_step, groups), groups, params.train.iterations, update.epochs, update.learning_rate)


def _reasoned(noise: Noise, now: Training, wanted: Training) -> list[tuple[str, float, float, str]]:
    """Return (setting, now, advised, reason)."""
    step, scale = wanted.groups_per_step, short(noise.scale)
    in_all = f"as many rollouts in all as {now.iterations} iterations of {now.groups}"
    return [
        (
            "update.groups_per_step", now.groups_per_step, step,
            f"a step of {step} groups takes {rollouts_over_least(step, noise.scale) - 1:.0%} more rollouts than the smallest, "
            f"{short(steps_over_exact(step, noise.scale))} of them progress as one exact step does; above {scale} averaging stops paying",
        ),
        (
            "rollout.prompts_per_iteration", now.groups, wanted.groups,
            f"an iteration of {scale} groups has as much signal as noise; further ones are better spent on the next policy",
        ),
        ("train.iterations", now.iterations, wanted.iterations, in_all),
        (
            "update.epochs", now.epochs, wanted.epochs,
            "more epochs repeat the same noise"
            if wanted.epochs == 1
            else f"an iteration of {wanted.groups} groups is mostly signal, which may be taken more than once",
        ),
        (
            "update.learning_rate", now.learning_rate, wanted.learning_rate,
            f"by the square root of groups per step from the present one, which is taken to be right for {now.groups_per_step}",
        ),
    ]  # fmt: skip


def print_result(table: pl.DataFrame, stream: TextIO | None = None) -> None:
    """Print what was measured, what steps of other sizes would cost, and the advice."""
    output = Terminal(stream if stream is not None else sys.stdout)
    first: dict[str, Any] = table.row(0, named=True)
    scale, error, floor = first["noise_scale"], first["noise_scale_error"], first["floor"]
    output.line(f"noise scale {short(scale)} ± {short(error)} rollout groups (one standard error)", style="bold")
    if error > scale / 2:
        output.line("known to a factor of two at best: `ospo audit --gradients --prompts` with more groups tells it better")
    if floor is not None:
        output.line(f"{short(floor)} of it lie between prompts: better credit, or more answers of a prompt, can take off the rest")
    grid = [[str(b), f"{rollouts_over_least(b, scale):.2f}", f"{steps_over_exact(b, scale):.2f}"] for b in STEPS]
    header = ["groups per step", "rollouts, over the least", "steps, over exact ones"]
    output.line()
    output.grid(header, grid, numbers=header)
    output.line()
    rows = [[row["setting"], _number(row["now"]), _number(row["advised"]), row["reason"]] for row in table.iter_rows(named=True)]
    output.grid(["setting", "now", "to try", "because"], rows, numbers=["now", "to try"])


def _number(value: float) -> str:
    return plain(value, 0) if value == int(value) else f"{value:.3g}"
