"""Settings to try, from one iteration: steps and batches by its gradients' noise, the learning rate by its halves. Outside the graph."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.errors import CreditError, MissingInputError, ParameterError
from ospo_cli.executors.progress import Progress
from ospo_cli.layout import Layout
from ospo_cli.maths.gradient_noise import FEWEST_PROMPTS
from ospo_cli.maths.step_advice import (
    FEWEST_STEPS,
    WORTH_CHANGING,
    Noise,
    Rate,
    Training,
    advised,
    proportional_rate,
    rollouts_over_least,
    steps_over_exact,
)
from ospo_cli.params.attribute import Attribute
from ospo_cli.params.rollout import Rollout
from ospo_cli.params.train import Train
from ospo_cli.params.update import Update
from ospo_cli.params.whole import Params, to_mapping
from ospo_cli.report import staleness
from ospo_cli.report.number_text import plain, short
from ospo_cli.report.terminal import Terminal
from ospo_cli.tables import placed
from ospo_cli.tables.advise import ADVICE, RATE_SEARCH
from ospo_cli.tables.attribute import TOKEN_ADVANTAGES
from ospo_cli.tables.audit import GRADIENT_AUDIT

if TYPE_CHECKING:
    from ospo_cli.stages.update import Reads

STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# Learning rates that are tried, over the one that the square root of the step's size asks for.
TRIED = (0.25, 0.5, 1.0, 2.0, 4.0)


def is_measured(layout: Layout, params: Params, iteration: int) -> bool:
    """Tell whether the iteration's gradients were audited, with the inputs that are there now and under the project's own method."""
    path = layout.iteration(iteration, "gradient_audit_metrics.json")
    if not path.exists() or not GRADIENT_AUDIT.path(layout, iteration).exists():
        return False
    metrics = json.loads(path.read_text(encoding="utf-8"))
    if staleness.changed(layout, to_mapping(params), metrics["tables"] | metrics["inputs"]):
        return False
    return not _own(placed.read(GRADIENT_AUDIT, layout, iteration), params.attribute).is_empty()


def check(layout: Layout, objective: str, iteration: int) -> None:
    """Raise ParameterError where the objective reads no token advantages, MissingInputError where the iteration has none."""
    if objective in ("sft", "dpo"):
        known = "policy-gradient or mirror-descent"
        raise ParameterError("update.objective", "reads no token advantages, whose noise is measured", found=objective, expected=known)
    path = TOKEN_ADVANTAGES.path(layout, iteration)
    if not path.exists():
        raise MissingInputError(path, "no such file", remedy=f"run `ospo attribute --iter {iteration}`")


def execute(layout: Layout, params: Params, iteration: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Write table advice from table gradient_audit, and table rate_search from trainings on halves of the batch; return both.

    Args:
        layout, params: the project.
        iteration: whose gradients were audited.

    Raises:
        ParameterError: the objective reads no token advantages.
        MissingInputError: the gradients were not audited, or under other inputs; or the rollouts have no token advantages.
        CreditError: they have no signal.
    """
    check(layout, params.update.objective, iteration)
    if not is_measured(layout, params, iteration):
        raise MissingInputError(
            GRADIENT_AUDIT.path(layout, iteration),
            "no gradients of this policy and method under these parameters",
            remedy=f"run `ospo audit --iter {iteration} --gradients`",
        )
    noise = _noise(_own(placed.read(GRADIENT_AUDIT, layout, iteration), params.attribute), iteration)
    now = _now(params.train, params.rollout, params.update)
    wanted = advised(noise, now)
    rates = [factor * wanted.learning_rate for factor in TRIED]
    gains = held_out(layout, params, iteration, wanted, rates)
    found = proportional_rate(rates, gains) if gains.shape[1] >= FEWEST_PROMPTS else None
    reasoned = _reasoned(noise, now, wanted)
    reasoned.append(("update.learning_rate", now.learning_rate, *_rate(found, wanted, now, gains.shape[1])))
    rows = [(name, float(value), float(new), reason, noise.scale, noise.error, noise.floor) for name, value, new, reason in reasoned]
    searched = _searched(rates, gains, found, wanted)
    table = pl.DataFrame(rows, schema=ADVICE.schema, orient="row")
    placed.write(searched, RATE_SEARCH, layout, iteration)
    placed.write(table, ADVICE, layout, iteration)
    return table, searched


def _own(table: pl.DataFrame, own: Attribute) -> pl.DataFrame:
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


def _now(train: Train, rollout: Rollout, update: Update) -> Training:
    groups = rollout.prompts_per_iteration
    return Training(min(update.groups_per_step, groups), groups, train.iterations, update.epochs, update.learning_rate)


def _reasoned(noise: Noise, now: Training, wanted: Training) -> list[tuple[str, float, float, str]]:
    """Return (setting, now, advised, reason)."""
    step, scale = wanted.groups_per_step, short(noise.scale)
    in_all = f"as many rollouts in all as {now.iterations} iterations of {now.groups}"
    return [
        (
            "update.groups_per_step", now.groups_per_step, step,
            f"a step of {step} groups takes {rollouts_over_least(step, noise.scale) - 1:.0%} more rollouts than the smallest, "
            f"{short(steps_over_exact(step, noise.scale))} of them progress as one exact step does; above {scale} averaging stops paying"
            + (f"; an iteration has {FEWEST_STEPS} steps or more" if step * 2 * FEWEST_STEPS > wanted.groups else ""),
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
    ]  # fmt: skip


def held_out(layout: Layout, params: Reads, iteration: int, wanted: Training, rates: list[float]) -> NDArray[np.float64]:
    """Return [rates, N] what N rollout groups gain from updates on others: `rate_search.held_out_gains` with the advised steps."""
    from ospo_cli.policies.folder import OPTIMIZER
    from ospo_cli.policies.opening import load_policy
    from ospo_cli.policies.starting_point import adapted
    from ospo_cli.stages import update as stage
    from ospo_cli.training import rate_search
    from ospo_cli.training.objectives import objective_of
    from ospo_cli.training.training_state import Run

    settings = replace(params.update, groups_per_step=wanted.groups_per_step, epochs=wanted.epochs)
    objective, folder = objective_of(settings), layout.policy(iteration - 1)
    learned = stage.read(layout, objective, iteration)
    policy = load_policy(folder, params.policy.threads, trainable=True, made_by=stage.made_by(iteration), project=layout.root)
    policy = adapted(policy, layout.root, params.policy, params.train.seed)
    rows, _ = stage.build(layout, params, iteration, objective, learned, policy)
    if len(rows.groups) < FEWEST_PROMPTS:
        return np.zeros((len(rates), 0))
    run = Run(params.train.seed, iteration, params.train.iterations, policy.is_adapter and params.policy.lora_dropout > 0)
    progress = Progress(f"advise {iteration}", 2 * len(rates), "trainings on a half")
    search = rate_search.Search(rates, wanted.groups)
    gains = rate_search.held_out_gains(policy, rows, settings, run, folder / OPTIMIZER, search, partial(progress.advance, 1))
    progress.close()
    return gains


def _rate(found: Rate | None, wanted: Training, now: Training, judges: int) -> tuple[float, str]:
    """Return the advised learning rate, and why."""
    if found is None:
        reason = f"by the square root of groups per step; {judges} judging rollout groups show no gain at any rate, so none is found"
        return wanted.learning_rate, reason
    value = float(f"{found.value / found.factor:.2g}")  # too large a rate harms more than one that is as much too small
    is_same = wanted.groups_per_step == now.groups_per_step and 1 / WORTH_CHANGING <= value / now.learning_rate <= WORTH_CHANGING
    edge = "" if found.is_inside else f", or {'more' if found.kept[-1] > found.kept[0] / 2 else 'less'}"
    reason = (
        f"trained on a half of the batch, others' gain stays within a quarter of proportional up to {found.value:.2g}{edge}; taken is the "
        f"lower end of one standard error (times or over {found.factor:.2g})"
    )
    return now.learning_rate if is_same else value, reason


def _searched(rates: list[float], gains: NDArray[np.float64], found: Rate | None, wanted: Training) -> pl.DataFrame:
    judges = gains.shape[1]
    return pl.DataFrame(
        {
            "learning_rate": rates,
            "gain": gains.mean(axis=1) if judges else np.zeros(len(rates)),
            "gain_error": gains.std(axis=1) / np.sqrt(judges) if judges else np.zeros(len(rates)),
            "kept": [None] * len(rates) if found is None else found.kept.tolist(),
            "groups_per_step": wanted.groups_per_step,
            "trained_groups": wanted.groups // 2,
            "judging_groups": judges,
        },
        schema=RATE_SEARCH.schema,
    )


def print_result(table: pl.DataFrame, searched: pl.DataFrame, stream: TextIO | None = None) -> None:
    """Print what was measured, what steps of other sizes would cost, what learning rates gain, the advice, and what to write down."""
    output = Terminal(stream)
    first: dict[str, Any] = table.row(0, named=True)
    scale, error, floor = first["noise_scale"], first["noise_scale_error"], first["floor"]
    output.line(f"noise scale {short(scale)} ± {short(error)} rollout groups (one standard error)", style="bold")
    output.line("a step of so many groups has as much signal as noise; smaller ones waste no rollouts, much larger ones do")
    if error > scale / 2:
        output.line("known to a factor of two at best: `ospo audit --gradients --prompts` with more groups tells it better")
    if floor is not None:
        output.line(f"{short(floor)} of it lie between prompts: better credit, or more answers of a prompt, can take off the rest")
    grid = [[str(b), f"{rollouts_over_least(b, scale):.2f}", f"{steps_over_exact(b, scale):.2f}"] for b in STEPS]
    header = ["groups per step", "rollouts, over the least", "steps, over exact ones"]
    output.line()
    output.line("what the same progress takes, in steps of so many groups", style="bold")
    output.grid(header, grid, numbers=header)
    output.line()
    names = ["learning rate", "gain of other groups", "of proportional"]
    tried = [
        [
            f"{row['learning_rate']:.2g}",
            f"{row['gain']:+.4f} ± {row['gain_error']:.4f}",
            "" if row["kept"] is None else f"{row['kept']:.0%}",
        ]
        for row in searched.iter_rows(named=True)
    ]
    output.line("what groups gain that were not trained on, after an update on others at this rate", style="bold")
    output.grid(names, tried, numbers=names)
    output.line()
    rows = [[row["setting"], _number(row["now"]), _number(row["advised"]), row["reason"]] for row in table.iter_rows(named=True)]
    output.grid(["setting", "now", "to try", "because"], rows, numbers=["now", "to try"])
    output.line()
    changes = [f"{setting}: {value}" for setting, now, value, _ in rows if value != now]
    then = ", then `ospo graph`" if any(change.startswith("train.iterations") for change in changes) else ""
    output.line(f"in params.yaml: {', '.join(changes)}{then}" if changes else "nothing to change", style="bold")


def _number(value: float) -> str:
    return plain(value, 0) if value == int(value) else f"{value:.3g}"
