"""Exchange: what leaves the project for other trainers and servers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ospo_cli.cli.app import EXCHANGE, app
from ospo_cli.cli.options import HERE, Project, Wait, alone, opened, say


@app.command("export", rich_help_panel=EXCHANGE)
def export(
    to: Annotated[str, typer.Option("--to", help="jsonl, parquet, trl, verl or tinker; tensorboard: the measures of all iterations.")],
    iteration: Annotated[int | None, typer.Option("--iter", "-k", min=1, help="Iteration whose rollouts and credit are written.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--from", help="Instead of an iteration: a folder that `ospo attribute --rollouts` wrote.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write (tensorboard: folder).", show_default="data/exports/K.ENDING")
    ] = None,
    leave_out_degenerate: Annotated[
        bool, typer.Option("--leave-out-degenerate", help="Leave out rollout groups of equal rewards (advantage 0).")
    ] = False,
    project: Project = HERE,
    wait: Wait = False,
) -> None:
    """Write rollouts with their token advantages for another trainer, or measures for TensorBoard (docs/export.md)."""
    if to == "tensorboard":
        _export_measures(iteration is None and folder is None and not leave_out_degenerate, out, project, wait)
        return
    if (iteration is None) == (folder is None):
        raise typer.BadParameter("give either --iter K or --from FOLDER", param_hint="--iter")
    from ospo_cli.instruments import export as stage

    layout, parameters = opened(project)
    with alone(project, "export", wait):
        done = stage.execute(layout, parameters.rollout, iteration, to, out, folder, not leave_out_degenerate)
    left_out = f", {done['left_out_rollouts']} rollouts left out" if done["left_out_rollouts"] else ""
    counts = f"{done['rollouts']} rollouts in {done['groups']} groups, {done['degenerate_groups']} degenerate{left_out}"
    say("export", f"wrote {done['path']}: {done['format']} {done['version']}, {counts}")


def _export_measures(is_alone: bool, out: Path | None, project: Path, wait: bool) -> None:
    if not is_alone:
        raise typer.BadParameter("measures are of all iterations: no --iter, --from or --leave-out-degenerate", param_hint="--to")
    from ospo_cli.exchange import event_files

    layout, _ = opened(project)
    with alone(project, "export", wait):
        found = event_files.scalars(layout)
        path = event_files.write(found, out if out is not None else layout.export("tensorboard"))
    say("export", f"wrote {path}: {len(found)} values of {len({tag for tag, _, _ in found})} measures")


@app.command("merge", rich_help_panel=EXCHANGE)
def merge(
    iteration: Annotated[int, typer.Option("--iter", "-k", min=0, help="Number of the policy; 0 is the warm start.")],
    to: Annotated[Path | None, typer.Option("--to", help="Folder to write.", show_default="data/merged/K")] = None,
    project: Project = HERE,
    wait: Wait = False,
) -> None:
    """Write a policy as one folder of full weights, its base merged in, with the card that `ospo rewrite` and `ospo serve` need."""
    from ospo_cli.instruments import merge as stage
    from ospo_cli.rewriting import setup

    layout, parameters = opened(project)
    with alone(project, "merge", wait):
        typer.echo(f"wrote {stage.execute(layout, iteration, to, setup.of_project(parameters))['folder']}")
