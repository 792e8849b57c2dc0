"""Upkeep of the store of values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ospo_cli.cli.app import STORE, app
from ospo_cli.cli.options import HERE, Project, Wait, alone, opened, say

store_app = typer.Typer(
    help="List, check, delete or export stored scores of texts, which spare computing them twice (docs/store.md).", no_args_is_help=True
)
app.add_typer(store_app, name="store", rich_help_panel=STORE)


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
    from ospo_cli.instruments import store_upkeep as store
    from ospo_cli.layout import Layout

    layout, parameters = opened(project) if recompute else (Layout(project), None)
    store.verify(layout, parameters, recompute)


@store_app.command("gc")
def store_gc(
    days: Annotated[float | None, typer.Option("--days", min=0, help="Delete books that were not used for more than so many days.")] = None,
    others: Annotated[bool, typer.Option("--others", help="Delete books of other catalogues and retrievers than this project's.")] = False,
    most_bytes: Annotated[str, typer.Option("--bytes", help="Delete the longest unused until so many bytes are left, such as 2G.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would go.")] = False,
    project: Project = HERE,
    wait: Wait = False,
) -> None:
    """Delete books: files of stored values, each of one retriever, metric and catalogue."""
    from ospo_cli.instruments import store_upkeep as store
    from ospo_cli.layout import Layout

    layout, parameters = opened(project) if others else (Layout(project), None)
    with alone(project, "store gc", wait):
        store.gc(layout, parameters, days=days, others=others, most_bytes=most_bytes, dry_run=dry_run)


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
    say("store export", f"wrote {out}: {rows:,} values of {entries:,} entries")
