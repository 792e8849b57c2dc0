"""After training: queries rewritten by a trained policy, in files, streams and behind HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ospo_cli.cli.app import AFTER_TRAINING, app
from ospo_cli.cli.options import HERE, Project, say


@app.command("rewrite", rich_help_panel=AFTER_TRAINING)
def rewrite(
    source: Annotated[str, typer.Argument(help="Text (one query a line), CSV, TSV, JSON lines or Parquet; - reads standard input.")],
    policy: Annotated[str, typer.Option("--policy", help="Number of a policy, or a folder.", show_default="the last one")] = "",
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write: .parquet, .csv, .jsonl or .txt.", show_default="standard output")
    ] = None,
    kind_out: Annotated[str, typer.Option("--as", help="jsonl, text, csv or parquet.", show_default="by the suffix, else jsonl")] = "",
    kind_in: Annotated[str, typer.Option("--from", help="text, csv, tsv, jsonl or parquet.", show_default="by the suffix")] = "",
    best: Annotated[int, typer.Option("--best", min=1, max=64, help="Distinct rewrites per query, with probabilities.")] = 1,
    top: Annotated[int, typer.Option("--top", min=0, help="Add both result lists of so many products, and their overlap.")] = 0,
    retriever: Annotated[str, typer.Option("--retriever", help="Search engine of --top.", show_default="score_coalitions.retriever")] = "",
    milliseconds: Annotated[bool, typer.Option("--milliseconds", help="Add the time of each query; then no two runs are equal.")] = False,
    threads: Annotated[int, typer.Option("--threads", min=0, help="Threads of torch.", show_default="policy.threads")] = 0,
    query_column: Annotated[str, typer.Option("--query-column", help="Name of the column of queries.")] = "query",
    history_column: Annotated[str, typer.Option("--history-column", help="Name of the column of past titles, if any.")] = "history",
    project: Project = HERE,
) -> None:
    """Rewrite queries with a trained policy, without judgments; where there is no rewrite, the raw query comes back (docs/rewrite.md)."""
    from ospo_cli.instruments.rewrite.command import Request, execute, in_words

    request = Request(policy, best, top, retriever, milliseconds, threads, query_column, history_column)
    if source == "-":
        if out is not None:
            raise typer.BadParameter("a stream is answered on standard output", param_hint="--out")
        from ospo_cli.instruments.rewrite import stream

        say("rewrite", stream.in_words(stream.execute(project, request, kind_in, kind_out)))
        return
    counts = execute(project, Path(source), request, out, kind_in, kind_out)
    say("rewrite", (f"wrote {out}: " if out is not None else "") + in_words(counts))
