"""The Typer app: commands in groups, in the order in which a person meets them, each with its whole first sentence in the help."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

BEFORE_TRAINING, LOOP, LOOKING = "Before training", "The loop", "Looking"
AFTER_TRAINING, EXCHANGE, STORE = "After training", "Exchange", "Store"


class Interrupted(BaseException):
    """Ctrl-C, or SIGTERM."""


class _Grouped(TyperGroup):
    """A group of commands that prints one section per `rich_help_panel`; Typer does so through rich alone, which makes a start slower."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; Typer would turn Ctrl-C into a bare exit status."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted from None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write each section's commands with the first paragraph of their help, wrapped and never cut."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                panel = getattr(command, "rich_help_panel", None)
                sections.setdefault(panel if isinstance(panel, str) else "Commands", []).append((name, _sentence(command.help or "")))
        width = max(len(name) for rows in sections.values() for name, _ in rows)
        for section, rows in sections.items():
            with formatter.section(section):
                formatter.write_dl([(name.ljust(width), text) for name, text in rows])


def _sentence(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())


app = typer.Typer(
    name="ospo",
    help="Owen-Shapley Policy Optimization for search queries, as staged, cacheable batch jobs.",
    cls=_Grouped,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 140},
)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
    engine: Annotated[str, typer.Option("--engine", help="Where shards run (docs/scale.md).", show_default="execution.engine")] = "",
    workers: Annotated[int | None, typer.Option("--workers", help="Workers of the engine.", show_default="execution.workers")] = None,
) -> None:
    if version:
        from ospo_cli import __version__

        typer.echo(f"ospo {__version__}")
        raise typer.Exit
    # As variables they reach what this command calls, and `dvc repro` can be given them.
    os.environ.update({name: str(value) for name, value in (("OSPO_ENGINE", engine), ("OSPO_WORKERS", workers)) if value not in ("", None)})
