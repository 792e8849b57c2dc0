"""Looking: tables, one query, trust in the credit, other rewards, runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ospo_cli.cli.app import LOOKING, app
from ospo_cli.cli.options import HERE, Project, Wait, alone, names_of, opened, say, spread
from ospo_cli.errors import OspoError


@app.command("inspect", rich_help_panel=LOOKING)
def inspect(
    table: Annotated[str, typer.Argument(help="Table name (such as attributions) or a path to a Parquet file.")],
    iteration: Annotated[int, typer.Option("--iter", "-k", min=1, help="Iteration of the table.")] = 1,
    rollout_id: Annotated[str, typer.Option("--rollout", help="Show this rollout with its credit painted on the words.")] = "",
    rows: Annotated[int, typer.Option("--rows", min=0, help="Rows shown.")] = 8,
    project: Project = HERE,
) -> None:
    """Show a table: columns with meaning, counts, rows; rollouts with their credit on the words."""
    from ospo_cli.instruments.inspect_table import inspect as show
    from ospo_cli.layout import Layout

    show(table, Layout(project), iteration, rollout_id or None, rows)


@app.command("explain", rich_help_panel=LOOKING)
def explain(
    query: Annotated[
        list[str] | None, typer.Option("--query", "-q", help="The query; left out: the prompt's own; may be repeated.")
    ] = None,
    prompt_id: Annotated[str, typer.Option("--prompt-id", help="Prompt whose judgments and pool count.")] = "",
    relevant: Annotated[list[str] | None, typer.Option("--relevant", help="A product that counts as relevant; may be repeated.")] = None,
    doc: Annotated[str, typer.Option("--doc", help="Explain this product's retrieval score instead.")] = "",
    level: Annotated[str, typer.Option("--level", help="word, phrase, sentence or window.")] = "word",
    estimator: Annotated[
        str,
        typer.Option("--estimator", help="Estimator of the shares; left out: attribute.estimator, myerson for a group game."),
    ] = "",
    retriever: Annotated[str, typer.Option("--retriever", help="Search engine; left out: score_coalitions.retriever.")] = "",
    top: Annotated[int, typer.Option("--top", min=0, help="Products shown.")] = 10,
    html: Annotated[Path | None, typer.Option("--html", help="Write a self-contained page too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    project: Project = HERE,
) -> None:
    """Explain one query: its products, what each word earned, what words earn together; needs `ospo prepare-data` alone."""
    from ospo_cli.instruments.explain.command import Request, execute, execute_all

    if html is not None and len(query or ()) > 1:
        raise typer.BadParameter("a page shows one query", param_hint="--html")
    layout, parameters = opened(project)
    requests = [Request(each, prompt_id, tuple(relevant or ()), doc, level, estimator, retriever, top) for each in (query or [""])]
    if len(requests) > 1:
        execute_all(layout, parameters, requests, as_json)
        return
    execute(layout, parameters, requests[0], html, as_json)
    if html is not None:
        say("explain", f"wrote {html}")


@app.command("audit", rich_help_panel=LOOKING)
def audit(
    iteration: Annotated[int, typer.Option("--iter", "-k", min=1, help="Iteration whose rollouts are audited.")],
    rollouts: Annotated[int, typer.Option("--rollouts", min=1, help="Most rollouts, drawn by seed.")] = 100,
    estimators: Annotated[
        str,
        typer.Option("--estimators", help="Names, separated by commas.", show_default="all; with --gradients attribute.estimator"),
    ] = "",
    examples: Annotated[int, typer.Option("--examples", min=0, help="Answers in which the methods disagree most, segment by segment.")] = 0,
    gradients: Annotated[
        bool, typer.Option("--gradients", help="Instead: noise and direction of the gradient that each rule makes.")
    ] = False,
    rules: Annotated[
        str,
        typer.Option(
            "--rules", help="Rules, separated by commas (with --gradients).", show_default="own, signed, group-additive, and splice"
        ),
    ] = "",
    normalize: Annotated[
        str, typer.Option("--normalize", help="std, none or both (with --gradients).", show_default="attribute.normalize")
    ] = "",
    prompts: Annotated[
        int | None, typer.Option("--prompts", min=1, help="Most rollout groups (with --gradients).", show_default="128")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Sample two new rollout groups for each prompt, in place of the iteration's (with --gradients).")
    ] = False,
    group_size: Annotated[
        int | None, typer.Option("--group-size", help="Completions of a fresh rollout group.", show_default="rollout.group_size")
    ] = None,
    project: Project = HERE,
    wait: Wait = False,
) -> None:
    """Check each estimator's sums, axioms and error bars on an iteration's rollouts; or rules by their gradients (docs/audit.md)."""
    layout, parameters = opened(project)
    names = names_of(estimators) or None
    if gradients:
        from ospo_cli.instruments.audit import gradients as gradient_audit
        from ospo_cli.instruments.audit.gradient_print import print_result as print_gradients

        lists = (names_of(rules) or None, names, names_of(normalize) or None)
        request = gradient_audit.Request(prompts or gradient_audit.PROMPTS, *lists, fresh, group_size)
        with alone(project, "audit --gradients", wait), spread(parameters.execution):
            found, metrics = gradient_audit.execute(layout, parameters, iteration, request)
        print_gradients(found, metrics)
        _audit_written(layout.iteration(iteration, "gradient_audit.parquet"))
        return
    if rules or normalize or fresh or group_size is not None or prompts is not None:
        raise typer.BadParameter(
            "--rules, --normalize, --prompts, --fresh and --group-size go with --gradients", param_hint="--gradients"
        )  # fmt: skip
    from ospo_cli.instruments.audit import estimators as stage
    from ospo_cli.instruments.audit.measures import print_result

    with alone(project, "audit", wait), spread(parameters.execution):
        table, metrics = stage.execute(layout, parameters, iteration, rollouts, names, examples)
    print_result(table, metrics)
    _audit_written(layout.iteration(iteration, "audit.parquet"))


@app.command("advise", rich_help_panel=LOOKING)
def advise(
    iteration: Annotated[int, typer.Option("--iter", "-k", min=1, help="Iteration whose gradients are read, or audited first.")],
    prompts: Annotated[int, typer.Option("--prompts", min=1, help="Most rollout groups, where they are audited first.")] = 128,
    project: Project = HERE,
    wait: Wait = False,
) -> None:
    """Say which groups per step, batches, epochs and learning rate to try, from one iteration (docs/planning.md)."""
    from ospo_cli.instruments import advise as stage

    layout, parameters = opened(project)
    with alone(project, "advise", wait):
        stage.check(layout, parameters.update.objective, iteration)
        if not stage.is_measured(layout, parameters, iteration):
            from ospo_cli.instruments.audit import gradients as gradient_audit

            gradient_audit.execute(layout, parameters, iteration, gradient_audit.own_request(parameters.attribute, prompts))
        table, searched = stage.execute(layout, parameters, iteration)
    stage.print_result(table, searched)
    say("advise", f"wrote {layout.iteration(iteration, 'advice.parquet')}, rate_search.parquet")


def _audit_written(path: Path) -> None:
    say("audit", f"wrote {path}, {path.stem}_metrics.json; `ospo report` puts it on the page")


@app.command("rescore", rich_help_panel=LOOKING)
def rescore(
    iteration: Annotated[int, typer.Option("--iter", "-k", min=1, help="Iteration whose saved rollouts are scored again.")],
    retriever: Annotated[str, typer.Option("--retriever", help="Another search engine.")] = "",
    metric: Annotated[str, typer.Option("--metric", help="Another metric.")] = "",
    changes: Annotated[list[str] | None, typer.Option("--set", help="section.key=value of params.yaml; may be repeated.")] = None,
    prepared: Annotated[
        Path | None, typer.Option("--prepared", help="Folder with documents, prompts, qrels and pools of another catalogue.")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Name of the folder.", show_default="from the changes")] = "",
    project: Project = HERE,
    wait: Wait = False,
) -> None:
    """Score saved rollouts under another reward and compute its credit; the loop's tables stay (docs/rewards.md)."""
    from ospo_cli.instruments import rescore as rescoring

    layout, parameters = opened(project)
    short = {f"score_coalitions.{key}": value for key, value in (("retriever", retriever), ("metric", metric)) if value}
    found = rescoring.parse_changes(changes or ())
    if doubled := sorted(short.keys() & found.keys()):
        raise typer.BadParameter(f"{doubled[0]} is given twice", param_hint="--set")
    with alone(project, "rescore", wait):
        done = rescoring.rescore(layout, parameters, iteration, short | found, name, prepared)
    counts = f"{done['asked_values']} values, {done['distinct_values']} distinct; mean reward {done['mean_reward']:.3f}"
    groups = f"{done['degenerate_groups']} of {done['rollout_groups']} groups degenerate; {done['estimator']} + {done['rule']}"
    say("rescore", f"wrote {done['folder']}: {counts}, {groups}")


@app.command("compare-rewards", rich_help_panel=LOOKING)
def compare_rewards(
    iteration: Annotated[int, typer.Option("--iter", "-k", min=1, help="Iteration of the rollouts.")],
    a: Annotated[str, typer.Argument(help="loop, or a name that `ospo rescore` wrote.")],
    b: Annotated[str, typer.Argument(help="The same: what A is compared with.")],
    shown: Annotated[
        int, typer.Option("--examples", min=0, help="Rollout groups shown, those that the rewards order most differently first.")
    ] = 3,
    html: Annotated[Path | None, typer.Option("--html", help="Write a self-contained page too.")] = None,
    project: Project = HERE,
    wait: Wait = False,
) -> None:
    """Compare two rewards of the same rollouts: order of answers, best answers, shares of segments (docs/rewards.md)."""
    from ospo_cli.instruments.compare_rewards import command as stage

    layout, parameters = opened(project)
    with alone(project, "compare-rewards", wait):
        overview, groups, folder = stage.execute(layout, parameters, iteration, a, b)
    first, second, rollouts, prompts = stage.read_pair(layout, iteration, a, b)
    data = stage.page_data(overview, groups, rollouts, prompts, first, second, shown)
    stage.print_result(data)
    if html is not None:
        stage.write_page(data, html)
        say("compare-rewards", f"wrote {html}")
    say("compare-rewards", f"wrote {folder}/comparison.parquet, comparison_groups.parquet")


@app.command("keep", rich_help_panel=LOOKING)
def keep(
    name: Annotated[str, typer.Argument(help="Name to keep the present run under; without one, only compare.")] = "",
    source: Annotated[Path | None, typer.Option("--from", help="Keep the run of this other project.", show_default="this one's")] = None,
    stale: Annotated[bool, typer.Option("--stale", help="Keep it though a stage would run again under params.yaml as it is.")] = False,
    project: Project = HERE,
    wait: Wait = False,
) -> None:
    """Keep the evaluated run's results under a name and compare runs at equal tokens and equal reward calls (docs/update.md)."""
    from ospo_cli.graph.standing import would_run_again
    from ospo_cli.layout import Layout
    from ospo_cli.report.kept_files import comparison
    from ospo_cli.report.kept_sections import print_comparison

    layout = Layout(project)
    if name:
        from ospo_cli.instruments import keep as stage

        other = Layout(source) if source is not None else layout
        _, theirs = opened(other.root)
        again = None if stale else would_run_again(other, theirs)
        if again:
            raise OspoError(
                other.evaluation("summary.json"),
                f"was not made with params.yaml as it is: `{again}` would run again",
                remedy="run `ospo run` or `dvc repro` (after `ospo gate` too, which evaluate reads), or put params.yaml back; "
                "--stale keeps it all the same",
            )
        with alone(project, "keep", wait):
            replaced = stage.execute(layout, other, theirs, name)
        done = "replaced" if replaced else "wrote"
        say("keep", f"{done} {layout.kept(name)}; `ospo report` puts it on the page")
    elif source is not None:
        raise typer.BadParameter("--from goes with a name", param_hint="--from")
    _, present = opened(project)
    found = comparison(layout, present)
    again = would_run_again(layout, present) if found and not stale else None
    if again:
        say("keep", f"this run was not made with params.yaml as it is: `{again}` would run again")
    if found is None:
        typer.echo("nothing to compare: no kept run, or this project's own is not evaluated")
    else:
        print_comparison(found)


@app.command("experiment", rich_help_panel=LOOKING)
def experiment(
    file: Annotated[Path, typer.Argument(help="YAML file of tasks, methods, seeds and learning rates (docs/experiments.md).")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder of projects, outcomes and page.", show_default="FILE's name")] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Trainings at once, each a process.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what is done and what would run.")] = False,
    tables_only: Annotated[bool, typer.Option("--tables", help="Train nothing; tables from the outcomes that are there.")] = False,
    into: Annotated[Path | None, typer.Option("--into", help="Markdown page whose blocks of this file are written anew.")] = None,
) -> None:
    """Compare methods over tasks and seeds: run what is missing, print tables with intervals over seeds and prompts, write a page."""
    from ospo_cli import presets
    from ospo_cli.instruments.experiment import command
    from ospo_cli.instruments.experiment.plan import Doors

    doors, folder = Doors(presets.load, presets.algorithm_row), out or file.parent / file.stem
    if dry_run:
        for place, state in command.outlook(file, folder, doors):
            typer.echo(f"{place}: {state}")
        return
    absent = command.execute(file, folder, doors, jobs, not tables_only, into)
    say("experiment", f"wrote {folder / 'experiment.html'}")
    if absent and not tables_only:
        raise OspoError(
            folder, f"{len(absent)} trainings failed", found=absent[0], remedy="see their run.log; the same command tries them again"
        )


@app.command("tables", rich_help_panel=LOOKING)
def tables() -> None:
    """Print the reference of all tables (Markdown), from their declarations."""
    from ospo_cli.tables import reference

    typer.echo(reference.reference())
