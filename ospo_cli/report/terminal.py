"""Lines and grids on a terminal: through rich where it is one, plain elsewhere."""

from __future__ import annotations

from typing import Any, TextIO


class Terminal:
    """Lines and grids; colours only on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.console: Any = None
        if stream.isatty():
            from rich.console import Console

            self.console = Console(file=stream, highlight=False)

    def line(self, text: str = "", style: str = "") -> None:
        """Print a line."""
        if self.console is None:
            self.stream.write(text + "\n")
        else:
            from rich.text import Text

            self.console.print(Text(text, style=style))

    def grid(self, header: list[str], rows: list[list[str]]) -> None:
        """Print aligned columns."""
        if self.console is not None:
            from rich import box
            from rich.table import Table as Grid
            from rich.text import Text

            grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
            for name in header:
                grid.add_column(Text(name), overflow="fold")
            for row in rows:
                grid.add_row(*(Text(cell) for cell in row))
            self.console.print(grid)
            return
        widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
        for row in [header, *rows]:
            self.stream.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")
