"""After training: queries rewritten by a trained policy, in files, streams and behind HTTP."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from ospo_cli.cli.app import AFTER_TRAINING, Interrupted, app
from ospo_cli.cli.options import HERE, Project, Wait, alone, opened, say, spread

Policy = Annotated[
    str, typer.Option("--policy", help="Number of a policy, or a folder.", show_default="the evaluation's choice, else the last")
]
Ungated = Annotated[
    bool, typer.Option("--ungated", help="Rewrite without a gate, also where the evaluation says that this finds less than the raw query.")
]
Threads = Annotated[int, typer.Option("--threads", min=0, help="Threads of torch.", show_default="policy.threads")]


@app.command("prune", rich_help_panel=AFTER_TRAINING)
def prune(
    every: Annotated[int, typer.Option("--every", min=0, help="Policies of these multiples stay; 0: none for its number.")] = 0,
    shards: Annotated[bool, typer.Option("--shards", help="Finished shards in the cache go, too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go, and its bytes.")] = False,
    project: Project = HERE,
    wait: Wait = False,
) -> None:
    """Delete policies that nothing needs: the first, the last, the best, evaluated ones and those with a gate stay (docs/scale.md)."""
    from ospo_cli.instruments import prune as instrument

    layout, parameters = opened(project)
    with alone(project, "prune", wait):
        found = instrument.find(layout, parameters.evaluated_iterations, every, shards)
        if not dry_run:
            instrument.prune(layout, found)
        instrument.print_found(layout, found, dry_run)


@app.command("rewrite", rich_help_panel=AFTER_TRAINING)
def rewrite(
    source: Annotated[str, typer.Argument(help="Text (one query a line), CSV, TSV, JSON lines or Parquet; - reads standard input.")],
    policy: Policy = "",
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write: .parquet, .csv, .jsonl or .txt.", show_default="standard output")
    ] = None,
    kind_out: Annotated[str, typer.Option("--as", help="jsonl, text, csv or parquet.", show_default="by the suffix, else jsonl")] = "",
    kind_in: Annotated[str, typer.Option("--from", help="text, csv, tsv, jsonl or parquet.", show_default="by the suffix")] = "",
    best: Annotated[int, typer.Option("--best", min=1, max=64, help="Distinct rewrites per query, with probabilities.")] = 1,
    top: Annotated[int, typer.Option("--top", min=0, help="Add both result lists of so many products, and their overlap.")] = 0,
    retriever: Annotated[str, typer.Option("--retriever", help="Search engine of --top.", show_default="score_coalitions.retriever")] = "",
    milliseconds: Annotated[bool, typer.Option("--milliseconds", help="Add the time of each query; then no two runs are equal.")] = False,
    threads: Threads = 0,
    query_column: Annotated[str, typer.Option("--query-column", help="Name of the column of queries.")] = "query",
    history_column: Annotated[str, typer.Option("--history-column", help="Name of the column of past titles, if any.")] = "history",
    ungated: Ungated = False,
    project: Project = HERE,
) -> None:
    """Rewrite queries with a trained policy, without judgments; where there is no rewrite, the raw query comes back (docs/rewrite.md)."""
    from ospo_cli.instruments.rewrite.command import Request, execute, in_words

    request = Request(policy, best, top, retriever, milliseconds, threads, query_column, history_column, ungated)
    if source == "-":
        if out is not None:
            raise typer.BadParameter("a stream is answered on standard output", param_hint="--out")
        from ospo_cli.instruments.rewrite import stream

        say("rewrite", stream.in_words(stream.execute(project, request, kind_in, kind_out)))
        return
    with spread(opened(project)[1].execution) if (project / "params.yaml").is_file() else nullcontext():
        counts = execute(project, Path(source), request, out, kind_in, kind_out)
    say("rewrite", (f"wrote {out}: " if out is not None else "") + in_words(counts))


@app.command("serve", rich_help_panel=AFTER_TRAINING)
def serve(
    policy: Policy = "",
    host: Annotated[str, typer.Option("--host", help="Address; beyond this machine only with a token in OSPO_SERVE_TOKEN.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port.")] = 8017,
    deadline: Annotated[
        float, typer.Option("--deadline", min=1, max=60_000, help="Milliseconds after which the raw query is answered.")
    ] = 200,
    queue: Annotated[int, typer.Option("--queue", min=1, help="Queries that may wait; beyond that the raw query is answered.")] = 256,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Most queries that are rewritten together.")] = 64,
    cache: Annotated[int, typer.Option("--cache", min=0, help="Rewrites that are remembered.")] = 100_000,
    body: Annotated[int, typer.Option("--body", min=64, help="Bytes of the largest request.")] = 1 << 18,
    most: Annotated[int, typer.Option("--most", min=1, help="Queries in the largest request.")] = 64,
    threads: Threads = 0,
    log_queries: Annotated[bool, typer.Option("--log-queries", help="Write queries and rewrites to stderr.")] = False,
    ungated: Ungated = False,
    project: Project = HERE,
) -> None:
    """Serve a trained policy over HTTP; late, overloaded or failing, it answers with the raw query (docs/serve.md)."""
    from ospo_cli.instruments.serve import command
    from ospo_cli.instruments.serve.settings import Settings

    settings = Settings(host, port, deadline / 1000, queue, batch, cache, body, most, command.token(), log_queries)
    try:
        command.execute(project, policy, threads, settings, ungated)
    except (Interrupted, KeyboardInterrupt):  # once all who waited have been answered
        say("serve", "ended")


@app.command("gate", rich_help_panel=AFTER_TRAINING)
def gate(
    policy: Policy = "",
    bound: Annotated[
        float, typer.Option("--bound", min=0.001, max=0.5, help="Largest mean loss of rewritten queries, in the metric's units.")
    ] = 0.1,
    confidence: Annotated[float, typer.Option("--confidence", min=0.5, max=0.999, help="That the loss stays below the bound.")] = 0.9,
    retriever: Annotated[str, typer.Option("--retriever", help="Search engine.", show_default="score_coalitions.retriever")] = "",
    without_search: Annotated[
        bool, typer.Option("--without-search", help="Look at the policy's confidence and the words alone, never at result lists.")
    ] = False,
    project: Project = HERE,
) -> None:
    """Decide when to rewrite: certify a gate on dev queries, show it on test; `ospo rewrite` and `serve` apply it (docs/rewrite.md)."""
    from ospo_cli.instruments import gate as instrument

    made, curve, path = instrument.execute(project, policy, bound, confidence, retriever, not without_search)
    for line in [*instrument.in_words(made), *instrument.curve_lines(curve)]:
        typer.echo(line)
    applied = "`ospo rewrite` and `ospo serve` apply it to this policy, `ospo evaluate` shows it"
    say("gate", f"wrote {path} and {path.stem}_curve.parquet; {applied}")
