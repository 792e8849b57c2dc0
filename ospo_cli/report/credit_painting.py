"""A completion on the terminal with its credit on the words: background colours there, plain numbers elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ospo_cli.report.number_text import signed

if TYPE_CHECKING:
    from rich.text import Text

# Background and letters of the steps -4..4: orange is cost, blue is earned (told apart by people who do not see red and green).
_STYLES = {
    -4: "#1b1d22 on #d4741f", -3: "#1b1d22 on #eba666", -2: "#1b1d22 on #f5cfa6", -1: "#1b1d22 on #faead9", 0: "#1b1d22 on #e2e0da",
    1: "#1b1d22 on #dfe9f5", 2: "#1b1d22 on #b9d1ec", 3: "#1b1d22 on #86b0df", 4: "#ffffff on #2b69ae",
}  # fmt: skip


def credit_line(pieces: Sequence[Sequence[Any]]) -> str:
    """Return the completion with each segment's share behind it.

    >>> credit_line([["<answer>"], ["navy", 0.25, 1.5], [", "], ["coat", None, None], ["</answer>"]])
    '<answer>navy [+0.25], coat [no share]</answer>'
    """
    return "".join(piece[0] if len(piece) == 1 else f"{piece[0]} [{share_text(piece[1])}]" for piece in pieces)


def painted_credit(pieces: Sequence[Sequence[Any]], scale: float) -> Text:
    """Return the completion for a rich console: each segment on the colour of its share, with the number behind it."""
    from rich.text import Text

    line = Text()
    for piece in pieces:
        if len(piece) == 1:
            line.append(piece[0], style="dim")
        else:
            line.append(f" {piece[0]} ", style=_STYLES[level(piece[1], scale)])
            line.append(share_text(piece[1]), style="dim")
    return line


def level(share: float | None, scale: float, steps: int = 4) -> int:
    """Return the step of colour, -steps..steps; `scale` is the share of the strongest one.

    >>> level(-0.3, 0.2), level(0.1, 0.2), level(0.01, 0.2), level(None, 0.2)
    (-4, 2, 0, 0)
    """
    if share is None or not scale > 0:
        return 0
    step = min(steps, int(abs(share) / scale * steps + 0.5))
    return step if share > 0 else -step


def share_text(share: float | None) -> str:
    """Return the number that stands behind a segment; ASCII, for terminals and pipes."""
    return "no share" if share is None else signed(share, 2).replace("\N{MINUS SIGN}", "-")
