"""Where commands print: lines and grids, through rich on a terminal, plain elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, TextIO

from ospo_cli.report.credit_painting import credit_line, painted_credit


class Terminal:
    """Lines and grids: through rich on a terminal, plain elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream if stream is not None else sys.stdout
        self.console: Any = None
        if self.stream.isatty():
            from rich.console import Console

            self.console = Console(file=self.stream, highlight=False)

    def line(self, text: str = "", style: str = "") -> None:
        """Print a line."""
        if self.console is None:
            self.stream.write(text + "\n")
        else:
            from rich.text import Text

            self.console.print(Text(text, style=style))

    def painted(self, pieces: Sequence[Sequence[Any]], scale: float) -> None:
        """Print a completion with its credit."""
        if self.console is None:
            self.stream.write(credit_line(pieces) + "\n")
        else:
            self.console.print(painted_credit(pieces, scale))

    def grid(self, header: list[str], rows: list[list[str]], numbers: Sequence[str] = ()) -> None:
        """Print aligned columns; those named in `numbers` to the right."""
        if self.console is not None:
            from rich import box
            from rich.table import Table as Grid
            from rich.text import Text

            grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
            for name in header:
                grid.add_column(Text(name), overflow="fold", justify="right" if name in numbers else "left", no_wrap=name in numbers)
            for row in rows:
                grid.add_row(*(Text(cell) for cell in row))
            self.console.print(grid)
            return
        from rich.cells import cell_len

        widths = [max(cell_len(row[column]) for row in [header, *rows]) for column in range(len(header))]
        for row in [header, *rows]:
            cells = []
            for name, cell, width in zip(header, row, widths, strict=True):
                blank = " " * (width - cell_len(cell))
                cells.append(blank + cell if name in numbers else cell + blank)
            self.stream.write("  ".join(cells).rstrip() + "\n")
