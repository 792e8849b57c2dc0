"""The loop: one command per stage of the graph, and all of them in one process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ospo_cli.cli.app import LOOP, app
from ospo_cli.cli.options import HERE, Cuts, Gpus, Iteration, Project, Wait, alone, opened, say
from ospo_cli.errors import OspoError

SEVERAL = ("warm-start", "update")  # stages that several processes can share


def _run_stage(name: str, project: Path, wait: bool, iteration: int | None = None, cuts: bool = False) -> dict[str, Any]:
    from ospo_cli.executors import engines, peers
    from ospo_cli.graph import runner
    from ospo_cli.graph.nodes import node

    if peers.is_launched():
        if name not in SEVERAL:
            raise OspoError(f"ospo {name}", "is one process's work", found="torchrun", remedy="run it without torchrun")
        peers.join(cuts)
        from ospo_cli.cli import launching

        launching.check_versions_alike()

    layout, parameters = opened(project)
    wanted = node(name, iteration, parameters)
    if engines.is_helper():
        with engines.engaged(parameters.execution, ()):
            return runner.take_part(wanted, layout, parameters)
    if "DVC_STAGE" in os.environ:
        if iteration is not None and iteration > parameters.train.iterations:
            # By hand one may go on; of a graph that is out of date nobody asked for it.
            place, most = project / "iterations.yaml", f"at most train.iterations, {parameters.train.iterations}"
            raise OspoError(place, "is out of date", found=f"iteration {iteration}", expected=most, remedy="run `ospo graph`")
        if wanted.is_strict:
            from ospo_cli.graph import dvc

            dvc.check_reads(project, wanted, parameters)
    if not peers.is_first():
        peers.follow_first(has_begun=False)
        result = runner.take_part(wanted, layout, parameters)
        peers.leave()
        return result
    with alone(project, wanted.command.removeprefix("ospo "), wait):
        peers.follow_first(has_begun=True)
        result = runner.execute(wanted, layout, parameters)
    peers.leave()
    say(wanted.command.removeprefix("ospo "), f"wrote {', '.join((*wanted.outputs, *wanted.metrics))}")
    return result


def _run_on_several(name: str, project: Path, wait: bool, gpus: int | None, cuts: bool, iteration: int | None = None) -> None:
    from ospo_cli.executors import peers

    if not peers.is_launched() and gpus is not None:
        from ospo_cli.cli import launching

        options = {"--iter": iteration, "--project": project, "--wait": wait, "--shard-weights": cuts}
        if launching.wanted(gpus) > 1:
            launching.launch(gpus, [name, *launching.spelled(options)])
            return
    if cuts and not peers.is_launched():
        raise OspoError("--shard-weights", "needs several processes", found="one", expected="--gpus 2 or more, or torchrun")
    _run_stage(name, project, wait, iteration, cuts)


def _once(name: str, meaning: str) -> None:
    @app.command(name, help=meaning, rich_help_panel=LOOP)
    def command(project: Project = HERE, wait: Wait = False) -> None:
        _run_stage(name, project, wait)


def _each_iteration(name: str, meaning: str) -> None:
    @app.command(name, help=meaning, rich_help_panel=LOOP)
    def command(iteration: Iteration, project: Project = HERE, wait: Wait = False) -> None:
        _run_stage(name, project, wait, iteration)


_once("prepare-data", "Read a data set; write documents, prompts, judgments, pools, teacher pairs and a card.")
_once("score-queries", "Write the reward of each raw query (needed where rollout.prompts is headroom).")


@app.command("warm-start", rich_help_panel=LOOP)
def warm_start(project: Project = HERE, gpus: Gpus = None, cuts: Cuts = False, wait: Wait = False) -> None:
    """Make policy 000: supervised training on teacher pairs, or a copy of a pretrained folder."""
    _run_on_several("warm-start", project, wait, gpus, cuts)


_each_iteration("rollout", "Sample G completions per prompt from policy K-1, with token ids and log-probabilities.")
_each_iteration("segment", "Cut each answer into segments: the players of the cooperative game.")
_each_iteration("score-coalitions", "Score whole answers, then the coalitions of their segments.")


@app.command("attribute", rich_help_panel=LOOP)
def attribute(
    iteration: Annotated[int | None, typer.Option("--iter", "-k", min=1, help="Iteration, from 1; not needed with --rollouts.")] = None,
    project: Project = HERE,
    rollouts: Annotated[
        Path | None, typer.Option("--rollouts", help="Parquet or JSON lines of rollouts that another trainer saved (docs/export.md).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for their tables (with --rollouts).", show_default="data/foreign/NAME")
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            "--tokenizer", help="Folder with the sampling policy's tokenizer.json.", show_default="the project's policy K-1 or 000"
        ),
    ] = None,
    wait: Wait = False,
) -> None:
    """Turn coalition values into shares per segment and advantages per token; with --rollouts, for another trainer's file."""
    if rollouts is None:
        if iteration is None:
            raise typer.BadParameter("give --iter K, or --rollouts FILE for rollouts of another trainer", param_hint="--iter")
        if out is not None or tokenizer is not None:
            raise typer.BadParameter("--out and --tokenizer go with --rollouts", param_hint="--rollouts")
        _run_stage("attribute", project, wait, iteration)
        return
    from ospo_cli.instruments import foreign_credit

    layout, parameters = opened(project)
    folder = out if out is not None else layout.foreign(rollouts.stem)
    vocabulary = tokenizer if tokenizer is not None else layout.policy((iteration or 1) - 1)
    with alone(project, "attribute --rollouts", wait):
        card = foreign_credit.attribute_file(layout, parameters, rollouts, vocabulary, folder)
    say("attribute", foreign_credit.summary(card, folder))


@app.command("update", rich_help_panel=LOOP)
def update(iteration: Iteration, project: Project = HERE, gpus: Gpus = None, cuts: Cuts = False, wait: Wait = False) -> None:
    """Change the weights by the token advantages; write policy K."""
    _run_on_several("update", project, wait, gpus, cuts, iteration)


@app.command("evaluate", rich_help_panel=LOOP)
def evaluate(project: Project = HERE, wait: Wait = False) -> None:
    """Compare raw query, warm start, every policy and an oracle on held-out prompts."""
    from ospo_cli.report.result_table import print_result

    print_result(_run_stage("evaluate", project, wait))


_once("report", "Write one self-contained HTML page about the evaluation, the training and the credit.")


@app.command("run", rich_help_panel=LOOP)
def run(
    project: Project = HERE,
    force: Annotated[bool, typer.Option("--force", help="Run every stage, also those that are up to date.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the plan: each stage, and whether it would run.")] = False,
    wait: Wait = False,
) -> None:
    """Run all stages of all iterations in one process; what is up to date is skipped."""
    from ospo_cli.graph import runner

    layout, parameters = opened(project)
    if dry_run:
        for wanted, state in runner.outlook(layout, parameters):
            typer.echo(f"{wanted.command}: {state}")
        return
    with alone(project, "run", wait):
        layout, parameters = opened(project)  # as they are after the wait
        ran, skipped = runner.run(layout, parameters, force)
    say("run", f"{ran} stages run, {skipped} up to date")
    _print_result(layout)


@app.command("submit", rich_help_panel=LOOP)
def submit(
    stage: Annotated[str, typer.Argument(help="rollout, score-coalitions or evaluate.")],
    iteration: Annotated[int | None, typer.Option("--iter", "-k", min=1, help="Iteration of the first two.")] = None,
    tasks: Annotated[int, typer.Option("--tasks", min=1, max=100_000, help="Most tasks of the array; shards are dealt out.")] = 8,
    option: Annotated[list[str] | None, typer.Option("--option", help="Of sbatch, such as --gpus=1 or --time=2:00:00; repeatable.")] = None,
    project: Project = HERE,
    wait: Wait = False,
) -> None:
    """Write a Slurm array job over a stage's unfinished shards, and the job that collects them (docs/scale.md); nothing is sent."""
    from ospo_cli.instruments import submit as instrument

    layout, parameters = opened(project)
    with alone(project, f"submit {stage}", wait):
        made = instrument.submit(layout, parameters, stage, iteration, tasks, option or ())
    if made is None:
        say("submit", f"no shard was left: {stage} has run to its end")
        return
    say("submit", f"{made.label}: {made.shards} unfinished shards; wrote {made.array}, {made.collect.name}")
    typer.echo(made.command)


@app.command("result", rich_help_panel=LOOP)
def result(project: Project = HERE) -> None:
    """Print the evaluation's table and where the report lies."""
    from ospo_cli.layout import Layout

    _print_result(Layout(project))


def _print_result(layout: Any) -> None:
    from ospo_cli.report.evaluation_summary import read_summary
    from ospo_cli.report.result_table import print_result
    from ospo_cli.tables import evaluated_data
    from ospo_cli.tables.files import read_json

    summary = read_summary(layout)
    print_result(summary)
    if moved := evaluated_data.moved_on(layout, summary):
        typer.echo(f"warning: {moved}")
    for sign in read_json(layout.warnings(), "ospo report", list) if layout.warnings().is_file() else ():
        typer.echo(f"warning: {sign['name']}: {sign['found']} (threshold: {sign['threshold']}); {sign['advice']}")
    if layout.report().is_file():
        typer.echo(f"report: {layout.report()}")
